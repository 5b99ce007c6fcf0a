package daemon

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/pgha-backup/pgha-backup/daemon/metrics"
)

// How old a sign of life may be.
const (
	beatLimit  = 30 * time.Second
	storeLimit = 5 * time.Minute
)

// handler is the service as it is seen from outside. It only shows.
func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	health := func(check func(time.Time) error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if err := check(time.Now()); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		}
	}
	mux.HandleFunc("GET /health/live", health(s.live))
	mux.HandleFunc("GET /health/ready", health(s.ready))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		_ = e.Encode(s.status(time.Now()))
	})
	mux.Handle("GET /metrics", metrics.Handler(func() []metrics.Sample { return s.samples(time.Now()) }))
	return mux
}

// live tells whether the main loop turns.
func (s *service) live(now time.Time) error {
	if age := now.Sub(time.Unix(0, s.beat.Load())); age > beatLimit {
		return fmt.Errorf("the main loop has not been seen for %s", age.Round(time.Second))
	}
	return nil
}

// ready tells whether the daemon could do its work now.
func (s *service) ready(now time.Time) error {
	_, _, err := s.view.now()
	if err != nil {
		err = fmt.Errorf("cluster: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := now.Sub(s.survey.at); s.survey.at.IsZero() || age > storeLimit {
		err = errors.Join(err, fmt.Errorf("repository: not read for more than %s", storeLimit))
		if s.survey.err != nil {
			err = errors.Join(err, s.survey.err)
		}
	}
	return errors.Join(err, s.live(now))
}

// serve answers until the server is shut down. An empty address serves nobody.
func serve(address, cert, key string, handler http.Handler) (shutdown func(), addr net.Addr, err error) {
	if address == "" {
		return func() {}, nil, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, nil, fmt.Errorf("daemon.listen: %w", err)
	}
	if cert != "" {
		load := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { // anew each time: certificates are replaced
			pair, err := tls.LoadX509KeyPair(cert, key)
			return &pair, err
		}
		if _, err := load(nil); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("daemon.cert_file: %w", err), l.Close())
		}
		l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: load})
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
		_ = server.Close()
		<-done
	}, l.Addr(), nil
}
