package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage/file"
)

// push stores a content of a WAL file as a member does.
func (h *host) push(member, name, content string) error {
	h.t.Helper()
	f, err := postgres.ParseWALFile(name)
	h.must(err)
	var facts *postgres.SegmentFacts
	if f.Kind == postgres.WALSegment {
		facts = &postgres.SegmentFacts{Walked: true, ValidEnd: uint32(len(content))}
	}
	_, err = catalog.New(file.New(h.repository), catalog.Location{Scope: "main", System: system}, catalog.Options{Author: member}).
		PutWAL(h.t.Context(), f, []byte(content), facts)
	return err
}

func TestConflicts(t *testing.T) {
	h := newHost(t)
	h.stock()
	const segment, history = "00000001000000000000000A", "00000003.history"
	want := func(code int, out, errText string, args ...string) {
		t.Helper()
		got, stdout, stderr := h.run(append([]string{"wal", "conflicts"}, args...)...)
		if got != code || !strings.HasPrefix(stderr, errText) || errText == "" && stderr != "" {
			t.Errorf("%s exits %d, want %d: %s", strings.Join(args, " "), got, code, stderr)
		}
		if strings.Contains(out, " ") || out == "" {
			if !strings.HasPrefix(stdout, out) {
				t.Errorf("%s: %s", strings.Join(args, " "), stdout)
			}
			return
		}
		h.golden(out, stdout)
	}
	want(0, "conflicts-none.json", "", "list", "--format", "json")
	for _, name := range []string{segment, history} {
		if errs := [2]error{h.push("pg1", name, "1\t0/1\tthe first"), h.push("pg2", name, "1\t0/2\tthe second one")}; errs[0] != nil || errs[1] == nil {
			t.Fatal(errs)
		}
	}
	h.must(h.push("", "00000001000000000000000B", "of an early version")) // and nobody disputes it
	h.settle()
	want(10, "conflicts-list.txt", "error: not all of them are decided\nhint: pgha-backup wal conflicts show <file>\n", "list")
	want(0, "conflicts-show.txt", "", "show", segment)
	want(0, "conflicts-show.json", "", "show", segment, "--format", "json")
	want(6, "", "error: no two contents of \"00000001000000000000000B\" are kept", "show", "00000001000000000000000B")

	_, out, _ := h.run("wal", "conflicts", "show", segment, "--format", "json")
	second := strings.Split(strings.Split(out, `"sha256": "`)[2], `"`)[0]
	why := []string{"--reason", "pg2 is the one that Patroni promoted"}
	want(2, "", "error: --keep and --reason are needed", "resolve", segment, "--keep", "stored")
	want(2, "", "error: --keep \"abc\" names 0 contents of "+segment, append(why, "resolve", segment, "--keep", "abc")...)
	want(2, "", "error: --keep \""+second[:3]+"\" names 0 contents", append(why, "resolve", segment, "--keep", second[:3])...)
	want(4, "", "On ", append(why, "resolve", segment, "--keep", second[:12])...)
	want(6, "", "error: no two contents of ", append(why, "resolve", "nonsense", "--keep", "stored", "--yes")...)
	said := fmt.Sprintf("%s: sha256 %.12s counts, by ", segment, second)
	want(0, said, "", append(why, "resolve", segment, "--keep", second[:12], "--yes")...)
	want(0, said, "", append(why, "resolve", segment, "--keep", second[:12])...) // the same once more, and no question
	want(7, "", "error: "+segment+": sha256 "+second[:12]+" counts, by ", append(why, "resolve", segment, "--keep", "stored", "--yes")...)
	_, out, _ = h.run("wal", "conflicts", "show", history, "--format", "json")
	other := strings.Split(strings.Split(out, `"sha256": "`)[2], `"`)[0]
	want(7, "", "error: "+history+": the archive's segments of that timeline follow the stored history: switch over once", append(why, "resolve", history, "--keep", other, "--yes")...)
	want(10, "+ Conflicts of main", "error: not all of them are decided", "list")
	want(0, history+": sha256 ", "", append(why, "resolve", history, "--keep", "stored", "--yes")...)
	want(0, "+ Conflicts of main", "", "list")
	if err := h.push("pg2", segment, "1\t0/2\tthe second one"); err != nil {
		t.Errorf("the rightful push: %v", err)
	}
	if err := h.push("pg1", segment, "1\t0/1\tthe first"); err == nil {
		t.Error("the other push")
	}
}
