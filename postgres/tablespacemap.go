package postgres

import (
	"fmt"
	"slices"
	"strings"
)

// ParseTablespaceMap reads tablespace_map: a line "oid path" per tablespace, with a
// backslash before a newline, carriage return or backslash that belongs to the path.
func ParseTablespaceMap(text string) ([]Tablespace, error) {
	var out []Tablespace
	var line strings.Builder
	flush := func() error {
		s := line.String()
		line.Reset()
		if s == "" {
			return nil
		}
		number, path, ok := strings.Cut(s, " ")
		oid, valid := parsePositive(number)
		switch {
		case !valid || !ok || path == "" || strings.Contains(path, "\x00"):
			return fmt.Errorf("read tablespace_map line %d: %q: want an oid and a path", len(out)+1, s)
		case len(path) >= maxPath:
			return fmt.Errorf("read tablespace_map line %d: path of %d bytes, more than %d", len(out)+1, len(path), maxPath-1)
		}
		if slices.ContainsFunc(out, func(t Tablespace) bool { return t.OID == oid }) {
			return fmt.Errorf("read tablespace_map line %d: tablespace %d stands there twice", len(out)+1, oid)
		}
		out = append(out, Tablespace{OID: oid, Path: path})
		return nil
	}
	escaped := false
	for i := range len(text) {
		switch c := text[i]; {
		case escaped:
			line.WriteByte(c)
			escaped = false
		case c == '\\':
			escaped = true
		case c == '\n' || c == '\r':
			if err := flush(); err != nil {
				return nil, err
			}
		default:
			line.WriteByte(c)
		}
	}
	if escaped || line.Len() > 0 {
		return nil, fmt.Errorf("read tablespace_map: it ends in mid line %d", len(out)+1)
	}
	return out, nil
}
