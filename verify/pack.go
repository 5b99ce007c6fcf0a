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

const maxKept = 1 << 20

func newContents(b *catalog.Backup) *contents {
	c := &contents{Backup: b, damage: map[string][]uint32{}, kept: map[string][]byte{}}
	for _, d := range b.Manifest.Damage {
		c.damage[d.Path] = d.Blocks
	}
	return c
}

// pack reads a pack to its end, where its hash is compared. The reader compares the tar
// with the index, entry by entry.
func (v *Verifier) pack(ctx context.Context, c *contents, i int, at catalog.Finding) error {
	pack, err := c.OpenPack(ctx, i)
	if err != nil {
		return v.judge(at, err)
	}
	buffer := make([]byte, catalog.FrameSize)
	for err == nil {
		var e catalog.Entry
		if e, err = pack.Next(); err != nil || v.Level != Full || e.Kind != catalog.File {
			continue
		}
		v.count(func(n *Counts) { n.Files++ })
		at.File = e.Path // where an error of the next step belongs, too
		at.Blocks, err = v.file(pack, c, e, at, buffer)
	}
	if isEnd(err) {
		err = nil
	}
	v.done(c.Manifest.Packs[i].Size)
	if err = errors.Join(err, pack.Close()); err != nil {
		c.mu.Lock()
		c.broken = true
		c.mu.Unlock()
	}
	return v.judge(at, err)
}

// file reads one file. With an error comes the block of a relation that it broke off in.
func (v *Verifier) file(r io.Reader, c *contents, e catalog.Entry, at catalog.Finding, buffer []byte) ([]uint32, error) {
	m := c.Manifest
	relation, isRelation := postgres.ParseRelationFile(e.Path)
	first := relation.FirstBlock(uint32(m.Settings.RelationSegmentSize))
	p := pages{first: first, start: m.StartLSN, stop: m.StopLSN, known: c.damage[e.Path]}
	keep := slices.Contains([]string{label, mapping, control, version}, e.Path) && e.Size <= maxKept
	for read := int64(0); read < e.Size; {
		part := buffer[:min(int64(len(buffer)), e.Size-read)]
		if _, err := io.ReadFull(r, part); err != nil {
			if !isRelation {
				return nil, err
			}
			return []uint32{first + uint32(read/postgres.PageSize)}, err
		}
		if isRelation && m.Settings.DataChecksumVersion != 0 {
			p.check(part, read)
		}
		if keep {
			c.mu.Lock()
			c.kept[e.Path] = append(c.kept[e.Path], part...)
			c.mu.Unlock()
		}
		read += int64(len(part))
	}
	v.count(func(n *Counts) { n.Pages += p.checked })
	if len(p.bad) > 0 {
		at.Blocks, at.Problem = p.bad, p.problem()
		v.add(at)
	}
	return nil, nil
}
