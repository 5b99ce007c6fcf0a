package s3

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
)

// transport sees what minio-go hides: Retry-After, the store's clock, whether it takes our
// credentials, bytes of a request under way, and what answers in the place of a list.
type transport struct {
	worked *atomic.Bool
	next   http.RoundTripper
}

// answer collects, per call, what the headers said.
type answer struct {
	retryAfter time.Duration
	skew       time.Duration // how far this machine's clock is ahead of the store's
	pages      map[string]bool
}

type answerKey struct{}

func withAnswer(ctx context.Context) (context.Context, *answer) {
	a := &answer{pages: map[string]bool{}}
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
	if resp.StatusCode < 300 && req.Header.Get("Authorization") != "" {
		t.worked.Store(true)
	}
	if a, ok := req.Context().Value(answerKey{}).(*answer); ok && resp.StatusCode >= 400 {
		now := time.Now()
		a.retryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), now)
		if theirs, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			a.skew = now.Sub(theirs).Round(time.Second)
		}
	}
	if resp.StatusCode == http.StatusOK && req.Method == http.MethodGet && req.URL.Query().Has("list-type") {
		if err := isList(req, resp); err != nil {
			resp.Body.Close()
			return nil, err
		}
	}
	return resp, nil
}

// isList refuses what would decode into an empty list, "nothing is there": a page in
// HTML, a document that tells of an error; and a page that was given before.
func isList(req *http.Request, resp *http.Response) error {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if !strings.HasSuffix(kind, "xml") {
		return fmt.Errorf("the answer to a list is %q, not XML: this is no S3 store", kind)
	}
	body := bufio.NewReader(resp.Body)
	head, _ := body.Peek(512)
	root := ""
	for d := xml.NewDecoder(bytes.NewReader(head)); root == ""; {
		token, err := d.RawToken()
		if err != nil {
			return fmt.Errorf("the answer to a list is no document: %.100q", head)
		}
		if start, ok := token.(xml.StartElement); ok {
			root = start.Name.Local
		}
	}
	if root != "ListBucketResult" {
		return fmt.Errorf("the answer to a list is another document: %.300q", head)
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{body, resp.Body}
	if a, ok := req.Context().Value(answerKey{}).(*answer); ok {
		token := req.URL.Query().Get("continuation-token")
		if a.pages[token] {
			return errors.New("the store gives the same page of a list again")
		}
		a.pages[token] = true
	}
	return nil
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
