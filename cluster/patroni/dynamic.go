package patroni

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// DynamicConfig reads the configuration that Patroni keeps for the whole cluster,
// from the member at api.
func (o *Observer) DynamicConfig(ctx context.Context, api string) (all map[string]any, err error) {
	err = o.ask(ctx, api, "/config", &all)
	return all, err
}

// PatchConfig merges change into the cluster's configuration, key by key; nil removes
// one. Another change at the same moment makes it try again.
func (o *Observer) PatchConfig(ctx context.Context, api string, change map[string]any) error {
	body, err := json.Marshal(change)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := o.call(ctx, http.MethodPatch, api, "/config", body, nil)
		refused, ok := errors.AsType[*statusError](err)
		if !ok || refused.code != http.StatusConflict || try == attempts || !wait(ctx, time.Duration(try)*o.pause) {
			return err
		}
	}
}
