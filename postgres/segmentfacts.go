package postgres

import "time"

// SegmentFacts is what one segment alone tells about its content: gathered once
// when it is archived, so that a restore can be planned without reading WAL.
//
// A record that runs over the end of the segment cannot be decoded here: it is
// described by Open, and a planner reads it together with the next segment.
type SegmentFacts struct {
	// Walked is false if the page walker could not follow the segment; then only
	// ValidEnd (= the segment's length) means anything and a planner must look itself.
	Walked bool `json:"walked"`
	// ValidEnd is the offset in bytes up to which the segment holds WAL; bytes behind
	// it are a recycled file's tail or the zeros after a segment switch. A record
	// that continues into the next segment counts to the segment's end.
	ValidEnd uint32 `json:"valid_end"`
	// Switched tells that the segment ends with XLOG_SWITCH followed by zeros.
	Switched bool `json:"switched,omitempty"`
	// FirstLSN and LastLSN are the starts of the first and last record that begins
	// in this segment; both zero if none begins here.
	FirstLSN LSN `json:"first_lsn"`
	LastLSN  LSN `json:"last_lsn"`
	// FirstPrev is the start of the record before the first one that begins here, as
	// that one tells it; zero if none begins here, or if whoever wrote the facts did
	// not keep it: then nothing is known of Continues and Overwrites either.
	FirstPrev LSN `json:"first_prev,omitzero"`
	// Continues is how many bytes, of the record that was open when the segment
	// before ended, the first page announces.
	Continues uint32 `json:"continues,omitempty"`
	// Overwrites tells that the record that was open when the segment before ended is
	// given up here, on the first page or a later one: a server that crashed never
	// wrote its rest.
	Overwrites bool `json:"overwrites,omitempty"`
	// MinTime and MaxTime bound the times of commit and abort records, prepared
	// ones too. Zero if there is none. Times are not monotonic in WAL.
	MinTime time.Time `json:"min_time,omitzero"`
	MaxTime time.Time `json:"max_time,omitzero"`
	// MinXID and MaxXID bound the xids of those records, as plain numbers.
	MinXID uint32 `json:"min_xid,omitempty"`
	MaxXID uint32 `json:"max_xid,omitempty"`
	// Commits counts commit and abort records.
	Commits int `json:"commits,omitempty"`
	// RestorePoints are the named restore points made in this segment.
	RestorePoints []RestorePoint `json:"restore_points,omitempty"`
	// Tablespaces are the CREATE TABLESPACE records: replay would create the link.
	Tablespaces []Tablespace `json:"tablespaces,omitempty"`
	// Open describes the record that begins here and ends in the next segment.
	Open *OpenRecord `json:"open,omitempty"`
	// Stop says in words why the WAL ends before the segment does; empty if it does
	// not. It is for the log and not kept.
	Stop string `json:"-"`
}

// Names is about what the names in the facts take as JSON: nothing else grows.
func (f SegmentFacts) Names() (size int) {
	for _, p := range f.RestorePoints {
		size += 150 + 6*len(p.Name)
	}
	for _, t := range f.Tablespaces {
		size += 150 + 6*len(t.Path)
	}
	return size
}

// RestorePoint is one pg_create_restore_point.
type RestorePoint struct {
	Name string    `json:"name"`
	LSN  LSN       `json:"lsn"` // start of the record
	End  LSN       `json:"end"` // end of the record
	Time time.Time `json:"time"`
}

// Tablespace is a tablespace outside PGDATA: one line of tablespace_map, or one
// XLOG_TBLSPC_CREATE record.
type Tablespace struct {
	OID  uint32 `json:"oid"`
	Path string `json:"path"`
}

// OpenRecord is a record cut by the segment's end. Kind is "xact" or "other", or
// "unknown" when even its header is cut: then it may be a commit.
type OpenRecord struct {
	LSN  LSN    `json:"lsn"`
	Kind string `json:"kind"`
	Left uint32 `json:"left,omitempty"` // bytes still to come; zero if not kept
}
