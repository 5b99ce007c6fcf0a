package wal

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

func FuzzDrop(f *testing.F) {
	f.Add([]byte(`{"file":"000000010000000000000005","system_identifier":"77","size":16777216,"at":"2026-11-21T02:00:00Z"}`))
	f.Add([]byte(`{"file":"000000010000000000000005","size":0}`))
	f.Add([]byte(`{"file":"000000010000000000000005","size":4311744512}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		state := t.TempDir()
		const name = "000000010000000000000005"
		if err := os.MkdirAll(DroppedDir(state), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(DroppedDir(state), name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		all, err := Drops(state)
		if len(all) == 0 && err == nil {
			t.Error("nothing is there, and nothing is wrong")
		}
		for _, d := range all {
			// As the daemon joins them.
			if d.File != name || d.WAL.Segment.Next(postgres.SegmentSize(d.Size)).Number(postgres.SegmentSize(d.Size)) != d.WAL.Segment.Number(postgres.SegmentSize(d.Size))+1 {
				t.Errorf("%+v", d)
			}
		}
	})
}

func FuzzFrontier(f *testing.F) {
	f.Add([]byte(`{"system_identifier":"77","segment":"000000010000000000000005","at":"2026-11-21T02:00:00Z"}`))
	f.Add([]byte(`{"segment":"../../x"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		state := t.TempDir()
		if err := os.WriteFile(frontierFile(state), text, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadFrontier(state)
		if err != nil || got.System == 0 || got.Segment.Timeline == 0 || got.At.Year() > 9999 || got.At.Year() < 0 {
			return
		}
		if err := got.Write(state); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadFrontier(state); err != nil || again.Segment != got.Segment || again.System != got.System || !again.At.Equal(got.At) {
			t.Errorf("%+v, %+v, %v", got, again, err)
		}
	})
}

// A pgha.origin.json that cannot be read never lets WAL through.
func FuzzOrigin(f *testing.F) {
	f.Add([]byte(`{"format":1,"scope":"main","system_identifier":"77","backup":"20261121T020000Z-nightly"}`))
	f.Add([]byte(`{"format":1,"scope":"main","scope":"other","system_identifier":"77"}`))
	f.Add([]byte("{"))
	f.Add([]byte(`{"format":2,"origin":"elsewhere"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		pgdata := t.TempDir()
		for name, content := range map[string]string{"PG_VERSION": "15\n", catalog.OriginFile: string(text)} {
			if err := os.WriteFile(filepath.Join(pgdata, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p := Pusher{Scope: "main", DataDir: pgdata, Now: func() time.Time { return time.Unix(0, 0) }}
		err := p.settle(filepath.Join(pgdata, "pg_wal", "x"), &source{system: 77}, logger(nil))
		origin, unread := catalog.ParseOrigin("origin", text)
		if refused := err != nil; refused != (unread != nil || origin.Scope == "main" && origin.System == 77) {
			t.Errorf("%q: %v, %v", text, err, unread)
		}
	})
}
