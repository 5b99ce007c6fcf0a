// Package ledger is the oracle of the end-to-end tests: clients that move money
// between accounts and write down, outside the database, what the server
// acknowledged. After a restore the journal says which transactions must be
// there, which must not, and which nobody can know.
package ledger

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Kind is what a client knows of a transaction.
type Kind string

// A transaction is intended first and then ends in one of the others.
const (
	Intent Kind = "intent"
	// Acked: the server said COMMIT.
	Acked Kind = "acked"
	// Indeterminate: the connection broke after COMMIT was sent.
	Indeterminate Kind = "indeterminate"
	// Aborted: the server said no, or COMMIT was never sent.
	Aborted Kind = "aborted"
)

// Record is one line of a journal.
type Record struct {
	Kind   Kind  `json:"kind"`
	Client int   `json:"client"`
	Seq    int64 `json:"seq"`
	// XID is the full transaction id; WAL carries its low 32 bits.
	XID      uint64              `json:"xid,omitempty"`
	Timeline postgres.TimelineID `json:"timeline,omitempty"`
	// After is the WAL insert position taken in the transaction just before COMMIT: the commit record
	// begins at or after it. Before is the position taken just after COMMIT, zero if it could not be
	// asked: the commit record ends at or before it.
	After  postgres.LSN `json:"after,omitempty"`
	Before postgres.LSN `json:"before,omitempty"`
	// Earliest and Latest are the server's clock around COMMIT.
	Earliest time.Time `json:"earliest,omitzero"`
	Latest   time.Time `json:"latest,omitzero"`
}

// Journal holds each transaction's last word, by client and sequence number.
type Journal map[int]map[int64]Record

// Acked lists the acknowledged transactions, client by client in order.
func (j Journal) Acked() []Record {
	var all []Record
	for _, client := range sortedKeys(j) {
		for _, seq := range sortedKeys(j[client]) {
			if r := j[client][seq]; r.Kind == Acked {
				all = append(all, r)
			}
		}
	}
	return all
}

// ReadJournal reads every client's file in dir.
func ReadJournal(dir string) (Journal, error) {
	files, err := filepath.Glob(filepath.Join(dir, "client-*.jsonl"))
	if err != nil {
		return nil, err
	}
	j := Journal{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if err := j.read(bytes.NewReader(b)); err != nil {
			return nil, fmt.Errorf("journal %s: %w", name, err)
		}
	}
	return j, nil
}

func (j Journal) read(r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // a last line without its end was never synced, so nothing was built on it
		}
		if err != nil {
			return err
		}
		var rec Record
		if err := json.Unmarshal(line, &rec); err != nil {
			return err
		}
		if j[rec.Client] == nil {
			j[rec.Client] = map[int64]Record{}
		}
		j[rec.Client][rec.Seq] = rec
	}
}

// writer appends records to one client's file and syncs each.
type writer struct{ file *os.File }

func openWriter(dir string, client int) (*writer, error) {
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("client-%02d.jsonl", client)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &writer{f}, err
}

func (w *writer) write(r Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := w.file.Write(append(b, '\n')); err != nil {
		return err
	}
	return w.file.Sync()
}
