package storage_test

import (
	"context"
	"net"
	"testing"
)

// resolveToLoopback has every name resolve to 127.0.0.1 until the end of the test:
// virtual-host style needs a name for every bucket.
func resolveToLoopback(t *testing.T) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
	t.Cleanup(func() { net.DefaultResolver = before; pc.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(dnsAnswer(buf[:n]), from)
		}
	}()
}

// dnsAnswer gives one A record to a query for one name, and nothing else.
func dnsAnswer(query []byte) []byte {
	end := 12
	for end < len(query) && query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // root label, type, class
	if end > len(query) {
		return nil
	}
	a := append([]byte(nil), query[:end]...)
	a[2], a[3] = 0x84, 0                          // an authoritative answer
	copy(a[4:12], []byte{0, 1, 0, 0, 0, 0, 0, 0}) // one question
	if query[end-4] == 0 && query[end-3] == 1 {   // type A
		a[7] = 1
		a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1)
	}
	return a
}
