package patroni

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
)

type object = map[string]any

// Setup is what Patroni must be told: the command lines that it and PostgreSQL run.
type Setup struct {
	Program                   string // its name, by which a command is known to be ours
	Archive, Restore, Replica string
	Promote                   string // a whole command line
}

// Over is what Patroni's dynamic configuration must hold. Of what is there now it
// keeps archive_timeout and the other methods that make members.
func (s Setup) Over(now map[string]any) map[string]any {
	parameters := object{"archive_mode": "on", "archive_command": s.Archive}
	if mode := at(now, "postgresql", "parameters", "archive_mode"); mode == "always" {
		parameters["archive_mode"] = "always"
	}
	if timeout := at(now, "postgresql", "parameters", "archive_timeout"); timeout == "" || timeout == "0" || timeout == "0s" {
		parameters["archive_timeout"] = "60s"
	}
	if at(now, "postgresql", "parameters", "archive_library") != "" { // PostgreSQL archives nothing with both
		parameters["archive_library"] = ""
	}
	methods := []any{OurMethod}
	section, _ := now["postgresql"].(object)
	given, _ := section["parameters"].(object)
	for name := range given {
		if slices.Contains(recoveryParameters, strings.ToLower(name)) {
			parameters["restore_command"] = s.Restore
		}
	}
	others, _ := section["create_replica_methods"].([]any)
	for _, other := range others {
		if other != OurMethod {
			methods = append(methods, other)
		}
	}
	if !slices.Contains(methods, any("basebackup")) {
		methods = append(methods, "basebackup")
	}
	return object{"postgresql": object{
		"parameters":             parameters,
		"recovery_conf":          object{"restore_command": s.Restore},
		"create_replica_methods": methods,
		OurMethod:                object{"command": s.Replica},
		"pre_promote":            s.Promote,
	}}
}

// recoveryParameters: where one of them stands among the parameters, Patroni takes all
// that stand there for the whole of recovery_conf.
var recoveryParameters = []string{"archive_cleanup_command", "primary_conninfo", "primary_slot_name", "promote_trigger_file", "recovery_end_command",
	"recovery_min_apply_delay", "recovery_target", "recovery_target_action", "recovery_target_inclusive", "recovery_target_lsn", "recovery_target_name",
	"recovery_target_time", "recovery_target_timeline", "recovery_target_xid", "restore_command"}

// OurMethod is the name of our section in Patroni's configuration.
const OurMethod = "pgha_backup"

// at is a scalar of a configuration as text: Patroni compares values so.
func at(in object, keys ...string) string {
	for _, key := range keys[:len(keys)-1] {
		in, _ = in[key].(object)
	}
	if v := in[keys[len(keys)-1]]; v != nil {
		return fmt.Sprint(v)
	}
	return ""
}

// Differences are the paths of what is wanted and is not so now.
func Differences(want, now map[string]any) []string { return differences("", want, now) }

func differences(path string, want, now object) (found []string) {
	for key, v := range want {
		switch v := v.(type) {
		case object:
			below, _ := now[key].(object)
			found = append(found, differences(path+key+".", v, below)...)
		default:
			if !reflect.DeepEqual(v, now[key]) && (reflect.TypeOf(v).Kind() == reflect.Slice || fmt.Sprint(v) != at(now, key)) {
				found = append(found, path+key)
			}
		}
	}
	slices.Sort(found)
	return found
}

// Foreign tells which command of another tool stands where ours is to stand.
func (s Setup) Foreign(now map[string]any) string {
	for _, path := range [][]string{{"postgresql", "parameters", "archive_command"}, {"postgresql", "parameters", "archive_library"},
		{"postgresql", "parameters", "restore_command"}, {"postgresql", "recovery_conf", "restore_command"}, {"postgresql", "pre_promote"}} {
		command := at(now, path...)
		ours := strings.Contains(command, s.Program) || strings.Contains(command, "pgha-backup") || strings.Contains(command, "pgha-wal")
		if !ours && !slices.Contains([]string{"", "true", "/bin/true", "/bin/false", "false"}, command) {
			return fmt.Sprintf("%s is another's: %s", path[len(path)-1], command)
		}
	}
	return ""
}

// PendingRestart are the members that wait for a restart. Patroni finds that out in its
// next round: a change that takes a restart is waited for.
func (o *Observer) PendingRestart(ctx context.Context, expected bool) (names []string, err error) {
	for began := time.Now(); ; {
		t, err := o.Topology(ctx)
		if err != nil {
			return nil, err
		}
		names = names[:0]
		for _, m := range t.Members {
			if m.PendingRestart {
				names = append(names, m.Name)
			}
		}
		if !expected || len(names) == len(t.Members) || time.Since(began) > 2*cmp.Or(t.LoopWait, 10*time.Second) {
			return names, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

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
