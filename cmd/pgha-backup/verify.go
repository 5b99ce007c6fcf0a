package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
)

func newVerifyCommand(a *app) *cobra.Command {
	var level string
	cmd := &cobra.Command{
		Use:   "verify [<backup>]",
		Short: "Look for damage: of one backup, or of all and of the whole WAL archive",
		Long: "Level presence lists: is every object there that a restore needs? Level hashes reads every stored byte again.\n" +
			"Exits 9 if anything was found.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return exactly("[<backup>]")(cmd, args)
		},
	}
	cmd.Flags().StringVar(&level, "level", string(catalog.Hashes), "presence or hashes")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if level != string(catalog.Presence) && level != string(catalog.Hashes) {
			return usage("--level %q: want presence or hashes", level)
		}
		return nil
	}
	return a.surveying(cmd, func(ctx context.Context, s survey, args []string) error {
		return a.verify(ctx, s, args, catalog.VerifyLevel(level))
	})
}

func (a *app) verify(ctx context.Context, s survey, args []string, level catalog.VerifyLevel) error {
	chosen, archive := s.Backups, true
	if len(args) == 1 {
		b, err := s.Find(args[0])
		if err != nil {
			return err
		}
		chosen, archive = []catalog.Surveyed{b}, false
	}
	document := struct {
		Level    catalog.VerifyLevel `json:"level"`
		Backups  []catalog.BackupID  `json:"backups"`
		Archive  bool                `json:"archive"` // the whole WAL archive was looked at too
		Findings []catalog.Finding   `json:"findings"`
	}{level, []catalog.BackupID{}, archive, []catalog.Finding{}}
	began := a.now()
	for _, b := range chosen {
		found, err := s.repository.VerifyBackup(ctx, b.Manifest, s.Archive, level)
		if err != nil {
			return fmt.Errorf("verify backup %s: %w", b.Manifest.ID, err)
		}
		document.Backups = append(document.Backups, b.Manifest.ID)
		document.Findings = append(document.Findings, found...)
	}
	if archive {
		for _, u := range s.Unreadable {
			document.Findings = append(document.Findings, u.Finding())
		}
		found, err := s.repository.VerifyWAL(ctx, s.Archive, level)
		if err != nil {
			return fmt.Errorf("verify the WAL archive: %w", err)
		}
		document.Findings = append(document.Findings, found...)
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
		if archive {
			what += " and the WAL archive"
		}
		_, err := fmt.Fprintf(a.stdout, "verified %s by %s in %s: %s\n", what, level, a.now().Sub(began).Round(1e8), plural(n, "finding"))
		return err
	})
	if err == nil && n > 0 {
		err = fail(exitVerification, "do not count on what is named above; take a new backup now", "verification failed: %s", plural(n, "finding"))
	}
	return err
}
