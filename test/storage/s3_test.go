// Package storage_test holds the S3 driver to the contract against real servers.
package storage_test

import (
	"sync/atomic"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/s3"
	"github.com/pgha-backup/pgha-backup/storage/storagetest"
)

func open(t *testing.T, o s3.Options) *s3.Bucket {
	t.Helper()
	b, err := s3.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVersitygw(t *testing.T) {
	for _, c := range []struct {
		name   string
		secure bool
		prefix string
	}{{"http", false, ""}, {"tls with prefix", true, "some/prefix"}} {
		t.Run(c.name, func(t *testing.T) {
			srv := startVersitygw(t, c.secure)
			var n atomic.Int32
			storagetest.Run(t, func(t *testing.T) storage.Bucket {
				name := bucketName(int(n.Add(1)))
				srv.makeBucket(t, name)
				o := srv.options(name)
				o.Prefix = c.prefix
				return open(t, o)
			})
			t.Run("missing bucket", func(t *testing.T) { storagetest.RunMissing(t, open(t, srv.options("never-made"))) })
		})
	}
}
