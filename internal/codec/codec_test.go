package codec

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

func sample(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(7)) * byte(i>>9&1) // half zeros: pages are
	}
	return b
}

func TestFramesRoundTripAndConcatenate(t *testing.T) {
	for _, name := range []Name{Zstd, S2, None} {
		for _, level := range []Level{"", Fastest, Default, Better, Best} {
			encoder, err := NewEncoder(name, level)
			if err != nil {
				t.Fatal(err)
			}
			decoder, err := NewDecoder(name, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			defer decoder.Close()
			var stream, all []byte
			for i, n := range []int{1 << 20, 1, 8192, 1<<20 - 3} {
				plain := sample(uint64(i), n)
				frame, err := encoder.AppendFrame(nil, plain)
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, n)
				if err := decoder.DecodeFrame(got, frame); err != nil || !bytes.Equal(got, plain) {
					t.Fatalf("%s %s: frame of %d bytes: %v", name, level, n, err)
				}
				stream, all = append(stream, frame...), append(all, plain...)
			}
			r, err := NewReader(name, bytes.NewReader(stream))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, all) {
				t.Fatalf("%s: concatenated frames: %d bytes, %v", name, len(got), err)
			}
		}
	}
}

func TestDamageIsCorrupt(t *testing.T) {
	plain := sample(3, 300_000)
	for _, name := range []Name{Zstd, S2} {
		encoder, _ := NewEncoder(name, Default)
		decoder, _ := NewDecoder(name, 1<<20)
		defer decoder.Close()
		frame, err := encoder.AppendFrame(nil, plain)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(frame); at += 97 {
			bad := bytes.Clone(frame)
			bad[at] ^= 0x10
			got := make([]byte, len(plain))
			err := decoder.DecodeFrame(got, bad)
			if err == nil && !bytes.Equal(got, plain) {
				t.Fatalf("%s: a flipped bit at %d gave other data without an error", name, at)
			}
			if err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s: flipped bit at %d: %v is not ErrCorrupt", name, at, err)
			}
		}
		for _, claimed := range []int{len(plain) - 1, len(plain) + 1} {
			if err := decoder.DecodeFrame(make([]byte, claimed), frame); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s: %d bytes claimed for %d: %v", name, claimed, len(plain), err)
			}
		}
	}
}

func TestBombIsRefused(t *testing.T) {
	encoder, _ := NewEncoder(Zstd, Default)
	frame, err := encoder.AppendFrame(nil, make([]byte, 64<<20))
	if err != nil {
		t.Fatal(err)
	}
	decoder, _ := NewDecoder(Zstd, 1<<20)
	defer decoder.Close()
	if err := decoder.DecodeFrame(make([]byte, 1<<20), frame); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("%d stored bytes that decode to 64 MiB: %v", len(frame), err)
	}
}

func TestHeaderIsInvisible(t *testing.T) {
	plain, header := sample(4, 100_000), []byte(`{"format":1}`)
	for _, name := range []Name{Zstd, S2} {
		object, err := AppendHeader(nil, name, header)
		if err != nil {
			t.Fatal(err)
		}
		encoder, _ := NewEncoder(name, Default)
		if object, err = encoder.AppendFrame(object, plain); err != nil {
			t.Fatal(err)
		}
		if got := Detect(object); got != name {
			t.Fatalf("detected %s, want %s", got, name)
		}
		prefix, payload, err := HeaderLength(object[:HeaderPrefix])
		if err != nil || string(object[prefix:prefix+payload]) != string(header) {
			t.Fatalf("%s: header %q, %v", name, object[prefix:prefix+payload], err)
		}
		r, err := NewReader(name, bytes.NewReader(object))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%s: %d bytes behind the header, %v", name, len(got), err)
		}
	}
	if _, err := AppendHeader(nil, None, header); err == nil {
		t.Fatal("codec none took a header")
	}
}

func TestLostConnectionIsNotCorruption(t *testing.T) {
	for _, name := range []Name{Zstd, S2} {
		encoder, _ := NewEncoder(name, Default)
		frame, _ := encoder.AppendFrame(nil, sample(5, 200_000))
		for _, lost := range []error{errors.New("connection reset"), io.ErrUnexpectedEOF} {
			r, _ := NewReader(name, io.MultiReader(bytes.NewReader(frame[:1000]), failing{lost}))
			if _, err := io.ReadAll(r); !errors.Is(err, lost) || errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: got %v, want the connection's own %v", name, err, lost)
			}
		}
	}
}

// Whatever is wrong with the bytes, it is called corruption.
func TestEveryFlippedBitIsCorruption(t *testing.T) {
	text := bytes.Repeat([]byte("to be or not to be, that is the question "), 300)
	for i := range text {
		text[i] += byte(i*i>>7) % 3
	}
	for _, name := range []Name{Zstd, S2} {
		encoder, _ := NewEncoder(name, Best)
		frame, _ := encoder.AppendFrame(nil, text)
		tried, failed := 0, 0
		for bit := 0; bit < 8*len(frame); bit += 31 {
			tried++
			damaged := bytes.Clone(frame)
			damaged[bit/8] ^= 1 << (bit % 8)
			r, err := NewReader(name, bytes.NewReader(damaged))
			if err != nil {
				t.Fatal(err)
			}
			if _, err = io.ReadAll(r); err == nil {
				continue // an unused bit, or a chunk that is passed over
			}
			if failed++; !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s, bit %d: %v", name, bit, err)
			}
		}
		if failed < tried*7/8 {
			t.Errorf("%s: only %d of %d flipped bits were noticed", name, failed, tried)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func FuzzReader(f *testing.F) {
	for _, name := range []Name{Zstd, S2} {
		encoder, _ := NewEncoder(name, Default)
		frame, _ := encoder.AppendFrame(nil, sample(6, 4000))
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= HeaderPrefix {
			_, _, _ = HeaderLength(data[:HeaderPrefix])
		}
		r, err := NewReader(Detect(data), bytes.NewReader(data))
		if err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(r, 8<<20))
		}
		decoder, _ := NewDecoder(Detect(data), 1<<16)
		defer decoder.Close()
		_ = decoder.DecodeFrame(make([]byte, 1<<16), data)
	})
}
