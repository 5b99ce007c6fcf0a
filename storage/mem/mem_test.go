package mem_test

import (
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/mem"
	"github.com/pgha-backup/pgha-backup/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Bucket { return mem.New() })
	t.Run("missing bucket", func(t *testing.T) { storagetest.RunMissing(t, &mem.Bucket{}) })
}
