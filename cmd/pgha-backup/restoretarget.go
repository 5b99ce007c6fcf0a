package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/restore"
)

// targetFlags are the flags that say where recovery stops.
type targetFlags struct {
	time, lsn, xid, name string
	immediate, exclusive bool
	timeline             uint32
	action               string
}

func (f *targetFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.time, "target-time", "", "stop at this time: RFC 3339 with an offset, 2026-11-21T05:30:00Z")
	flags.StringVar(&f.lsn, "target-lsn", "", "stop at this WAL position, 16/B374D848")
	flags.StringVar(&f.xid, "target-xid", "", "stop at the end of this transaction")
	flags.StringVar(&f.name, "target-name", "", "stop at this restore point")
	flags.BoolVar(&f.immediate, "target-immediate", false, "stop as soon as the backup is consistent")
	flags.BoolVar(&f.exclusive, "target-exclusive", false, "stop just before the target, not after it")
	flags.Uint32Var(&f.timeline, "target-timeline", 0, "recover along this timeline; default: the newest that holds the target")
	flags.StringVar(&f.action, "target-action", "promote", "promote, pause or shutdown at the target")
}

// target reads the flags: at most one target, and a time only with its offset.
func (f targetFlags) target(now time.Time) (restore.Target, error) {
	t := restore.Target{Kind: restore.Latest, Exclusive: f.exclusive, Timeline: postgres.TimelineID(f.timeline), Action: restore.Action(f.action)}
	given := 0
	var err error
	for _, kind := range []struct {
		kind restore.Kind
		set  bool
		read func() error
	}{
		{restore.Time, f.time != "", func() error { t.Time, err = restore.ParseTime(f.time, now); return err }},
		{restore.LSN, f.lsn != "", func() error { t.LSN, err = postgres.ParseLSN(f.lsn); return err }},
		{restore.XID, f.xid != "", func() error {
			xid, err := strconv.ParseUint(f.xid, 10, 32)
			if t.XID = uint32(xid); err != nil {
				return fmt.Errorf("transaction %q: want a decimal number of 32 bits", f.xid)
			}
			return nil
		}},
		{restore.Name, f.name != "", func() error { t.Name = f.name; return nil }},
		{restore.Immediate, f.immediate, func() error { return nil }},
	} {
		if !kind.set {
			continue
		}
		given++
		t.Kind = kind.kind
		if err := kind.read(); err != nil {
			return t, usage("--target-%s: %w", kind.kind, err)
		}
	}
	if given > 1 {
		return t, usage("want at most one of --target-time, --target-lsn, --target-xid, --target-name and --target-immediate")
	}
	if f.exclusive && (t.Kind == restore.Latest || t.Kind == restore.Immediate || t.Kind == restore.Name) {
		return t, usage("--target-exclusive needs --target-time, --target-lsn or --target-xid")
	}
	switch t.Action {
	case restore.Promote, restore.Pause, restore.Shutdown:
	default:
		return t, usage("--target-action %q: want promote, pause or shutdown", f.action)
	}
	if err := t.Validate(); err != nil {
		return t, usage("%w", err)
	}
	return t, nil
}
