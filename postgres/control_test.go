package postgres

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestControlDataAgreesWithPgControldata(t *testing.T) {
	eachSample(t, func(t *testing.T, s sample) {
		for _, suffix := range []string{"", ".2"} {
			c, err := ParseControlData(s["pg_control"+suffix])
			if err != nil {
				t.Fatal(err)
			}
			onOff := map[bool]string{true: "on", false: "off"}
			ours := map[string]string{
				"Catalog version number":               fmt.Sprint(c.CatalogVersion),
				"Database system identifier":           c.System.String(),
				"Database cluster state":               c.State.String(),
				"Latest checkpoint location":           c.Checkpoint.String(),
				"Latest checkpoint's REDO location":    c.Redo.String(),
				"Latest checkpoint's REDO WAL file":    SegmentAt(c.Timeline, c.Redo, c.SegmentSize).Name(),
				"Latest checkpoint's TimeLineID":       fmt.Sprint(uint32(c.Timeline)),
				"Minimum recovery ending location":     c.MinRecovery.String(),
				"Min recovery ending loc's timeline":   fmt.Sprint(uint32(c.MinRecoveryTimeline)),
				"wal_level setting":                    c.WALLevel.String(),
				"wal_log_hints setting":                onOff[c.WALLogHints],
				"max_connections setting":              fmt.Sprint(c.MaxConnections),
				"max_worker_processes setting":         fmt.Sprint(c.MaxWorkerProcesses),
				"max_wal_senders setting":              fmt.Sprint(c.MaxWALSenders),
				"max_prepared_xacts setting":           fmt.Sprint(c.MaxPreparedXacts),
				"max_locks_per_xact setting":           fmt.Sprint(c.MaxLocksPerXact),
				"track_commit_timestamp setting":       onOff[c.TrackCommitTimestamp],
				"Database block size":                  fmt.Sprint(c.BlockSize),
				"Blocks per segment of large relation": fmt.Sprint(c.RelationBlocks),
				"Bytes per WAL segment":                fmt.Sprint(uint32(c.SegmentSize)),
				"Data page checksum version":           fmt.Sprint(c.ChecksumVersion),
			}
			found := 0
			for _, line := range s.lines("pg_controldata" + suffix) {
				key, value, _ := strings.Cut(line, ":")
				want, ok := ours[key]
				if !ok {
					continue
				}
				found++
				if want != strings.TrimSpace(value) {
					t.Errorf("%s: %q, pg_controldata says %q", key, want, strings.TrimSpace(value))
				}
			}
			if found != len(ours) {
				t.Errorf("pg_controldata shows %d of %d fields", found, len(ours))
			}
		}
	})
}

func TestControlDataRefuses(t *testing.T) {
	eachSample(t, func(t *testing.T, s sample) {
		good := s["pg_control"]
		for name, change := range map[string]func(b []byte) []byte{
			"torn":          func(b []byte) []byte { b[40]++; return b },
			"other version": func(b []byte) []byte { b[8]++; return b },
			"short":         func(b []byte) []byte { return b[:200] },
			"empty":         func(b []byte) []byte { return nil },
		} {
			_, err := ParseControlData(change(append([]byte(nil), good...)))
			if err == nil || errors.Is(err, ErrControlCRC) != (name == "torn") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func FuzzControlData(f *testing.F) {
	for _, major := range sampleMajors {
		f.Add(loadSample(f, major)["pg_control"][:512])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseControlData(b); err == nil && c.SegmentSize.Validate() != nil {
			t.Error(c)
		}
	})
}
