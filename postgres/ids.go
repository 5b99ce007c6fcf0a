package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// TimelineID numbers a branch of a cluster's history; 1 is the first. It prints
// as it stands in WAL file names, eight hexadecimal digits.
type TimelineID uint32

func (t TimelineID) String() string { return fmt.Sprintf("%08X", uint32(t)) }

// SystemIdentifier is the number that initdb gives a cluster (pg_control,
// Patroni's "initialize" key). It prints in decimal, as pg_controldata does.
type SystemIdentifier uint64

// ParseSystemIdentifier reads the decimal form; 0 is refused.
func ParseSystemIdentifier(s string) (SystemIdentifier, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v == 0 || strconv.FormatUint(v, 10) != s {
		return 0, fmt.Errorf("system identifier %q: want a positive decimal number", s)
	}
	return SystemIdentifier(v), nil
}

func (s SystemIdentifier) String() string { return strconv.FormatUint(uint64(s), 10) }

// MarshalText keeps all 64 bits in JSON, where a bare number would lose some.
func (s SystemIdentifier) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *SystemIdentifier) UnmarshalText(b []byte) error {
	v, err := ParseSystemIdentifier(string(b))
	*s = v
	return err
}

// Version is server_version_num, for example 150018.
type Version int

// Major is 15 for 150018.
func (v Version) Major() int { return int(v) / 10000 }

// Minor is 18 for 150018.
func (v Version) Minor() int { return int(v) % 10000 }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major(), v.Minor()) }

// OldestMajor and NewestMajor bound the servers this version is tested with.
const (
	OldestMajor = 15
	NewestMajor = 18
)

// Supported tells whether the server's major version is one we are tested with.
func (v Version) Supported() bool { return v.Major() >= OldestMajor && v.Major() <= NewestMajor }

// parsePositive reads a decimal number above 0: a timeline or an OID.
func parsePositive(s string) (uint32, bool) {
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), err == nil && v != 0
}

// LSN is a log sequence number: a byte position in the write-ahead log.
// It prints as PostgreSQL prints it, "16/B374D848".
type LSN uint64

// ParseLSN reads "16/B374D848": two hexadecimal halves of at most eight digits.
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(high, 16, 32)
	l, err2 := strconv.ParseUint(low, 16, 32)
	if !ok || err1 != nil || err2 != nil || len(high) > 8 || len(low) > 8 {
		return 0, fmt.Errorf("LSN %q: want two hexadecimal numbers as in 16/B374D848", s)
	}
	return LSN(h<<32 | l), nil
}

func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText makes an LSN print as text in JSON.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	*l = v
	return err
}
