package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/restore"
)

// restoreFlags are the flags of restore that are not its target's.
type restoreFlags struct {
	system, backup, pgdata, archiveMode  string
	mapping                              []string
	start, plan, force, yes, verifyFiles bool
}

func newRestoreCommand(a *app) *cobra.Command {
	var target targetFlags
	var f restoreFlags
	cmd := &cobra.Command{
		Use:   "restore --pgdata <directory>",
		Short: "Bring the cluster back to a point in time, into one directory",
		Long: "Writes a copy of the cluster that recovers to a time, an LSN, a transaction, a restore point, the end of a\n" +
			"backup or, without a target, the end of the archive. The target is proved reachable before the first byte is\n" +
			"written. The copy does not archive (archive_mode = off) unless told so.",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.restore(cmd.Context(), target, f) },
	}
	flags := cmd.Flags()
	target.add(cmd)
	f.addSource(cmd)
	flags.StringVar(&f.pgdata, "pgdata", "", "directory to restore into; --plan does without")
	flags.StringVar(&f.archiveMode, "archive-mode", "off", "off or preserve: what becomes of the copy's archive_mode")
	flags.BoolVar(&f.start, "start", false, "start the copy on a private socket, wait, and prove where recovery stopped")
	flags.BoolVar(&f.plan, "plan", false, "print what would be done and change nothing")
	flags.BoolVar(&f.verifyFiles, "verify-files", false, "have pg_verifybackup read every file again at the end")
	flags.BoolVar(&f.force, "force", false, "give up the stopped cluster in --pgdata and its listed tablespaces")
	flags.BoolVar(&f.yes, "yes", false, "do not ask before a cluster is given up")
	return cmd
}

// addSource adds the flags that say what is restored.
func (f *restoreFlags) addSource(cmd *cobra.Command) {
	systemFlag(cmd, &f.system)
	flags := cmd.Flags()
	flags.StringVar(&f.backup, "backup", "", "restore from this backup; default: the newest that reaches the target")
	flags.StringArrayVar(&f.mapping, "tablespace-mapping", nil, "OLD=NEW: where a tablespace goes; may be repeated; write \\= for a = in a path")
}

// restored is what restore prints in the end.
type restored struct {
	Backup    catalog.BackupID `json:"backup"`
	Target    string           `json:"target"`
	PGDATA    string           `json:"pgdata"`
	Archive   string           `json:"archive_mode"`
	Seconds   float64          `json:"seconds"`
	Bytes     int64            `json:"bytes"`
	Stop      restore.Stop     `json:"stop"`
	Recovered *restore.Outcome `json:"recovered,omitempty"` // with --start
	Connect   string           `json:"connect,omitempty"`
	End       string           `json:"stop_command,omitempty"`
	Log       string           `json:"log,omitempty"`
}

func (a *app) restore(ctx context.Context, target targetFlags, f restoreFlags) error {
	request, err := f.request(target, a.now())
	if err != nil {
		return err
	}
	repository, plan, err := a.planned(ctx, f.system, request)
	if err != nil {
		return err
	}
	var ground restore.Ground
	if f.pgdata != "" {
		if ground, err = restore.Check(plan, f.pgdata, f.force); err != nil {
			return err
		}
	}
	if f.plan {
		return a.printPlan(plan, ground)
	}
	a.announce(plan, f)
	bin, err := restore.FindBinDir(ctx, plan.Backup.Version.Major(), a.config.Cluster.BinDir)
	if err != nil {
		if f.start {
			return err
		}
		a.log.Warn("pg_verifybackup will not judge the copy", "why", err)
	}
	if ground.State == restore.Replaced && !f.yes {
		if err := a.confirmReplace(ground); err != nil {
			return err
		}
	}
	command, err := a.restoreCommand()
	if err != nil {
		return err
	}
	defer repository.HoldForRestore(ctx, plan.Backup.ID, a.whoami(), a.log)()
	began := time.Now()
	progress := newShow(a.stderr)
	err = restore.Execute(ctx, repository, plan, ground, restore.Options{RestoreCommand: command, ArchiveMode: restore.ArchiveMode(f.archiveMode),
		BinDir: bin, VerifyFiles: f.verifyFiles, Now: a.now(), Progress: progress.copied, Log: a.log})
	progress.end()
	if err != nil {
		return err
	}
	result := restored{Backup: plan.Backup.ID, Target: plan.Target.String(), PGDATA: f.pgdata, Archive: f.archiveMode,
		Seconds: time.Since(began).Seconds(), Bytes: plan.Backup.Bytes, Stop: plan.Stop}
	if f.start {
		if err := a.startCopy(ctx, plan, f, bin, &result); err != nil {
			return err
		}
	}
	return a.printRestored(result)
}

// request is what the flags ask for.
func (f restoreFlags) request(target targetFlags, now time.Time) (restore.Request, error) {
	r := restore.Request{Backup: catalog.BackupID(f.backup), Mapping: map[string]string{}}
	var err error
	if r.Target, err = target.target(now); err != nil {
		return r, err
	}
	if f.backup != "" {
		if _, err := catalog.ParseBackupID(f.backup); err != nil {
			return r, usage("--backup: %w", err)
		}
	}
	if f.pgdata == "" && !f.plan {
		return r, usage("--pgdata is missing: the directory to restore into")
	}
	if f.pgdata != "" && (!filepath.IsAbs(f.pgdata) || filepath.Clean(f.pgdata) != f.pgdata) {
		return r, usage("--pgdata %q: want a clean absolute path", f.pgdata)
	}
	if m := restore.ArchiveMode(f.archiveMode); m != restore.ArchiveOff && m != restore.ArchivePreserve {
		return r, usage("--archive-mode %q: want off or preserve", f.archiveMode)
	}
	for _, m := range f.mapping {
		from, to, ok := cutMapping(m)
		if !ok || !filepath.IsAbs(from) || !filepath.IsAbs(to) {
			return r, usage("--tablespace-mapping %q: want OLD=NEW, both absolute paths", m)
		}
		if _, twice := r.Mapping[from]; twice {
			return r, usage("--tablespace-mapping: %s is mapped twice", from)
		}
		r.Mapping[from] = filepath.Clean(to)
	}
	return r, nil
}

// cutMapping cuts at the first '=' that has no backslash before it, as pg_basebackup does.
func cutMapping(m string) (from, to string, ok bool) {
	for i := range len(m) {
		if m[i] == '=' && (i == 0 || m[i-1] != '\\') {
			plain := strings.NewReplacer(`\=`, "=")
			return plain.Replace(m[:i]), plain.Replace(m[i+1:]), true
		}
	}
	return m, "", false
}

// planned decides from what the repository of a system holds how to do what is asked for.
func (a *app) planned(ctx context.Context, system string, request restore.Request) (*catalog.Repository, restore.Plan, error) {
	repository, err := a.chosen(ctx, system)
	if err != nil {
		return nil, restore.Plan{}, err
	}
	facts, err := restore.Gather(ctx, repository)
	if err != nil {
		return nil, restore.Plan{}, err
	}
	plan, err := restore.NewPlan(ctx, facts, request)
	return repository, plan, err
}

// announce says beforehand what a person should know.
func (a *app) announce(plan restore.Plan, f restoreFlags) {
	log := a.log
	log.Info("restore", "target", plan.Target.String(), "backup", plan.Backup.ID, "timeline", uint32(plan.Timeline), "stops", plan.Stop.What)
	a.warn(plan.Notes)
	if f.archiveMode == "off" {
		log.Warn("the copy will NOT archive, nor take part in logical replication: archive_mode = off and max_logical_replication_workers = 0 are set in its " +
			"postgresql.auto.conf, so that it cannot write into the archive of " + plan.Backup.Scope +
			" or take over its subscriptions; to let it live on, ALTER SYSTEM RESET both and restart")
	}
}

// confirmReplace asks before the stopped cluster in the directory is given up.
func (a *app) confirmReplace(ground restore.Ground) error {
	what := fmt.Sprintf("the stopped cluster %s in %s will be REPLACED", a.config.Cluster.Scope, ground.PGDATA)
	if len(ground.Cleared) > 0 {
		what += ", with its tablespaces " + strings.Join(ground.Cleared, ", ")
	}
	if ground.WAL != "" {
		what += ", with its WAL in " + ground.WAL
	}
	return a.confirm(what)
}

// confirm says what will be destroyed and asks a person for the cluster's name.
func (a *app) confirm(what string) error {
	host, _ := os.Hostname()
	fmt.Fprintf(a.stderr, "On %s, %s.\nType the cluster's name to go on: ", host, what)
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if strings.TrimSpace(line) != a.config.Cluster.Scope {
		return fail(exitPreflight, "type the name as it is shown, or pass --yes", "not confirmed: nothing was changed")
	}
	return nil
}

// restoreCommand fetches WAL as this program with this configuration, whoever calls it.
func (a *app) restoreCommand() ([]string, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config, err := filepath.Abs(a.path)
	return []string{program, "--config", config, "archive-get", "%f", "%p"}, err
}

func (a *app) startCopy(ctx context.Context, plan restore.Plan, f restoreFlags, bin string, result *restored) error {
	progress := newShow(a.stderr)
	copied, err := restore.Start(ctx, plan, f.pgdata, restore.StartOptions{BinDir: bin, ArchiveMode: restore.ArchiveMode(f.archiveMode),
		Progress: func(lsn postgres.LSN) { progress.replayed(lsn, plan.Stop.LSN) }, Log: a.log})
	if err != nil {
		return err
	}
	seen, err := copied.Recover(ctx)
	progress.end()
	if err != nil {
		return err
	}
	result.Recovered, result.Log = &seen, copied.LogFile
	if seen.Action != restore.Shutdown {
		result.Connect, result.End = copied.Connect(), copied.StopCommand()
	}
	return nil
}

func (a *app) printPlan(plan restore.Plan, ground restore.Ground) error {
	document := struct {
		restore.Plan
		Ground restore.Ground `json:"ground"`
	}{plan, ground}
	return a.print(document, func() error {
		var lines lines
		lines.add("Target", "%s", plan.Target)
		lines.add("Backup", "%s (ended %s)", plan.Backup.ID, plan.Backup.StopTime.UTC().Format(time.RFC3339))
		lines.add("Timeline", "%d", uint32(plan.Timeline))
		lines.add("Recovery stops", "%s", plan.Stop.What)
		lines.add("Position", "%s on timeline %d", plan.Stop.LSN, uint32(plan.Stop.Timeline))
		lines.add("WAL", "%s, all present", plural(len(plan.WAL), "segment"))
		for _, t := range plan.Tablespaces {
			lines.add(fmt.Sprintf("Tablespace %d", t.OID), "%s -> %s", t.From, t.To)
		}
		if ground.PGDATA != "" {
			lines.add("Directory", "%s (%s)", ground.PGDATA, ground.State)
			if ground.WAL != "" {
				lines.add("WAL directory", "%s, where pg_wal leads", ground.WAL)
			}
		}
		for _, note := range plan.Notes {
			lines.add("Note", "%s", note)
		}
		return lines.print(a.stdout)
	})
}

func (a *app) printRestored(r restored) error {
	return a.print(r, func() error {
		var lines lines
		lines.add("Restored", "%s into %s: %d MiB in %.1f s", r.Backup, r.PGDATA, r.Bytes>>20, r.Seconds)
		lines.add("archive_mode", "%s", r.Archive)
		if r.Recovered == nil {
			lines.add("Will stop", "%s (%s on timeline %d)", r.Stop.What, r.Stop.LSN, uint32(r.Stop.Timeline))
			return lines.print(a.stdout)
		}
		lines.add("Recovery stopped", "at %s on timeline %d, proved (%s)", r.Recovered.LSN, uint32(r.Recovered.Timeline), r.Stop.What)
		if !r.Recovered.LastCommit.IsZero() {
			lines.add("Last commit", "%s", r.Recovered.LastCommit.Format(time.RFC3339Nano))
		}
		if r.Recovered.NewTimeline != 0 {
			lines.add("New timeline", "%d", uint32(r.Recovered.NewTimeline))
		}
		if r.Connect != "" {
			lines.add("Connect", "%s", r.Connect)
			lines.add("Stop it", "%s", r.End)
		}
		lines.add("Log", "%s", r.Log)
		return lines.print(a.stdout)
	})
}
