package main

import (
	"errors"
	"strings"
)

const (
	push = "archive-push"
	get  = "archive-get"
)

// line is a command line. Only two forms of it are understood; what has more is for
// pgha-backup, which knows all flags.
type line struct {
	socket   string
	rest     []string // everything else, in its order
	verb     string
	operands []string
	help     bool
	flags    bool // others than ours
}

// plain tells whether the daemon can be asked.
func (l line) plain() bool {
	return !l.flags && (l.verb == push && len(l.operands) == 1 || l.verb == get && len(l.operands) == 2)
}

func parse(args []string) (l line, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, given := strings.Cut(arg, "=")
		switch {
		case name == "--socket", name == "--config":
			if !given {
				if len(args) == 0 {
					return l, errors.New(name + ": a value is missing")
				}
				value, args = args[0], args[1:]
			}
			if name == "--socket" {
				l.socket = value
			} else {
				l.rest = append(l.rest, name, value)
			}
			continue
		case arg == "--help", arg == "-h":
			l.help = true
		case strings.HasPrefix(arg, "-"):
			l.flags = true
		case l.verb == "":
			l.verb = arg
		default:
			l.operands = append(l.operands, arg)
		}
		l.rest = append(l.rest, arg)
	}
	switch {
	case l.verb == "" && l.help:
		return l, nil
	case l.help: // its 0 would be taken for a file that is stored, or in place
		return l, errors.New(l.verb + ": --help stands alone")
	case l.verb != push && l.verb != get:
		return l, errors.New("want archive-push or archive-get")
	}
	return l, nil
}
