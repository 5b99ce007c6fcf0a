package oddities_test

import (
	"fmt"
	"testing"
)

// everything is odd at once.
func everything(major int) shape {
	return shape{major: major, segmentMB: 1, group: true, linkedWAL: true, outside: true, places: true, spaces: true, names: true, strays: true}
}

// bare is a server without page checksums, and with large WAL segments.
func bare(major int) shape { return shape{major: major, segmentMB: 64, noChecksums: true} }

// What PostgreSQL lets a data directory be goes into the store and comes back.
func TestOddities(t *testing.T) {
	for _, s := range []shape{everything(15), bare(16)} {
		t.Run(fmt.Sprint(s.major), func(t *testing.T) {
			t.Logf("%+v", newWorld(t, s).story())
		})
	}
}
