package daemon

import (
	"context"
	"fmt"
	"sync"

	"github.com/pgha-backup/pgha-backup/cluster"
)

// view is the newest topology, and wakes those who wait for the next.
type view struct {
	mu       sync.Mutex
	topology cluster.Topology
	err      error // why it may be old
	known    bool
	changed  chan struct{}
}

// set keeps what an observer hands out and returns what was there before.
func (v *view) set(t cluster.Topology, err error) (before cluster.Topology, beforeErr error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before, beforeErr = v.topology, v.err
	v.topology, v.err = t, err
	v.known = v.known || err == nil
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
	return before, beforeErr
}

// now is the newest topology and what closes when there is a newer one. An error
// says why this one may be old, or that there is none.
func (v *view) now() (cluster.Topology, <-chan struct{}, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	err := v.err
	if err == nil && !v.known {
		err = fmt.Errorf("the cluster has not been seen yet")
	}
	return v.topology, v.changed, err
}

// guard waits for a topology that the test refuses, and returns what it said; nil
// at the end of ctx. What cannot be seen is no reason to end anything: the claim
// is what ends when etcd is away for long.
func (v *view) guard(ctx context.Context, test func(cluster.Topology) error) error {
	for {
		t, changed, err := v.now()
		if err == nil {
			if err = test(t); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}
