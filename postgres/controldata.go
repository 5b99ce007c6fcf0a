package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrControlCRC says that pg_control does not match its checksum: damaged, or read
// while the server wrote it. Read it again before believing the former.
var ErrControlCRC = errors.New("pg_control does not match its checksum")

// ControlState is the cluster state in pg_control.
type ControlState uint32

// The states, as pg_controldata words them.
const (
	StateStartingUp ControlState = iota
	StateShutDown
	StateShutDownInRecovery
	StateShuttingDown
	StateInCrashRecovery
	StateInArchiveRecovery
	StateInProduction
)

var controlStates = [...]string{"starting up", "shut down", "shut down in recovery", "shutting down",
	"in crash recovery", "in archive recovery", "in production"}

func (s ControlState) String() string {
	if int(s) < len(controlStates) {
		return controlStates[s]
	}
	return "unrecognized status code"
}

// WALLevel is wal_level as pg_control keeps it.
type WALLevel uint32

func (l WALLevel) String() string {
	names := [...]string{"minimal", "replica", "logical"}
	if int(l) < len(names) {
		return names[l]
	}
	return "unrecognized wal_level"
}

// ControlData is what we need of pg_control.
type ControlData struct {
	System         SystemIdentifier
	CatalogVersion uint32
	State          ControlState

	Checkpoint LSN        // start of the latest checkpoint record
	Redo       LSN        // where a recovery from it replays from
	Timeline   TimelineID // of the latest checkpoint

	MinRecovery         LSN // replay to here before the files are consistent; 0 outside recovery
	MinRecoveryTimeline TimelineID

	WALLevel             WALLevel
	WALLogHints          bool
	MaxConnections       int
	MaxWorkerProcesses   int
	MaxWALSenders        int
	MaxPreparedXacts     int
	MaxLocksPerXact      int
	TrackCommitTimestamp bool

	BlockSize       uint32
	RelationBlocks  uint32 // blocks per segment file of a relation
	SegmentSize     SegmentSize
	ChecksumVersion uint32 // 0: no data checksums
}

// ParseControlData reads pg_control of PostgreSQL 15 to 18 on a little-endian
// machine of 64 bits. An error that is ErrControlCRC may be a torn read.
func ParseControlData(b []byte) (ControlData, error) {
	const crc15, crc18 = 288, 292
	le := binary.LittleEndian
	if len(b) < crc18+4 {
		return ControlData{}, fmt.Errorf("read pg_control: %d bytes, want 8192", len(b))
	}
	u32 := func(at int) uint32 { return le.Uint32(b[at:]) }
	lsn := func(at int) LSN { return LSN(le.Uint64(b[at:])) }
	at := crc15
	switch version := u32(8); {
	case version == 1300 || version == 1700:
	case version == 1800:
		at = crc18
	case version%0x10000 == 0:
		return ControlData{}, fmt.Errorf("read pg_control: version %08X is of a machine with the other byte order", version)
	default:
		return ControlData{}, fmt.Errorf("read pg_control: version %d is not one of PostgreSQL %d to %d", version, OldestMajor, NewestMajor)
	}
	if got := CRC32C(b[:at]); got != u32(at) {
		return ControlData{}, fmt.Errorf("read pg_control: %w: %08X, want %08X", ErrControlCRC, got, u32(at))
	}
	c := ControlData{
		System: SystemIdentifier(le.Uint64(b)), CatalogVersion: u32(12), State: ControlState(u32(16)),
		Checkpoint: lsn(32), Redo: lsn(40), Timeline: TimelineID(u32(48)),
		MinRecovery: lsn(136), MinRecoveryTimeline: TimelineID(u32(144)),
		WALLevel: WALLevel(u32(172)), WALLogHints: b[176] != 0,
		MaxConnections: int(u32(180)), MaxWorkerProcesses: int(u32(184)), MaxWALSenders: int(u32(188)),
		MaxPreparedXacts: int(u32(192)), MaxLocksPerXact: int(u32(196)), TrackCommitTimestamp: b[200] != 0,
		BlockSize: u32(216), RelationBlocks: u32(220),
		SegmentSize: SegmentSize(u32(228)), ChecksumVersion: u32(252),
	}
	if err := c.SegmentSize.Validate(); err != nil {
		return ControlData{}, fmt.Errorf("read pg_control: %w", err)
	}
	if c.System == 0 || c.BlockSize == 0 || c.RelationBlocks == 0 {
		return ControlData{}, fmt.Errorf("read pg_control: no system identifier or block sizes in it")
	}
	return c, nil
}
