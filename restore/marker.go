package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// MarkerFile stands in PGDATA while a restore writes it. As long as it is there
// without a pg_control, the directory is ours to empty and to fill again.
const MarkerFile = "pgha.restore-in-progress"

// marker is the content of MarkerFile.
type marker struct {
	Format  int                       `json:"format"`
	PGDATA  string                    `json:"pgdata"`
	System  postgres.SystemIdentifier `json:"system_identifier"`
	Backup  catalog.BackupID          `json:"backup"`
	Started time.Time                 `json:"started"`
	// Tablespaces are the directories that this restore empties or fills, Links the
	// links it makes for tablespaces that replay will create.
	Tablespaces []string `json:"tablespaces,omitempty"`
	Links       []string `json:"links,omitempty"`
	// Versions are the directories in them that are this cluster's: PG_15_202209061.
	Versions []string `json:"versions,omitempty"`
}

const markerFormat = 1

// readMarker gives nil if there is none.
func readMarker(pgdata string) (*marker, error) {
	data, err := os.ReadFile(filepath.Join(pgdata, MarkerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the marker of an interrupted restore: %w", err)
	}
	var m marker
	if err := json.Unmarshal(data, &m); err != nil || m.Format != markerFormat {
		return nil, fmt.Errorf("%s in %s is not one of this version's markers: remove the directory by hand if it is an interrupted restore", MarkerFile, pgdata)
	}
	return &m, nil
}

func (m marker) write(pgdata string) error {
	data, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(pgdata, MarkerFile), append(data, '\n'), 0o600)
}
