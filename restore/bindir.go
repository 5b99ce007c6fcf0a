package restore

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// FindBinDir finds PostgreSQL's programs of one major version: in the directory
// that is preferred (may be empty), where Debian and the PGDG packages put them,
// and where pg_config says.
func FindBinDir(ctx context.Context, major int, preferred string) (string, error) {
	places := []string{preferred, fmt.Sprintf("/usr/lib/postgresql/%d/bin", major), fmt.Sprintf("/usr/pgsql-%d/bin", major)}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		places = append(places, strings.TrimSpace(string(out)))
	}
	for _, dir := range places {
		if dir == "" {
			continue
		}
		out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
		// "postgres (PostgreSQL) 15.18 (Debian 15.18-1)", "19beta1"
		_, version, _ := strings.Cut(string(out), ") ")
		number := strings.FieldsFunc(version, func(r rune) bool { return r < '0' || r > '9' })
		if err == nil && len(number) > 0 && number[0] == fmt.Sprint(major) {
			return dir, nil
		}
	}
	return "", refuse("install the server package of that version, or set patroni.bin_dir in the configuration",
		"no programs of PostgreSQL %d on this host (looked in %s)", major, strings.Join(places, ", "))
}
