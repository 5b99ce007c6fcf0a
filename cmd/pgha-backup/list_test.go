package main

import (
	"slices"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
)

func TestWindowsInWords(t *testing.T) {
	at := func(s string) time.Time {
		moment, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	from, last := at("2026-11-21T06:38:50.92346Z"), postgres.Segment{Timeline: 1}
	var s survey
	s.Windows = []catalog.Window{
		{From: from, To: at("2026-11-21T06:39:16.333Z"), Last: last},
		{From: from, To: at("2026-11-21T06:38:50.95Z"), Last: last},
		{From: from, Last: last},
	}
	idle := "2026-11-21 06:38:51Z .. the end of " + last.Name() + ", no commit since"
	want := []string{"2026-11-21 06:38:51Z .. 2026-11-21 06:39:16Z, timeline 1", idle, idle}
	if got := new(app).windows(s); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
