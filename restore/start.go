package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pgha-backup/pgha-backup/internal/atomicfile"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/postgres/server"
)

// Files that Start leaves in PGDATA.
const (
	LogFile = "pgha.restore.log"
	hbaFile = "pgha.restore.hba"
)

// port of the copy: a part of its socket's name.
const port = "5432"

// StartOptions say how the restored copy is started.
type StartOptions struct {
	BinDir      string // of PostgreSQL's programs, as FindBinDir gives it
	ArchiveMode ArchiveMode
	// Progress is told the position replayed, every now and then.
	Progress func(postgres.LSN)
	Log      *slog.Logger
}

// Copy is a restored cluster that runs on a socket of its own.
type Copy struct {
	PGDATA    string `json:"pgdata"`
	SocketDir string `json:"socket_dir"`
	LogFile   string `json:"log_file"`

	plan    Plan
	options StartOptions
	process *os.Process
	ended   chan struct{} // closed when the postmaster has ended
}

// Start starts the copy on a private Unix socket, without TCP and without anything
// of the configuration that could belong to a neighbour (R26). The server outlives
// this process.
func Start(ctx context.Context, plan Plan, pgdata string, o StartOptions) (*Copy, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Copy{PGDATA: pgdata, LogFile: filepath.Join(pgdata, LogFile), plan: plan, options: o, ended: make(chan struct{})}
	var err error
	if c.SocketDir, err = socketDir(pgdata); err != nil {
		return nil, err
	}
	// Nobody but us reaches the socket: its directory is ours alone.
	hba := filepath.Join(pgdata, hbaFile)
	if err := atomicfile.Write(hba, []byte("local all all trust\n"), 0o600); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// Not CommandContext: the server is to outlive us, and is stopped by its own rules.
	cmd := exec.Command(filepath.Join(o.BinDir, "postgres"), "-D", pgdata)
	for _, s := range c.overrides(hba) {
		cmd.Args = append(cmd.Args, "-c", s.name+"="+s.value)
	}
	cmd.Dir, cmd.Env = pgdata, []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the copy: %w", err)
	}
	c.process = cmd.Process
	go func() {
		_ = cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// overrides come on the command line, above every file.
func (c *Copy) overrides(hba string) []setting {
	list := []setting{
		{"data_directory", c.PGDATA},
		{"listen_addresses", ""},
		{"port", port},
		{"unix_socket_directories", `"` + strings.ReplaceAll(c.SocketDir, `"`, `""`) + `"`},
		{"unix_socket_permissions", "0700"},
		{"hba_file", hba},
		{"ident_file", filepath.Join(c.PGDATA, "pg_ident.conf")},
		{"external_pid_file", ""},
		{"logging_collector", "off"},
		{"log_destination", "stderr"},
		{"log_directory", "log"},
		{"log_min_messages", "warning"},
		{"lc_messages", "C"},
		{"synchronous_standby_names", ""},
		{"max_logical_replication_workers", "0"},
		{"ssl", "off"},
		{"hot_standby", "on"},
	}
	if c.options.ArchiveMode == ArchiveOff {
		list = append(list, setting{"archive_mode", "off"})
	}
	if c.plan.Effective.Action == Shutdown {
		// A server that shuts itself down cannot be asked how far it came: it pauses,
		// is asked, and is then shut down by us.
		list = append(list, setting{"recovery_target_action", "pause"})
	}
	return list
}

// socketDir is PGDATA itself, which is ours alone, or where its path is too long
// for a socket a new directory of ours.
func socketDir(pgdata string) (string, error) {
	const longest = 107 // of a Unix socket's path
	if len(pgdata+"/.s.PGSQL."+port) <= longest && !strings.ContainsAny(pgdata, ",\n") {
		return pgdata, nil
	}
	return os.MkdirTemp("", "pgha-restore-")
}

// Recover waits until recovery has ended at its target, as fast as the WAL is
// replayed, and proves that it stopped where the plan says. After a failure the
// server is stopped.
func (c *Copy) Recover(ctx context.Context) (Outcome, error) {
	seen, err := c.wait(ctx)
	if err == nil {
		err = Prove(c.plan, seen)
	}
	switch {
	case err != nil:
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, c.Stop(ctx))
	case c.plan.Effective.Action == Shutdown:
		err = c.shutDown(ctx)
	}
	return seen, err
}

func (c *Copy) wait(ctx context.Context) (Outcome, error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var session *server.Server
	defer func() {
		if session != nil {
			session.Close()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return Outcome{}, fmt.Errorf("wait for the recovery: %w", ctx.Err())
		case <-c.ended:
			return Outcome{}, &VerificationError{Problem: "the server ended during recovery: " + c.lastWords(),
				Advice: "the whole log is " + c.LogFile}
		case <-tick.C:
		}
		if session == nil {
			if session = c.connect(ctx); session == nil {
				continue
			}
		}
		r, err := session.Recovery(ctx)
		if err != nil {
			c.options.Log.Debug("ask the copy", "err", err)
			session.Close()
			session = nil
			continue
		}
		if c.options.Progress != nil && r.Replayed != 0 {
			c.options.Progress(r.Replayed)
		}
		switch {
		case !r.InRecovery:
			return c.promoted(r)
		case r.Paused:
			return c.paused(r), nil
		}
	}
}

// paused is recovery at its target; or at a record that the settings cannot replay,
// which Prove tells apart by the position.
func (c *Copy) paused(r server.Recovery) Outcome {
	seen := Outcome{Action: Pause, LSN: r.Replayed, Timeline: c.plan.History.TimelineAt(max(r.Replayed, 1) - 1), LastCommit: r.LastCommit}
	if c.plan.Effective.Action == Shutdown {
		seen.Action = Shutdown
	}
	return seen
}

// promoted reads from the new timeline's history where the old one was left.
func (c *Copy) promoted(r server.Recovery) (Outcome, error) {
	seen := Outcome{Action: Promote, LSN: r.Replayed, NewTimeline: r.Timeline, LastCommit: r.LastCommit}
	file := postgres.HistoryFile(r.Timeline).String()
	data, err := os.ReadFile(filepath.Join(c.PGDATA, "pg_wal", file))
	if err != nil {
		return seen, fmt.Errorf("read where the promotion left its timeline: %w", err)
	}
	history, err := postgres.ParseTimelineHistory(r.Timeline, data)
	if err != nil {
		return seen, err
	}
	if len(history.Entries) == 0 {
		return seen, &VerificationError{Problem: fmt.Sprintf("%s of the promoted copy names no parent", file)}
	}
	last := history.Entries[len(history.Entries)-1]
	// The server names the target's timeline, also where the end lies on an ancestor.
	seen.LSN, seen.Timeline = last.Switch, history.TimelineAt(max(last.Switch, 1)-1)
	return seen, nil
}

// shutDown ends the paused copy as recovery_target_action = shutdown would.
func (c *Copy) shutDown(ctx context.Context) error {
	if err := c.Stop(ctx); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(c.PGDATA, controlFile))
	if err != nil {
		return err
	}
	control, err := postgres.ParseControlData(data)
	if err == nil && control.State != postgres.StateShutDownInRecovery {
		err = &VerificationError{Problem: fmt.Sprintf("the copy was shut down and is %q, not %q: %s", control.State, postgres.StateShutDownInRecovery, c.lastWords())}
	}
	return err
}

// Stop shuts the copy down (fast) and waits for its end.
func (c *Copy) Stop(ctx context.Context) error {
	if err := c.process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop the copy (process %d): %w", c.process.Pid, ctx.Err())
	}
}

// connect opens a session if the copy takes one by now.
func (c *Copy) connect(ctx context.Context) *server.Server {
	roles := []string{"postgres"}
	if me, err := user.Current(); err == nil {
		roles = append(roles, me.Username)
	}
	quote := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
	}
	for _, role := range roles {
		for _, database := range []string{"postgres", "template1"} {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			s, err := server.Connect(ctx, fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable", quote(c.SocketDir), port, quote(role), database))
			cancel()
			if err == nil {
				return s
			}
			c.options.Log.Debug("connect to the copy", "role", role, "err", err)
		}
	}
	return nil
}

// Subscriptions counts those of the running copy.
func (c *Copy) Subscriptions(ctx context.Context) (int, error) {
	session := c.connect(ctx)
	if session == nil {
		return 0, fmt.Errorf("connect to the copy in %s", c.PGDATA)
	}
	defer session.Close()
	return session.Subscriptions(ctx)
}

// lastWords are the last lines of the server's log.
func (c *Copy) lastWords() string {
	data, err := os.ReadFile(c.LogFile)
	if err != nil {
		return err.Error()
	}
	return lastLines(data, 8)
}

// Connect and StopCommand say how a person reaches and ends the copy.
func (c *Copy) Connect() string {
	return fmt.Sprintf("psql -h %s -p %s -d postgres", shellQuote(c.SocketDir), port)
}

// StopCommand stops the copy.
func (c *Copy) StopCommand() string {
	return fmt.Sprintf("%s -D %s stop -m fast", shellQuote(filepath.Join(c.options.BinDir, "pg_ctl")), shellQuote(c.PGDATA))
}
