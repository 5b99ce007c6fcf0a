package codec

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// Where the default level makes smaller frames it stays, where it does not the fastest does
// the work, and what comes in between is noticed at the next trial.
func TestThrift(t *testing.T) {
	words := func() []byte {
		r, b := rand.New(rand.NewPCG(1, 2)), bytes.Buffer{}
		for b.Len() < 30_000 {
			fmt.Fprintf(&b, "%d ", r.IntN(1+r.IntN(1+r.IntN(100_000)))*7919)
		}
		return b.Bytes()
	}
	rows := func() []byte {
		var b bytes.Buffer
		for i := 0; b.Len() < 30_000; i++ {
			fmt.Fprintf(&b, "%d\tcustomer number %d\tsome words that come again, %x and %x\n", i, (i*i+7)%9973, i%131*7, i*i%4099)
		}
		return b.Bytes()
	}
	encode := func(e *Encoder, plain []byte) []byte {
		frame, err := e.AppendFrame([]byte("before"), plain)
		if err != nil {
			t.Fatal(err)
		}
		return frame[len("before"):]
	}
	thrifty, _ := NewEncoder(Zstd, Default)
	if err := thrifty.Thrift(Default); err != nil {
		t.Fatal(err)
	}
	def, _ := NewEncoder(Zstd, Default)
	quick, _ := NewEncoder(Zstd, Fastest)
	decoder, _ := NewDecoder(Zstd, 1<<20)
	defer decoder.Close()
	text, table := words(), rows()
	if a, b := len(encode(def, text)), len(encode(quick, text)); a >= b {
		t.Fatalf("the sample is none: default %d, fastest %d", a, b)
	}
	for i := range 3 * (trialEvery + 1) {
		plain, as := text, def
		if i > trialEvery/2 && i < 2*(trialEvery+1) {
			plain = table
		}
		if i > trialEvery && i < 2*(trialEvery+1) { // since the second trial, which only the default's frame comes of
			as = quick
		}
		frame := encode(thrifty, plain)
		if want := encode(as, plain); i%(trialEvery+1) != 0 && !bytes.Equal(frame, want) {
			t.Fatalf("frame %d has %d bytes, want %d", i, len(frame), len(want))
		}
		got := make([]byte, len(plain))
		if err := decoder.DecodeFrame(got, frame); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("frame %d: %v", i, err)
		}
	}
	other, _ := NewEncoder(Zstd, Best)
	if err := other.Thrift(Best); err != nil || other.quick != nil {
		t.Errorf("a level that was asked for is another: %v", err)
	}
}
