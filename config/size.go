package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"

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
