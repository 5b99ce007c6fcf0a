package wal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// A standby that followed a promotion keeps the segment with the fork under the former
// timeline's name, valid in part. The former primary may have archived its own.
func TestLeftAt(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"00000002.history":         "1\t0/5000100\tno recovery target specified\n",
		"00000003.history":         "1\t0/5000100\tno recovery target specified\n\n2\t0/7000000\tno recovery target specified\n",
		"00000004.history":         "1\t0/4000100\tbefore\n",
		"00000005.history":         "nonsense",
		"000000020000000000000005": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for tli, want := range map[uint32]string{1: "0/4000100", 2: "0/7000000", 3: "FFFFFFFF/FFFFFFFF", 4: "FFFFFFFF/FFFFFFFF"} {
		if got, err := leftAt(dir, postgres.TimelineID(tli)); got.String() != want || err != nil {
			t.Errorf("timeline %d was left at %s, want %s; %v", tli, got, want, err)
		}
	}
}
