package s3

import (
	"context"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
)

// transport sees what minio-go hides: Retry-After, bytes of a request under way,
// and pages of a web server that answers in the place of the store.
type transport struct{ next http.RoundTripper }

// answer collects, per call, what the headers said.
type answer struct{ retryAfter time.Duration }

type answerKey struct{}

func withAnswer(ctx context.Context) (context.Context, *answer) {
	a := &answer{}
	return context.WithValue(ctx, answerKey{}, a), a
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &counted{req.Body, storage.Progress(req.Context())}
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if a, ok := req.Context().Value(answerKey{}).(*answer); ok && resp.StatusCode >= 400 {
		a.retryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	// A page in HTML would decode into an empty list: "nothing is there".
	if resp.StatusCode == http.StatusOK && req.Method == http.MethodGet && req.URL.Query().Has("list-type") {
		kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		if !strings.HasSuffix(kind, "xml") {
			resp.Body.Close()
			return nil, fmt.Errorf("the answer to a list is %q, not XML: this is no S3 store", kind)
		}
	}
	return resp, nil
}

func parseRetryAfter(s string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(s); err == nil && seconds > 0 {
		return time.Duration(min(seconds, 3600)) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil && at.After(now) {
		return min(at.Sub(now), time.Hour)
	}
	return 0
}

type counted struct {
	io.ReadCloser
	progress func(int)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if n > 0 {
		c.progress(n)
	}
	return n, err
}
