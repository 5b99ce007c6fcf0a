package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/minio/minio-go/v7"

	"github.com/pgha-backup/pgha-backup/storage"
)

const noSuchUpload = "NoSuchUpload"

type upload struct {
	b    *Bucket
	key  storage.Key
	id   string
	opts storage.PutOptions

	mu    sync.Mutex
	parts map[int]part
	tried bool // a Complete was sent, its answer may have been lost
	done  bool
}

type part struct {
	etag string
	md5  [md5.Size]byte
	size int64
}

func (b *Bucket) Begin(ctx context.Context, key storage.Key, opts storage.PutOptions) (storage.Upload, error) {
	if err := key.Validate(); err != nil {
		return nil, b.report(ctx, "begin", key, nil, err)
	}
	actx, a := withAnswer(ctx)
	// Create-once is decided by Complete; the begin carries no condition.
	id, err := b.core.NewMultipartUpload(actx, b.bucket, b.name(key), b.putOptions(storage.PutOptions{}))
	if err == nil && id == "" {
		err = errors.New("the store gave no upload id")
	}
	if err != nil {
		return nil, b.report(ctx, "begin", key, a, err)
	}
	return &upload{b: b, key: key, id: id, opts: opts, parts: map[int]part{}}, nil
}

func (u *upload) Part(ctx context.Context, number int, body []byte) error {
	actx, a := withAnswer(ctx)
	sum, hexSum := md5.Sum(body), "" // MD5 has to be known for the ETag of the whole
	if !u.b.secure {
		hexSum, _ = signed(body)
	}
	got, err := u.b.core.PutObjectPart(actx, u.b.bucket, u.b.name(u.key), u.id, number, bytes.NewReader(body), int64(len(body)),
		minio.PutObjectPartOptions{Md5Base64: base64.StdEncoding.EncodeToString(sum[:]), Sha256Hex: hexSum, DisableContentSha256: true})
	if err == nil && got.ETag == "" {
		err = errors.New("the store gave no ETag for a part")
	}
	if err != nil {
		return u.b.report(ctx, "part", u.key, a, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.parts[number] = part{got.ETag, sum, int64(len(body))}
	return nil
}

func (u *upload) Complete(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.done {
		return nil
	}
	list, err := u.list()
	if err != nil {
		return u.b.report(ctx, "complete", u.key, nil, err)
	}
	before := u.tried
	u.tried = true
	actx, a := withAnswer(ctx)
	options := u.b.putOptions(u.opts)
	options.ServerSideEncryption = nil // the begin has said it
	done, err := u.b.core.CompleteMultipartUpload(actx, u.b.bucket, u.b.name(u.key), u.id, list, options)
	if err == nil && done.ETag == "" {
		err = errors.New("the store gave no ETag for the object")
	}
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok && r.Code == noSuchUpload && before {
		err = u.settle(ctx, err)
	} else {
		err = u.b.report(ctx, "complete", u.key, a, err)
	}
	u.done = err == nil
	return err
}

func (u *upload) list() ([]minio.CompletePart, error) {
	list := make([]minio.CompletePart, 0, len(u.parts))
	for n := 1; n <= len(u.parts); n++ {
		p, ok := u.parts[n]
		if !ok {
			return nil, fmt.Errorf("part %d of %d is missing", n, len(u.parts))
		}
		list = append(list, minio.CompletePart{PartNumber: n, ETag: p.etag})
	}
	return list, nil
}

// settle decides what became of a Complete whose answer was lost: the upload is
// gone, so it is ours if what stands there is what we sent.
func (u *upload) settle(ctx context.Context, gone error) error {
	found, err := u.b.stat(ctx, u.key)
	if errors.Is(err, storage.ErrNotExist) {
		return u.b.report(ctx, "complete", u.key, nil, gone)
	}
	if err != nil {
		return err
	}
	if size, etag := u.expected(); found.Size == size && (etag == "" || found.ETag == etag) {
		return nil
	}
	if u.opts.IfAbsent {
		return &storage.Error{Op: "complete", Key: u.key, Err: storage.ErrExist}
	}
	return &storage.Error{Op: "complete", Key: u.key, Err: errors.New("the upload is gone and another object stands there")}
}

// expected is the size and, if this store's ETags of parts are their MD5, the ETag
// of the object.
func (u *upload) expected() (size int64, etag string) {
	sums, plain := md5.New(), true
	for n := 1; n <= len(u.parts); n++ {
		p := u.parts[n]
		size += p.size
		sums.Write(p.md5[:])
		plain = plain && p.etag == hex.EncodeToString(p.md5[:])
	}
	if plain {
		etag = fmt.Sprintf("%x-%d", sums.Sum(nil), len(u.parts))
	}
	return size, etag
}

func (u *upload) Abort(ctx context.Context) error {
	actx, a := withAnswer(ctx)
	err := u.b.core.AbortMultipartUpload(actx, u.b.bucket, u.b.name(u.key), u.id)
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok && r.Code == noSuchUpload {
		return nil
	}
	return u.b.report(ctx, "abort", u.key, a, err)
}
