package storage

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxKey is the longest key in bytes, as S3 has it.
const MaxKey = 1024

// ErrKey is what an unusable key is.
var ErrKey = errors.New("invalid object key")

// Validate returns an error that is ErrKey unless the key is relative,
// slash-separated, printable UTF-8 without empty, "." or ".." parts and at most
// MaxKey bytes long.
func (k Key) Validate() error {
	s := string(k)
	switch {
	case s == "":
		return fmt.Errorf("%w: empty", ErrKey)
	case len(s) > MaxKey:
		return fmt.Errorf("%w: %d bytes, at most %d are possible", ErrKey, len(s), MaxKey)
	case !utf8.ValidString(s):
		return fmt.Errorf("%w %q: not UTF-8", ErrKey, s)
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("%w %q: unprintable character", ErrKey, s)
	}
	for part := range strings.SplitSeq(s, "/") {
		switch part {
		case "", ".", "..":
			return fmt.Errorf("%w %q: part %q", ErrKey, s, part)
		}
	}
	return nil
}
