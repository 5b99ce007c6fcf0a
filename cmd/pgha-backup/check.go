package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/storage/probe"
	"github.com/pgha-backup/pgha-backup/storage/retry"
	"github.com/pgha-backup/pgha-backup/wal"
)

// verdict is how a check ended.
type verdict string

const (
	fine   verdict = "ok"
	unwise verdict = "warning"
	wrong  verdict = "FAILED"
)

// finding is one line of check.
type finding struct {
	Name   string  `json:"name"`
	State  verdict `json:"state"`
	Detail string  `json:"detail"`
	Hint   string  `json:"hint,omitempty"`
}

// checklist gathers findings and the exit code of the worst.
type checklist struct {
	findings []finding
	failed   int
	code     int
}

func (k *checklist) say(name string, state verdict, hint, format string, args ...any) {
	k.findings = append(k.findings, finding{name, state, fmt.Sprintf(format, args...), hint})
	if state == wrong {
		k.failed++
		k.code = cmp.Or(k.code, exitDegraded)
	}
}

// good is a finding that all is well.
func (k *checklist) good(name, format string, args ...any) { k.say(name, fine, "", format, args...) }

// trouble is a check that could not be made: its exit code outweighs a mere finding.
func (k *checklist) trouble(name string, err error) {
	k.say(name, wrong, hintOf(err), "%v", err)
	if code := exitCode(err); code != exitError && k.code == exitDegraded {
		k.code = code
	}
}

func newCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Try everything that backups and recovery need, and say what to do about it", Args: exactly(),
		Long: "Reads the configuration, tries what the repository's store can do (it writes below probe/ and removes that again),\n" +
			"asks etcd, Patroni and PostgreSQL, and looks at directories and clocks. On the leader it switches a WAL segment and\n" +
			"waits until that is archived; on every member it runs the server's own archive and restore commands. Exits 8 if\n" +
			"something could not be reached, 3 if it refused us, 10 if something must be changed.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.check(cmd.Context()) },
	}
}

func (a *app) check(ctx context.Context) error {
	k, c := &checklist{}, a.config
	k.good("configuration", "%s", c.File)
	for _, warning := range c.Warnings {
		k.say("configuration", unwise, "", "%s", warning)
	}
	checkDirectories(k, c, a.uid)
	a.checkStore(ctx, k, c)
	a.checkPatroni(ctx, k, c)
	a.checkServer(ctx, k, c)
	if err := ctx.Err(); err != nil {
		return err
	}
	document := struct {
		OK     bool      `json:"ok"`
		Checks []finding `json:"checks"`
	}{k.failed == 0, k.findings}
	err := a.print(document, func() (err error) {
		for _, f := range k.findings {
			_, err = fmt.Fprintf(a.stdout, "%-7s  %s: %s\n", f.State, f.Name, printable(strings.Join(strings.Fields(f.Detail), " ")))
			if f.Hint != "" {
				fmt.Fprintf(a.stdout, "         %s\n", printable(f.Hint))
			}
		}
		return err
	})
	if err == nil && k.failed > 0 {
		err = fail(k.code, "", "%s failed", plural(k.failed, "check"))
	}
	return err
}

func checkDirectories(k *checklist, c config.Config, uid int) {
	if dir := c.Cluster.DataDir; dir != "" {
		var stat syscall.Stat_t
		err := syscall.Stat(dir, &stat)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			k.say("data directory", unwise, "on a database host, set cluster.data_dir", "%s is not here", dir)
		case err != nil:
			k.say("data directory", wrong, "", "%s: %v", dir, err)
		case int(stat.Uid) != uid:
			k.say("data directory", wrong, "run pgha-backup as its owner", "%s belongs to uid %d, we are uid %d", dir, stat.Uid, uid)
		default:
			k.good("data directory", "%s", dir)
		}
	}
	dir := c.Cluster.StateDir // always set: derived from the scope
	if err := writable(dir); err != nil {
		k.say("state directory", wrong, "install -d -m 0700 -o postgres -g postgres "+dir, "%v", err)
	} else {
		k.good("state directory", "%s", dir)
	}
	if dir := c.Cluster.BinDir; dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "postgres")); err != nil {
			k.say("PostgreSQL programs", unwise, "set cluster.bin_dir", "%v", err)
		}
	}
	if c.Repository().Codec == "s2" {
		k.say("codec", unwise, "use zstd where a restore without pgha-backup must be possible", "s2 is fast, but no distribution ships a tool that reads it")
	}
}

// writable makes the directory if it can and writes into it.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".check-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func (a *app) checkStore(ctx context.Context, k *checklist, c config.Config) {
	r := c.Repository()
	name := "repository " + r.Name
	absent := "absent-" + strings.ToLower(rand.Text())
	driver, err := a.store()
	var missing storage.Bucket = file.New(filepath.Join(r.File.Path, "..", "."+absent))
	if err == nil && r.Type == config.TypeS3 {
		missing, err = a.bucketNamed(absent)
	}
	if err != nil {
		k.trouble(name, err)
		return
	}
	patient := retry.New(driver, retry.Options{GiveUp: 20 * time.Second, Log: a.log})
	report, err := probe.Probe(ctx, patient, missing)
	for _, f := range report.Findings {
		state := fine
		if !f.OK {
			state = wrong
			if r.ConditionalWrites == config.Emulate && strings.HasPrefix(f.Name, "conditional ") {
				state = unwise
			}
		}
		k.say(f.Name, state, f.Hint, "%s", f.Detail)
	}
	if err != nil {
		k.trouble(name, err)
		return
	}
	if r.ConditionalWrites == config.Emulate {
		hint := ""
		if report.ConditionalWrites {
			hint = "this store can do create-once writes: set conditional_writes: required"
		}
		k.say("conditional writes", unwise, hint, "emulated: two writers at the same moment may both believe they won")
	}
	a.checkClock(ctx, k, patient)
}

// skewAllowed is far below the 15 minutes after which S3 refuses a request.
const skewAllowed = 5 * time.Second

// checkClock compares ours with the store's by an object written now.
func (a *app) checkClock(ctx context.Context, k *checklist, bucket storage.Bucket) {
	key := storage.Key("probe/clock-" + strings.ToLower(rand.Text()))
	before := a.now()
	err := bucket.Put(ctx, key, []byte("clock"), storage.PutOptions{})
	var object storage.Object
	if err == nil {
		object, err = bucket.Head(ctx, key)
	}
	after := a.now()
	if err = errors.Join(err, bucket.Delete(context.WithoutCancel(ctx), key)); err != nil {
		k.trouble("clock", err)
		return
	}
	if skew := max(before.Add(-time.Second).Sub(object.Modified), object.Modified.Sub(after)); skew > skewAllowed {
		k.say("clock", wrong, "run a time service on this host and on the store", "the store's clock and ours are %s apart", skew.Round(time.Second))
	} else {
		k.good("clock", "the store's and ours agree")
	}
}

func (a *app) checkPatroni(ctx context.Context, k *checklist, c config.Config) {
	if !a.hasPatroni() {
		k.say("Patroni", unwise, "set patroni.config", "the configuration says nothing of Patroni: backups are taken wherever they are started")
		return
	}
	t, err := a.topology(ctx)
	switch {
	case err != nil:
		k.trouble("Patroni", err)
	case t.Leader == "":
		k.say("Patroni", wrong, "look at patronictl list", "%s has %s and no leader", t.Scope, plural(len(t.Members), "member"))
	default:
		k.good("Patroni", "%s leads %s of %s", t.Leader, t.Scope, plural(len(t.Members), "member"))
	}
	for _, m := range t.Members {
		if m.PendingRestart {
			k.say("pending restart", unwise, "patronictl restart "+t.Scope+" --pending", "settings of %s wait for a restart", m.Name)
		}
	}
	if leader, ok := t.Member(t.Leader); err == nil && ok && !a.prePromotes(ctx, leader.APIURL) {
		k.say("pre_promote", unwise, "pgha-backup patroni setup --apply sets it",
			"Patroni does not run patroni pre-promote: what a dead leader did not archive is left to the daemons alone")
	}
	if _, ok := t.Member(c.Cluster.Member); err == nil && c.Cluster.Member != "" && !ok {
		k.say("member", wrong, "set cluster.member to this host's name in patronictl list", "%s is not a member of %s", c.Cluster.Member, t.Scope)
	}
	if local, err := wal.ReadControl(c.Cluster.DataDir); err == nil && t.SystemIdentifier != 0 && local.System != t.SystemIdentifier {
		k.say("system identifier", wrong, "is this data directory a copy of another cluster?", "pg_control says %s, Patroni %s", local.System, t.SystemIdentifier)
	}
}

// prePromotes tells whether this member's Patroni runs our hook, by its own file or by
// the dynamic configuration; what cannot be asked is no finding.
func (a *app) prePromotes(ctx context.Context, api string) bool {
	if strings.Contains(a.config.Patroni.PrePromote, prePromote) {
		return true
	}
	observer, err := patroni.New(patroniOptions(a.config, a.log))
	if err != nil {
		return true
	}
	defer observer.Close()
	now, err := observer.DynamicConfig(ctx, api)
	section, _ := now["postgresql"].(map[string]any)
	command, _ := section["pre_promote"].(string)
	return err != nil || strings.Contains(command, prePromote)
}

func (a *app) checkServer(ctx context.Context, k *checklist, c config.Config) {
	if c.Cluster.DSN.IsZero() {
		k.say("PostgreSQL", unwise, "set patroni.config or cluster.dsn", "no connection to the local server is configured")
		return
	}
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := server.Connect(short, c.Cluster.DSN.Reveal())
	var facts server.Facts
	var archiver server.Archiver
	if err == nil {
		defer s.Close()
		facts, err = s.Facts(short)
	}
	if err == nil {
		archiver, err = s.Archiver(short)
	}
	if err != nil {
		k.say("PostgreSQL", wrong, hintOf(err), "%v", err)
		return
	}
	judgeServer(k, facts, archiver)
	a.checkWay(ctx, k, s, facts)
}

// judgeServer looks at what the server itself says is in effect.
func judgeServer(k *checklist, f server.Facts, archiver server.Archiver) {
	if !f.Version.Supported() {
		k.say("PostgreSQL", wrong, "", "version %s is not one of %d to %d", f.Version, postgres.OldestMajor, postgres.NewestMajor)
	} else {
		k.good("PostgreSQL", "version %s, system identifier %s", f.Version, f.System)
	}
	switch f.ArchiveMode {
	case "off":
		k.say("archive_mode", wrong, "patronictl edit-config: postgresql.parameters.archive_mode: \"on\", then patronictl restart", "off: nothing is archived")
	case "always":
		k.say("archive_mode", unwise, "on is enough", "always: standbys archive too")
	default:
		k.good("archive_mode", "%s", f.ArchiveMode)
	}
	switch {
	case f.ArchiveLibrary != "":
		k.say("archive_command", wrong, "set archive_library to ''", "archive_library %s is used instead", f.ArchiveLibrary)
	case f.ArchiveCommand == "":
		k.say("archive_command", wrong, "pgha-backup patroni setup says what it must be, --apply sets it", "empty: WAL piles up and is not archived")
	case !strings.Contains(f.ArchiveCommand, "archive-push"):
		k.say("archive_command", wrong, "pgha-backup patroni setup says what it must be, --apply sets it", "it is not ours: %s", f.ArchiveCommand)
	default:
		k.good("archive_command", "%s", f.ArchiveCommand)
	}
	switch {
	case archiver.Failing():
		k.say("archiver", wrong, "look for archive-push in the server's log", "fails: %s at %sZ, %s wait", archiver.LastFailed, clock(archiver.FailedAt), plural(archiver.Backlog, "file"))
	case !f.InRecovery && archiver.LastArchived == "":
		k.say("archiver", unwise, "SELECT pg_switch_wal() makes it archive one now", "has archived nothing yet")
	case !f.InRecovery:
		k.good("archiver", "archived %s at %sZ, %s wait", archiver.LastArchived, clock(archiver.ArchivedAt), plural(archiver.Backlog, "file"))
	}
}

// checkWay proves the way into the archive and back.
func (a *app) checkWay(ctx context.Context, k *checklist, s *server.Server, f server.Facts) {
	ours := f.ArchiveLibrary == "" && strings.Contains(f.ArchiveCommand, "archive-push")
	if !ours || !f.InRecovery && !f.Archives() {
		return // said already; another tool's command is not ours to run
	}
	repository, err := a.repository(f.System)
	way := wal.Way{Server: s, Facts: f, Repository: repository, State: a.config.Cluster.StateDir}
	var segment postgres.Segment
	if err == nil {
		segment, err = way.Into(ctx)
	}
	switch {
	case err != nil:
		k.trouble("way into the archive", err)
		return
	case f.RestoreCommand != "":
		err = way.Back(ctx, segment)
	case f.InRecovery:
		k.say("restore_command", unwise, "pgha-backup patroni setup --apply sets it", "empty: a standby that falls behind its leader's WAL cannot catch up")
	}
	k.good("way into the archive", "%s went through", segment)
	if err != nil {
		k.trouble("restore_command", err)
	} else if f.RestoreCommand != "" {
		k.good("restore_command", "%s came back", segment)
	}
}
