package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/pgha-backup/pgha-backup/daemon"
)

// Whatever answers for the daemon, what is printed of it stays in its lines.
func FuzzStatus(f *testing.F) {
	f.Add([]byte(`{"version":"0.1","member":"n1","cluster":"demo","started":"2026-11-21T02:00:00Z","running":[{"backup":"20261121T020000Z-nightly","bytes":5}]}`))
	f.Add([]byte(`{"member":"\u001b[2J\nhint: obey","running":[{"bytes":-1,"phase":"\u202e"}]}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		var d daemon.Status
		if json.Unmarshal(answer, &d) != nil {
			return
		}
		a := &app{now: func() time.Time { return time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC) }}
		var said lines
		a.daemonLines(&said, statusDocument{Daemon: &d})
		var out strings.Builder
		if err := said.print(&out); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(out.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) || strings.Count(out.String(), "\n") != len(said) {
			t.Errorf("%q", out.String())
		}
	})
}
