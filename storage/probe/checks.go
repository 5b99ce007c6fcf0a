package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"

	"github.com/pgha-backup/pgha-backup/storage"
)

const (
	conditionalPut    = "conditional put"
	conditionalUpload = "conditional multipart upload"
)

var checks = []check{
	{"missing key", missingKey},
	{"missing bucket", missingBucket},
	{"put and get", putGet},
	{"overwrite", overwrite},
	{"ranged get", ranged},
	{"list after put", listed},
	{"multipart upload", multipart},
	{"delete", deleted},
	{conditionalPut, racePut},
	{conditionalUpload, raceUpload},
}

const corrupt = "do not use this store: it does not give back what it was given"

func pattern(seed uint64, n int) []byte {
	body := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(body) // never fails
	return body
}

func missingKey(ctx context.Context, t *trial) (string, error) {
	_, herr := t.b.Head(ctx, t.key("nothing"))
	_, gerr := storage.ReadAll(ctx, t.b, t.key("nothing"), 1)
	for _, err := range []error{herr, gerr} {
		if err == nil {
			return "", &fault{"an object that was never written is there", corrupt}
		}
		if !errors.Is(err, storage.ErrNotExist) {
			return "", err
		}
	}
	return "an absent object is reported as absent", nil
}

func missingBucket(ctx context.Context, t *trial) (string, error) {
	if t.missing == nil {
		return "not tried: there is no second bucket to ask for", nil
	}
	_, err := t.missing.Head(ctx, "nothing")
	switch {
	case errors.Is(err, storage.ErrNoBucket), errors.Is(err, storage.ErrDenied):
		return "a missing bucket is told from a missing object: " + err.Error(), nil
	case errors.Is(err, storage.ErrNotExist), err == nil:
		return "", &fault{"a missing bucket looks like a missing object",
			"a mistyped bucket name would look like an empty archive: do not use this store"}
	}
	return "", err
}

// compare reads back a span and compares it byte by byte.
func compare(ctx context.Context, t *trial, name string, span storage.Span, want []byte) error {
	r, err := t.b.Get(ctx, t.key(name), span)
	if errors.Is(err, storage.ErrNotExist) {
		return &fault{"an object is not there right after it was written", corrupt}
	}
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := io.ReadAll(io.LimitReader(r, int64(len(want))+1))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return &fault{fmt.Sprintf("%d bytes were written, other ones came back", len(want)), corrupt}
	}
	return nil
}

func putGet(ctx context.Context, t *trial) (string, error) {
	for _, n := range []int{0, 1, 1<<20 + 17} {
		body := pattern(uint64(n), n)
		if err := t.b.Put(ctx, t.key("object"), body, storage.PutOptions{}); err != nil {
			return "", err
		}
		if err := compare(ctx, t, "object", storage.Whole, body); err != nil {
			return "", err
		}
		o, err := t.b.Head(ctx, t.key("object"))
		if err != nil {
			return "", err
		}
		if o.Size != int64(n) {
			return "", &fault{fmt.Sprintf("an object of %d bytes is said to have %d", n, o.Size), corrupt}
		}
	}
	return "objects come back as they were written", nil
}

func overwrite(ctx context.Context, t *trial) (string, error) {
	for i := range 5 {
		body := pattern(uint64(i), 1000+i)
		if err := t.b.Put(ctx, t.key("again"), body, storage.PutOptions{}); err != nil {
			return "", err
		}
		if err := compare(ctx, t, "again", storage.Whole, body); err != nil {
			if bad, ok := errors.AsType[*fault](err); ok {
				bad.hint = "the store gives back old content after a write; do not use it"
			}
			return "", err
		}
	}
	return "a read after a write sees the write", nil
}

func ranged(ctx context.Context, t *trial) (string, error) {
	body := pattern(9, 100_000)
	if err := t.b.Put(ctx, t.key("ranged"), body, storage.PutOptions{}); err != nil {
		return "", err
	}
	for _, s := range []storage.Span{{Offset: 0, Length: 1}, {Offset: 70_001, Length: 20_000}, {Offset: 99_999, Length: 1}, {Offset: 50_000, Length: -1}} {
		off, n, err := s.Within(int64(len(body)))
		if err == nil {
			err = compare(ctx, t, "ranged", s, body[off:off+n])
		}
		if err != nil {
			if _, ok := errors.AsType[*fault](err); !ok && !storage.IsRetryable(err) && !errors.Is(err, storage.ErrDenied) && ctx.Err() == nil {
				err = &fault{"a part of an object cannot be read: " + err.Error(), "restores read parts of objects: use another store"}
			}
			return "", err
		}
	}
	return "parts of objects come back as they were written", nil
}

func listed(ctx context.Context, t *trial) (string, error) {
	var want []storage.Key
	for _, name := range []string{"list/a-b", "list/a.b", "list/a/b", "list/a/c", "list/a0", "list/b"} {
		key := t.key(name)
		if err := t.b.Put(ctx, key, []byte(name), storage.PutOptions{}); err != nil {
			return "", err
		}
		want = append(want, key)
		for _, after := range []storage.Key{"", t.key("list/a/b")} {
			got, err := keys(ctx, t.b, t.key("list/"), after)
			if err != nil {
				return "", err
			}
			expected := slices.DeleteFunc(slices.Clone(want), func(k storage.Key) bool { return k <= after })
			if !slices.Equal(got, expected) {
				return "", &fault{fmt.Sprintf("a list right after a write shows %d objects, want %d in byte order of their keys", len(got), len(expected)),
					"the state of the archive is judged by lists: use a store whose lists are consistent"}
			}
		}
	}
	return "a list shows what was just written, in order", nil
}

func keys(ctx context.Context, b storage.Bucket, prefix, after storage.Key) (found []storage.Key, err error) {
	for o, err := range b.List(ctx, prefix, after) {
		if err != nil {
			return nil, err
		}
		found = append(found, o.Key)
	}
	return found, nil
}

func multipart(ctx context.Context, t *trial) (string, error) {
	body := pattern(5, storage.MinPart+100_000)
	for _, commit := range []bool{false, true} {
		u, err := t.b.Begin(ctx, t.key("parts"), storage.PutOptions{})
		if err != nil {
			return "", err
		}
		err = u.Part(ctx, 2, body[storage.MinPart:])
		if err == nil {
			err = u.Part(ctx, 1, body[:storage.MinPart])
		}
		if err == nil && commit {
			err = u.Complete(ctx)
		} else {
			err = errors.Join(err, u.Abort(ctx))
		}
		if err != nil {
			return "", err
		}
		if _, err := t.b.Head(ctx, t.key("parts")); !commit && err == nil {
			return "", &fault{"an upload that was given up is there as an object", corrupt}
		}
	}
	err := compare(ctx, t, "parts", storage.Whole, body)
	if err == nil {
		err = compare(ctx, t, "parts", storage.Span{Offset: storage.MinPart - 50, Length: 100}, body[storage.MinPart-50:storage.MinPart+50])
	}
	return "objects written in parts come back whole", err
}

func deleted(ctx context.Context, t *trial) (string, error) {
	key := t.key("deleted")
	err := t.b.Put(ctx, key, []byte("x"), storage.PutOptions{})
	for range 2 { // the second time it is absent
		if err == nil {
			err = t.b.Delete(ctx, key)
		}
	}
	if err != nil {
		return "", err
	}
	left, err := keys(ctx, t.b, key, "")
	if err != nil {
		return "", err
	}
	_, err = t.b.Head(ctx, key)
	if len(left) > 0 || err == nil {
		return "", &fault{"an object is still there after it was deleted", "use a store whose deletes are consistent; check for object lock"}
	}
	if !errors.Is(err, storage.ErrNotExist) {
		return "", err
	}
	return "a deleted object is gone", nil
}

func racePut(ctx context.Context, t *trial) (string, error) {
	return race(ctx, t, "race-put", func(key storage.Key, body []byte) error {
		return t.b.Put(ctx, key, body, storage.PutOptions{IfAbsent: true})
	})
}

func raceUpload(ctx context.Context, t *trial) (string, error) {
	return race(ctx, t, "race-upload", func(key storage.Key, body []byte) error {
		u, err := t.b.Begin(ctx, key, storage.PutOptions{IfAbsent: true})
		if err != nil {
			return err
		}
		if err = u.Part(ctx, 1, body); err == nil {
			err = u.Complete(ctx)
		}
		if err != nil {
			_ = u.Abort(ctx) // unfinished uploads are invisible
		}
		return err
	})
}
