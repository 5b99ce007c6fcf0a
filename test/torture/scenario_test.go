package torture

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// scenario is one command in one situation.
type scenario struct {
	name    string
	prepare func()   // puts everything back
	config  string   // "work", "far", "live"
	dir     string   // working directory; "": the arena
	args    []string // of the command
	want    int      // exit code of a run that nothing disturbs
	again   []int    // other codes that are right for the run after a disturbed one
	trouble []int    // exit codes of a run that met an errno, besides want
	// after judges what a disturbed run left, whole what a run left that ended as it should.
	after, whole func(Outcome) []string
	// sweep is a further run of the kind that removes what killed ones left, where the next one need not.
	sweep     func()
	roots     map[string]string // directories in which calls fail, by name
	durable   []string          // directories that are durable when the command says 0
	reference []Call            // of an undisturbed run, those that only read among them
}

// result is one line of the campaign's results.
type result struct {
	Scenario string   `json:"scenario"`
	Seed     uint64   `json:"seed"`
	Index    int      `json:"index"`
	How      How      `json:"how"`
	Errno    string   `json:"errno,omitempty"`
	Lasting  bool     `json:"lasting,omitempty"`
	N        int      `json:"n"`
	Of       string   `json:"of"` // the kind of call that is counted
	Call     string   `json:"call"`
	Hit      bool     `json:"hit"`
	End      string   `json:"end"`
	Next     int      `json:"next"`
	Seconds  float64  `json:"seconds"`
	Faults   []string `json:"faults"`
	Output   string   `json:"output,omitempty"` // of a run with faults
}

var random = regexp.MustCompile(`[0-9A-Za-z]*[0-9][0-9A-Za-z]*|[A-Z2-7]{26}`)

// class is the kind of a call: what does the same each time, whatever the names are.
func (w *world) class(c Call) string {
	path := func(p string) string {
		for _, prefix := range []string{w.arena, w.pg.DataDir, w.run.Dir} {
			if rest, ok := strings.CutPrefix(p, prefix); ok {
				return random.ReplaceAllString(rest, "#")
			}
		}
		return p
	}
	return strings.TrimSuffix(c.Name+" "+path(c.Path)+" "+path(c.To), " ")
}

// trace runs the scenario's command.
func (w *world) trace(s *scenario, p Point) Outcome {
	w.Helper()
	o, err := Trace(w.helper, w.command(context.Background(), s.config, w.dirOf(s), s.args...), p, 60*time.Second)
	w.must(err)
	return o
}

func (w *world) dirOf(s *scenario) string {
	if s.dir == "" {
		return w.arena
	}
	return s.dir
}

// refer runs the scenario undisturbed: it must do what it is for, or nothing that is found later means anything.
func (w *world) refer(s *scenario) {
	w.Helper()
	s.prepare()
	o := w.trace(s, Point{Reading: true})
	if faults := w.wholeRun(s, o); len(faults) > 0 {
		w.Fatalf("%s, undisturbed: %s\n%s\n%s", s.name, o, listed(faults), o.Output)
	}
	s.reference = o.Calls
}

// listed is the beginning of a list of faults: of a copy that is not durable each file is one.
func listed(faults []string) string {
	if n := len(faults) - 20; n > 0 {
		faults = append(slices.Clone(faults[:20]), fmt.Sprintf("and %d more", n))
	}
	return strings.Join(faults, "\n")
}

// wholeRun judges a run that nothing has disturbed, or nothing that mattered.
func (w *world) wholeRun(s *scenario, o Outcome) (faults []string) {
	if o.Code != s.want {
		return []string{fmt.Sprintf("the command ends with %s, want %d", o, s.want)}
	}
	if s.want == 0 {
		for _, dir := range s.durable {
			faults = append(faults, Undurable(o.Calls, dir)...)
		}
	}
	return append(faults, s.whole(o)...)
}

// draw chooses a point: kills in two of three, half of them evenly over all calls and half over the kinds of calls;
// errnos over the kinds of calls in the directories that may break.
func (w *world) draw(s *scenario, seed uint64, index int) (p Point, of string) {
	h := fnv.New64()
	fmt.Fprint(h, s.name, index)
	random := rand.New(rand.NewPCG(seed, h.Sum64()))
	var calls []Call
	fail := len(s.roots) > 0 && random.IntN(3) == 0
	for _, c := range s.reference {
		switch {
		case !fail && c.changes():
			calls = append(calls, c)
		case fail && c.Err == "" && w.root(s, c) != "":
			calls = append(calls, c)
		}
	}
	if !fail {
		p.How = []How{Before, After, Torn}[random.IntN(3)]
		if random.IntN(2) == 0 {
			p.N = 1 + random.IntN(len(calls))
			return p, "any"
		}
	}
	kinds := map[string][]Call{}
	for _, c := range calls {
		kinds[w.class(c)] = append(kinds[w.class(c)], c)
	}
	names := make([]string, 0, len(kinds))
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	of = names[random.IntN(len(names))]
	p.N = 1 + random.IntN(len(kinds[of]))
	p.Match = func(c Call) bool { return w.class(c) == of }
	if fail {
		p.How, p.Reading, p.Errno = Fail, true, syscall.EIO
		sample := kinds[of][0]
		if sample.changes() && random.IntN(2) == 0 {
			p.Errno = syscall.ENOSPC
		}
		if p.Lasting = random.IntN(2) == 0; p.Lasting {
			root := w.root(s, sample)
			first := false
			p.Match = func(c Call) bool { // from there on nothing more can be done in that directory
				first = first || w.class(c) == of
				return first && w.root(s, c) == root && (p.Errno == syscall.EIO || c.changes() && !strings.HasPrefix(c.Name, "unlink"))
			}
			p.N = 1
		}
	}
	return p, of
}

// root is the directory of those that may break in which a call is.
func (w *world) root(s *scenario, c Call) string {
	for _, dir := range s.roots {
		if c.Path == dir || within(c.Path, dir) {
			return dir
		}
	}
	return ""
}

// attempt runs one point and judges it, and the next run.
func (w *world) attempt(s *scenario, seed uint64, index int) result {
	w.Helper()
	began := time.Now()
	p, of := w.draw(s, seed, index)
	r := result{Scenario: s.name, Seed: seed, Index: index, How: p.How, N: p.N, Of: of, Lasting: p.Lasting}
	if p.Errno != 0 {
		r.Errno = p.Errno.Error()
	}
	s.prepare()
	o := w.trace(s, p)
	r.End = o.String()
	if r.Hit = o.Hit != nil; r.Hit {
		r.Call = w.class(*o.Hit)
	}
	r.Faults = w.judge(s, o, p)
	w.must(w.aged())
	code, output := w.call(s.config, w.dirOf(s), s.args...)
	r.Next = code
	next := Outcome{Code: code, Output: output}
	found := s.whole
	if !slices.Contains(s.again, code) {
		found = func(next Outcome) []string { return w.wholeRun(s, next) }
	}
	for _, f := range found(next) {
		r.Faults = append(r.Faults, "next run: "+f)
	}
	left, err := w.temps()
	w.must(err)
	if len(left) > 0 && s.sweep != nil {
		s.sweep()
		left, err = w.temps()
		w.must(err)
	}
	for _, path := range left {
		r.Faults = append(r.Faults, "next run: "+strings.TrimPrefix(path, w.arena)+" is left for ever")
	}
	if len(r.Faults) > 0 {
		r.Output = o.Output + "---- next\n" + output
	}
	r.Seconds = time.Since(began).Seconds()
	return r
}

// judge judges a disturbed run.
func (w *world) judge(s *scenario, o Outcome, p Point) (faults []string) {
	switch {
	case o.Late:
		faults = append(faults, "it hung")
	case o.Dead() && p.How != Fail:
	case o.Code == s.want && (!slices.Contains(s.trouble, s.want) || p.How == Fail && !strings.Contains(o.Output, p.Errno.Error())):
		if p.Lasting && s.want != 0 && o.Hit != nil && w.root(s, *o.Hit) == s.roots["repository"] {
			faults = append(faults, fmt.Sprintf("%s, with a repository that has been dead since %s", o, o.Hit))
		}
		return append(faults, w.wholeRun(s, o)...) // it was not hit, or could do without, or tried again
	case o.Code == s.want && o.Hit == nil:
		return w.wholeRun(s, o)
	case p.How != Fail || o.Hit == nil:
		faults = append(faults, "the command ends with "+o.String())
	case !slices.Contains(s.trouble, o.Code):
		faults = append(faults, fmt.Sprintf("with %s on %s it ends with %s, want %v", p.Errno, o.Hit, o, s.trouble))
	case !strings.Contains(o.Output, p.Errno.Error()) || !names(o, p.Errno.Error()):
		faults = append(faults, fmt.Sprintf("with %s on %s it does not say so:\n%s", p.Errno, o.Hit, o.Output))
	}
	return append(faults, s.after(o)...)
}

// names tells whether an error names a file or directory that failed, or what stands above it.
func names(o Outcome, errno string) bool {
	for _, c := range o.Calls {
		for _, path := range []string{c.Path, c.To, filepath.Dir(c.Path)} {
			if c.Err == errno && path != "" && strings.Contains(o.Output, filepath.Base(path)) {
				return true
			}
		}
	}
	return false
}

// temps are all unfinished files in the arena but what is ready.
func (w *world) temps() (all []string, err error) {
	for _, dir := range []string{w.at("node"), w.at("repo"), w.at("state"), w.at("spool"), w.at("live"), w.at("restored"), w.at("space"), w.run.Path("elsewhere")} {
		found, err := Temps(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// aged makes every unfinished file three days old: what a sweeper takes for dead.
func (w *world) aged() error {
	left, err := w.temps()
	if err != nil {
		return err
	}
	return Age(left, 72*time.Hour)
}

// put puts what is ready under another name into its place, and empties others.
func (w *world) put(pairs ...string) {
	w.Helper()
	for i := 0; i < len(pairs); i += 2 {
		w.must(Put(w.at("ready", pairs[i]), w.at(pairs[i+1])))
	}
}

// scenarios are all of them.
func (w *world) scenarios() []*scenario {
	return slices.Concat(w.pushes(), w.gets(), w.takes(), w.restores(), w.expiries(), w.stores())
}
