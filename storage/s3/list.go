package s3

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/pgha-backup/pgha-backup/storage"
)

// List fails closed: a store that answers out of order, outside of the prefix or
// without a token for its next page is reported, never believed.
func (b *Bucket) List(ctx context.Context, prefix, after storage.Key) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		// Without this, leaving the loop early would leave the page's connection open.
		actx, cancel := context.WithCancel(ctx)
		defer cancel()
		actx, a := withAnswer(actx)
		fail := func(err error) {
			yield(storage.Object{}, b.report(ctx, "list", prefix, a, err))
		}
		opts := minio.ListObjectsOptions{Prefix: b.name(prefix), Recursive: true, FetchOwner: new(bool)}
		if after != "" {
			opts.StartAfter = b.name(after)
		}
		last := ""
		for o := range b.core.ListObjectsIter(actx, b.bucket, opts) {
			if o.Err != nil {
				fail(o.Err)
				return
			}
			switch {
			case !strings.HasPrefix(o.Key, opts.Prefix):
				fail(fmt.Errorf("the store lists %q, which is outside of the prefix", o.Key))
				return
			case o.Key <= last:
				fail(fmt.Errorf("the store lists %q after %q, which is not in order", o.Key, last))
				return
			}
			last = o.Key
			key := storage.Key(o.Key[len(b.prefix):])
			if key <= after || strings.HasSuffix(o.Key, "/") { // a console's mark of a folder is no object
				continue
			}
			if !yield(storage.Object{Key: key, Size: o.Size, Modified: o.LastModified}, nil) {
				return
			}
		}
		// minio-go ends a list without an error when the context ends between pages.
		if err := ctx.Err(); err != nil {
			fail(err)
		}
	}
}
