package daemon

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgha-backup/pgha-backup/cluster"
)

// source is the member that a backup is taken from, and how.
type source struct {
	Member string
	Reason string
	Leader bool
	Remote bool // by BASE_BACKUP: no daemon has its files
}

// situation is what the choice of who acts is made from.
type situation struct {
	Task     string // what a daemon says it has failed at
	Topology cluster.Topology
	Want     cluster.SourceWant
	Daemons  []cluster.Daemon // all that have joined, this one among them
	Me       cluster.Daemon
	// Single: there is no etcd to agree with others through.
	Single bool
	// Emulated: the store cannot do create-once writes (R7).
	Emulated bool
}

// assign says from whom the backup is taken and whether this daemon takes it. why
// is for people: the reason of the choice, or what is waited for. All daemons that
// see the same situation agree, but for several without files, between whom the
// claim decides.
func assign(s situation) (from source, mine bool, why string) {
	if s.Emulated && len(s.Daemons) > 1 {
		return from, false, fmt.Sprintf("refused: create-once writes are emulated, and %d daemons are registered: two of them could both believe they won; run one daemon",
			len(s.Daemons))
	}
	has := func(member string) bool {
		return slices.ContainsFunc(s.Daemons, func(d cluster.Daemon) bool { return d.DataDir && d.Member == member })
	}
	remote := slices.ContainsFunc(s.Daemons, func(d cluster.Daemon) bool { return !d.DataDir })
	t, without := s.Topology, []string{}
	if !remote {
		t.Members = slices.DeleteFunc(slices.Clone(t.Members), func(m cluster.Member) bool {
			passed := m.Name != t.Leader && !has(m.Name)
			if passed {
				without = append(without, m.Name)
			}
			return passed
		})
	}
	s.Want.Busy = map[string]int{}
	for _, d := range s.Daemons {
		for _, running := range d.Running {
			if d.DataDir && running != s.Task {
				s.Want.Busy[d.Member]++
			}
		}
	}
	s.Want.Waited = s.Want.Waited || s.Single && s.Me.DataDir // no replica's daemon will come
	// Whose copy failed lets others try before it does so again.
	fresh := t
	fresh.Members = slices.DeleteFunc(slices.Clone(t.Members), func(m cluster.Member) bool {
		return m.Name != t.Leader && slices.ContainsFunc(s.Daemons, func(d cluster.Daemon) bool { return d.Member == m.Name && d.Failed == s.Task })
	})
	choice, err := cluster.ChooseSource(fresh, s.Want)
	if err != nil {
		choice, err = cluster.ChooseSource(t, s.Want)
	}
	if err != nil {
		why = err.Error()
		if len(without) > 0 {
			why += "; no daemon runs on " + strings.Join(without, ", ")
		}
		return from, false, why
	}
	from = source{Member: choice.Member, Reason: choice.Reason, Leader: choice.Leader, Remote: !has(choice.Member)}
	switch {
	case from.Remote && !remote:
		return from, false, fmt.Sprintf("%s is the one to copy (%s), but no daemon runs there", from.Member, from.Reason)
	case from.Remote && s.Me.DataDir:
		return from, false, fmt.Sprintf("%s has no daemon, one on a backup host copies it (%s)", from.Member, from.Reason)
	case !from.Remote && (s.Me.Member != from.Member || !s.Me.DataDir):
		return from, false, fmt.Sprintf("the daemon of %s takes it (%s)", from.Member, from.Reason)
	}
	return from, true, from.Reason
}

// stillRight says why a backup under way must end, by what the cluster looks like
// now. That nobody leads for a moment ends none: the old leader may lead again.
func (f source) stillRight(t cluster.Topology) error {
	switch {
	case f.Leader && t.Leader != "" && t.Leader != f.Member:
		return fmt.Errorf("the leader changed from %s to %s during its backup", f.Member, t.Leader)
	case !f.Leader && t.Leader == f.Member:
		return fmt.Errorf("the standby %s was promoted during its backup", f.Member)
	}
	return nil
}
