package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/minio/minio-go/v7"

	"github.com/pgha-backup/pgha-backup/storage"
)

// signed is the SHA-256 of a body that the signature covers, over https too: every
// store verifies it, and it takes half the time that MD5 takes.
func signed(body []byte) (hexSum, base64Sum string) {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:]), base64.StdEncoding.EncodeToString(sum[:])
}

// putOptions never use chunked signatures: some stores keep the chunk headers as
// if they were data.
func (b *Bucket) putOptions(opts storage.PutOptions) minio.PutObjectOptions {
	o := minio.PutObjectOptions{DisableContentSha256: true, ServerSideEncryption: b.sse}
	if opts.IfAbsent {
		o.SetMatchETagExcept("*") // If-None-Match: *
	}
	return o
}

func (b *Bucket) Put(ctx context.Context, key storage.Key, body []byte, opts storage.PutOptions) error {
	if err := key.Validate(); err != nil {
		return b.report(ctx, "put", key, nil, err)
	}
	actx, a := withAnswer(ctx)
	hexSum, base64Sum := signed(body)
	o := b.putOptions(opts)
	o.UserMetadata = map[string]string{"x-amz-checksum-sha256": base64Sum} // a bucket with object lock wants a digest of its own
	_, err := b.core.PutObject(actx, b.bucket, b.name(key), bytes.NewReader(body), int64(len(body)), "", hexSum, o)
	return b.report(ctx, "put", key, a, err)
}

func (b *Bucket) Get(ctx context.Context, key storage.Key, span storage.Span) (io.ReadCloser, error) {
	if err := key.Validate(); err != nil {
		return nil, b.report(ctx, "get", key, nil, err)
	}
	if span.Offset < 0 {
		return nil, b.report(ctx, "get", key, nil, storage.ErrSpan)
	}
	if span.Length == 0 { // not a range that HTTP can say
		o, err := b.Head(ctx, key)
		if err != nil {
			return nil, err
		}
		if _, _, err = span.Within(o.Size); err != nil {
			return nil, b.report(ctx, "get", key, nil, err)
		}
		return http.NoBody, nil
	}
	opts := minio.GetObjectOptions{}
	if span != storage.Whole {
		opts.Set("Range", rangeHeader(span))
	}
	actx, a := withAnswer(ctx)
	body, info, header, err := b.core.GetObject(actx, b.bucket, b.name(key), opts)
	if err != nil {
		err = b.absent(ctx, "get", key, a, err)
		if errors.Is(err, storage.ErrSpan) && span.Length < 0 { // from the end to the end?
			return b.Get(ctx, key, storage.Span{Offset: span.Offset})
		}
		return nil, err
	}
	length, err := bodyLength(span, info.Size, header)
	if err != nil {
		body.Close()
		return nil, b.report(ctx, "get", key, nil, err)
	}
	return storage.ExactReader(&reader{b, ctx, key, body}, length), nil
}

func rangeHeader(s storage.Span) string {
	if s.Length < 0 {
		return fmt.Sprintf("bytes=%d-", s.Offset)
	}
	return fmt.Sprintf("bytes=%d-%d", s.Offset, s.Offset+s.Length-1)
}

// bodyLength is what the body must have, judged by the headers: a store may
// ignore the range, or cut it at the end of the object.
func bodyLength(span storage.Span, length int64, header http.Header) (int64, error) {
	if length < 0 {
		return 0, &storage.Error{Op: "get", Err: errors.New("the answer does not say its length"), Retry: true}
	}
	if span == storage.Whole {
		return length, nil
	}
	var first, last, size int64
	if _, err := fmt.Sscanf(header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size); err != nil {
		return 0, errors.New("the store ignores ranges: no Content-Range in its answer")
	}
	off, want, err := span.Within(size)
	if err != nil {
		return 0, err
	}
	if first != off || last-first+1 != want || length != want {
		return 0, fmt.Errorf("asked for %d bytes at %d, the store sends %q in %d bytes", want, off, header.Get("Content-Range"), length)
	}
	return want, nil
}

// reader reports errors of a body under way; all of them can be tried again.
type reader struct {
	b    *Bucket
	ctx  context.Context
	key  storage.Key
	body io.ReadCloser
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if err != nil && err != io.EOF {
		if r.ctx.Err() == nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: %v", io.ErrUnexpectedEOF, err)
		}
		err = r.b.report(r.ctx, "read", r.key, nil, err)
	}
	return n, err
}

func (r *reader) Close() error { return r.body.Close() }

func (b *Bucket) Head(ctx context.Context, key storage.Key) (storage.Object, error) {
	info, err := b.stat(ctx, key)
	if err != nil {
		return storage.Object{}, err
	}
	return storage.Object{Key: key, Size: info.Size, Modified: info.LastModified}, nil
}

func (b *Bucket) stat(ctx context.Context, key storage.Key) (minio.ObjectInfo, error) {
	if err := key.Validate(); err != nil {
		return minio.ObjectInfo{}, b.report(ctx, "head", key, nil, err)
	}
	actx, a := withAnswer(ctx)
	info, err := b.core.StatObject(actx, b.bucket, b.name(key), minio.StatObjectOptions{})
	if err != nil {
		return minio.ObjectInfo{}, b.absent(ctx, "head", key, a, err)
	}
	if info.Size < 0 {
		err = errors.New("the answer does not say the size of the object")
	}
	return info, b.report(ctx, "head", key, a, err)
}

// absent settles what a 404 means. One whose body names the missing key has
// authority. Any other, as every one to a HEAD, may mean a missing bucket or a
// web server in the place of the store: a list tells. It tells, too, why a HEAD is refused.
func (b *Bucket) absent(ctx context.Context, op string, key storage.Key, a *answer, err error) error {
	r, ok := errors.AsType[minio.ErrorResponse](err)
	if ok && r.XMLName.Local == "" && (r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusBadRequest) {
		for _, err := range b.List(ctx, key, "") {
			if err != nil {
				return err
			}
			break
		}
		if b.renewed(r.Code) { // others may be there by now
			_, again := b.core.StatObject(ctx, b.bucket, b.name(key), minio.StatObjectOptions{})
			if r2, ok := errors.AsType[minio.ErrorResponse](again); !ok || r2.StatusCode != r.StatusCode {
				return &storage.Error{Op: op, Key: key, Retry: true, Err: err}
			}
		}
	}
	if !ok || r.StatusCode != http.StatusNotFound || r.Code != minio.NoSuchKey {
		return b.report(ctx, op, key, a, err)
	}
	if r.XMLName.Local == "" {
		for o, err := range b.List(ctx, key, "") {
			if err != nil {
				return err
			}
			if o.Key == key {
				return &storage.Error{Op: op, Key: key, Retry: true, Err: errors.New("not found, but listed")}
			}
			break
		}
	}
	return &storage.Error{Op: op, Key: key, Err: storage.ErrNotExist}
}

func (b *Bucket) Delete(ctx context.Context, key storage.Key) error {
	if err := key.Validate(); err != nil {
		return b.report(ctx, "delete", key, nil, err)
	}
	actx, a := withAnswer(ctx)
	err := b.core.RemoveObject(actx, b.bucket, b.name(key), minio.RemoveObjectOptions{})
	err = b.absent(ctx, "delete", key, a, err)
	if errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	return err
}
