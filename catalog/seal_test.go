package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/mem"
)

// flips calls with every single bit of an object flipped.
func flips(t *testing.T, bucket storage.Bucket, key storage.Key, from, to int, look func(bit int)) {
	t.Helper()
	whole, err := storage.ReadAll(t.Context(), bucket, key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if to < 0 {
		to = len(whole)
	}
	for bit := from * 8; bit < to*8; bit++ {
		flipped := bytes.Clone(whole)
		flipped[bit/8] ^= 1 << (bit % 8)
		if err := bucket.Put(t.Context(), key, flipped, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		look(bit)
	}
	if err := bucket.Put(t.Context(), key, whole, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Every bit of a document counts, also those of a text or a time.
func TestEveryBitOfADocument(t *testing.T) {
	bucket := mem.New()
	r := walRepository(bucket)
	if _, err := r.Create(t.Context(), walSize, "required", time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := r.ReportMissed(t.Context(), Missed{Backup: "20261121T020000Z-nightly", Reason: "nobody was there", By: "pg1", At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []storage.Key{r.keys.repository(), r.keys.missed("20261121T020000Z-nightly")} {
		n, broken, err := r.Documents(t.Context(), "")
		if err != nil || n != 2 || len(broken) > 0 {
			t.Fatal(n, broken, err)
		}
		flips(t, bucket, key, 0, -1, func(bit int) {
			if _, broken, err := r.Documents(t.Context(), ""); err != nil || len(broken) != 1 || broken[0].Object != string(key) {
				t.Errorf("%s, bit %d: %v %v", key, bit, broken, err)
			}
		})
	}
}

// What an early version wrote has no seal, and is read as ever.
func TestWithoutSeal(t *testing.T) {
	for text, sound := range map[string]bool{
		"{\n \"format\": 1,\n \"by\": \"pg1\"\n}\n": true,
		`{"format":1}`: true,
		string(seal(sealable([]byte(`{"format":1}`)))):                        true,
		"{\"format\":1,\n \"seal\": \"" + fmt.Sprintf("%064d", 0) + "\"\n}\n": false,
	} {
		var v Missed
		if err := decodeDocument("it", []byte(text), &v); sound != (err == nil) || !sound && !errors.Is(err, codec.ErrCorrupt) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Every bit of a WAL object counts for who inspects it. Who plans by a header goes by the
// header's; who wants the plaintext gets that or an error.
func TestEveryBitOfAWALObject(t *testing.T) {
	plain := bytes.Repeat([]byte("some log, then zeros\x00\x00\x00\x00\x00\x00\x00\x00"), 12)
	for _, name := range []codec.Name{codec.Zstd, codec.S2, codec.None} {
		for _, dst := range [][]byte{nil, make([]byte, 0, 16), make([]byte, 0, 1<<20)} {
			bucket := mem.New()
			r := New(bucket, Location{Scope: "main", System: 77}, Options{Codec: name, Author: "pg1"})
			file := segmentFile(t, "000000010000000000000005")
			packed, err := r.PackWAL(dst, file, plain, &postgres.SegmentFacts{ValidEnd: uint32(len(plain)), MaxTime: time.Now().UTC()})
			if err == nil {
				_, err = r.PutPackedWAL(t.Context(), packed)
			}
			if err != nil {
				t.Fatal(err)
			}
			entry := WALEntry{File: file, key: r.keys.wal(file), Size: int64(len(packed.body))}
			if o, err := r.InspectWAL(t.Context(), entry, io.Discard, 1<<20); err != nil || o.StoredCRC32C == "" {
				t.Fatal(o, err)
			}
			if dst != nil || name == codec.None {
				continue // made otherwise, the same: without a codec it is zstd
			}
			prefix, payload, err := codec.HeaderLength(packed.body)
			if err != nil {
				t.Fatal(err)
			}
			flips(t, bucket, entry.key, 0, -1, func(bit int) {
				if _, err := r.InspectWAL(t.Context(), entry, io.Discard, 1<<20); !IsDamage(err) {
					t.Errorf("%s, bit %d: inspected: %v", name, bit, err)
				}
				if _, err := r.StatWAL(t.Context(), file); bit/8 < prefix+payload && !IsDamage(err) {
					t.Errorf("%s, bit %d: header: %v", name, bit, err)
				}
				if bit%5 > 0 {
					return
				}
				var got bytes.Buffer
				if _, err := r.GetWAL(t.Context(), file, &got); err == nil && !bytes.Equal(got.Bytes(), plain) {
					t.Errorf("%s, bit %d: another plaintext", name, bit)
				}
			})
		}
	}
}
