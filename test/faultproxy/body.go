package faultproxy

import (
	"context"
	"errors"
	"io"
	"time"
)

// corrupted turns a bit of the at-th byte.
type corrupted struct {
	r  io.Reader
	at int64
}

func (c *corrupted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.at > 0 && c.at <= int64(n) {
		p[c.at-1] ^= 1
	}
	c.at -= int64(n)
	return n, err
}

// slow lets so many bytes through in a second.
type slow struct {
	p         *Proxy
	ctx       context.Context
	r         io.Reader
	bandwidth int
}

func (s *slow) Read(p []byte) (int, error) {
	s.p.wait(s.ctx, time.Second/20)
	return s.r.Read(p[:min(len(p), max(1, s.bandwidth/20))])
}

// struck breaks off after so many bytes, with a strike.
type struck struct {
	r      io.Reader
	left   int64
	strike func()
}

func (s *struck) Read(p []byte) (int, error) {
	if s.left <= 0 {
		s.strike()
		return 0, errors.New("struck")
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}
