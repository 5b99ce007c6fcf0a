package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// copier copies items into packs. What is set before the workers start is not
// changed; the rest is under mu.
type copier struct {
	run       *catalog.Run
	packSize  int64
	checksums bool
	perFile   uint32 // blocks in each file of a relation
	start     postgres.LSN
	position  func(context.Context) (postgres.LSN, error)
	limit     *rate.Limiter // nil: none
	warn      func(string)

	files, bytes atomic.Int64

	mu       sync.Mutex
	numbers  map[uint32]int // packs of each volume
	packs    []*storedPack  // in the order in which they were begun
	damage   []catalog.Damage
	vanished int
}

// storedPack is filled when its pack is stored.
type storedPack struct {
	tablespace uint32
	index      catalog.Pack
	info       catalog.PackInfo
}

// copyAll empties the queue with n workers. The first error ends all.
func (c *copier) copyAll(ctx context.Context, items []item, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	q := newQueue(items)
	for range n {
		group.Go(func() error { return c.work(ctx, q) })
	}
	return group.Wait()
}

// work is one worker: one pack at a time, each of one volume.
func (c *copier) work(ctx context.Context, q *queue) (err error) {
	buffer := make([]byte, catalog.FrameSize)
	var pack *openPack
	defer func() {
		if pack != nil {
			pack.Abort()
		}
	}()
	volume := uint32(0)
	for {
		it, ok := q.next(volume)
		if pack != nil && (!ok || it.tablespace != volume || pack.Plain() >= c.packSize || !pack.Room(it.size)) {
			if err := c.close(ctx, pack); err != nil {
				return err
			}
			pack = nil
		}
		if !ok {
			return nil
		}
		if volume = it.tablespace; pack == nil {
			if pack, err = c.open(ctx, volume); err != nil {
				return err
			}
		}
		if err := c.copy(ctx, pack, it, buffer); err != nil {
			return err
		}
	}
}

type openPack struct {
	*catalog.PackWriter
	stored *storedPack
}

func (c *copier) open(ctx context.Context, volume uint32) (*openPack, error) {
	c.mu.Lock()
	c.numbers[volume]++
	name := catalog.PackName(volume, c.numbers[volume])
	stored := &storedPack{tablespace: volume}
	c.packs = append(c.packs, stored)
	c.mu.Unlock()
	w, err := c.run.NewPack(ctx, name)
	if err != nil {
		return nil, err
	}
	return &openPack{w, stored}, nil
}

func (c *copier) close(ctx context.Context, pack *openPack) error {
	var err error
	if pack.stored.index, pack.stored.info, err = pack.Close(); err != nil {
		return err
	}
	pack.stored.info.EndLSN, err = c.position(ctx)
	return err
}

func (c *copier) copy(ctx context.Context, pack *openPack, it item, buffer []byte) error {
	if it.dir {
		return c.directory(pack, it)
	}
	if err := c.file(ctx, pack, it, buffer); err != nil {
		return fmt.Errorf("back up %s: %w", it.disk, err)
	}
	c.files.Add(1)
	return nil
}

func (c *copier) directory(pack *openPack, it item) error {
	info, err := os.Lstat(it.disk)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", it.disk, err)
	}
	mode := uint32(info.Mode().Perm())
	if !info.IsDir() { // a link stands here for a directory whose contents stay out
		mode = 0o700
	}
	return pack.Directory(catalog.Entry{Path: it.path, Mode: mode, Modified: info.ModTime()})
}

func (c *copier) file(ctx context.Context, pack *openPack, it item, buffer []byte) error {
	f, err := os.OpenFile(it.disk, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if gone(err) {
		c.mu.Lock()
		c.vanished++
		c.mu.Unlock()
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	entry := catalog.Entry{Path: it.path, Size: info.Size(), Mode: uint32(info.Mode().Perm()), Modified: info.ModTime()}
	_, isRelation := postgres.ParseRelationFile(it.path)
	cached := look(f, entry.Size)
	defer cached.drop(0, entry.Size) // readahead may have gone past what the loop dropped
	if !isRelation && entry.Size < int64(len(buffer)) {
		// A configuration file is replaced or rewritten, and WAL does not tell: what it
		// holds now counts, not the size it had.
		n, err := io.ReadFull(f, buffer)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			entry.Size = int64(n)
			return c.whole(ctx, pack, entry, buffer[:n])
		}
		if err != nil {
			return err
		}
	}
	pages := c.checker(ctx, it.path)
	if pages != nil {
		pages.reread = func(page []byte, at int64) error { return readPadded(f, page, at) }
		pages.pause = func() { time.Sleep(rereadPause) }
	}
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL) // a hint
	dropped := int64(0)
	return c.blocks(ctx, pack, entry, func(block []byte, at int64) error {
		if at-dropped >= dropWindow {
			cached.drop(dropped, at)
			dropped = at
		}
		return readPadded(f, block, at)
	}, pages, buffer)
}

// checker verifies the pages of a relation's file; nil where there is nothing to verify.
func (c *copier) checker(ctx context.Context, path string) *pageChecker {
	relation, ok := postgres.ParseRelationFile(path)
	if !ok || !c.checksums {
		return nil
	}
	return &pageChecker{firstBlock: relation.FirstBlock(c.perFile), start: c.start,
		now: func() (postgres.LSN, error) { return c.position(ctx) }}
}

// whole adds a file whose content is in memory.
func (c *copier) whole(ctx context.Context, pack *openPack, entry catalog.Entry, content []byte) error {
	if err := c.throttle(ctx, len(content)); err != nil {
		return err
	}
	if err := pack.Begin(entry); err != nil {
		return err
	}
	if _, err := pack.Write(content); err != nil {
		return err
	}
	_, err := pack.End()
	return err
}

// dropWindow is how far reading runs ahead of giving cache pages back, in bytes.
const dropWindow = 16 << 20

// blocks adds a file of the size it had when it was opened, and read gives the bytes
// from an offset on. What it grows by is in WAL; what it shrinks by reads as zeros, as
// PostgreSQL's own base backup has it, and WAL truncates it again.
func (c *copier) blocks(ctx context.Context, pack *openPack, entry catalog.Entry, read func(block []byte, at int64) error, pages *pageChecker, buffer []byte) error {
	if err := pack.Begin(entry); err != nil {
		return err
	}
	damage := catalog.Damage{Path: entry.Path}
	for at := int64(0); at < entry.Size; {
		block := buffer[:min(int64(len(buffer)), entry.Size-at)]
		if err := c.throttle(ctx, len(block)); err != nil {
			return err
		}
		if err := read(block, at); err != nil {
			return fmt.Errorf("at offset %d: %w", at, err)
		}
		if pages != nil {
			bad, err := pages.check(block, at)
			if err != nil {
				return err
			}
			damage.Blocks = append(damage.Blocks, bad...)
		}
		if _, err := pack.Write(block); err != nil {
			return err
		}
		at += int64(len(block))
	}
	if len(damage.Blocks) > 0 {
		c.report(damage)
	}
	_, err := pack.End()
	return err
}

// maxDamage bounds the damaged files and the blocks of each that a manifest lists.
const maxDamage = 1000

func (c *copier) report(d catalog.Damage) {
	c.warn(fmt.Sprintf("%s: %d damaged pages, first block %d of the relation: checksums fail on every read",
		d.Path, len(d.Blocks), slices.Min(d.Blocks)))
	d.Blocks = d.Blocks[:min(len(d.Blocks), maxDamage)]
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.damage) < maxDamage {
		c.damage = append(c.damage, d)
	}
}

func (c *copier) throttle(ctx context.Context, n int) error {
	c.bytes.Add(int64(n))
	if c.limit == nil {
		return ctx.Err()
	}
	return c.limit.WaitN(ctx, n)
}

// readPadded fills p from offset at; behind the end of the file are zeros.
func readPadded(f io.ReaderAt, p []byte, at int64) error {
	n, err := f.ReadAt(p, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(p[n:])
	return nil
}
