package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// replay answers with bytes that a server has sent.
type replay struct{ *pgproto3.Frontend }

func (r replay) ReceiveMessage(context.Context) (pgproto3.BackendMessage, error) { return r.Receive() }

func replayOf(sent []byte) *BaseBackup {
	frontend := pgproto3.NewFrontend(bytes.NewReader(sent), io.Discard)
	frontend.SetMaxBodyLen(maxMessage)
	return &BaseBackup{stream: stream{from: replay{frontend}}}
}

// recorded is the answer of a real server to Begin's command, but for most of the
// archives' data: of each archive the first four messages and the last are left.
func recorded(t testing.TB, major int) []byte {
	sent, err := os.ReadFile(fmt.Sprintf("testdata/basebackup-%d.bin", major))
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

// readAll goes through a whole answer and tells what it was.
func readAll(ctx context.Context, sent []byte) (string, error) {
	b := replayOf(sent)
	if err := b.begin(ctx); err != nil {
		return "", err
	}
	var told strings.Builder
	fmt.Fprintf(&told, "%s/%d", b.LSN, b.Timeline)
	for _, ts := range b.Tablespaces {
		fmt.Fprintf(&told, " %d:%s", ts.OID, ts.Path[max(0, len(ts.Path)-7):])
	}
	for {
		archive, err := b.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			return "", err
		}
		name, _, _ := bytes.Cut(content, []byte{0})
		fmt.Fprintf(&told, " [%d %.12s %d]", archive.Tablespace, name, len(content))
	}
	end, err := b.End(ctx)
	fmt.Fprintf(&told, " %s/%d %v", end.LSN, end.Timeline, end.Damaged)
	return told.String(), err
}

func TestRecordedBaseBackup(t *testing.T) {
	for major, want := range map[int]string{
		15: "0/2000028/1 16384:space15 [16384 PG_15_202209 2560] [0 backup_label 3072] 0/2000100/1 false",
		17: "0/2000028/1 16384:space17 [16384 PG_17_202406 2560] [0 backup_label 3072] 0/2000120/1 false",
	} {
		sent := recorded(t, major)
		if got, err := readAll(t.Context(), sent); err != nil || got != want {
			t.Errorf("%d: %s, %v, want %s", major, got, err, want)
		}
		// What ends too soon, at whatever byte, is no backup.
		for n := range sent {
			if got, err := readAll(t.Context(), sent[:n]); err == nil {
				t.Errorf("%d: the first %d of %d bytes are taken for a backup: %s", major, n, len(sent), got)
			}
		}
	}
}

func encode(t *testing.T, messages ...pgproto3.BackendMessage) (sent []byte) {
	t.Helper()
	for _, m := range messages {
		var err error
		if sent, err = m.Encode(sent); err != nil {
			t.Fatal(err)
		}
	}
	return sent
}

func TestBaseBackupAnswers(t *testing.T) {
	position := func(lsn, tli string) []pgproto3.BackendMessage {
		return []pgproto3.BackendMessage{&pgproto3.RowDescription{}, &pgproto3.DataRow{Values: [][]byte{[]byte(lsn), []byte(tli)}},
			&pgproto3.CommandComplete{CommandTag: []byte("SELECT")}}
	}
	space := func(values ...[]byte) []pgproto3.BackendMessage {
		return []pgproto3.BackendMessage{&pgproto3.RowDescription{}, &pgproto3.DataRow{Values: values}, &pgproto3.CommandComplete{CommandTag: []byte("SELECT")}}
	}
	pgdata := space(nil, nil, []byte("7"))
	copying := func(texts ...string) []pgproto3.BackendMessage {
		all := []pgproto3.BackendMessage{&pgproto3.CopyOutResponse{}}
		for _, text := range texts {
			all = append(all, &pgproto3.CopyData{Data: []byte(text)})
		}
		return append(all, &pgproto3.CopyDone{})
	}
	begun, ended, complete := position("0/28", "3"), position("0/99", "3"), []pgproto3.BackendMessage{&pgproto3.CommandComplete{CommandTag: []byte("BASE_BACKUP")}, &pgproto3.ReadyForQuery{TxStatus: 'I'}}
	failure := func(code string) pgproto3.BackendMessage {
		return &pgproto3.ErrorResponse{Severity: "ERROR", Code: code, Message: "told"}
	}
	join := func(parts ...any) (all []pgproto3.BackendMessage) {
		for _, part := range parts {
			switch p := part.(type) {
			case []pgproto3.BackendMessage:
				all = append(all, p...)
			case pgproto3.BackendMessage:
				all = append(all, p)
			}
		}
		return all
	}
	const base = "nbase.tar\x00\x00"
	oddly := func(what string) string { return ": the server answers otherwise than its protocol has it: " + what }
	for name, c := range map[string]struct {
		messages  []pgproto3.BackendMessage
		want, err string
	}{
		"in pieces": {messages: join(begun, pgdata, copying(base, "dab", "d", "p12345678", "dc"), ended, complete), want: "0/28/3 [0 abc 3] 0/99/3 false"},
		"with messages between": {messages: join(&pgproto3.NoticeResponse{}, begun, &pgproto3.ParameterStatus{}, pgdata, copying(base, "da"), ended, &pgproto3.NoticeResponse{}, complete),
			want: "0/28/3 [0 a 1] 0/99/3 false"},
		"damaged":             {messages: join(begun, pgdata, copying(base, "da"), ended, failure("XX001"), complete[1]), want: "0/28/3 [0 a 1] 0/99/3 true"},
		"failed at the end":   {messages: join(begun, pgdata, copying(base, "da"), ended, failure("57P01")), err: "end the base backup: ERROR: told (SQLSTATE 57P01)"},
		"no end":              {messages: join(begun, pgdata, copying(base, "da"), failure("XX001")), err: "end the base backup: ERROR: told (SQLSTATE XX001)"},
		"refused":             {messages: join(failure("55000")), err: "start a base backup: ERROR: told (SQLSTATE 55000)"},
		"failed in between":   {messages: join(begun, pgdata, copying(base, "da")[:3], failure("57P01")), err: "read the base backup: ERROR: told (SQLSTATE 57P01)"},
		"in-place":            {messages: join(begun, space([]byte("5"), []byte("pg_tblspc/5"), []byte("1"))), err: `tablespace 5 lies inside PGDATA ("pg_tblspc/5"): in-place tablespaces are not supported`},
		"no timeline":         {messages: join(position("0/28", "0")), err: "start a base backup" + oddly(`position "0/28" on timeline "0"`)},
		"two positions":       {messages: join(begun[0], begun[1], begun[1], begun[2]), err: "start a base backup" + oddly("2 positions, want one")},
		"few columns":         {messages: join(begun, space(nil)), err: "start a base backup" + oddly("a row of 1 columns, want 3")},
		"no size":             {messages: join(begun, space(nil, nil, nil)), err: "start a base backup" + oddly(`the size "" of tablespace ""`)},
		"no copy":             {messages: join(begun, pgdata, ended), err: "start a base backup" + oddly("*pgproto3.RowDescription where the archives begin")},
		"data of nothing":     {messages: join(begun, pgdata, copying("da")), err: "read the base backup" + oddly("message 'd'")},
		"a manifest":          {messages: join(begun, pgdata, copying(base, "m")), err: "read the base backup" + oddly("message 'm'")},
		"nothing":             {messages: join(begun, pgdata, copying("")), err: "read the base backup" + oddly("an empty message")},
		"a row in the copy":   {messages: join(begun, pgdata, copying(base)[:2], ended), err: "read the base backup" + oddly("*pgproto3.RowDescription")},
		"a name without end":  {messages: join(begun, pgdata, copying("nbase.tar")), err: "read the base backup" + oddly(`an archive named "base.tar"`)},
		"a name of no volume": {messages: join(begun, pgdata, copying("n../5.tar\x00\x00")), err: "read the base backup" + oddly(`an archive named "../5.tar"`)},
		"no tar":              {messages: join(begun, pgdata, copying("n16384.tar.gz\x00\x00")), err: "read the base backup" + oddly(`an archive named "16384.tar.gz"`)},
	} {
		got, err := readAll(t.Context(), encode(t, c.messages...))
		if c.err != "" && (err == nil || err.Error() != c.err) || c.err == "" && (err != nil || got != c.want) {
			t.Errorf("%s: %q, %v, want %q, %s", name, got, err, c.want, c.err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrNoProgress)
	if _, err := readAll(ctx, recorded(t, 15)); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("cancelled: %v", err)
	}
}

// Whatever a server sends, reading ends, and what is taken for a backup has a place
// where it began.
func FuzzBaseBackup(f *testing.F) {
	f.Add(recorded(f, 15))
	f.Add(recorded(f, 17)[:1500])
	f.Fuzz(func(t *testing.T, sent []byte) {
		if told, err := readAll(t.Context(), sent); err == nil && (strings.HasPrefix(told, "0/0/") || strings.Contains(told, "/0 ")) {
			t.Errorf("taken for a backup: %s", told)
		}
	})
}
