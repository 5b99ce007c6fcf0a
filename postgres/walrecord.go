package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// RecordKind names the WAL records that a recovery can stop at or must know of.
type RecordKind uint8

// The kinds that RecordReader yields.
const (
	RecordCommit RecordKind = iota + 1
	RecordAbort
	RecordCommitPrepared
	RecordAbortPrepared
	RecordRestorePoint
	RecordCheckpointShutdown
	RecordCheckpointOnline
	RecordSwitch
	RecordEndOfRecovery
	RecordTablespaceCreate
)

var recordKindNames = [...]string{"unknown", "commit", "abort", "commit prepared", "abort prepared", "restore point",
	"shutdown checkpoint", "online checkpoint", "segment switch", "end of recovery", "create tablespace"}

func (k RecordKind) String() string {
	if int(k) < len(recordKindNames) {
		return recordKindNames[k]
	}
	return recordKindNames[0]
}

// minMainData is the least that each kind of record must carry.
var minMainData = [...]int{
	RecordCommit: 8, RecordAbort: 8, RecordCommitPrepared: 8, RecordAbortPrepared: 8,
	RecordRestorePoint: 8 + restorePointName, RecordCheckpointShutdown: 16, RecordCheckpointOnline: 16,
	RecordSwitch: 0, RecordEndOfRecovery: 16, RecordTablespaceCreate: 5,
}

// EndsTransaction tells whether a recovery target of time or xid can stop here.
func (k RecordKind) EndsTransaction() bool { return k >= RecordCommit && k <= RecordAbortPrepared }

// Record is one decoded WAL record.
type Record struct {
	Kind RecordKind
	// Start is the record's first byte; End is where the next record may begin,
	// PostgreSQL's EndRecPtr. After a switch that is the end of the segment.
	Start, End LSN
	// Timeline is that of the segment's name. A first segment after a fork repeats
	// its parent's records, which then carry the child's timeline.
	Timeline TimelineID
	// XID is the transaction that ends, for a prepared one its own and not that of
	// the session that ended it.
	XID uint32
	// Time is the transaction's, restore point's or end of recovery's, or when a
	// checkpoint began, in whole seconds; else zero.
	Time time.Time
	// Name is the restore point's.
	Name string
	// Redo is where a recovery that begins at this checkpoint replays from.
	Redo LSN
	// NewTimeline and PrevTimeline are what a checkpoint or an end of recovery says;
	// they differ on the first one after a fork.
	NewTimeline, PrevTimeline TimelineID
	// Tablespace is set for CREATE TABLESPACE.
	Tablespace Tablespace
}

const (
	rmXLOG, rmXact, rmTablespace = 0, 1, 5

	xlogCheckpointShutdown = 0x00
	xlogCheckpointOnline   = 0x10
	xlogSwitch             = 0x40
	xlogRestorePoint       = 0x70
	xlogEndOfRecovery      = 0x90

	xactOpMask, xactHasInfo = 0x70, 0x80

	xinfoDatabase, xinfoSubxacts, xinfoRelations, xinfoInvals, xinfoTwoPhase, xinfoDroppedStats = 1, 2, 4, 8, 16, 256

	restorePointName = 64
	checkpointTime   = 64 // offset of CheckPoint.time, the same from 15 to 18
	maxPath          = 1024
)

// kindOf tells what a record is from its header alone; 0 if nobody decodes it.
func kindOf(rmid, info byte) RecordKind {
	switch rmid {
	case rmXLOG:
		switch info & 0xF0 {
		case xlogCheckpointShutdown:
			return RecordCheckpointShutdown
		case xlogCheckpointOnline:
			return RecordCheckpointOnline
		case xlogSwitch:
			return RecordSwitch
		case xlogRestorePoint:
			return RecordRestorePoint
		case xlogEndOfRecovery:
			return RecordEndOfRecovery
		}
	case rmXact:
		switch info & xactOpMask {
		case 0x00:
			return RecordCommit
		case 0x20:
			return RecordAbort
		case 0x30:
			return RecordCommitPrepared
		case 0x40:
			return RecordAbortPrepared
		}
	case rmTablespace:
		if info&0xF0 == 0 {
			return RecordTablespaceCreate
		}
	}
	return 0
}

var errShortRecord = errors.New("record is too short")

// decodeRecord gives a record of one of our kinds its meaning.
func decodeRecord(r rawRecord, tli TimelineID, major int) (Record, error) {
	rec := Record{Kind: r.kind, Start: r.start, End: r.end, Timeline: tli, XID: r.xid}
	data, err := mainData(r.body)
	if err == nil {
		err = rec.decode(data, r.info, major)
	}
	if err != nil {
		return Record{}, fmt.Errorf("decode %s record at %s: %w", rec.Kind, r.start, err)
	}
	return rec, nil
}

// mainData finds a record's main data, which comes last. The records we decode
// carry no block references.
func mainData(b []byte) ([]byte, error) {
	const short, long, origin, topXID = 255, 254, 253, 252
	for len(b) > 0 {
		switch id := b[0]; {
		case id == origin && len(b) >= 3:
			b = b[3:]
		case id == topXID && len(b) >= 5:
			b = b[5:]
		case id == short && len(b) >= 2:
			if int(b[1]) != len(b)-2 {
				return nil, errShortRecord
			}
			return b[2:], nil
		case id == long && len(b) >= 5:
			if int64(binary.LittleEndian.Uint32(b[1:])) != int64(len(b)-5) {
				return nil, errShortRecord
			}
			return b[5:], nil
		default:
			return nil, fmt.Errorf("unexpected block %d", id)
		}
	}
	return nil, nil
}

func (rec *Record) decode(b []byte, info byte, major int) error {
	le := binary.LittleEndian
	if len(b) < minMainData[rec.Kind] {
		return errShortRecord
	}
	switch rec.Kind {
	case RecordCommit, RecordAbort, RecordCommitPrepared, RecordAbortPrepared:
		rec.Time = timestamp(b)
		return rec.decodeXact(b[8:], info, major)
	case RecordRestorePoint:
		rec.Time, rec.Name = timestamp(b), cString(b[8:8+restorePointName])
	case RecordCheckpointShutdown, RecordCheckpointOnline:
		rec.Redo, rec.NewTimeline, rec.PrevTimeline = LSN(le.Uint64(b)), TimelineID(le.Uint32(b[8:])), TimelineID(le.Uint32(b[12:]))
		if len(b) >= checkpointTime+8 {
			if s := int64(le.Uint64(b[checkpointTime:])); s > 0 && s <= 253402300799 {
				rec.Time = time.Unix(s, 0).UTC()
			}
		}
	case RecordEndOfRecovery:
		rec.Time, rec.NewTimeline, rec.PrevTimeline = timestamp(b), TimelineID(le.Uint32(b[8:])), TimelineID(le.Uint32(b[12:]))
	case RecordTablespaceCreate:
		rec.Tablespace = Tablespace{OID: le.Uint32(b), Path: cString(b[4:min(len(b), 4+maxPath)])}
	}
	return nil
}

// decodeXact looks for the xid of a prepared transaction behind the optional parts.
func (rec *Record) decodeXact(b []byte, info byte, major int) error {
	prepared := rec.Kind == RecordCommitPrepared || rec.Kind == RecordAbortPrepared
	if !prepared {
		return nil
	}
	if info&xactHasInfo == 0 || len(b) < 4 {
		return errShortRecord
	}
	le := binary.LittleEndian
	xinfo := le.Uint32(b)
	b = b[4:]
	stat := int64(12)
	if major >= 18 {
		stat = 16
	}
	if xinfo&xinfoDatabase != 0 {
		if len(b) < 8 {
			return errShortRecord
		}
		b = b[8:]
	}
	for _, list := range []struct {
		flag uint32
		size int64
	}{{xinfoSubxacts, 4}, {xinfoRelations, 12}, {xinfoDroppedStats, stat}, {xinfoInvals, 16}} {
		if xinfo&list.flag == 0 {
			continue
		}
		if len(b) < 4 || int64(le.Uint32(b))*list.size > int64(len(b)-4) {
			return errShortRecord
		}
		b = b[4+int64(le.Uint32(b))*list.size:]
	}
	if xinfo&xinfoTwoPhase == 0 || len(b) < 4 {
		return errShortRecord
	}
	rec.XID = le.Uint32(b)
	return nil
}

func cString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

// timestamp reads a TimestampTz: microseconds since 2000-01-01 UTC. Values that no
// calendar holds (and JSON refuses) become the zero time.
func timestamp(b []byte) time.Time {
	const epoch, year9999 = 946684800_000000, 253402300799_000000
	us := int64(binary.LittleEndian.Uint64(b))
	if us < -epoch || us > year9999-epoch {
		return time.Time{}
	}
	return time.UnixMicro(us + epoch).UTC()
}
