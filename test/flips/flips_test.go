package flips_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// flip is one bit of one object.
type flip struct {
	kind, path string
	bit        int64
}

// deal draws n flips, of each kind as many: the first half of those in WAL in the header.
func (w *world) deal(n int, seed uint64) (all []flip) {
	random := rand.New(rand.NewPCG(seed, 5))
	kinds := slices.Sorted(maps.Keys(w.objects))
	seen := map[flip]bool{}
	for i := 0; len(all) < n && i < 100*n; i++ {
		kind := kinds[i%len(kinds)]
		f := flip{kind: kind, path: w.objects[kind][random.IntN(len(w.objects[kind]))]}
		info, err := os.Stat(f.path)
		w.must(err)
		limit := info.Size()
		if strings.Contains(f.path, "/wal/") && i/len(kinds)%2 == 0 {
			limit = min(limit, 700) // about a header
		}
		if f.bit = random.Int64N(limit * 8); !seen[f] {
			seen[f] = true
			all = append(all, f)
		}
	}
	return all
}

// toggle flips the bit, or flips it back.
func (w *world) toggle(f flip) {
	w.Helper()
	file, err := os.OpenFile(f.path, os.O_RDWR, 0)
	w.must(err)
	b := make([]byte, 1)
	_, err = file.ReadAt(b, f.bit/8)
	w.must(err)
	b[0] ^= 1 << (f.bit % 8)
	_, err = file.WriteAt(b, f.bit/8)
	w.must(err)
	w.must(file.Close())
}

// try flips a bit and returns what was found: first by what verify calls for that object
// alone, and where that sees nothing, or thorough, by the whole of it, which must name the object.
func (w *world) try(f flip, thorough bool) string {
	w.Helper()
	w.toggle(f)
	defer w.toggle(f)
	seen := w.alone(f)
	if seen != nil && !thorough {
		return seen.Error()
	}
	key, err := filepath.Rel(w.dir, f.path)
	w.must(err)
	findings, err := w.whole()
	switch i := slices.IndexFunc(findings, func(f catalog.Finding) bool { return f.Object == key }); {
	case err != nil && strings.Contains(err.Error(), key):
		return err.Error()
	case i >= 0:
		return findings[i].Problem
	case seen != nil:
		w.Errorf("%s: bit %d of %s, seen alone (%v), and not by the whole: %v %v", f.kind, f.bit, key, seen, findings, err)
	}
	return ""
}

// alone reads an object as verify does.
func (w *world) alone(f flip) error {
	ctx, r := w.Context(), w.open(codec.Zstd)
	name := filepath.Base(f.path)
	switch {
	case strings.Contains(f.path, "/wal/"), f.kind == "conflict":
		for entry, err := range r.WALObjects(ctx) {
			w.must(err)
			if strings.HasSuffix(f.path, "/"+entry.Object()) {
				_, err := r.InspectWAL(ctx, entry, io.Discard, 1<<20)
				return err
			}
		}
		w.Fatalf("no WAL object %s", f.path)
	case strings.HasPrefix(f.kind, "pack "), f.kind == "index", f.kind == "backup_manifest":
		id, err := catalog.ParseBackupID(filepath.Base(filepath.Dir(filepath.Dir(f.path))))
		w.must(err)
		m, err := r.Manifest(ctx, id)
		w.must(err)
		b, err := r.Open(ctx, m)
		if err != nil || f.kind == "index" {
			return err
		}
		if f.kind == "backup_manifest" {
			text, err := b.BackupManifest(ctx)
			if err == nil {
				_, err = postgres.ParseBackupManifest(text)
			}
			return err
		}
		i := slices.IndexFunc(m.Packs, func(p catalog.PackInfo) bool { return p.Name == name })
		return readPack(ctx, b, i)
	}
	_, broken, err := r.Documents(ctx, "")
	if err == nil && len(broken) > 0 {
		err = broken[0].Err
	}
	return err
}

func readPack(ctx context.Context, b *catalog.Backup, i int) error {
	pack, err := b.OpenPack(ctx, i)
	if err != nil {
		return err
	}
	for err == nil {
		_, err = pack.Next()
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, pack.Close())
}

// A few hundred flips, and each kind once through the whole of verify.
func TestFlips(t *testing.T) {
	w := newWorld(t)
	if found, err := w.whole(); err != nil || len(found) > 0 {
		t.Fatalf("before any flip: %+v %v", found, err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i, f := range w.deal(300, seed) {
		if found := w.try(f, i < len(w.objects)); found == "" {
			t.Errorf("%s: bit %d of byte %d of %s is flipped, and nothing was found", f.kind, f.bit%8, f.bit/8, f.path)
		}
	}
	if found, err := w.whole(); err != nil || len(found) > 0 {
		t.Fatalf("after the last flip: %+v %v", found, err)
	}
}
