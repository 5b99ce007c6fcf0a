package torture

import (
	"fmt"
	"os"
	"testing"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// The test program also starts what Trace is to watch.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == StoppedVerb {
		fmt.Fprintln(os.Stderr, Stopped(os.Args[2:]))
		os.Exit(99)
	}
	os.Exit(lab.Main(m))
}
