package config

import (
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Size is a number of bytes. In YAML it is a whole number with an optional unit:
// 64MiB, 1GiB, 500kB, 1048576.
type Size int64

var (
	sizePattern = regexp.MustCompile(`^([0-9]{1,18}) ?([kMGT]i?B|KiB|B)?$`)
	sizeUnits   = map[string]int64{"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"kiB": 1 << 10, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
)

// ParseSize reads what a person writes.
func ParseSize(s string) (Size, error) {
	m := sizePattern.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("size %q: want a number of bytes, or one with a unit as in 256MiB", s)
	}
	n, _ := strconv.ParseInt(m[1], 10, 64)
	unit := sizeUnits[m[2]]
	if n > math.MaxInt64/unit {
		return 0, fmt.Errorf("size %q is too large", s)
	}
	return Size(n * unit), nil
}

// String uses the largest binary unit that leaves a whole number.
func (s Size) String() string {
	for _, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if n := sizeUnits[unit]; s != 0 && int64(s)%n == 0 {
			return strconv.FormatInt(int64(s)/n, 10) + unit
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// UnmarshalYAML reads what ParseSize reads.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("want a size such as 256MiB")
	}
	v, err := ParseSize(n.Value)
	*s = v
	return err
}

var errDuration = errors.New("want a duration such as 60s, 15m or 14d")

const day = 24 * time.Hour

// parseDuration reads what time.ParseDuration reads, whole days and weeks, and a bare 0.
// A day is 24 hours.
func parseDuration(s string) (time.Duration, error) {
	for unit, length := range map[string]time.Duration{"d": day, "w": 7 * day} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseUint(number, 10, 32)
			if err != nil || n > uint64(math.MaxInt64/length) {
				return 0, errDuration
			}
			return time.Duration(n) * length, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errDuration
	}
	return d, nil
}

func durationText(d time.Duration) string {
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return d.String()
}

// Secret is a text that no printer shows: not fmt with any verb, not JSON, YAML or
// slog, and not reflection over an unexported field that holds it.
type Secret struct {
	text *string
	file string // where it came from, if from a file of its own
}

const redacted = "[redacted]"

// NewSecret hides text; an empty one is no secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{text: &text}
}

// Reveal is the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// FromFile tells that it came from a file of its own, whose content may change.
func (s Secret) FromFile() bool { return s.file != "" }

// Again is the text as it is now: a file is read again.
func (s Secret) Again() (string, error) {
	if !s.FromFile() {
		return s.Reveal(), nil
	}
	data, err := readFile(s.file)
	return strings.TrimRight(string(data), "\r\n"), err
}

// IsZero tells that there is none.
func (s Secret) IsZero() bool { return s.text == nil }

func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// Format prints the same for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText hides the text in JSON, YAML and slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalYAML reads the text. Its errors do not quote it.
func (s *Secret) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("want a text")
	}
	*s = NewSecret(n.Value)
	return nil
}
