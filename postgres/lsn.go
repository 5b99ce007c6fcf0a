package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

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
