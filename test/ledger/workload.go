package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Options says how to work.
type Options struct {
	// Clients work at the same time, each over its own connection; 4 when zero.
	Clients int
	// Dir holds the journals; a workload started again in the same directory goes on where it was.
	Dir string
	// Seed makes the choices; print it.
	Seed uint64
	// Pause is waited after each transaction.
	Pause time.Duration
}

// Accounts and Opening are fixed: the balances always sum to their product.
const (
	Accounts = 50
	Opening  = 1000
)

const schema = `
create schema if not exists ledger;
create table if not exists ledger.accounts (id int primary key, balance bigint not null);
create table if not exists ledger.entries (
  client int, seq bigint, prev text not null, hash text not null,
  source int not null, target int not null, amount bigint not null,
  xid xid8 not null default pg_current_xact_id(), at timestamptz not null default clock_timestamp(),
  primary key (client, seq));
insert into ledger.accounts select g, 1000 from generate_series(1, 50) g on conflict do nothing;`

// Workload is running clients.
type Workload struct {
	begun time.Time
	stop  chan struct{}
	wg    sync.WaitGroup

	acked, indeterminate, aborted atomic.Int64
	mu                            sync.Mutex
	errs                          []error
}

// Stats says what a workload did.
type Stats struct {
	Acked, Indeterminate, Aborted int64
	Elapsed                       time.Duration
}

// Start makes the tables if they are not there and starts the clients.
func Start(ctx context.Context, dsn string, o Options) (*Workload, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	_, err = conn.PgConn().Exec(ctx, schema).ReadAll()
	_ = conn.Close(ctx)
	if err != nil {
		return nil, fmt.Errorf("make the ledger's tables: %w", err)
	}
	journal, err := ReadJournal(o.Dir)
	if err != nil {
		return nil, err
	}
	if o.Clients == 0 {
		o.Clients = 4
	}
	w := &Workload{begun: time.Now(), stop: make(chan struct{})}
	for id := 1; id <= o.Clients; id++ {
		out, err := openWriter(o.Dir, id)
		if err != nil {
			close(w.stop)
			return nil, err
		}
		c := &client{id: id, dsn: dsn, out: out, w: w, pause: o.Pause, random: rand.New(rand.NewPCG(o.Seed, uint64(id)))}
		for seq := range journal[id] {
			c.seq = max(c.seq, seq)
		}
		w.wg.Go(func() { c.run(context.WithoutCancel(ctx)) })
	}
	return w, nil
}

// Acked is how many transactions have been acknowledged so far.
func (w *Workload) Acked() int64 { return w.acked.Load() }

// WaitAcked waits until n more transactions have been acknowledged than at the call.
func (w *Workload) WaitAcked(ctx context.Context, n int64) error {
	until := w.Acked() + n
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for w.Acked() < until {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d transactions acknowledged: %w", n-(until-w.Acked()), n, ctx.Err())
		}
	}
	return nil
}

// Stop lets every client end its transaction. A workload that wrote nothing is an error: it would prove nothing.
func (w *Workload) Stop() (Stats, error) {
	close(w.stop)
	w.wg.Wait()
	s := Stats{w.acked.Load(), w.indeterminate.Load(), w.aborted.Load(), time.Since(w.begun)}
	if s.Acked == 0 {
		w.errs = append(w.errs, errors.New("no transaction was acknowledged"))
	}
	return s, errors.Join(w.errs...)
}

// client is one connection's worth of work.
type client struct {
	id     int
	dsn    string
	seq    int64  // the last used sequence number
	head   string // the hash of this client's newest row, as the server has it
	conn   *pgx.Conn
	out    *writer
	w      *Workload
	pause  time.Duration
	random *rand.Rand
}

// limit bounds one transaction: a server that hangs makes it indeterminate.
const limit = 15 * time.Second

func (c *client) run(ctx context.Context) {
	defer func() { _ = c.out.file.Close() }()
	defer func() { c.disconnect() }()
	for {
		wait := c.pause
		if err := c.step(ctx); err != nil {
			var broken journalError
			if errors.As(err, &broken) {
				c.w.mu.Lock()
				c.w.errs = append(c.w.errs, fmt.Errorf("client %d: %w", c.id, err))
				c.w.mu.Unlock()
				return
			}
			c.disconnect()
			wait = 100 * time.Millisecond
		}
		select {
		case <-c.w.stop:
			return
		case <-time.After(wait):
		}
	}
}

func (c *client) disconnect() {
	if c.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.conn.Close(ctx)
		c.conn = nil
	}
}

// step is one transaction; an error means that the connection is of no more use.
func (c *client) step(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if c.conn == nil {
		if err := c.connect(ctx); err != nil {
			return err
		}
	}
	c.seq++
	rec := Record{Kind: Intent, Client: c.id, Seq: c.seq}
	if err := c.out.write(rec); err != nil {
		return journalError{err}
	}
	hash, failure := c.transact(ctx, &rec)
	switch rec.Kind {
	case Acked:
		c.head = hash
		c.w.acked.Add(1)
	case Indeterminate:
		c.w.indeterminate.Add(1)
	default:
		rec.Kind = Aborted
		c.w.aborted.Add(1)
	}
	if err := c.out.write(rec); err != nil {
		return journalError{err}
	}
	return failure
}

type journalError struct{ error }

// connect also asks where this client's chain ends: a failover may have cut it, and an indeterminate
// transaction may or may not have made it. The lock waits for the old connection's server process,
// which may still be about to commit.
func (c *client) connect(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.dsn)
	if err != nil {
		return err
	}
	c.conn, c.head = conn, ""
	if _, err = conn.Exec(ctx, "select pg_advisory_lock(7331, $1)", c.id); err != nil {
		return err
	}
	err = conn.QueryRow(ctx, "select hash from ledger.entries where client = $1 order by seq desc limit 1", c.id).Scan(&c.head)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

// transact sets rec.Kind to Acked or Indeterminate once COMMIT has been sent.
func (c *client) transact(ctx context.Context, rec *Record) (hash string, err error) {
	e := Entry{Client: c.id, Seq: c.seq, Prev: c.head, Source: 1 + c.random.IntN(Accounts), Amount: 1 + c.random.Int64N(20)}
	e.Target = 1 + (e.Source-1+1+c.random.IntN(Accounts-1))%Accounts
	e.Hash = e.sum()
	tx, err := c.conn.Begin(ctx)
	if err != nil {
		return "", err
	}
	_, err = tx.Exec(ctx, "insert into ledger.entries (client, seq, prev, hash, source, target, amount) values ($1, $2, $3, $4, $5, $6, $7)",
		e.Client, e.Seq, e.Prev, e.Hash, e.Source, e.Target, e.Amount)
	if err != nil {
		return "", err
	}
	// The lower account first, so that two clients never wait for each other.
	moves := []struct {
		id    int
		delta int64
	}{{e.Source, -e.Amount}, {e.Target, e.Amount}}
	if e.Target < e.Source {
		moves[0], moves[1] = moves[1], moves[0]
	}
	for _, m := range moves {
		if _, err = tx.Exec(ctx, "update ledger.accounts set balance = balance + $2 where id = $1", m.id, m.delta); err != nil {
			return "", err
		}
	}
	if rec.After, rec.Timeline, rec.Earliest, err = position(ctx, c.conn); err != nil {
		return "", err
	}
	if err = c.conn.QueryRow(ctx, "select pg_current_xact_id()::text::bigint").Scan(&rec.XID); err != nil {
		return "", err
	}
	rec.Kind = Indeterminate
	if err = tx.Commit(ctx); err != nil {
		var said *pgconn.PgError
		if errors.As(err, &said) && said.Severity == "ERROR" || errors.Is(err, pgx.ErrTxCommitRollback) {
			rec.Kind = Aborted
		}
		return "", err
	}
	rec.Kind = Acked
	before, _, latest, err := position(ctx, c.conn)
	if err == nil {
		rec.Before, rec.Latest = before, latest
	}
	return e.Hash, err
}

// position asks for the insert position, its timeline and the server's clock. The timeline comes
// from the name of the segment in writing: the control file's is older after a promotion.
func position(ctx context.Context, conn *pgx.Conn) (postgres.LSN, postgres.TimelineID, time.Time, error) {
	var lsn string
	var timeline int64
	var now time.Time
	err := conn.QueryRow(ctx, `select l::text, ('x' || left(pg_walfile_name(l), 8))::bit(32)::bigint, clock_timestamp()
		from pg_current_wal_insert_lsn() l`).Scan(&lsn, &timeline, &now)
	if err != nil {
		return 0, 0, time.Time{}, err
	}
	at, err := postgres.ParseLSN(lsn)
	return at, postgres.TimelineID(timeline), now.UTC(), err
}
