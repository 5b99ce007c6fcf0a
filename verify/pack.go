package verify

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// contents is what is kept of the packs of a backup: small files that the manifest speaks of.
type contents struct {
	*catalog.Backup
	damage map[string][]uint32 // that the backup recorded
	mu     sync.Mutex
	kept   map[string][]byte
	broken bool // a pack could not be read to its end
}

// The files that tell what a backup is of. Control is the last in the last pack of
// PGDATA: read before any other file, the copy of a standby would claim to be consistent too soon (R15).
const (
	label   = "backup_label"
	mapping = "tablespace_map"
	control = "global/pg_control"
	version = "PG_VERSION"
)

func newContents(b *catalog.Backup) *contents {
	c := &contents{Backup: b, damage: map[string][]uint32{}, kept: map[string][]byte{label: nil, mapping: nil, control: nil, version: nil}}
	for _, d := range b.Manifest.Damage {
		c.damage[d.Path] = d.Blocks
	}
	return c
}

// pack reads a pack to its end, where its hash is compared. The reader compares the tar
// with the index, entry by entry.
func (v *Verifier) pack(ctx context.Context, c *contents, i int, at catalog.Finding) error {
	pack, err := c.OpenPack(ctx, i)
	if err == nil {
		buffer := make([]byte, catalog.FrameSize)
		for err == nil {
			var e catalog.Entry
			if e, err = pack.Next(); err == nil && v.Level == Full && e.Kind == catalog.File {
				at.File = e.Path // where an error of the next step belongs, too
				at.Blocks, err = v.file(pack, c, e, at, buffer)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		err = errors.Join(err, pack.Close())
	}
	c.mu.Lock()
	c.broken = c.broken || err != nil
	c.mu.Unlock()
	v.looked(c.Manifest.Packs[i].Size, func(*Counts) {})
	return v.judge(at, err)
}

// file reads one file. With an error comes the block of a relation that it broke off in.
func (v *Verifier) file(r io.Reader, c *contents, e catalog.Entry, at catalog.Finding, buffer []byte) ([]uint32, error) {
	m := c.Manifest
	relation, isRelation := postgres.ParseRelationFile(e.Path)
	first := relation.FirstBlock(uint32(m.Settings.RelationSegmentSize))
	p := pages{first: first, start: m.StartLSN, stop: m.StopLSN, known: c.damage[e.Path]}
	for read := int64(0); read < e.Size; {
		part := buffer[:min(int64(len(buffer)), e.Size-read)]
		if _, err := io.ReadFull(r, part); err != nil {
			if isRelation {
				at.Blocks = []uint32{first + uint32(read/postgres.PageSize)}
			}
			return at.Blocks, err
		}
		if isRelation && m.Settings.DataChecksumVersion != 0 {
			p.check(part, read)
		}
		c.keep(e.Path, part)
		read += int64(len(part))
	}
	v.looked(0, func(n *Counts) { n.Files, n.Pages = n.Files+1, n.Pages+p.checked })
	if len(p.bad) > 0 {
		at.Blocks = p.bad
		v.add(at, "%d pages fail their checksum and the manifest does not say so, first block %d of the relation", p.count, p.bad[0])
	}
	return nil, nil
}

// keep keeps the beginning of a file that the manifest speaks of.
func (c *contents) keep(path string, part []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kept, ok := c.kept[path]; ok && kept == nil {
		c.kept[path] = slices.Clone(part)
	}
}
