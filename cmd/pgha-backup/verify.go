package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/verify"
)

func newVerifyCommand(a *app) *cobra.Command {
	var level string
	cmd := &cobra.Command{
		Use:   "verify [<backup>]",
		Short: "Look for damage: of one backup, or of all and of the whole WAL archive",
		Long: "Level presence lists: is every object there that a restore needs? Level hashes reads every stored byte again.\n" +
			"Level full also decodes it and compares what one object says of another: page checksums, backup_manifest, the log itself.\n" +
			"Exits 9 if anything was found.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return exactly("[<backup>]")(cmd, args)
		},
	}
	cmd.Flags().StringVar(&level, "level", string(verify.Hashes), "presence, hashes or full")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		switch verify.Level(level) {
		case verify.Presence, verify.Hashes, verify.Full:
			return nil
		}
		return usage("--level %q: want presence, hashes or full", level)
	}
	return a.surveying(cmd, func(ctx context.Context, s survey, args []string) error {
		return a.verify(ctx, s, args, verify.Level(level))
	})
}

func (a *app) verify(ctx context.Context, s survey, args []string, level verify.Level) error {
	chosen, only := s.Backups, catalog.BackupID("")
	if len(args) == 1 {
		b, err := s.Find(args[0])
		if err != nil {
			return err
		}
		chosen, only = []catalog.Surveyed{b}, b.Manifest.ID
	}
	document := struct {
		Level    verify.Level       `json:"level"`
		Backups  []catalog.BackupID `json:"backups"`
		Archive  bool               `json:"archive"` // the whole WAL archive was looked at too
		Checked  *verify.Counts     `json:"checked,omitempty"`
		Findings []catalog.Finding  `json:"findings"`
	}{Level: level, Backups: []catalog.BackupID{}, Archive: only == "", Findings: []catalog.Finding{}}
	v := &verify.Verifier{Repository: s.repository, Archive: s.Archive, Level: level, WholeArchive: document.Archive}
	progress, read := newShow(a.stderr), atomic.Int64{}
	v.Read = func(n int64) { progress.often("verified %d MiB", read.Add(n)>>20) }
	defer progress.end()
	began := a.now()
	for _, b := range chosen {
		if err := v.Backup(ctx, b.Manifest); err != nil {
			return fmt.Errorf("verify backup %s: %w", b.Manifest.ID, err)
		}
		document.Backups = append(document.Backups, b.Manifest.ID)
	}
	if level == verify.Full {
		if err := v.Documents(ctx, only); err != nil {
			return fmt.Errorf("verify documents: %w", err)
		}
	}
	if document.Archive {
		for _, u := range s.Unreadable {
			if level != verify.Full { // which reads each of these itself
				document.Findings = append(document.Findings, u.Finding())
			}
		}
		if err := v.WAL(ctx); err != nil {
			return fmt.Errorf("verify the WAL archive: %w", err)
		}
	}
	progress.end()
	found, counts := v.Found()
	document.Findings = append(document.Findings, found...)
	if level == verify.Full {
		document.Checked = &counts
	}
	n := len(document.Findings)
	err := a.print(document, func() error {
		t := table{title: s.title("Cluster:"), head: []string{"Backup", "Object", "Problem"}}
		for _, f := range document.Findings {
			t.add(string(f.Backup), f.Object, f.Problem)
		}
		if n > 0 {
			if err := t.print(a.stdout); err != nil {
				return err
			}
		}
		what := plural(len(chosen), "backup")
		if document.Archive {
			what += " and the WAL archive"
		}
		what = fmt.Sprintf("verified %s by %s in %s: %s\n", what, level, a.now().Sub(began).Round(1e8), plural(n, "finding"))
		if level == verify.Full {
			what += fmt.Sprintf("looked at %d files with %d pages, %d WAL objects and %d documents\n", counts.Files, counts.Pages, counts.WAL, counts.Documents)
		}
		for _, id := range counts.NoChecksums {
			what += fmt.Sprintf("backup %s has no page checksums: its pages were not checked\n", id)
		}
		_, err := fmt.Fprint(a.stdout, what)
		return err
	})
	if err == nil && n > 0 {
		err = fail(exitVerification, "do not count on what is named above; take a new backup now", "verification failed: %s", plural(n, "finding"))
	}
	return err
}
