package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/pgha-backup/pgha-backup/postgres"
)

// stream reads the answer to BASE_BACKUP: result sets, then one copy with all
// archives in it, each message of it begun by a letter, then a result set. It holds
// one message at a time.
type stream struct {
	from interface {
		ReceiveMessage(context.Context) (pgproto3.BackendMessage, error)
	}
	next *Archive // announced, not handed out yet
	open bool     // an archive's data may come
	done bool     // the copy has ended
	data []byte   // of the open archive; valid until the next message
}

// Archive is a tar of one volume; Tablespace 0 is PGDATA, which comes last and ends
// with pg_control. Reading it ends at io.EOF with the archive, or with the context
// given to Next.
type Archive struct {
	Tablespace uint32
	stream     *stream
	ctx        context.Context
}

// reading is what goes on while archives come.
const reading = "read the base backup"

// Next passes over what is left of an archive and returns the one behind it; io.EOF
// when the server has sent all.
func (s *stream) Next(ctx context.Context) (*Archive, error) {
	for s.next == nil {
		if s.done {
			return nil, io.EOF
		}
		if err := s.step(ctx); err != nil {
			return nil, err
		}
	}
	archive := s.next
	archive.ctx, s.next, s.open = ctx, nil, true
	return archive, nil
}

func (a *Archive) Read(p []byte) (int, error) {
	s := a.stream
	for len(s.data) == 0 {
		if s.next != nil || s.done {
			return 0, io.EOF
		}
		if err := s.step(a.ctx); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

// step takes one message of the copy.
func (s *stream) step(ctx context.Context) error {
	s.data = nil
	message, err := s.receive(ctx, reading)
	if err != nil {
		return err
	}
	switch m := message.(type) {
	case *pgproto3.CopyDone:
		s.done = true
		return nil
	case *pgproto3.CopyData:
		return s.take(m.Data)
	}
	return odd(reading, "%T", message)
}

// take judges a message of the copy by its letter.
func (s *stream) take(data []byte) error {
	if len(data) == 0 {
		return odd(reading, "an empty message")
	}
	switch letter, data := data[0], data[1:]; {
	case letter == 'd' && s.open:
		s.data = data
	case letter == 'n':
		return s.announce(data)
	case letter == 'p': // how far it is: we count ourselves
	default:
		return odd(reading, "message %q", letter)
	}
	return nil
}

// announce reads the message that begins an archive: its name and its tablespace's
// path, each with a zero behind it.
func (s *stream) announce(data []byte) error {
	name, _, ok := bytes.Cut(data, []byte{0})
	stem, tar := strings.CutSuffix(string(name), ".tar")
	archive := &Archive{stream: s}
	if stem != "base" {
		oid, err := parseNumber(stem, 32)
		if ok = ok && err == nil && oid != 0; ok {
			archive.Tablespace = uint32(oid)
		}
	}
	if !ok || !tar {
		return odd(reading, "an archive named %.40q", name)
	}
	s.next = archive
	return nil
}

// receive returns the next message that belongs to the answer.
func (s *stream) receive(ctx context.Context, what string) (pgproto3.BackendMessage, error) {
	for {
		message, err := s.from.ReceiveMessage(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return nil, failed(what, err)
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			return nil, failed(what, pgconn.ErrorResponseToPgError(m))
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
			continue
		}
		return message, nil
	}
}

// rows reads a result set; NULL is empty.
func (s *stream) rows(ctx context.Context, what string, columns int) (rows [][]string, err error) {
	for {
		message, err := s.receive(ctx, what)
		if err != nil {
			return nil, err
		}
		switch m := message.(type) {
		case *pgproto3.RowDescription:
		case *pgproto3.DataRow:
			row := make([]string, len(m.Values))
			for i, value := range m.Values {
				row[i] = string(value)
			}
			if len(row) < columns {
				return nil, odd(what, "a row of %d columns, want %d", len(row), columns)
			}
			rows = append(rows, row)
		case *pgproto3.CommandComplete:
			return rows, nil
		default:
			return nil, odd(what, "%T in a result set", message)
		}
	}
}

// location reads a result set of one position.
func (s *stream) location(ctx context.Context, what string) (postgres.LSN, postgres.TimelineID, error) {
	rows, err := s.rows(ctx, what, 2)
	if err != nil {
		return 0, 0, err
	}
	if len(rows) != 1 {
		return 0, 0, odd(what, "%d positions, want one", len(rows))
	}
	lsn, err := postgres.ParseLSN(rows[0][0])
	timeline, failure := parseNumber(rows[0][1], 32)
	if err != nil || failure != nil || lsn == 0 || timeline == 0 {
		return 0, 0, odd(what, "position %q on timeline %q", rows[0][0], rows[0][1])
	}
	return lsn, postgres.TimelineID(timeline), nil
}

func parseNumber(text string, bits int) (uint64, error) { return strconv.ParseUint(text, 10, bits) }

// odd is an answer that no server we know gives.
func odd(what, format string, args ...any) error {
	return fmt.Errorf("%s: the server answers otherwise than its protocol has it: "+format, append([]any{what}, args...)...)
}
