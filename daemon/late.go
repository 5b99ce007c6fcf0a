package daemon

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/cluster"
)

// doubt is what the choice between a late gap and a lost one is made from.
type doubt struct {
	Since     time.Time // when this daemon first saw it, or any was last filled
	FillAfter time.Duration
	LostAfter time.Duration
	Members   []witness // of the topology; none where it cannot be seen or nobody can be asked
}

// witness is a member that may have the segments in its pg_wal.
type witness struct {
	Name   string
	Since  time.Time // from when on it could have brought them; zero: it cannot
	Absent string    // why
}

// judge tells whether nobody will bring the segments of a gap any more, and in words
// why, or what is waited for.
func (d doubt) judge(now time.Time) (lost bool, why string) {
	from := d.Since
	var asked, absent []string
	for _, w := range d.Members {
		if w.Absent != "" {
			absent = append(absent, w.Name+" ("+w.Absent+")")
			continue
		}
		asked = append(asked, w.Name)
		if w.Since.After(from) {
			from = w.Since
		}
	}
	latest := d.Since.Add(d.LostAfter)
	until := from.Add(2*d.FillAfter + time.Minute) // a look at the store is no rarer
	switch all := d.FillAfter > 0 && len(asked) > 0 && len(absent) == 0; {
	case all && !now.Before(until):
		return true, "every member had the time to bring it, none did: " + strings.Join(asked, ", ")
	case !now.Before(latest) && len(absent) > 0:
		return true, fmt.Sprintf("nobody brought it within %s; not heard from: %s", d.LostAfter, strings.Join(absent, ", "))
	case !now.Before(latest):
		return true, fmt.Sprintf("nobody brought it within %s", d.LostAfter)
	case len(absent) > 0:
		return false, fmt.Sprintf("%s may have it; waited for until %s", strings.Join(absent, ", "), latest.UTC().Format(time.RFC3339))
	case all && until.Before(latest):
		return false, fmt.Sprintf("%s may bring it until %s", strings.Join(asked, ", "), until.UTC().Format(time.RFC3339))
	}
	return false, fmt.Sprintf("somebody may bring it until %s", latest.UTC().Format(time.RFC3339))
}

// witnesses are the members of a cluster, sorted. heard is from when on each of them
// has been able to bring what it has, as far as this daemon saw; it is kept up.
func witnesses(t cluster.Topology, daemons []cluster.Daemon, heard map[string]time.Time, now time.Time) (all []witness) {
	for _, m := range t.Members {
		w := witness{Name: m.Name}
		i := slices.IndexFunc(daemons, func(d cluster.Daemon) bool { return d.DataDir && d.Member == m.Name })
		switch {
		case i < 0:
			w.Absent = "no daemon runs there"
		case m.State != "running":
			w.Absent = "its server is not running"
		}
		if w.Absent != "" {
			delete(heard, m.Name)
		} else {
			if _, ok := heard[m.Name]; !ok || daemons[i].Since.After(heard[m.Name]) {
				heard[m.Name] = now
			}
			w.Since = heard[m.Name]
		}
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b witness) int { return cmp.Compare(a.Name, b.Name) })
	return all
}
