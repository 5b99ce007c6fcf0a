package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	const text = "hunter2"
	secret := NewSecret(text)
	holder := struct {
		Shown  Secret
		hidden Secret
		list   []Secret
	}{secret, secret, []Secret{secret}}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T"} {
		fmt.Fprintf(&out, verb+verb+verb+"\n", secret, &secret, holder)
	}
	j, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(holder.Shown)
	if err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "secret", secret, "holder", holder)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "secret", secret, "holder", holder)
	out.Write(bytes.Join([][]byte{j, y}, nil))
	for _, form := range []string{text, fmt.Sprintf("%x", text), fmt.Sprintf("%X", text)} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the secret was printed:\n%s", out.String())
		}
	}
	if secret.Reveal() != text || fmt.Sprint(secret) != "[redacted]" || fmt.Sprint(Secret{}) != "" {
		t.Error(secret, Secret{})
	}
}

func TestSecretsFromTheEnvironment(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := write("config.yaml", 0o600, "cluster: {scope: main}\nrepositories: [{name: a, type: s3, s3: {endpoint: 'https://s', bucket: b}}]\n")
	key := write("key", 0o600, "from a file\n")
	open := write("open", 0o644, "seen by all")
	c, err := load(path, []string{"PGHA_BACKUP_S3_ACCESS_KEY=AKIA", "PGHA_BACKUP_S3_SECRET_KEY_FILE=" + key, "PGHA_BACKUP_S3_SESSION_TOKEN_FILE=" + open,
		"PGHA_BACKUP_S3_BUCKET=c", "PGHA_BACKUP_CONFIG=x", "PGHA_BACKUP_S3_BUKKET=d", "PGHA_BACKUP_S3_REGION_FILE=e", "HOME=/"})
	if err != nil {
		t.Fatal(err)
	}
	s := c.Repository().S3
	if s.AccessKey.Reveal() != "AKIA" || s.SecretKey.Reveal() != "from a file" || s.SessionToken.Reveal() != "seen by all" || s.Bucket != "c" {
		t.Errorf("%+v", s)
	}
	write("key", 0o600, "replaced\n")
	if now, err := s.SecretKey.Again(); now != "replaced" || err != nil || !s.SecretKey.FromFile() || s.AccessKey.FromFile() {
		t.Errorf("%q, %v", now, err)
	}
	if now, err := s.AccessKey.Again(); now != "AKIA" || err != nil {
		t.Errorf("%q, %v", now, err)
	}
	all := strings.Join(c.Warnings, "\n")
	for _, want := range []string{open + " holds secrets and everybody can read it (mode 0644); chmod 0640 it",
		"environment variable PGHA_BACKUP_S3_BUKKET is not one of ours", "PGHA_BACKUP_S3_REGION_FILE is not one of ours"} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning %q in\n%s", want, all)
		}
	}
	if len(c.Warnings) != 3 {
		t.Errorf("warnings:\n%s", all)
	}
	for _, environ := range [][]string{
		{"PGHA_BACKUP_S3_SECRET_KEY_FILE=" + dir + "/absent"},
		{"PGHA_BACKUP_S3_SECRET_KEY_FILE=" + key, "PGHA_BACKUP_S3_SECRET_KEY=x"},
	} {
		if _, err := load(path, environ); err == nil || !strings.Contains(err.Error(), "repositories[0].s3.secret_key: ") {
			t.Errorf("%v: %v", environ, err)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "1048576": 1 << 20, "256MiB": 256 << 20, "1 GiB": 1 << 30, "5kB": 5000, "2TB": 2e12, "7B": 7, "3KiB": 3072} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
		if again, err := ParseSize(got.String()); err != nil || again != got {
			t.Errorf("%q printed as %q", text, got)
		}
	}
	for _, text := range []string{"", "-1", "1.5GiB", "MiB", "10mb", "9999999999999TiB", "1e3"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

func TestRepositoryBesideTheData(t *testing.T) {
	dir := t.TempDir()
	c := Default()
	c.Cluster = Cluster{Scope: "main", DataDir: dir}
	r := defaultRepository()
	r.Name, r.Type, r.File.Path = "a", TypeFile, t.TempDir()
	c.Repositories = []Repository{r}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "is on the same filesystem as the data directory "+dir) {
		t.Error(c.Warnings)
	}
}
