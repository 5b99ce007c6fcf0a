package restore

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pg_verifybackup looks at every file, at its content only when it is asked to, and what
// it refuses is no copy.
func TestJudged(t *testing.T) {
	bin, pgdata := t.TempDir(), t.TempDir()
	script := "#!/bin/sh\necho \"$@\"\nexit 1\n"
	if err := os.WriteFile(filepath.Join(bin, "pg_verifybackup"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, all := range []bool{false, true} {
		x := execution{Options: Options{BinDir: bin, VerifyFiles: all, Log: slog.New(slog.DiscardHandler)}, ground: Ground{PGDATA: pgdata}}
		err := x.verify(t.Context())
		refused, ok := errors.AsType[*VerificationError](err)
		if !ok {
			t.Fatalf("all %v: %v", all, err)
		}
		if sizes := strings.Contains(refused.Problem, "--skip-checksums"); sizes == all || !strings.HasSuffix(refused.Problem, pgdata) {
			t.Errorf("all %v: %s", all, refused.Problem)
		}
	}
}
