package storage_test

import (
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
)

func FuzzKey(f *testing.F) {
	for _, s := range []string{"", "a", "a/b.c", "/a", "a/", "a//b", "../x", "a/./b", "a/..", "..a", "a\nb", "\xff", "日本/x", strings.Repeat("k", 1025)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := storage.Key(s).Validate(); err != nil {
			if !errors.Is(err, storage.ErrKey) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		// An accepted key stays below whatever directory it is joined to.
		if path.Clean("/root/"+s) != "/root/"+s || len(s) > storage.MaxKey || strings.ContainsAny(s, "\x00\n") {
			t.Fatalf("accepted %q", s)
		}
	})
}

func TestSpanWithin(t *testing.T) {
	for _, c := range []struct {
		span        storage.Span
		size        int64
		off, length int64
		ok          bool
	}{
		{storage.Whole, 0, 0, 0, true},
		{storage.Whole, 9, 0, 9, true},
		{storage.Span{Offset: 9, Length: -1}, 9, 9, 0, true},
		{storage.Span{Offset: 3, Length: 6}, 9, 3, 6, true},
		{storage.Span{Offset: 3, Length: 7}, 9, 0, 0, false},
		{storage.Span{Offset: 10, Length: -1}, 9, 0, 0, false},
		{storage.Span{Offset: -1, Length: 1}, 9, 0, 0, false},
		{storage.Span{Offset: 1, Length: 1<<63 - 1}, 9, 0, 0, false},
		{storage.Span{Offset: 1<<63 - 1, Length: 1<<63 - 1}, 9, 0, 0, false},
	} {
		off, length, err := c.span.Within(c.size)
		if off != c.off || length != c.length || (err == nil) != c.ok || (!c.ok && !errors.Is(err, storage.ErrSpan)) {
			t.Errorf("%v of %d: %d, %d, %v", c.span, c.size, off, length, err)
		}
	}
}
