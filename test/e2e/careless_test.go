package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pgha-backup/pgha-backup/test/lab"
)

// TestCarelessStore archives a real segment into a real server that takes
// conditional writes and ignores the condition: refused, unless emulation was
// asked for, which status then calls degraded.
func TestCarelessStore(t *testing.T) {
	run := lab.RunOf(t)
	program, err := exec.LookPath("gofakes3-careless")
	if err != nil {
		t.Fatalf("%v: make deps installs it", err)
	}
	addr := run.Prefix + "77:9000"
	run.Start(lab.UserInfra, "careless", nil, program, "-host", addr, "-backend", "mem", "-initialbucket", "backups")
	lab.Poll(t, 10*time.Second, "the careless server", func() error {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	pg := lab.StartPostgres(t, lab.PGOptions{Conf: map[string]string{"archive_mode": "on", "archive_command": "/bin/false"}})
	pg.Exec("create table t as select generate_series(1, 1000) n")
	var segment string
	pg.QueryRow("select pg_walfile_name(pg_switch_wal())", &segment)
	state := run.Mkdir(pg.User, 0o700, "careless-state")
	binary := run.Build("pgha-backup")

	push := func(name, extra string) (code int, said string) {
		t.Helper()
		file := run.WriteFile(pg.User, 0o600, fmt.Sprintf(`cluster: {scope: careless, member: n1, data_dir: %s, state_dir: %s}
repositories:
  - name: main
    type: s3
    s3: {endpoint: "http://%s", bucket: backups, region: us-east-1, access_key: a, secret_key: b, path_style: path, tls: "off"}
%s`, pg.DataDir, state, addr, extra), name)
		cmd := run.Command(t.Context(), pg.User, nil, binary, "--config", file, "archive-push", pg.DataDir+"/pg_wal/"+segment)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			if _, ok := errors.AsType[*exec.ExitError](err); !ok {
				t.Fatal(err)
			}
		}
		return cmd.ProcessState.ExitCode(), stderr.String()
	}
	code, said := push("required.yaml", "")
	if code != 1 || !strings.Contains(said, "the store cannot do create-once writes, so nothing is archived into it") ||
		!strings.Contains(said, "conditional_writes: emulate") {
		t.Errorf("required: exit %d, %s", code, said)
	}
	if code, said := push("emulate.yaml", "    conditional_writes: emulate\n"); code != 0 {
		t.Errorf("emulate: exit %d, %s", code, said)
	}
}
