// Package storage is the shelf that a repository stands on: whole objects under
// keys, in an S3 bucket, a directory or memory. It knows nothing of PostgreSQL.
//
// A store must be durable when Put returns, give read-after-write and
// list-after-write, and make an object appear whole or not at all.
package storage

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Errors that every driver returns (wrapped, with the key).
var (
	// ErrNotExist: the store answered, with authority, that there is no such object.
	// A missing bucket, a refusal and a network failure are never ErrNotExist.
	ErrNotExist = errors.New("object does not exist")
	// ErrExist: a create-once write met an object that is already there.
	ErrExist = errors.New("object exists")
	// ErrNoBucket: the bucket or the repository's root directory does not exist.
	ErrNoBucket = errors.New("bucket does not exist")
	// ErrDenied: the store refused the credentials or the operation.
	ErrDenied = errors.New("access denied")
	// ErrSpoiled: what stands there is no object that anybody of us has written.
	ErrSpoiled = errors.New("not one of our objects")
	// ErrSpan: the span reaches beyond the end of the object.
	ErrSpan = errors.New("span reaches beyond the end of the object")
)

// Key names an object: slash-separated, relative, no empty, "." or ".." part.
type Key string

// Object is what the store says about a stored object.
type Object struct {
	Key      Key
	Size     int64
	Modified time.Time
}

// PutOptions says how an object is written.
type PutOptions struct {
	// IfAbsent makes the write create-once: ErrExist if the key is taken, decided
	// by the store in one step.
	IfAbsent bool
	// PartSize is, of an upload, the bytes of every part but the last; 0 is MinPart.
	PartSize int
}

// Span is a byte range of an object. Length < 0 means to the end.
type Span struct {
	Offset, Length int64
}

// Whole is the span of a whole object.
var Whole = Span{0, -1}

// Bucket is the contract that storage/storagetest holds every driver to.
// All methods are safe for concurrent use.
type Bucket interface {
	// Put stores body whole. It may be called again with the same body after an
	// error; an error leaves either the whole object or nothing new. The body is the
	// caller's again on return: nothing reads it any more.
	Put(ctx context.Context, key Key, body []byte, opts PutOptions) error
	// Begin starts an object written in parts. Either Complete or Abort must be
	// called on the Upload; nothing is visible before Complete returns.
	Begin(ctx context.Context, key Key, opts PutOptions) (Upload, error)
	// Get reads a span. A span beyond the end of the object is ErrSpan. The reader
	// returns an error that is io.ErrUnexpectedEOF if the body ends early, never a
	// clean end; the caller closes it.
	Get(ctx context.Context, key Key, span Span) (io.ReadCloser, error)
	// Head describes one object.
	Head(ctx context.Context, key Key) (Object, error)
	// List yields every object whose key begins with prefix and is greater than
	// after, in ascending byte order of the key. An error ends the sequence: a
	// caller that deletes must treat a list with an error as no list at all.
	List(ctx context.Context, prefix, after Key) iter.Seq2[Object, error]
	// Delete removes one object; removing an absent one is not an error.
	Delete(ctx context.Context, key Key) error
}

// Upload is an object under way. Parts are numbered from 1; every part but the
// last has the PartSize that Begin was told, at least MinPart; the last has no
// more. Part may be called concurrently, and again for the same number after an
// error; so may Complete.
type Upload interface {
	Part(ctx context.Context, number int, body []byte) error
	Complete(ctx context.Context) error
	Abort(ctx context.Context) error
}
