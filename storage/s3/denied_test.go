package s3

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/pgha-backup/pgha-backup/storage"
)

// Who may list and not read is refused, however fresh its keys are: only keys that were
// exchanged between two requests are worth another try.
func TestHeadIsRefused(t *testing.T) {
	refusals := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			if refusals > 0 {
				refusals--
				w.WriteHeader(http.StatusForbidden)
				return
			}
			w.Header().Set("Content-Length", "1")
			w.Header().Set("Last-Modified", "Sat, 21 Nov 2026 02:00:00 GMT")
			return
		}
		w.Header().Set("Content-Type", "application/xml")
		_, _ = io.WriteString(w, `<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>`)
	}))
	defer server.Close()
	b, err := New(Options{Endpoint: server.URL, Bucket: "backups", Region: "us-east-1", Style: Path,
		Fresh: func() (Keys, error) { return Keys{Access: "a", Secret: "s"}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	refusals = 100
	if _, err := b.Head(t.Context(), "x"); !errors.Is(err, storage.ErrDenied) || storage.IsRetryable(err) {
		t.Errorf("for good: %v, again %v", err, storage.IsRetryable(err))
	}
	refusals = 1
	if _, err := b.Head(t.Context(), "x"); !storage.IsRetryable(err) {
		t.Errorf("once: %v", err)
	}
}
