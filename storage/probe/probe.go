// Package probe finds out by trying what a store can do, and says it in words.
package probe

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/storage"
)

// Finding is one property of a store.
type Finding struct {
	Name   string // short, lower case
	OK     bool
	Detail string // what was seen
	Hint   string // what to do about it; empty if OK
}

// Report is what a probe found.
type Report struct {
	// ConditionalWrites: exactly one of many writers of a key wins, with single and
	// with multipart writes. Without it archiving refuses the store.
	ConditionalWrites bool
	Findings          []Finding
}

// Faults are what is wrong, the last one first, to stand behind a sentence.
func (r Report) Faults() (text string) {
	for _, f := range r.Findings {
		if !f.OK {
			text = "; " + f.Name + ": " + f.Detail + text
		}
	}
	return text
}

// check is one trial. It returns what it saw; an error that is a *fault is a
// property of the store, any other one ends the probe.
type check struct {
	name string
	run  func(context.Context, *trial) (detail string, err error)
}

type fault struct{ detail, hint string }

func (f *fault) Error() string { return f.detail }

// trial is the place of one probe in the bucket.
type trial struct {
	b, missing storage.Bucket
	prefix     storage.Key
}

func (t *trial) key(name string) storage.Key { return t.prefix + storage.Key(name) }

// cleanup bounds the removal of what the probe wrote.
const cleanup = 30 * time.Second

// Probe tries the bucket under probe/<random>/ and removes what it wrote there.
// Missing is a bucket of the same store that does not exist; nil leaves out what
// needs it. An error means that the store could not be judged: it is unreachable,
// the bucket is missing, or access is refused; the report then holds what was
// found before.
func Probe(ctx context.Context, b, missing storage.Bucket) (r Report, err error) {
	t := &trial{b: b, missing: missing, prefix: storage.Key("probe/" + strings.ToLower(rand.Text()) + "/")}
	defer func() {
		if cerr := t.clean(ctx); err == nil && cerr != nil {
			err = fmt.Errorf("remove what the probe wrote under %s: %w", t.prefix, cerr)
		}
	}()
	for _, c := range checks {
		detail, err := c.run(ctx, t)
		f := Finding{Name: c.name, OK: true, Detail: detail}
		if bad, ok := errors.AsType[*fault](err); ok {
			f = Finding{Name: c.name, Detail: bad.detail, Hint: bad.hint}
		} else if err != nil {
			return r, fmt.Errorf("probe %s: %w", c.name, err)
		}
		r.Findings = append(r.Findings, f)
	}
	r.ConditionalWrites = !slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return !f.OK && (f.Name == conditionalPut || f.Name == conditionalUpload)
	})
	return r, nil
}

// clean removes all below the prefix, even if the caller's time is up.
func (t *trial) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
	defer cancel()
	written, err := keys(ctx, t.b, t.prefix, "")
	if err != nil {
		return err
	}
	for _, k := range written {
		if err := t.b.Delete(ctx, k); err != nil {
			return err
		}
	}
	return nil
}
