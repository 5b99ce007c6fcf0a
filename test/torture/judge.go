package torture

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/internal/hook"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/verify"
)

// Ledger is what archive-push acknowledged, by file name.
type Ledger map[string][sha256.Size]byte

// Acknowledge notes that a file's content was said to be durable.
func (l Ledger) Acknowledge(name string, content []byte) { l[name] = sha256.Sum256(content) }

// Judge tells what of the ledger the repository does not hold byte by byte. It looks for objects by the last part
// of their key, below wal/ of the root, and decodes them itself.
func (l Ledger) Judge(ctx context.Context, bucket storage.Bucket, root string) (faults []string, err error) {
	keys := map[string]storage.Key{}
	for object, err := range bucket.List(ctx, storage.Key(root+"/wal/"), "") {
		if err != nil {
			return nil, err
		}
		keys[path.Base(string(object.Key))] = object.Key
	}
	for _, name := range slices.Sorted(maps.Keys(l)) {
		key, ok := keys[name]
		if !ok {
			faults = append(faults, name+" was acknowledged and is not in the repository")
			continue
		}
		plain, err := decoded(ctx, bucket, key)
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s was acknowledged and cannot be read: %v", name, err))
		} else if sha256.Sum256(plain) != l[name] {
			faults = append(faults, fmt.Sprintf("%s was acknowledged, and %d other bytes are stored", name, len(plain)))
		}
	}
	return faults, nil
}

// object reads an object whole.
func object(ctx context.Context, bucket storage.Bucket, key storage.Key) ([]byte, error) {
	body, err := bucket.Get(ctx, key, storage.Whole)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

func decoded(ctx context.Context, bucket storage.Bucket, key storage.Key) ([]byte, error) {
	stored, err := object(ctx, bucket, key)
	if err != nil {
		return nil, err
	}
	name := codec.S2
	if len(stored) > 4 && bytes.Equal(stored[1:4], []byte{0x2a, 0x4d, 0x18}) {
		name = codec.Zstd
	}
	r, err := codec.NewReader(name, bytes.NewReader(stored))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Objects are all objects of a bucket below a prefix.
func Objects(ctx context.Context, bucket storage.Bucket, prefix string) (Tree, error) {
	t := Tree{}
	for o, err := range bucket.List(ctx, storage.Key(prefix), "") {
		if err != nil {
			return nil, err
		}
		content, err := object(ctx, bucket, o.Key)
		if err != nil {
			return nil, err
		}
		t[string(o.Key)] = fmt.Sprintf("%x", sha256.Sum256(content))
	}
	return t, nil
}

// JudgeRepository tells what of a repository is not as it says: every backup that a reader sees must be whole, by the
// hashes of all its objects, and every WAL file too. It also gives the backups that are seen.
func JudgeRepository(ctx context.Context, r *catalog.Repository) (seen []catalog.BackupID, faults []string, err error) {
	archive, err := r.Archive(ctx)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil, nil // none yet
	}
	if err != nil {
		return nil, nil, err
	}
	backups, broken, err := r.ReadableBackups(ctx)
	if err != nil {
		return nil, nil, err
	}
	v := &verify.Verifier{Repository: r, Archive: archive, Level: verify.Hashes, WholeArchive: true}
	err = v.WAL(ctx)
	var findings []catalog.Finding
	for _, u := range slices.Concat(broken, archive.Unreadable) {
		findings = append(findings, u.Finding())
	}
	for _, m := range backups {
		if err != nil {
			break
		}
		seen = append(seen, m.ID)
		err = v.Backup(ctx, m)
	}
	found, _ := v.Found()
	for _, f := range slices.Concat(findings, found) {
		faults = append(faults, fmt.Sprintf("%s %s: %s", f.Backup, f.Object, f.Problem))
	}
	return seen, faults, err
}

// Whole tells what is wrong with a file that must be absent or hold just this.
func Whole(name string, want []byte, mayBeAbsent bool) (faults []string) {
	is, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && mayBeAbsent:
	case err != nil:
		return []string{err.Error()}
	case !bytes.Equal(is, want):
		return []string{fmt.Sprintf("%s has %d bytes that are not the %d of the file", name, len(is), len(want))}
	}
	return nil
}

// JudgeSpool tells which files of a spool, at any depth, are not whole segments of these contents.
func JudgeSpool(dir string, contents map[string][]byte) (faults []string) {
	now, err := Snapshot(dir)
	if err != nil {
		return []string{err.Error()}
	}
	for name, is := range now {
		if is == "dir" || isTemp(name) {
			continue
		}
		want, ok := contents[path.Base(name)]
		switch {
		case !ok:
			faults = append(faults, name+" is nothing that was asked for")
		case is != fmt.Sprintf("%x", sha256.Sum256(want)):
			faults = append(faults, name+" in the spool is not the segment")
		}
	}
	slices.Sort(faults)
	return faults
}

// isTemp tells an unfinished file of ours by its name.
func isTemp(name string) bool {
	base := path.Base(name)
	return strings.Contains(name, "/.tmp/") || strings.HasPrefix(name, ".tmp/") || strings.Contains(base, hook.TempMark) ||
		strings.HasPrefix(base, ".") && strings.Contains(base, ".tmp-")
}

// Startable tells whether a server could take a directory for a cluster.
func Startable(pgdata string) bool {
	_, err := os.Lstat(pgdata + "/global/pg_control")
	return err == nil
}
