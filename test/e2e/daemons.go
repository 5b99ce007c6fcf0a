package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/daemon"
	"github.com/pgha-backup/pgha-backup/test/lab"
)

// often is a schedule that a test can wait for.
const often = `schedules:
  - {name: often, cron: "@every 20s", source: prefer-replica, replica_wait: 8s, attempts: 50, retry_delay: 1s, timeout: 90s}
retention: {keep: 1000}
daemon: {listen: "{host}:8018"}
`

// daemons are one daemon beside each member.
type daemons struct {
	*world
	period  time.Duration
	running map[string]*lab.Process
}

func (w *world) daemons(period time.Duration) *daemons {
	w.Helper()
	d := &daemons{world: w, period: period, running: map[string]*lab.Process{}}
	for _, m := range w.cluster.Members {
		d.running[m.Name] = m.Run().Start(m.User, "daemon-"+m.Name, nil, w.binary, "--config", m.Run().Path("pgha-"+m.Name+".yaml"), "daemon")
	}
	for _, m := range w.cluster.Members {
		lab.Poll(w, 30*time.Second, "the daemon of "+m.Name+" to be ready", func() error { _, err := d.get(m, "/health/ready"); return err })
	}
	return d
}

// get asks a daemon over HTTP.
func (d *daemons) get(m *lab.Member, what string) ([]byte, error) {
	client := http.Client{Timeout: 5 * time.Second}
	answer, err := client.Get("http://" + m.Host + ":8018" + what)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, body)
	}
	return body, err
}

func (d *daemons) status(m *lab.Member) (s daemon.Status, err error) {
	body, err := d.get(m, "/status")
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

// until polls the status of one daemon.
func (d *daemons) until(m *lab.Member, limit time.Duration, what string, right func(daemon.Status) bool) (s daemon.Status) {
	d.Helper()
	lab.Poll(d, limit, what, func() (err error) {
		if s, err = d.status(m); err == nil && !right(s) {
			text, _ := json.Marshal(s)
			err = fmt.Errorf("it says %s", text)
		}
		return err
	})
	return s
}

// manifests are the names of the committed backups, read from the store itself.
func (d *daemons) manifests() (ids []catalog.BackupID) {
	d.Helper()
	for key := range d.s3.Keys() {
		if path.Base(key) == "manifest.json" {
			ids = append(ids, catalog.BackupID(path.Base(path.Dir(key))))
		}
	}
	slices.Sort(ids)
	return ids
}

// more waits until n more backups are committed than now.
func (d *daemons) more(n int, limit time.Duration) {
	d.Helper()
	want := len(d.manifests()) + n
	lab.Poll(d, limit, fmt.Sprintf("%d more scheduled backups", n), func() error {
		if got := len(d.manifests()); got < want {
			return fmt.Errorf("there are %d of %d", got, want)
		}
		return nil
	})
}

// onTimeline waits for a scheduled backup that began on a timeline.
func (d *daemons) onTimeline(m *lab.Member, tli uint32, limit time.Duration) (found listedBackup) {
	d.Helper()
	lab.Poll(d, limit, fmt.Sprintf("a backup on timeline %d", tli), func() error {
		for _, b := range d.list(m) {
			if b.Timeline == tli {
				found = b
				return nil
			}
		}
		return errNotYet
	})
	return found
}

type listedBackup struct {
	ID       catalog.BackupID
	State    string
	Member   string
	Role     string
	Timeline uint32
}

func (d *daemons) list(m *lab.Member) []listedBackup {
	d.Helper()
	var answer struct{ Backups []listedBackup }
	if err := json.Unmarshal([]byte(d.must(m, "list", "--format", "json").stdout), &answer); err != nil {
		d.Fatal(err)
	}
	return answer.Backups
}

// eachTimeOnce wants every scheduled time of a span taken, or reported as missed; the
// store cannot hold it twice. It returns how many were missed.
func (d *daemons) eachTimeOnce(from, to time.Time) (taken, missed int) {
	d.Helper()
	lab.Poll(d, 90*time.Second, "every scheduled time to be taken or reported", func() error {
		taken, missed = 0, 0
		keys := d.s3.Keys()
		done := d.manifests()
		var silent []error
		for at := from.Truncate(d.period).Add(d.period); at.Before(to); at = at.Add(d.period) {
			id := catalog.ScheduledID(at, "often")
			reported := slices.ContainsFunc(slices.Collect(maps.Keys(keys)), func(key string) bool { return strings.HasSuffix(key, "report/missed/"+string(id)) })
			switch {
			case slices.Contains(done, id):
				taken++
			case reported:
				missed++
			default:
				silent = append(silent, fmt.Errorf("%s was neither taken nor reported", id))
			}
		}
		return errors.Join(silent...)
	})
	return taken, missed
}

// stop ends all daemons by SIGTERM; a clean end exits 0.
func (d *daemons) stop() {
	d.Helper()
	for name, p := range d.running {
		began := time.Now()
		if err := p.Stop(syscall.SIGTERM, 25*time.Second); err != nil {
			d.Errorf("the daemon of %s: %v", name, err)
		}
		log, err := os.ReadFile(p.Log)
		if err != nil || !strings.Contains(string(log[max(0, len(log)-500):]), "event=daemon.stopped") {
			d.Errorf("the daemon of %s did not end cleanly within %s: %v", name, time.Since(began), err)
		}
	}
}

// residentMiB is the most memory that a daemon ever had.
func (d *daemons) residentMiB(m *lab.Member) float64 {
	d.Helper()
	body, err := d.get(m, "/metrics")
	if err != nil {
		d.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, "process_resident_memory_bytes "); ok {
			var bytes float64
			_, _ = fmt.Sscan(value, &bytes)
			return bytes / (1 << 20)
		}
	}
	d.Fatalf("the daemon of %s does not say how large it is", m.Name)
	return 0
}
