package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Archived reads every commit of some timelines out of a store's directory, by zstd and pg_waldump: nothing of
// ours is in the way.
func Archived(ctx context.Context, binDir, store string, timelines ...postgres.TimelineID) (map[CommitKey]Commit, error) {
	work, err := os.MkdirTemp("", "pgha-ledger-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(work) }()
	all := map[CommitKey]Commit{}
	for _, timeline := range timelines {
		first, err := plain(ctx, store, work, timeline)
		if err != nil {
			return nil, err
		}
		commits, err := Waldump(ctx, binDir, work, timeline, first, 0)
		if err != nil {
			return nil, err
		}
		for key, commit := range Index(commits) {
			all[key] = commit
		}
	}
	return all, nil
}

// plain decodes a timeline's archived segments into a directory and returns where the first begins.
func plain(ctx context.Context, store, to string, timeline postgres.TimelineID) (first postgres.LSN, err error) {
	err = filepath.WalkDir(store, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // a temporary file of the store
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		file, bad := postgres.ParseWALFile(name)
		if bad != nil || file.Kind != postgres.WALSegment || file.Segment.Timeline != timeline || !strings.Contains(path, "/wal/") {
			return nil
		}
		if at := file.Segment.Start(postgres.DefaultSegmentSize); first == 0 || at < first {
			first = at
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		cmd := exec.CommandContext(ctx, "/usr/bin/zstd", "-dc")
		cmd.Stdin = in
		content, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("decode %s: %w", path, err)
		}
		return os.WriteFile(filepath.Join(to, name), content, 0o600)
	})
	if err == nil && first == 0 {
		err = fmt.Errorf("%s has no segment of timeline %s", store, timeline)
	}
	return first, err
}
