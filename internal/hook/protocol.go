package hook

import (
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The protocol: one request for a connection, lines each way, texts quoted as
// strconv.Quote does. docs/adr/0009-the-unbroken-archive.md
const (
	Version    = "pgha/1"
	MaxRequest = 16 << 10 // bytes, with its newline
	maxAnswer  = 64 << 10
)

// Request is what PostgreSQL wants: Path archived, or, where File is given, that
// file brought to Path.
type Request struct {
	File string
	Path string // absolute
	Mode Mode   // of a get
}

func (r Request) String() string {
	if r.File == "" {
		return Version + " push " + strconv.Quote(r.Path) + "\n"
	}
	return Version + " get " + strconv.Quote(r.File) + " " + strconv.Quote(r.Path) + " " + r.Mode.String() + "\n"
}

// ErrVersion is a request of another version of the protocol.
var ErrVersion = errors.New("another version of the protocol, not " + Version)

var (
	errRequest = errors.New("not a request of " + Version)
	errAnswer  = errors.New("not an answer of " + Version)
)

// ParseRequest reads a line as String writes it.
func ParseRequest(line string) (r Request, err error) {
	version, rest, _ := strings.Cut(line, " ")
	verb, rest, _ := strings.Cut(rest, " ")
	ok := true
	switch {
	case version != Version:
		return r, ErrVersion
	case verb == "push":
		r.Path, rest, ok = quoted(rest)
	case verb == "get":
		var there bool
		r.File, rest, ok = quoted(rest)
		rest, there = strings.CutPrefix(rest, " ")
		ok = ok && there && r.File != ""
		if ok {
			r.Path, rest, ok = quoted(rest)
		}
		name, there := strings.CutPrefix(strings.TrimSuffix(rest, "\n"), " ")
		mode := slices.Index(modes[:], name)
		ok = ok && there && mode >= 0
		r.Mode, rest = Mode(max(mode, 0)), "\n"
	default:
		ok = false
	}
	if !ok || rest != "\n" || !filepath.IsAbs(r.Path) {
		return Request{}, errRequest
	}
	return r, nil
}

// Answer is one line of the daemon's.
type Answer struct {
	Kind        Kind
	Status      int    // of Done
	Error, Hint string // of Done; Error also says why Direct
}

// Kind is what an answer says.
type Kind string

// The kinds of answers. After Wait comes another one.
const (
	Wait   Kind = "wait"   // under way
	Done   Kind = "done"   // exit so
	Direct Kind = "direct" // not the daemon's: do it yourself
)

func (a Answer) String() string {
	switch a.Kind {
	case Done:
		return "done " + strconv.Itoa(a.Status) + " " + strconv.Quote(a.Error) + " " + strconv.Quote(a.Hint) + "\n"
	case Direct:
		return "direct " + strconv.Quote(a.Error) + "\n"
	}
	return "wait\n"
}

// ParseAnswer reads a line as String writes it.
func ParseAnswer(line string) (a Answer, err error) {
	kind, rest, _ := strings.Cut(line, " ")
	ok := true
	switch Kind(kind) {
	case "wait\n":
		return Answer{Kind: Wait}, nil
	case Done:
		status, texts, there := strings.Cut(rest, " ")
		n, number := strconv.ParseUint(status, 10, 8)
		if a.Error, rest, ok = quoted(texts); ok {
			rest, ok = strings.CutPrefix(rest, " ")
		}
		if ok {
			a.Hint, rest, ok = quoted(rest)
		}
		a.Status, ok = int(n), ok && there && number == nil
	case Direct:
		a.Error, rest, ok = quoted(rest)
	default:
		ok = false
	}
	if !ok || rest != "\n" {
		return Answer{}, errAnswer
	}
	a.Kind = Kind(kind)
	return a, nil
}

// quoted takes a text off the front of a line.
func quoted(line string) (text, rest string, ok bool) {
	prefix, err := strconv.QuotedPrefix(line)
	if err != nil || prefix[0] != '"' {
		return "", line, false
	}
	text, err = strconv.Unquote(prefix)
	return text, line[len(prefix):], err == nil && !strings.Contains(text, "\x00")
}
