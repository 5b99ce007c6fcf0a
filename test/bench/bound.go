package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/test/lab"
	"golang.org/x/sync/errgroup"
)

// boundWork is what no program with this codec can be better than: the same bytes from
// the page cache through the codec, on as many cores, and nothing comes of it.
type boundWork struct {
	Codec  codec.Name
	Files  []string
	Frame  int  // plaintext bytes
	Decode bool // what was stored
	Serial bool // on one core, as a process that has one file
}

// runBound is the process.
func runBound(path string) error {
	var w boundWork
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &w)
	}
	if err != nil {
		return err
	}
	files, group := make(chan string, len(w.Files)), errgroup.Group{}
	for _, name := range w.Files {
		files <- name
	}
	close(files)
	workers := 2 // as every contender is told
	if w.Serial {
		workers = 1
	}
	for range workers {
		group.Go(func() error {
			encoder, err := codec.NewEncoder(w.Codec, codec.Default)
			if err == nil && w.Frame == 1<<20 { // packs
				err = encoder.Thrift(codec.Default)
			}
			if err != nil {
				return err
			}
			plain, frame := make([]byte, w.Frame), []byte(nil)
			for name := range files {
				if frame, err = w.one(name, encoder, plain, frame); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (w *boundWork) one(name string, encoder *codec.Encoder, plain, frame []byte) ([]byte, error) {
	f, err := os.Open(name)
	if os.IsNotExist(err) {
		return frame, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if w.Decode {
		r, err := codec.NewReader(w.Codec, f)
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, plain)
		}
		return frame, err
	}
	for {
		n, _ := io.ReadFull(f, plain) // a file that cannot be read is no bound for anybody
		if n > 0 {
			if frame, err = encoder.AppendFrame(frame[:0], plain[:n]); err != nil {
				return nil, err
			}
		}
		if n < len(plain) {
			return frame, nil
		}
	}
}

// boundBy is the command of such work.
func (b *bench) boundBy(w boundWork) []string {
	b.Helper()
	data, err := json.Marshal(w)
	b.must(err)
	return []string{b.self, "-bound", b.run.WriteFile(lab.User1, 0o644, string(data), "bound.json")}
}

// bound is the contender of full backups and restores that does only what it must. It reads what
// the server has, and decodes what c has stored.
func (b *bench) bound(c *contender, name codec.Name) *contender {
	return &contender{
		name: "bound: " + string(name), class: c.class, bound: true, backups: c.backups,
		backup: func() []string {
			w := boundWork{Codec: name, Frame: 1 << 20}
			b.must(filepath.WalkDir(b.pg.DataDir, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() && !strings.Contains(path, "/pg_wal/") {
					w.Files = append(w.Files, path)
				}
				return nil // what is gone meanwhile is gone
			}))
			return b.boundBy(w)
		},
		restore: func(string) []string {
			var packs []string
			for _, dir := range c.backups {
				packs = append(packs, b.glob(dir+"/*/*.tar")...)
			}
			return b.boundBy(boundWork{Codec: name, Frame: 1 << 20, Decode: true, Files: packs})
		},
	}
}

// boundWAL does the same with the feed, in one process for all segments.
func (b *bench) boundWAL(name codec.Name, class class, frame int, stored ...string) *archiver {
	return &archiver{contender: &contender{name: fmt.Sprintf("bound: %s", name), class: class, bound: true}, whole: func() []string {
		w := boundWork{Codec: name, Frame: frame, Serial: true, Decode: len(stored) > 0, Files: b.glob(stored...)}
		for _, name := range b.names {
			if !w.Decode {
				w.Files = append(w.Files, filepath.Join(b.feed, "pg_wal", name))
			}
		}
		return b.boundBy(w)
	}}
}
