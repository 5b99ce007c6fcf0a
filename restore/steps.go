package restore

import "fmt"

// Steps are what the plan will do, in order and in words: what --plan prints and
// what is done.
func (p Plan) Steps() []string {
	var steps []string
	step := func(format string, args ...any) {
		steps = append(steps, fmt.Sprintf("%d. ", len(steps)+1)+fmt.Sprintf(format, args...))
	}
	step("restore backup %s (timeline %d, %s to %s, ended %s): %d files, %d bytes",
		p.Backup.ID, uint32(p.Backup.Timeline), p.Backup.StartLSN, p.Backup.StopLSN, stamp(p.Backup.StopTime), p.Backup.Files, p.Backup.Bytes)
	for _, t := range p.Tablespaces {
		when := "put"
		if t.Later {
			when = "replay will put"
		}
		step("%s tablespace %d, originally at %s, at %s", when, t.OID, t.From, t.To)
	}
	if n := len(p.WAL); n > 0 {
		step("replay %d WAL segments, %s to %s, all present, along timeline %d", n, p.WAL[0], p.WAL[n-1], uint32(p.Timeline))
	}
	end := "at"
	if !p.Stop.Exact {
		end = "at or after"
	}
	last := ""
	if !p.Stop.Time.IsZero() {
		last = ", last transaction of " + stamp(p.Stop.Time)
	}
	step("stop %s, %s LSN %s on timeline %d%s", p.Stop.What, end, p.Stop.LSN, uint32(p.Stop.Timeline), last)
	switch p.Target.Action {
	case Pause:
		step("pause there, open for reading only")
	case Shutdown:
		step("shut down there")
	default:
		step("promote to a new timeline")
	}
	return steps
}
