package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
)

// files are the names of all objects.
func (h *host) files() map[string]bool {
	h.t.Helper()
	found := map[string]bool{}
	h.must(filepath.WalkDir(h.repository, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found[path] = true
		}
		return err
	}))
	return found
}

// A backup's way out, and back, as a person goes it. The store's clock is the real
// one here, so ours is too.
func TestExpireHoldRelease(t *testing.T) {
	h := newHost(t)
	h.write("config.yaml", fmt.Sprintf("cluster: {scope: main, member: pg1, state_dir: %s/state}\nrepositories: [{name: nas, type: file, file: {path: %s}}]\n"+
		"retention: {keep: 2, grace: 24h}\n", h.dir, h.repository))
	_, err := h.catalog(system).Create(t.Context(), size, "required", time.Now())
	h.must(err)
	h.archive(1, 1, 12)
	var ids []string
	for i := range 3 {
		ids = append(ids, time.Now().UTC().Add(time.Duration(i-4)*24*time.Hour).Format("20060102T150405Z")+"-nightly")
		h.backup(catalog.BackupID(ids[i]), uint64(3*i+2), uint64(3*i+3))
	}
	want := func(code int, errText string, contains []string, args ...string) string {
		t.Helper()
		got, stdout, stderr := h.runNow(args...)
		if got != code || !strings.Contains(stderr, errText) || errText == "" && stderr != "" {
			t.Errorf("%s exits %d, want %d\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
		}
		for _, text := range contains {
			if !strings.Contains(stdout, text) {
				t.Errorf("%s does not say %q:\n%s", strings.Join(args, " "), text, stdout)
			}
		}
		return stdout
	}
	before := h.files()
	plan := []string{"Expiry of main (7301234567890123456)", ids[0], "| hide   | no rule keeps it", "one of the newest 2; the newest good one on timeline 1",
		"000000010000000000000001 | 000000010000000000000001 |        1 |", "| remove | nothing that stays leads to it", "follows " + ids[0]}
	printed := want(0, "", plan, "expire", "--plan")
	want(4, "will be HIDDEN and REMOVED as the plan says.\nType the cluster's name to go on: error: not confirmed: nothing was changed\n"+
		"hint: type the name as it is shown, or pass --yes\n", plan, "expire")
	want(2, "error: --format json asks no questions: want --plan or --yes\n", nil, "expire", "--format", "json")
	if !maps.Equal(before, h.files()) {
		t.Error("a plan changed something")
	}
	if out := want(0, "backup hidden", nil, "expire", "--yes"); out != printed+"hidden 1, shown again 0, removed 0 backups, 0 unfinished runs and 1 file of WAL\n" {
		t.Errorf("what is printed is not what runs:\n%s\n%s", out, printed)
	}
	if out := want(0, "", nil, "list"); strings.Contains(out, ids[0]) {
		t.Errorf("still listed:\n%s", out)
	}
	want(0, "", []string{"| wait   | hidden since"}, "expire", "--plan")
	want(0, "", []string{ids[0], "by pg1: no rule keeps it"}, "list", "--all")

	want(2, "error: --reason is missing", nil, "hold", ids[0])
	want(2, "error: --until \"yesterday\": want a time to come", nil, "hold", ids[0], "--reason", "x", "--until", "yesterday")
	want(2, "error: backup \"latest\": want a name like", nil, "hold", "latest", "--reason", "x")
	want(6, "error: no such backup", nil, "hold", "20200101T000000Z-nightly", "--reason", "x")
	want(0, "", []string{ids[0] + " is held"}, "hold", ids[0], "--reason", "the audit")
	want(7, "error: backup "+ids[0]+" has another hold named hold\nhint: release it first, or give this one another --name\n", nil, "hold", ids[0], "--reason", "another")
	want(0, "", []string{ids[0]}, "list")
	want(0, "", []string{ids[0], "| hold | released    | pg1 | the audit |"}, "list", "--all")
	want(0, "", []string{"held by pg1 until released: the audit"}, "expire", "--plan")
	var document struct {
		Holds []catalog.Hold `json:"holds"`
	}
	if err := json.Unmarshal([]byte(want(0, "", nil, "list", "--all", "--format", "json")), &document); err != nil || len(document.Holds) != 1 {
		t.Errorf("%v %+v", err, document)
	}
	want(6, "has no such hold", nil, "release", ids[0], "--name", "other")
	want(0, "", []string{"1 hold of " + ids[0] + " released"}, "release", ids[0])
	want(6, "error: backup "+ids[0]+" has no such hold\nhint: pgha-backup list --all shows the holds\n", nil, "release", ids[0])

	var expired struct {
		Backups []struct{ Action string }
		WAL     []struct{ Action string }
		Outcome struct{ Hidden []string }
	}
	if err := json.Unmarshal([]byte(want(0, "backup hidden", nil, "expire", "--yes", "--format", "json")), &expired); err != nil ||
		len(expired.Backups) != 3 || expired.Backups[0].Action != "hide" || !slices.Equal(expired.Outcome.Hidden, ids[:1]) {
		t.Errorf("%v %+v", err, expired)
	}
	h.write("config.yaml", strings.ReplaceAll(h.text("config.yaml"), "keep: 2", "keep: 5"))
	want(0, "backup is shown again", []string{"| show   | one of the newest 5"}, "expire", "--yes")
	want(0, "", []string{ids[0]}, "list")
}

func (h *host) text(name string) string {
	h.t.Helper()
	data, err := os.ReadFile(filepath.Join(h.dir, name))
	h.must(err)
	return string(data)
}
