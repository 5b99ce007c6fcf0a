package backup

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
)

// openStream makes sure, before anything is changed, that the server will stream.
func (t *take) openStream(ctx context.Context) (err error) {
	if t.stream, err = t.source.Server.OpenBaseBackup(ctx, t.warn); err != nil {
		return &PreflightError{Reason: "the server does not give a base backup over the replication protocol", Err: err}
	}
	if t.control, err = t.source.Server.Pages(ctx); err != nil {
		return &PreflightError{Reason: "the server does not say what it is", Err: err}
	}
	return t.checkPages()
}

// startStream lets the server begin.
func (t *take) startStream(ctx context.Context) error {
	if err := t.stream.Begin(ctx, t.name()); err != nil {
		return err
	}
	now, err := t.source.Server.Now(ctx)
	if err != nil {
		return err
	}
	t.began = server.Start{LSN: t.stream.LSN, Timeline: t.stream.Timeline, Time: now}
	t.tablespaces = t.stream.Tablespaces
	return t.startRun(ctx)
}

// copyStream copies what the server sends but for what must come last.
func (t *take) copyStream(ctx context.Context) error {
	t.copier = t.newCopier()
	t.unpacker = newUnpacker(t.copier)
	return t.watched(ctx, Progress{BytesTotal: t.stream.Bytes}, func(ctx context.Context) error { return t.unpacker.all(ctx, t.stream) })
}

// stopStream learns where the backup ended. The server has read pg_control after
// every other file (R15).
func (t *take) stopStream(ctx context.Context) error {
	end, err := t.stream.End(ctx)
	if err != nil {
		return err
	}
	if end.Timeline != t.began.Timeline && !t.facts.InRecovery {
		return fmt.Errorf("the server went from timeline %d to %d during the backup", uint32(t.began.Timeline), uint32(end.Timeline))
	}
	if end.Damaged && len(t.copier.damage) == 0 {
		t.warn("the server found damaged pages where we see none: its log of this time names the files")
	}
	pages, last := t.control, t.unpacker.last
	if t.control, err = postgres.ParseControlData([]byte(last[controlFile])); err != nil {
		return fmt.Errorf("the server sent, it may be in the middle of writing it: %w", err)
	}
	if t.control.System != t.facts.System || t.control.ChecksumVersion != pages.ChecksumVersion || t.control.RelationBlocks != pages.RelationBlocks {
		return fmt.Errorf("pg_control is of system %s, checksum version %d, %d blocks a file: the server said %s, %d and %d",
			t.control.System, t.control.ChecksumVersion, t.control.RelationBlocks, t.facts.System, pages.ChecksumVersion, pages.RelationBlocks)
	}
	t.groupAccess = t.unpacker.groupAccess
	t.ended = server.Stop{LSN: end.LSN, Label: last[labelFile], TablespaceMap: last[mapFile]}
	if t.ended.Time, err = t.source.Server.Now(ctx); err != nil {
		return err
	}
	return t.finish(ctx, []byte(last[controlFile]), t.control)
}

// unpacker copies the archives of a streamed base backup into packs, as its copier
// does with files.
type unpacker struct {
	*copier
	buffer []byte
	oid    uint32    // of the volume under way
	pack   *openPack // nil: none is begun
	// last is what goes to the end of the last pack, by its path.
	last        map[string]string
	groupAccess bool
	seen        map[string]bool // what came, by path
}

func newUnpacker(c *copier) *unpacker {
	return &unpacker{copier: c, buffer: make([]byte, catalog.FrameSize), last: map[string]string{}, seen: map[string]bool{}}
}

// maxLast bounds a file that is kept in memory.
const maxLast = 1 << 20

// all copies every archive.
func (u *unpacker) all(ctx context.Context, backup *server.BaseBackup) error {
	defer func() {
		if u.pack != nil {
			u.pack.Abort()
		}
	}()
	for {
		archive, err := backup.Next(ctx)
		if errors.Is(err, io.EOF) {
			return u.complete()
		}
		if err == nil {
			u.oid = archive.Tablespace
			err = u.volume(ctx, archive)
		}
		if err != nil {
			return err
		}
	}
}

// complete insists on what a restore cannot do without: of a directory that was
// replaced by a link the server only warns.
func (u *unpacker) complete() error {
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		if !u.seen[name] {
			return fmt.Errorf("the server sent no directory %s: if it is a symbolic link, use a tablespace or a mount instead", name)
		}
	}
	for _, name := range []string{labelFile, controlFile} {
		if u.last[name] == "" {
			return fmt.Errorf("the server sent no %s", name)
		}
	}
	return nil
}

// volume copies one archive into packs of its volume.
func (u *unpacker) volume(ctx context.Context, archive io.Reader) error {
	below := ""
	if u.oid != 0 {
		below = fmt.Sprintf("pg_tblspc/%d/", u.oid)
	}
	for in := tar.NewReader(archive); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return u.end(ctx)
		}
		if err != nil {
			return fmt.Errorf("read the archive of volume %d: %w", u.oid, err)
		}
		// Of some directories the server says ./name/.
		entry := catalog.Entry{Path: below + path.Clean(h.Name), Size: h.Size, Mode: uint32(h.Mode & 0o777), Modified: h.ModTime}
		if err := u.entry(ctx, entry, h.Typeflag, in); err != nil {
			return fmt.Errorf("back up %s: %w", entry.Path, err)
		}
	}
}

func (u *unpacker) entry(ctx context.Context, entry catalog.Entry, kind byte, in io.Reader) error {
	name := entry.Path
	if u.seen[name] {
		return errors.New("it came twice")
	}
	u.seen[name] = true
	switch {
	case name == labelFile || name == mapFile || name == controlFile:
		content, err := io.ReadAll(io.LimitReader(in, maxLast))
		if err == nil && int64(len(content)) != entry.Size {
			err = fmt.Errorf("%d bytes are too many", entry.Size)
		}
		u.last[name], u.groupAccess = string(content), entry.Mode&0o040 != 0
		return err
	case name == catalog.OriginFile || postgres.ExcludedFromBackup(name):
		return nil
	case kind != tar.TypeDir && kind != tar.TypeReg:
		return fmt.Errorf("an entry of type %q is neither file nor directory", kind)
	}
	if err := u.room(ctx, entry.Size); err != nil {
		return err
	}
	if kind == tar.TypeDir {
		return u.pack.Directory(entry)
	}
	u.files.Add(1)
	return u.blocks(ctx, u.pack, entry, func(block []byte, _ int64) error {
		_, err := io.ReadFull(in, block)
		return err
	}, u.checker(ctx, name), u.buffer)
}

// room makes sure that there is a pack to write an entry of so many bytes into.
func (u *unpacker) room(ctx context.Context, size int64) (err error) {
	if u.pack != nil && (u.pack.Plain() >= u.packSize || !u.pack.Room(size)) {
		err = u.end(ctx)
	}
	if err == nil && u.pack == nil {
		u.pack, err = u.open(ctx, u.oid)
	}
	return err
}

func (u *unpacker) end(ctx context.Context) error {
	if u.pack == nil {
		return nil
	}
	err := u.close(ctx, u.pack)
	u.pack = nil
	return err
}
