package postgres

import (
	"strconv"
	"strings"
)

// Fork is one of the files that make a relation.
type Fork uint8

// The forks. Only the main one has data pages whose LSN tells of every change (R19).
const (
	ForkMain Fork = iota
	ForkFSM
	ForkVM
	ForkInit
)

var forkNames = [...]string{"main", "fsm", "vm", "init"}

func (f Fork) String() string { return forkNames[f] }

// Relation names the storage of a table or index. Tablespace is 0 for base and
// global, Database 0 for global.
type Relation struct {
	Tablespace, Database, Number uint32
}

// RelationFile is a file that holds pages of a relation.
type RelationFile struct {
	Relation
	Fork    Fork
	Segment uint32 // 0 for the first file, n for the one that ends in .n
	Temp    bool   // of a temporary table: never backed up
}

// FirstBlock is the number of the file's first block, as page checksums count;
// perSegment is RelationBlocks of pg_control.
func (f RelationFile) FirstBlock(perSegment uint32) uint32 { return f.Segment * perSegment }

// ParseRelationFile reads a path relative to PGDATA; false if it does not name a
// file of a relation.
func ParseRelationFile(path string) (RelationFile, bool) {
	var f RelationFile
	parts := strings.Split(path, "/")
	ok1, ok2 := true, true
	switch {
	case len(parts) == 2 && parts[0] == "global":
	case len(parts) == 3 && parts[0] == "base":
		f.Database, ok1 = parseOID(parts[1])
	case len(parts) == 5 && parts[0] == "pg_tblspc" && strings.HasPrefix(parts[2], "PG_"):
		f.Tablespace, ok1 = parseOID(parts[1])
		f.Database, ok2 = parseOID(parts[3])
	default:
		return RelationFile{}, false
	}
	name := parts[len(parts)-1]
	if rest, temp := strings.CutPrefix(name, "t"); temp {
		backend, number, cut := strings.Cut(rest, "_")
		if _, ok := parseNumber(backend); !ok || !cut {
			return RelationFile{}, false
		}
		f.Temp, name = true, number
	}
	if stem, segment, cut := strings.Cut(name, "."); cut {
		n, ok := parseNumber(segment)
		if !ok || n == 0 {
			return RelationFile{}, false
		}
		f.Segment, name = n, stem
	}
	if stem, fork, cut := strings.Cut(name, "_"); cut {
		switch fork {
		case "fsm":
			f.Fork = ForkFSM
		case "vm":
			f.Fork = ForkVM
		case "init":
			f.Fork = ForkInit
		default:
			return RelationFile{}, false
		}
		name = stem
	}
	var ok3 bool
	f.Number, ok3 = parseOID(name)
	if !ok1 || !ok2 || !ok3 {
		return RelationFile{}, false
	}
	return f, true
}

// parseNumber reads a decimal number as PostgreSQL prints it.
func parseNumber(s string) (uint32, bool) {
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), err == nil && strconv.FormatUint(v, 10) == s
}

func parseOID(s string) (uint32, bool) {
	v, ok := parseNumber(s)
	return v, ok && v != 0
}
