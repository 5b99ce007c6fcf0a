// Command demo tells the product's story on real servers: a Patroni cluster at work, its WAL and a backup in
// an S3 store, a table dropped, and the way back to the moment before.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	clusterOnly := flag.Bool("cluster-only", false, "tell only how the cluster comes up and works, without pgha-backup")
	flag.Parse()
	s := &story{begun: time.Now()}
	ok := s.tell(func() {
		if *clusterOnly {
			s.prepare(false)
			s.work()
			return
		}
		s.prepare(true)
		s.work()
		s.backup()
		s.disaster()
		s.restore()
		s.proof()
	})
	if !ok {
		os.Exit(1)
	}
	fmt.Printf("\nThe end, after %s. Nothing is left running and nothing is left on disk.\n", s.since(s.begun))
}
