package config

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/retention"
	"github.com/pgha-backup/pgha-backup/scheduler"
)

// Schedule says when the daemon takes a base backup, and from which member.
type Schedule struct {
	Name     string               `yaml:"name"`     // part of the names of its backups
	Cron     string               `yaml:"cron"`     // what scheduler.Parse reads
	Timezone string               `yaml:"timezone"` // IANA's name
	Type     string               `yaml:"type"`     // full
	Source   cluster.SourcePolicy `yaml:"source"`
	Tag      string               `yaml:"tag"`     // only members with this tag of Patroni's; "": any
	MaxLag   Size                 `yaml:"max_lag"` // of a replica behind the leader; 0: no limit
	// ReplicaWait is how long prefer-replica waits for a replica before the leader serves.
	ReplicaWait time.Duration `yaml:"replica_wait"`
	// LatestStart is how long after its time a backup may still start; 0: until the next time.
	LatestStart time.Duration `yaml:"latest_start"`
	Attempts    int           `yaml:"attempts"`
	RetryDelay  time.Duration `yaml:"retry_delay"`
	Timeout     time.Duration `yaml:"timeout"` // of one attempt
}

// Want is what the schedule asks of the member to back up.
func (s Schedule) Want() cluster.SourceWant {
	return cluster.SourceWant{Policy: s.Source, Tag: s.Tag, MaxLag: int64(s.MaxLag)}
}

// Timetable is when it is due. One that Load returned has no error.
func (s Schedule) Timetable() (scheduler.Timetable, error) {
	zone, err := s.zone()
	if err != nil {
		return nil, err
	}
	return scheduler.Parse(s.Cron, zone)
}

// zone refuses the host's own zone, which is another one on the next host.
func (s Schedule) zone() (*time.Location, error) {
	zone, err := time.LoadLocation(s.Timezone)
	if err != nil || zone == time.Local {
		return nil, fmt.Errorf("%q is not a time zone; want a name such as Europe/Berlin, or UTC", s.Timezone)
	}
	return zone, nil
}

// Retention says which backups and which WAL are kept.
type Retention struct {
	Keep   int           `yaml:"keep"`   // the newest good full backups
	Window time.Duration `yaml:"window"` // every point of so long can be recovered; 0: no such promise
	// The last backups of so many days, weeks, months and years.
	Daily   int `yaml:"daily"`
	Weekly  int `yaml:"weekly"`
	Monthly int `yaml:"monthly"`
	Yearly  int `yaml:"yearly"`
	// Minimum is how many good backups always stay.
	Minimum int `yaml:"minimum"`
	// WALFull is for how many of the newest full backups the WAL is kept without a
	// gap; older ones keep only the WAL they need themselves. 0: all.
	WALFull int           `yaml:"wal_full"`
	Grace   time.Duration `yaml:"grace"`   // between hiding a backup and removing it
	Garbage time.Duration `yaml:"garbage"` // age at which what no manifest names is removed
	// Schedule is when the daemon expires, in UTC; "": never by itself.
	Schedule string `yaml:"schedule"`
}

// Policy is the same in the words of who expires.
func (r Retention) Policy() retention.Policy {
	return retention.Policy{Keep: r.Keep, Window: r.Window, Daily: r.Daily, Weekly: r.Weekly, Monthly: r.Monthly, Yearly: r.Yearly,
		Minimum: r.Minimum, WALFull: r.WALFull, Grace: r.Grace, Garbage: r.Garbage}
}

// Timetable is when the daemon expires; nil where it never does by itself.
func (r Retention) Timetable() (scheduler.Timetable, error) {
	if r.Schedule == "" {
		return nil, nil
	}
	return scheduler.Parse(r.Schedule, time.UTC)
}

// Daemon is the service.
type Daemon struct {
	Listen   string `yaml:"listen"` // host:port of metrics, health and status; "": none
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// Socket is where pgha-wal asks; /run/pgha-backup/<scope>.sock.
	Socket string `yaml:"socket"`
}

func defaultSchedule() Schedule {
	return Schedule{Timezone: "UTC", Type: string(catalog.Full), Source: cluster.PreferReplica, MaxLag: 256 << 20, ReplicaWait: 15 * time.Minute,
		Attempts: 3, RetryDelay: 5 * time.Minute, Timeout: 12 * time.Hour}
}

func defaultRetention() Retention {
	return Retention{Keep: 7, Minimum: 1, Grace: day, Garbage: 2 * day}
}

// mayBeZero are the durations that nobody needs to give.
var mayBeZero = []string{"replica_wait", "latest_start", "window", "fill_after"}

func (k *checker) schedules(all []Schedule) {
	first := map[string]int{}
	for i, s := range all {
		at := fmt.Sprintf("schedules[%d]", i)
		if err := catalog.ValidateSchedule(s.Name); s.Name == "" {
			k.bad(at+".name", "not given; for example nightly")
		} else if err != nil {
			k.bad(at+".name", "%v", err)
		} else if other, ok := first[s.Name]; ok {
			k.bad(at+".name", "%q is the name of schedules[%d] too", s.Name, other)
		} else {
			first[s.Name] = i
		}
		_, err := s.zone()
		k.want(err == nil, at+".timezone", "%v", err)
		k.timetable(at+".cron", s.Cron)
		k.oneOf(at+".type", s.Type, string(catalog.Full))
		k.oneOf(at+".source", string(s.Source), string(cluster.FromLeader), string(cluster.PreferReplica), string(cluster.FromReplica))
		k.within(at+".attempts", Size(s.Attempts), 1, 100)
	}
	if len(all) > 0 && k.Retention.Schedule == "" {
		k.warn("backups are taken on schedule and nothing is ever removed: say when in retention.schedule, for example \"@every 1h\"")
	}
}

func (k *checker) timetable(at, expression string) {
	if expression == "" {
		k.bad(at, "not given; for example \"0 2 * * *\" or \"@every 6h\"")
	} else if _, err := scheduler.Parse(expression, time.UTC); err != nil {
		k.bad(at, "%v", err)
	}
}

func (k *checker) retention(r Retention) {
	counts := []struct {
		key   string
		value int
		least Size
	}{{"keep", r.Keep, 0}, {"daily", r.Daily, 0}, {"weekly", r.Weekly, 0}, {"monthly", r.Monthly, 0}, {"yearly", r.Yearly, 0},
		{"minimum", r.Minimum, 1}, {"wal_full", r.WALFull, 0}}
	for _, c := range counts {
		k.within("retention."+c.key, Size(c.value), c.least, 100_000)
	}
	k.want(cmp.Or(r.Keep, r.Daily, r.Weekly, r.Monthly, r.Yearly) != 0 || r.Window != 0, "retention",
		"keeps nothing but the minimum; give keep, window, or some of daily, weekly, monthly and yearly")
	k.want(r.Garbage > k.Backup.WALTimeout, "retention.garbage", "%s is not more than backup.wal_timeout, %s: a backup that waits for its WAL would be taken for garbage",
		durationText(r.Garbage), durationText(k.Backup.WALTimeout))
	k.want(r.Garbage >= time.Hour || r.Garbage <= k.Backup.WALTimeout, "retention.garbage", "%s: want at least 1h, a run may be under way", durationText(r.Garbage))
	if r.Schedule != "" {
		k.timetable("retention.schedule", r.Schedule)
	}
}

// maxSocket is the kernel's bound on the path of a unix socket.
const maxSocket = 107

func (k *checker) daemon(d Daemon) {
	if d.Listen != "" {
		_, port, err := net.SplitHostPort(d.Listen)
		_, notNumber := strconv.ParseUint(port, 10, 16)
		k.want(err == nil && notNumber == nil, "daemon.listen", "%q: want host:port, for example 127.0.0.1:8018", d.Listen)
	}
	k.absolute("daemon.socket", d.Socket)
	k.want(len(d.Socket) <= maxSocket, "daemon.socket", "%d bytes, a socket's path has at most %d", len(d.Socket), maxSocket)
	k.absolute("daemon.cert_file", d.CertFile)
	k.absolute("daemon.key_file", d.KeyFile)
	k.want((d.CertFile == "") == (d.KeyFile == ""), "daemon", "cert_file and key_file go together")
}
