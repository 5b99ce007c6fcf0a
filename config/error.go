package config

import "strings"

// Error is everything that is wrong with a configuration, not only the first thing.
type Error struct {
	File string
	// Problems are lines of the form "12: archive.spool: ..." or "archive.spool: ...".
	Problems []string
	Advice   string
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = e.File + ":" + p
		if p == "" || p[0] < '0' || p[0] > '9' {
			lines[i] = e.File + ": " + p
		}
	}
	return strings.Join(lines, "\n")
}

// Hint is what a person can do about it.
func (e *Error) Hint() string { return e.Advice }

// What to add where there is no repository, and what to write where there is nothing.
const (
	adviceRepository = "add a repository, for example:\n" + exampleRepository
	adviceFile       = "write it, for example:\n  patroni:\n    config: /etc/patroni/patroni.yml\n" + exampleRepository

	advicePatroni = "name the file that Patroni is started with, or its directory of *.yml; this user must be able to read it"

	exampleRepository = `  repositories:
    - name: main
      type: s3
      s3:
        endpoint: https://s3.example.com
        bucket: pg-backups
        access_key: ...
        secret_key: ...`
)
