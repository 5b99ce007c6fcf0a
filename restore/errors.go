package restore

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgha-backup/pgha-backup/postgres"
)

// Point is a position that a restore can reach.
type Point struct {
	What     string              `json:"what"`
	Time     time.Time           `json:"time,omitzero"`
	LSN      postgres.LSN        `json:"lsn"`
	Timeline postgres.TimelineID `json:"timeline"`
}

func (p Point) String() string {
	s := p.What
	if !p.Time.IsZero() {
		s += " at " + stamp(p.Time)
	}
	return fmt.Sprintf("%s (LSN %s, timeline %d)", s, p.LSN, uint32(p.Timeline))
}

// UnreachableError refuses a target before anything is changed and names the
// nearest that can be reached.
type UnreachableError struct {
	Target  Target
	Why     string
	Nearest []Point
	Advice  string

	// tooEarly: an older backup may do.
	tooEarly bool
}

func (e *UnreachableError) Error() string {
	s := fmt.Sprintf("cannot restore to %s: %s", e.Target, e.Why)
	if len(e.Nearest) > 0 {
		var near []string
		for _, p := range e.Nearest {
			near = append(near, p.String())
		}
		s += "; nearest reachable: " + strings.Join(near, ", or ")
	}
	return s
}

// Hint says what a person can do next.
func (e *UnreachableError) Hint() string { return e.Advice }

// NotFoundError says that the repository does not hold what was named: a backup,
// a timeline, a transaction or a restore point.
type NotFoundError struct {
	What   string
	Known  []string // some that are there
	Gap    string   // where the archive that was looked through ends early; may be empty
	Advice string
}

func (e *NotFoundError) Error() string {
	s := e.What + " is not in the archive"
	if e.Gap != "" {
		s += fmt.Sprintf(" before its gap at %s; what lies behind cannot be reached", e.Gap)
	}
	if len(e.Known) > 0 {
		s += "; there are: " + strings.Join(e.Known, ", ")
	}
	return s
}

// Hint says what a person can do next.
func (e *NotFoundError) Hint() string { return e.Advice }

// PreflightError refuses a restore before anything was changed.
type PreflightError struct {
	Problem string
	Advice  string
}

// refuse makes a PreflightError.
func refuse(advice, format string, args ...any) error {
	return &PreflightError{Problem: fmt.Sprintf(format, args...), Advice: advice}
}

func (e *PreflightError) Error() string { return e.Problem }

// Hint says what the user can do.
func (e *PreflightError) Hint() string { return e.Advice }

// VerificationError tells that what was written, or where recovery stopped, is not
// what was asked for.
type VerificationError struct {
	Problem string
	Advice  string
}

func (e *VerificationError) Error() string { return e.Problem }

// Hint says what the user can do.
func (e *VerificationError) Hint() string { return e.Advice }
