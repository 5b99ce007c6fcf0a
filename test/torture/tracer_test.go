package torture

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// traced runs a line of a shell, whose own calls count: those of its children do not.
func traced(t *testing.T, dir string, p Point, script string) Outcome {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{}
	o, err := Trace("/proc/self/exe", cmd, p, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// The program ends, or its call fails, exactly where it was asked to.
func TestTrace(t *testing.T) {
	// A child of this thread, or not: nobody takes its end away.
	other := exec.Command("/bin/sleep", "0.01")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	const script = "echo hello > a; echo world > b; mv b c; exit 3"
	for _, c := range []struct {
		point   Point
		code    int
		a, b, c string // content; "-": absent
	}{
		{Point{}, 3, "hello\n", "-", "world\n"},
		{Point{How: Before, N: 1}, -1, "-", "-", "-"},
		{Point{How: After, N: 1}, -1, "", "-", "-"},
		{Point{How: Before, N: 2}, -1, "", "-", "-"},
		{Point{How: Torn, N: 2}, -1, "hel", "-", "-"},
		{Point{How: After, N: 2}, -1, "hello\n", "-", "-"},
		{Point{How: After, N: 4}, -1, "hello\n", "world\n", "-"},
		{Point{How: After, N: 5}, 3, "hello\n", "-", "world\n"}, // there is no fifth
		{Point{How: Fail, N: 1, Errno: syscall.ENOSPC, Match: func(c Call) bool { return c.Name == "write" }}, 3, "", "-", "world\n"},
		{Point{How: Fail, N: 1, Errno: syscall.EIO, Lasting: true, Match: func(c Call) bool { return c.Name == "write" }}, 3, "", "-", ""},
	} {
		dir := t.TempDir()
		o := traced(t, dir, c.point, script)
		if o.Code != c.code || (c.code == -1) != o.Dead() {
			t.Errorf("%+v: %s\n%s", c.point, o, o.Output)
		}
		for name, want := range map[string]string{"a": c.a, "b": c.b, "c": c.c} {
			content, err := os.ReadFile(filepath.Join(dir, name))
			if got := string(content); got != want && !(err != nil && want == "-") {
				t.Errorf("%+v: %s has %q, %v; want %q", c.point, name, got, err, want)
			}
		}
		if c.point.How != Nothing && (c.point.N < 5) != (o.Hit != nil) {
			t.Errorf("%+v: hit %v", c.point, o.Hit)
		}
	}
	if err := other.Wait(); err != nil {
		t.Error(err)
	}
	o := traced(t, t.TempDir(), Point{Reading: true, How: Fail, N: 1, Errno: syscall.EIO, Match: func(c Call) bool { return filepath.Base(c.Path) == "nothing" }}, "cat < nothing")
	if o.Code == 0 || o.Hit == nil || o.Hit.Name != "open" {
		t.Errorf("%s %v %s", o, o.Hit, o.Output)
	}
}
