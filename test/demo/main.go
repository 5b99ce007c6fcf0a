// Command demo tells the product's story on real servers: a Patroni cluster at work, its WAL and a backup in
// an S3 store, a table dropped, the way back to the moment before, and the daemons that do all that by themselves.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

func main() {
	clusterOnly := flag.Bool("cluster-only", false, "tell only how the cluster comes up and works, without pgha-backup")
	flag.Parse()
	s := &story{begun: time.Now()}
	fmt.Println("A day in the life of a PostgreSQL cluster, on real servers on this machine's loopback addresses.")
	fmt.Println("What follows a $ is typed as the database's user on that node, and shown with all that it prints.")
	ok := s.tell(func() {
		if *clusterOnly {
			s.prepare(false)
			s.work(false)
			return
		}
		s.prepare(true)
		s.work(true)
		s.backup()
		s.disaster()
		s.restore()
		s.proof()
		s.service()
		s.close()
	})
	if !ok {
		// Last, after the servers' logs.
		fmt.Fprintln(os.Stderr, "\ndemo: "+s.why)
		os.Exit(1)
	}
	if os.Getenv("PGHA_KEEP") == "1" {
		fmt.Printf("\nThe end, after %s. The files are kept; make demo-clean removes them.\n", s.since(s.begun))
		return
	}
	if err := lab.Residue(nil); err != nil {
		fmt.Fprintln(os.Stderr, "demo: left behind:", err)
		os.Exit(1)
	}
	fmt.Printf("\nThe end, after %s. Nothing is left running and nothing is left on disk.\n", s.since(s.begun))
}
