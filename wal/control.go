package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// ReadControl reads PGDATA's pg_control, again if the server was writing it just
// then. No PGDATA or no pg_control in it is fs.ErrNotExist.
func ReadControl(dataDir string) (postgres.ControlData, error) {
	if dataDir == "" {
		return postgres.ControlData{}, fmt.Errorf("read pg_control: no data directory is known: %w", fs.ErrNotExist)
	}
	for try := 1; ; try++ {
		b, err := os.ReadFile(filepath.Join(dataDir, "global", "pg_control"))
		if err != nil {
			return postgres.ControlData{}, err
		}
		control, err := postgres.ParseControlData(b)
		if err == nil || !errors.Is(err, postgres.ErrControlCRC) || try == 5 {
			return control, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
