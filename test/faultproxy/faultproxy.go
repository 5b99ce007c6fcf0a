// Package faultproxy is an HTTP proxy before a real S3 server, with faults on
// demand. The client signs the host of the proxy, and the proxy hands it on, so
// signatures stay valid.
package faultproxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Fault is what happens to a request. Byte numbers count from 1, 0 is none.
type Fault struct {
	Delay     time.Duration
	Status    int    // answered by the proxy, without asking the server
	Code      string // S3 error code of that answer; none is an answer in HTML
	After     string // Retry-After of that answer
	BlackHole bool   // never answered
	Drop      bool   // connection closed before the request is handed on
	LoseReply bool   // handed on, carried out, connection closed without an answer

	Truncate       int64 // the connection closes after so many bytes of the body
	Corrupt        int64 // the byte of the answer's body that gets a bit turned
	CorruptRequest int64 // the byte of the request's body that gets a bit turned
	Bandwidth      int   // bytes per second of either body

	LateStatus int           // with Code: handed on and carried out, then answered so all the same
	Ghost      time.Duration // connection closed at once, and the request handed on so much later

	Request func(*http.Request)           // sees, and may change, what is handed on
	Answer  func(*http.Response, *[]byte) // sees, and may change, what came back

	Strike func() // done to the server, at a moment: the connection breaks then
	At     Moment
}

// Moment is when in the course of a request a strike comes.
type Moment string

// The moments.
const (
	BeforeRequest Moment = "before the request"
	InRequest     Moment = "in the request's body"
	BeforeAnswer  Moment = "before the answer" // the request was carried out
	InAnswer      Moment = "in the answer's body"
)

// Rule applies a fault to the requests that match.
type Rule struct {
	Method string // empty is any
	Match  string // substring of path?query; empty is any
	Skip   int    // matching requests that are let through first
	Times  int    // matching requests that are hit then; 0 is all
	Fault
	seen int
}

// Proxy is a running proxy on loopback.
type Proxy struct {
	target  string
	forward *http.Transport
	server  *http.Server
	addr    string
	closed  context.Context

	mu     sync.Mutex
	rules  []*Rule
	choose func(*http.Request) Fault
	log    []string
	ghosts sync.WaitGroup
}

// Start runs a proxy before the server at target, "host:port", plain http.
func Start(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, addr: l.Addr().String(), forward: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 32}}
	closed, cancel := context.WithCancel(context.Background())
	p.closed = closed
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	p.server.RegisterOnShutdown(cancel)
	go func() { _ = p.server.Serve(l) }()
	return p, nil
}

// Addr is where the proxy listens, "host:port".
func (p *Proxy) Addr() string { return p.addr }

// Close ends the proxy and every connection through it.
func (p *Proxy) Close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.server.Shutdown(ctx) // only for its call of the hook
	_ = p.server.Close()
	p.ghosts.Wait()
	p.forward.CloseIdleConnections()
}

// Set replaces the rules; the first that matches a request decides. Without rules
// everything passes.
func (p *Proxy) Set(rules ...Rule) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules, p.choose = nil, nil
	for _, r := range rules {
		p.rules = append(p.rules, &r)
	}
}

// Choose has a function decide instead of rules, one request at a time.
func (p *Proxy) Choose(f func(*http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules, p.choose = nil, f
}

// Requests is what arrived so far: "METHOD path?query", one for a request.
func (p *Proxy) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.log...)
}

// Count is the number of requests so far with the method ("" is any) and the
// substring in path?query.
func (p *Proxy) Count(method, match string) (n int) {
	for _, line := range p.Requests() {
		m, path, _ := strings.Cut(line, " ")
		if (method == "" || m == method) && strings.Contains(path, match) {
			n++
		}
	}
	return n
}

func (p *Proxy) decide(req *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	uri := req.URL.RequestURI()
	p.log = append(p.log, req.Method+" "+uri)
	if p.choose != nil {
		return p.choose(req)
	}
	for _, r := range p.rules {
		if (r.Method != "" && r.Method != req.Method) || !strings.Contains(uri, r.Match) {
			continue
		}
		r.seen++
		if r.seen > r.Skip && (r.Times == 0 || r.seen <= r.Skip+r.Times) {
			return r.Fault
		}
	}
	return Fault{}
}

// ServeHTTP handles one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	f := p.decide(req)
	p.wait(req.Context(), f.Delay)
	switch {
	case f.BlackHole:
		select {
		case <-req.Context().Done():
		case <-p.closed.Done():
		}
		panic(http.ErrAbortHandler)
	case f.Strike != nil && f.At == BeforeRequest:
		f.Strike()
		panic(http.ErrAbortHandler)
	case f.Drop:
		panic(http.ErrAbortHandler)
	case f.Ghost > 0:
		p.haunt(req, f)
		panic(http.ErrAbortHandler)
	case f.Status != 0:
		_, _ = io.Copy(io.Discard, req.Body)
		answer(w, f)
		return
	}
	resp, err := p.forward.RoundTrip(p.outgoing(req, f))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	if f.LoseReply || f.LateStatus != 0 || f.At == BeforeAnswer {
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	switch {
	case f.At == BeforeAnswer:
		f.Strike()
		panic(http.ErrAbortHandler)
	case f.LoseReply:
		panic(http.ErrAbortHandler)
	case f.LateStatus != 0:
		f.Status = f.LateStatus
		answer(w, f)
		return
	case f.Answer != nil:
		alter(resp, f)
	}
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	if f.At == InAnswer {
		f.Truncate = max(1, resp.ContentLength/2)
	}
	p.body(w, req, resp.Body, f)
}

// Settle waits for the requests that are handed on late.
func (p *Proxy) Settle() { p.ghosts.Wait() }

// haunt hands a request on after its client has given it up for lost.
func (p *Proxy) haunt(req *http.Request, f Fault) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	out := p.outgoing(req, f)
	out = out.WithContext(p.closed)
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	p.ghosts.Go(func() {
		p.wait(p.closed, f.Ghost)
		if resp, err := p.forward.RoundTrip(out); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
}

func alter(resp *http.Response, f Fault) {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	f.Answer(resp, &body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	if resp.Request.Method != http.MethodHead {
		resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
		resp.TransferEncoding = nil
	}
}

func (p *Proxy) outgoing(req *http.Request, f Fault) *http.Request {
	out := req.Clone(req.Context()) // with the host that was signed
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = "http", p.target
	if f.Request != nil {
		f.Request(out)
	}
	body := io.Reader(req.Body)
	if f.CorruptRequest > 0 {
		body = &corrupted{body, f.CorruptRequest}
	}
	if f.Bandwidth > 0 {
		body = &slow{p, req.Context(), body, f.Bandwidth}
	}
	if f.At == InRequest {
		body = &struck{body, req.ContentLength / 2, f.Strike}
	}
	if req.ContentLength == 0 {
		out.Body = http.NoBody
	} else {
		out.Body = struct {
			io.Reader
			io.Closer
		}{body, req.Body}
	}
	return out
}

func answer(w http.ResponseWriter, f Fault) {
	if f.After != "" {
		w.Header().Set("Retry-After", f.After)
	}
	body := "<html><body><h1>not a store</h1></body></html>"
	if f.Code != "" {
		w.Header().Set("Content-Type", "application/xml")
		body = fmt.Sprintf("<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>injected</Message></Error>", f.Code)
	} else {
		w.Header().Set("Content-Type", "text/html")
	}
	w.WriteHeader(f.Status)
	_, _ = io.WriteString(w, body)
}

func (p *Proxy) body(w http.ResponseWriter, req *http.Request, body io.Reader, f Fault) {
	if f.Corrupt > 0 {
		body = &corrupted{body, f.Corrupt}
	}
	chunk := int64(64 << 10)
	if f.Bandwidth > 0 {
		chunk = max(1, int64(f.Bandwidth)/20)
	}
	for sent := int64(0); ; {
		n := chunk
		if f.Truncate > 0 {
			n = min(n, f.Truncate-sent)
		}
		m, err := io.CopyN(w, body, n)
		sent += m
		if f.Truncate > 0 && sent >= f.Truncate {
			_ = http.NewResponseController(w).Flush()
			if f.At == InAnswer {
				f.Strike()
			}
			panic(http.ErrAbortHandler)
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if f.Bandwidth > 0 {
			_ = http.NewResponseController(w).Flush()
			p.wait(req.Context(), time.Second/20)
		}
	}
}

func (p *Proxy) wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-p.closed.Done():
	}
}
