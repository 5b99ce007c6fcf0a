package postgres

import (
	"errors"
	"io"
)

// SegmentSource gives the segments of one branch in order, each whole, under the
// name it was found by; io.EOF when there are no more. The bytes may be reused
// once the source is called again.
type SegmentSource func() (Segment, *io.SectionReader, error)

// RecordReader yields the records of consecutive segments in WAL order: the order
// in which PostgreSQL looks for its recovery target. At a fork the segment of the
// newer timeline stands for both, as it does for the server.
type RecordReader struct {
	next SegmentSource
	walk walWalker
	open bool
	stop error
}

// NewRecordReader reads from the first segment that next gives.
func NewRecordReader(next SegmentSource) *RecordReader { return &RecordReader{next: next} }

// Next is the next record of any kind; of one that is not decoded only Start, End,
// Timeline and XID are told. io.EOF means that the source ran out at a good place; a
// record cut by the last segment's end counts as that. ErrEndOfWAL means that the log
// ends here or is damaged: a server would replay up to the end of the last record.
func (r *RecordReader) Next() (Record, error) {
	for r.stop == nil {
		if !r.open {
			if r.stop = r.openNext(); r.stop != nil {
				break
			}
		}
		raw, err := r.walk.next()
		if errors.Is(err, errSegmentEnd) {
			r.open = false
			continue
		}
		if err != nil {
			r.stop = err
			break
		}
		rec := Record{Start: raw.start, End: raw.end, Timeline: r.walk.seg.Timeline, XID: raw.xid}
		if raw.kind != 0 {
			if rec, err = decodeRecord(raw, r.walk.seg.Timeline, r.walk.head.Major); err != nil {
				r.stop = err
				break
			}
		}
		return rec, nil
	}
	return Record{}, r.stop
}

func (r *RecordReader) openNext() error {
	seg, data, err := r.next()
	if err != nil {
		return err
	}
	if err := r.walk.open(seg, int(data.Size()), windowed(data, int(data.Size()))); err != nil {
		return err
	}
	r.open = true
	return nil
}
