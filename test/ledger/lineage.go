package ledger

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Lineage reads a .history file's text: where a server on this timeline left each timeline before it,
// and stop as the end of its own.
func Lineage(history string, timeline postgres.TimelineID, stop postgres.LSN) ([]Span, error) {
	var spans []Span
	for line := range strings.Lines(history) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		n, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("history line %q: %w", line, err)
		}
		end, err := postgres.ParseLSN(f[1])
		if err != nil {
			return nil, fmt.Errorf("history line %q: %w", line, err)
		}
		spans = append(spans, Span{postgres.TimelineID(n), end})
	}
	spans = append(spans, Span{timeline, stop})
	// A recovery that stops before the last fork, in the child's copy of the parent's WAL,
	// leaves the child earlier than the child left its parent.
	for i := len(spans) - 2; i >= 0; i-- {
		spans[i].End = min(spans[i].End, spans[i+1].End)
	}
	return spans, nil
}

// ServerLineage asks a running primary for its lineage up to now.
func ServerLineage(ctx context.Context, conn *pgx.Conn) ([]Span, error) {
	now, timeline, _, err := position(ctx, conn)
	if err != nil {
		return nil, err
	}
	if timeline == 1 {
		return Lineage("", timeline, now)
	}
	var history string
	name := "pg_wal/" + timeline.String() + ".history"
	if err := conn.QueryRow(ctx, "select pg_read_file($1)", name).Scan(&history); err != nil {
		return nil, fmt.Errorf("read %s of the server: %w", name, err)
	}
	return Lineage(history, timeline, now)
}
