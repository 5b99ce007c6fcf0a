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
// file brought to Path. The daemon puts it beside Path, under a name of this request
// alone, and the client moves it: a daemon that comes to itself when nobody waits any
// more must not put a former segment where recovery reads the next one.
type Request struct {
	File   string
	Path   string // absolute
	Mode   Mode   // of a get
	Ticket uint64 // of a get; no other request has it
}

// TempMark is in the name of every unfinished file of ours.
const TempMark = ".pgha-tmp-"

// Aside is where the daemon puts the file of a get.
func (r Request) Aside() string { return r.Path + TempMark + strconv.FormatUint(r.Ticket, 10) }

func (r Request) String() string {
	if r.File == "" {
		return Version + " push " + strconv.Quote(r.Path) + "\n"
	}
	return Version + " get " + strconv.Quote(r.File) + " " + strconv.Quote(r.Path) + " " + r.Mode.String() + " " + strconv.FormatUint(r.Ticket, 10) + "\n"
}

// ErrVersion is a request of another version of the protocol.
var ErrVersion = errors.New("another version of the protocol, not " + Version)

var (
	errRequest = errors.New("not a request of " + Version)
	errAnswer  = errors.New("not an answer of " + Version)
)

// ParseRequest reads a line as String writes it.
func ParseRequest(line string) (r Request, err error) {
	if !strings.HasPrefix(line, Version+" ") {
		return r, ErrVersion
	}
	f := fields(line)
	switch {
	case len(f) == 3 && f[1] == "push":
		r.Path = f[2]
	case len(f) == 6 && f[1] == "get" && f[2] != "" && slices.Contains(modes[:], f[4]):
		ticket, _ := strconv.ParseUint(f[5], 10, 64) // a wrong one is not written so
		r = Request{File: f[2], Path: f[3], Mode: Mode(slices.Index(modes[:], f[4])), Ticket: ticket}
	}
	if !filepath.IsAbs(r.Path) || r.String() != line {
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
	f := fields(line)
	switch {
	case len(f) == 1:
		a = Answer{Kind: Wait}
	case len(f) == 2:
		a = Answer{Kind: Direct, Error: f[1]}
	case len(f) == 4:
		status, _ := strconv.ParseUint(f[1], 10, 8) // a wrong one is not written so
		a = Answer{Kind: Done, Status: int(status), Error: f[2], Hint: f[3]}
	}
	if a.String() != line {
		return Answer{}, errAnswer
	}
	return a, nil
}

// fields are the words and the quoted texts of a line. Whether they were written as
// we write them, only writing them again tells.
func fields(line string) (all []string) {
	for rest := strings.TrimSuffix(line, "\n"); rest != ""; rest = strings.TrimPrefix(rest, " ") {
		field, _, _ := strings.Cut(rest, " ")
		word := field
		if field[:min(1, len(field))] == `"` {
			if field, _ = strconv.QuotedPrefix(rest); field == "" {
				return nil
			}
			word, _ = strconv.Unquote(field)
		}
		all, rest = append(all, word), rest[len(field):]
	}
	return all
}
