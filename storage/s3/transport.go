package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
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
		body := &counted{ReadCloser: req.Body, progress: storage.Progress(req.Context()), left: req.ContentLength}
		defer body.revoke()
		req.Body = body
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

// counted is the body of a request. net/http may go on reading one after it has
// answered, when the buffer belongs to the caller again: that reads nothing any more.
type counted struct {
	io.ReadCloser
	progress func(int)

	mu      sync.Mutex
	left    int64
	revoked bool
}

var errRevoked = errors.New("the request is over")

func (c *counted) Read(p []byte) (int, error) {
	c.mu.Lock()
	if c.revoked && c.left > 0 { // what is sent whole ends as it should, and its connection is used again
		c.mu.Unlock()
		return 0, errRevoked
	}
	n, err := c.ReadCloser.Read(p)
	c.left -= int64(n)
	c.mu.Unlock()
	if n > 0 {
		c.progress(n)
	}
	return n, err
}

func (c *counted) revoke() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revoked = true
}
