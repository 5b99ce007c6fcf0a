package lab

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Password is that of every PostgreSQL role the harness makes.
const Password = "lab-secret"

// PGOptions says what server to start.
type PGOptions struct {
	// Major is PostgreSQL's major version; 15 when zero.
	Major int
	// Conf is added to postgresql.conf; values are written as they are, quoted.
	Conf map[string]string
	// WALSegSizeMB is initdb's --wal-segsize; 16 when zero.
	WALSegSizeMB int
	NoChecksums  bool
	// InitDir is where initdb makes the data directory, if not in the server's own; InitArgs are added to its arguments.
	InitDir  string
	InitArgs []string
	// Args are added to the server's arguments.
	Args []string
	// User runs the server and owns its files; User1 when empty.
	User string
	// DataDir is an existing data directory to serve, a restored one for example.
	// Without it initdb makes one.
	DataDir string
	// NoStart leaves the server stopped; Start starts it.
	NoStart bool
	// Env is added to the server's environment, so also to archive_command's.
	Env []string
	// HBA goes before the harness's own lines of pg_hba.conf.
	HBA string
}

// Postgres is one server outside Patroni.
type Postgres struct {
	Major     int
	User      string
	DataDir   string
	BinDir    string
	SocketDir string
	Host      string
	Port      int
	// Log is the server's log file.
	Log string

	t    T
	run  *Run
	env  []string
	args []string
	proc *Process
}

// StartPostgres makes a data directory with initdb, data checksums on, and serves it on a TCP address
// of the run and on a Unix socket. The superuser is "postgres": trusted on the socket, scram with
// Password over TCP.
func StartPostgres(t T, o PGOptions) *Postgres {
	t.Helper()
	run := RunOf(t)
	n := run.next("pg")
	name := fmt.Sprintf("pg%d", n)
	p := &Postgres{
		Major: or(o.Major, 15), User: or(o.User, User1), Host: run.Prefix + strconv.Itoa(50+n), Port: 5432,
		Log: run.Path(name + ".log"), t: t, run: run, env: o.Env, args: o.Args, DataDir: o.DataDir,
	}
	p.BinDir = BinDir(t, p.Major)
	home := run.Mkdir(p.User, 0o755, name)
	p.SocketDir = run.Mkdir(p.User, 0o755, name, "socket")
	if p.DataDir == "" {
		p.DataDir = or(o.InitDir, filepath.Join(home, "data"))
		p.initdb(o, name)
	}
	if !o.NoStart {
		p.Start()
	}
	return p
}

func or[V comparable](v, otherwise V) V {
	var zero V
	if v == zero {
		return otherwise
	}
	return v
}

func (p *Postgres) initdb(o PGOptions, name string) {
	p.t.Helper()
	secret := p.run.WriteFile(p.User, 0o600, Password+"\n", name, "password")
	argv := []string{p.Bin("initdb"), "-D", p.DataDir, "-U", "postgres", "--no-sync", "--no-instructions", "--encoding=UTF8",
		"--locale=C.UTF-8", "--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile=" + secret}
	if !o.NoChecksums {
		argv = append(argv, "--data-checksums")
	}
	if o.WALSegSizeMB != 0 {
		argv = append(argv, "--wal-segsize="+strconv.Itoa(o.WALSegSizeMB))
	}
	p.run.Must(p.User, append(argv, o.InitArgs...)...)
	if o.HBA != "" {
		path := filepath.Join(p.DataDir, "pg_hba.conf")
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, append([]byte(o.HBA+"\n"), b...), 0o600)
		}
		if err != nil {
			p.t.Fatalf("lab: pg_hba.conf: %v", err)
		}
	}
	p.Configure(o.Conf)
}

// Configure adds settings to postgresql.conf; a later value of a name wins. It reloads nothing.
func (p *Postgres) Configure(conf map[string]string) {
	p.t.Helper()
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(conf)) {
		fmt.Fprintf(&b, "%s = '%s'\n", k, strings.NewReplacer("'", "''", `\`, `\\`).Replace(conf[k]))
	}
	f, err := os.OpenFile(filepath.Join(p.DataDir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(b.String())
		_ = f.Close()
	}
	if err != nil {
		p.t.Fatalf("lab: configure: %v", err)
	}
}

// Bin is the path of one of PostgreSQL's programs.
func (p *Postgres) Bin(name string) string { return filepath.Join(p.BinDir, name) }

// Start starts the server and waits until it answers, which a hot standby does as soon as it is consistent.
func (p *Postgres) Start() {
	p.t.Helper()
	if err := p.TryStart(60 * time.Second); err != nil {
		p.t.Fatalf("lab: %v", err)
	}
}

// TryStart starts the server and waits until it answers or has ended by itself: then the error ends with its log.
func (p *Postgres) TryStart(limit time.Duration) error {
	p.Launch()
	var end error
	err := poll(limit, func() error {
		if !p.proc.Running() {
			b, _ := os.ReadFile(p.Log)
			end = fmt.Errorf("server in %s ended: %v\n%s", p.DataDir, p.proc.err, b[max(0, len(b)-3000):])
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		c, err := p.Connect(ctx)
		if err != nil {
			return err
		}
		return c.Close(ctx)
	})
	if end != nil {
		return end
	}
	if err != nil {
		return fmt.Errorf("server in %s does not answer after %s: %w", p.DataDir, limit, err)
	}
	return nil
}

// Launch starts the server and does not wait for it to answer.
func (p *Postgres) Launch() {
	p.t.Helper()
	if p.proc == nil {
		argv := []string{p.Bin("postgres"), "-D", p.DataDir,
			"-c", "listen_addresses=" + p.Host, "-c", "port=" + strconv.Itoa(p.Port), "-c", "unix_socket_directories=" + p.SocketDir}
		p.proc = p.run.Start(p.User, strings.TrimSuffix(filepath.Base(p.Log), ".log"), p.env, append(argv, p.args...)...)
		return
	}
	if err := p.proc.Restart(); err != nil {
		p.t.Fatalf("lab: %v", err)
	}
}

// Process is the postmaster.
func (p *Postgres) Process() *Process { return p.proc }

// Wait waits until the server has ended by itself.
func (p *Postgres) Wait(limit time.Duration) {
	p.t.Helper()
	select {
	case <-p.proc.life():
	case <-time.After(limit):
		p.t.Fatalf("lab: server in %s has not ended after %s", p.DataDir, limit)
	}
}

// Stop stops the server as pg_ctl -m does: "smart", "fast" or "immediate".
func (p *Postgres) Stop(mode string) {
	p.t.Helper()
	sig, ok := map[string]syscall.Signal{"smart": syscall.SIGTERM, "fast": syscall.SIGINT, "immediate": syscall.SIGQUIT}[mode]
	if !ok {
		p.t.Fatalf("lab: no stop mode %q", mode)
	}
	if err := p.proc.Stop(sig, 60*time.Second); err != nil {
		p.t.Fatalf("lab: %v", err)
	}
}

// Restart is a fast stop and a start.
func (p *Postgres) Restart() {
	p.t.Helper()
	p.Stop("fast")
	p.Start()
}

// Kill9 kills postmaster and backends with SIGKILL.
func (p *Postgres) Kill9() {
	p.t.Helper()
	if err := p.run.killAll(p.DataDir, 10*time.Second); err != nil {
		p.t.Fatalf("lab: %v", err)
	}
	<-p.proc.life()
}

// DSN connects over TCP as the superuser with its password.
func (p *Postgres) DSN() string { return dsn(p.Host, p.Port, "postgres", Password) }

// SocketDSN connects through the Unix socket as the superuser.
func (p *Postgres) SocketDSN() string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", p.SocketDir, p.Port)
}

func dsn(host string, port int, user, password string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password),
		Host: net.JoinHostPort(host, strconv.Itoa(port)), Path: "/postgres", RawQuery: "connect_timeout=5"}
	return u.String()
}

// Connect opens a connection through the Unix socket.
func (p *Postgres) Connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, p.SocketDSN())
}

// Exec runs one or, without arguments, several statements.
func (p *Postgres) Exec(sql string, args ...any) {
	p.t.Helper()
	Exec(p.t, p.SocketDSN(), sql, args...)
}

// QueryRow runs a query of one row and scans it into dest.
func (p *Postgres) QueryRow(sql string, dest ...any) {
	p.t.Helper()
	QueryRow(p.t, p.SocketDSN(), sql, dest...)
}

// Psql runs psql with the arguments, without alignment and headings, and returns what it prints.
func (p *Postgres) Psql(args ...string) string {
	p.t.Helper()
	argv := []string{p.Bin("psql"), "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", p.SocketDSN()}
	return strings.TrimSpace(p.run.Must(p.User, append(argv, args...)...))
}

// Exec runs statements over a connection of their own.
func Exec(t T, dsn, sql string, args ...any) {
	t.Helper()
	err := with(dsn, func(ctx context.Context, c *pgx.Conn) error {
		if len(args) == 0 {
			_, err := c.PgConn().Exec(ctx, sql).ReadAll()
			return err
		}
		_, err := c.Exec(ctx, sql, args...)
		return err
	})
	if err != nil {
		t.Fatalf("lab: %s: %v", sql, err)
	}
}

// QueryRow runs a query of one row over a connection of its own.
func QueryRow(t T, dsn, sql string, dest ...any) {
	t.Helper()
	err := with(dsn, func(ctx context.Context, c *pgx.Conn) error { return c.QueryRow(ctx, sql).Scan(dest...) })
	if err != nil {
		t.Fatalf("lab: %s: %v", sql, err)
	}
}

func with(dsn string, do func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	return do(ctx, c)
}
