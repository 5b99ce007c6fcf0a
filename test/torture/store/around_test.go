package store_test

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pgha-backup/pgha-backup/test/faultproxy"
)

// result is one line of a campaign's results.
type result struct {
	Name     string   `json:"name"` // unique
	Seed     uint64   `json:"seed"`
	Command  string   `json:"command"`
	Request  string   `json:"request"` // which one was struck, its names left out
	Phase    string   `json:"phase"`
	Struck   bool     `json:"struck"`
	Code     int      `json:"code"`
	Next     int      `json:"next"`
	Requests int      `json:"requests"` // of the disturbed runs
	Uploads  int      `json:"uploads"`  // multipart uploads that are left
	Seconds  float64  `json:"seconds"`
	Faults   []string `json:"faults"`
	Output   string   `json:"output,omitempty"` // of a run with faults
}

var moments = []faultproxy.Moment{faultproxy.BeforeRequest, faultproxy.InRequest, faultproxy.BeforeAnswer, faultproxy.InAnswer}

// bodiless tells of a request of the log that it has no such moment.
func bodiless(request string, at faultproxy.Moment) bool {
	method, _, _ := strings.Cut(request, " ")
	return at == faultproxy.InRequest && method != "PUT" && method != "POST" || at == faultproxy.InAnswer && method != "GET"
}

var names = regexp.MustCompile(`[0-9A-Za-z%_.-]*[0-9][0-9A-Za-z%_.-]*`)

// count counts the requests of a run that nothing disturbs, which must do what it is for.
func (w *world) count(c *command) {
	w.Helper()
	w.proxy.Set()
	c.prepare()
	before := len(w.proxy.Requests())
	o := w.call(c.config, c.dir, c.args...)
	if faults := w.judge(c, o, false); len(faults) > 0 {
		w.Fatalf("%s, undisturbed: %s\n%s", c.name, strings.Join(faults, "\n"), o.output())
	}
	if c.requests = w.proxy.Requests()[before:]; len(c.requests) == 0 {
		w.Fatalf("%s makes no request", c.name)
	}
}

// judge judges a run.
func (w *world) judge(c *command, o outcome, disturbed bool) (faults []string) {
	if o.code != c.want && !(disturbed && slices.Contains(c.trouble, o.code)) {
		faults = append(faults, fmt.Sprintf("it exits %d, want %d", o.code, c.want))
	}
	if disturbed && o.code != c.want && !strings.Contains(o.stderr, "error") {
		faults = append(faults, fmt.Sprintf("it exits %d and does not say why", o.code))
	}
	faults = append(faults, c.judge(o)...)
	if o.code == c.want {
		faults = append(faults, c.whole(o)...)
	}
	return faults
}

// around kills the server at a moment of the n-th request, counted from 1, judges what is
// left, and the next run.
func (w *world) around(c *command, n int, at faultproxy.Moment, seed uint64) result {
	w.Helper()
	began := time.Now()
	r := result{Name: fmt.Sprintf("%s %d %s", c.name, n, at), Seed: seed, Command: c.name, Phase: string(at)}
	c.prepare()
	var seen int
	var struck atomic.Bool
	w.proxy.Choose(func(req *http.Request) (f faultproxy.Fault) {
		if seen++; seen != n {
			return f
		}
		r.Request = req.Method + " " + names.ReplaceAllString(strings.TrimPrefix(req.URL.RequestURI(), "/"), "#")
		if at == faultproxy.InRequest && req.ContentLength < 2 {
			return f
		}
		pause := time.Duration(20+(seed+uint64(n)*7919)%380) * time.Millisecond
		f.At, f.Strike = at, func() { struck.Store(true); w.strike(pause)() }
		return f
	})
	o := w.call(c.config, c.dir, c.args...)
	w.recovered()
	w.proxy.Set()
	r.Struck, r.Code, r.Requests = struck.Load(), o.code, seen
	r.Faults = w.judge(c, o, r.Struck)
	r.Uploads = w.uploads(c.config)
	output := o.output()
	if r.Next = -1; !c.final || o.code != c.want {
		next := w.call(c.config, c.dir, c.args...)
		r.Next = next.code
		for _, f := range w.judge(c, next, false) {
			r.Faults = append(r.Faults, "next run: "+f)
		}
		output += "---- next\n" + next.output()
	}
	if len(r.Faults) > 0 {
		r.Output = output
	}
	r.Seconds = time.Since(began).Seconds()
	return r
}
