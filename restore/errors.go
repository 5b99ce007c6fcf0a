package restore

import "strings"

// PreflightError refuses a restore before anything was changed.
type PreflightError struct {
	Problems []string
	Advice   string
}

func (e *PreflightError) Error() string { return strings.Join(e.Problems, "; ") }

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
