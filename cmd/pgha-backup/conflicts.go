package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
)

func newWALConflictsCommand(a *app) *cobra.Command {
	return group(&cobra.Command{Use: "conflicts", Short: "WAL files of which two servers wrote different contents"},
		newConflictsListCommand(a), newConflictsShowCommand(a), newConflictsResolveCommand(a))
}

func newConflictsListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List them, who wrote what, and what was decided", Args: exactly(),
		Long: "Lists the WAL files of which two contents are kept, who wrote them, and what was decided. Exits 10 while one of\n" +
			"them is undecided."}
	return a.conflicting(cmd, func(_ context.Context, repository *catalog.Repository, found []catalog.Conflict) error {
		err := a.printConflicts(repository, found)
		if err == nil && slices.ContainsFunc(found, func(c catalog.Conflict) bool { return c.Resolution == nil }) {
			err = fail(exitDegraded, "pgha-backup wal conflicts show <file>", "not all of them are decided")
		}
		return err
	})
}

func newConflictsShowCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "show <file>", Short: "Show one of them, and where its contents part", Args: exactly("<file>"),
		Long: "Shows the contents of one file. Reads them whole, to find where each parts from the first of them."}
	return a.conflicting(cmd, func(ctx context.Context, repository *catalog.Repository, found []catalog.Conflict) error {
		if err := repository.Compare(ctx, found[0]); err != nil {
			return err
		}
		err := a.printConflicts(repository, found)
		if w := found[0].Resolution; w != nil && err == nil && a.format != "json" {
			_, err = fmt.Fprintln(a.stdout, printable(w.String()))
		}
		return err
	})
}

func (a *app) printConflicts(repository *catalog.Repository, found []catalog.Conflict) error {
	of := aboutOf(repository)
	return a.print(struct {
		about
		Conflicts []catalog.Conflict `json:"conflicts"`
	}{of, append([]catalog.Conflict{}, found...)}, func() error {
		t := table{title: of.title("Conflicts of"),
			head: []string{"File", "Content", "Place", "Author", ">Bytes", ">Valid to", ">Differs at", "Archived (UTC)", "Status"}}
		for _, c := range found {
			for _, k := range c.Contents {
				place, end, differs, status := map[bool]string{true: "stored", false: "kept"}[k.Stored], "not walked", "", "UNDECIDED"
				if k.Facts != nil && k.Facts.Walked {
					end = fmt.Sprint(k.Facts.ValidEnd)
				}
				if k.DiffersAt != nil {
					differs = fmt.Sprint(*k.DiffersAt)
				}
				switch {
				case k.Problem != "" || c.Problem != "":
					status = "UNREADABLE: " + cmp.Or(k.Problem, c.Problem)
				case c.Resolution != nil && c.Resolution.SHA256 == k.SHA256:
					status = "counts"
				case c.Resolution != nil:
					status = "refused"
				}
				t.add(c.File.String(), fmt.Sprintf("%.12s", k.SHA256), place, cmp.Or(k.Author, "not known"), fmt.Sprint(k.Size), end, differs, clock(k.Archived), status)
			}
		}
		return t.print(a.stdout)
	})
}

func newConflictsResolveCommand(a *app) *cobra.Command {
	var keep, reason string
	var yes bool
	cmd := &cobra.Command{Use: "resolve <file>", Short: "Say which content counts, once and for all", Args: exactly("<file>"),
		Long: "Says which content of a file counts. Deletes nothing: every reader follows the decision from then on, and the\n" +
			"server that wrote that content goes on archiving. It cannot be taken back. Of a .history file only the stored content\n" +
			"can be chosen."}
	cmd.Flags().StringVar(&keep, "keep", "", "stored, or the beginning of a content's sha256 (required)")
	cmd.Flags().StringVar(&reason, "reason", "", "why (required); show tells it")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return a.conflicting(cmd, func(ctx context.Context, repository *catalog.Repository, found []catalog.Conflict) error {
		if keep == "" || reason == "" {
			return usage("--keep and --reason are needed: a decision cannot be taken back, and somebody will ask why")
		}
		c, named := found[0], []catalog.Content{}
		for _, k := range c.Contents {
			if keep == "stored" && k.Stored || len(keep) >= 4 && strings.HasPrefix(k.SHA256, keep) {
				named = append(named, k)
			}
		}
		if len(named) != 1 {
			return usage("--keep %q names %s of %s: want stored, or at least four digits of one sha256", keep, plural(len(named), "content"), c.File)
		}
		if c.Resolution == nil && !yes {
			if err := a.confirm(fmt.Sprintf("%s with sha256 %.12s of %q will count in the archive FOR EVER", c.File, named[0].SHA256, named[0].Author)); err != nil {
				return err
			}
		}
		word, err := repository.Resolve(ctx, c, catalog.Resolution{SHA256: named[0].SHA256, By: a.whoami(), Reason: reason, At: a.now().UTC().Truncate(time.Second)})
		if err != nil {
			return err
		}
		return a.say(word, "%s: %s", c.File, printable(word.String()))
	})
}

// conflicting completes a command about the conflicts over all files or over the one that is named.
func (a *app) conflicting(cmd *cobra.Command, run func(context.Context, *catalog.Repository, []catalog.Conflict) error) *cobra.Command {
	return a.reading(cmd, func(ctx context.Context, repository *catalog.Repository, args []string) error {
		found, err := repository.Conflicting(ctx, strings.Join(args, ""))
		if err == nil && len(found) == 0 && len(args) > 0 {
			err = fail(exitNotFound, "pgha-backup wal conflicts list", "no two contents of %q are kept", args[0])
		}
		if err != nil {
			return err
		}
		return run(ctx, repository, found)
	})
}
