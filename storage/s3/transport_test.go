package s3

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// hasty answers before it has read the body, as net/http may when the store does.
type hasty struct {
	first int64
	body  io.Reader
}

func (h *hasty) RoundTrip(req *http.Request) (*http.Response, error) {
	h.body = req.Body
	_, err := io.CopyN(io.Discard, req.Body, h.first)
	return httptest.NewRecorder().Result(), err
}

// Once a request is over nobody reads its body: the buffer may hold another file by
// then. One that was sent whole ends as it should.
func TestBodyRevoked(t *testing.T) {
	for first, want := range map[int64]string{0: "the request is over", 3: "the request is over", 5: "EOF"} {
		h := &hasty{first: first}
		req := httptest.NewRequest(http.MethodPut, "/", strings.NewReader("12345"))
		resp, err := (&transport{new(atomic.Bool), h}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if n, err := h.body.Read(make([]byte, 9)); n != 0 || err == nil || err.Error() != want {
			t.Errorf("after %d bytes: %d more, %v, want %s", first, n, err, want)
		}
	}
}
