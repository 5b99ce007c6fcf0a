package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/emulate"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/storage/retry"
	"github.com/pgha-backup/pgha-backup/storage/s3"
)

// app is what the commands share: the configuration, read at most once, and what
// is made from it.
type app struct {
	path   string // of the configuration file
	format string // table or json
	stdout io.Writer
	stderr io.Writer
	uid    int
	now    func() time.Time

	once   sync.Once
	loaded config.Config
	err    error
	log    *slog.Logger
}

func newApp(stdout, stderr io.Writer) *app {
	return &app{stdout: stdout, stderr: stderr, uid: os.Geteuid(), now: time.Now}
}

// config is the valid configuration. Its warnings are logged once.
func (a *app) config() (config.Config, error) {
	a.once.Do(func() {
		a.loaded, a.err = config.Load(a.path)
		if a.err != nil {
			return
		}
		for _, warning := range a.loaded.Warnings {
			a.logger().Warn(warning)
		}
	})
	return a.loaded, a.err
}

// logger logs to stderr as the configuration says; before it is read, as the
// defaults say.
func (a *app) logger() *slog.Logger {
	if a.log != nil {
		return a.log
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(a.loaded.Log.Level)) // validated; info if not read yet
	options := &slog.HandlerOptions{Level: level}
	log := slog.New(slog.NewTextHandler(a.stderr, options))
	if a.loaded.Log.Format == "json" {
		log = slog.New(slog.NewJSONHandler(a.stderr, options))
	}
	if a.loaded.Log.Level != "" {
		a.log = log
	}
	return log
}

// store is the driver itself, without retries.
func (a *app) store() (storage.Bucket, error) {
	c, err := a.config()
	if err != nil {
		return nil, err
	}
	r := c.Repository()
	if r.Type == config.TypeFile {
		return file.New(r.File.Path), nil
	}
	return a.bucketNamed(r.S3.Bucket)
}

// bucketNamed is the driver for a bucket of the configured S3 store.
func (a *app) bucketNamed(bucket string) (storage.Bucket, error) {
	r := a.loaded.Repository()
	styles := map[string]s3.Style{"auto": s3.Auto, "path": s3.Path, "virtual": s3.VirtualHost}
	return s3.New(s3.Options{
		Endpoint: r.S3.Endpoint, Bucket: bucket, Prefix: r.S3.Prefix, Region: r.S3.Region,
		Style: styles[r.S3.PathStyle], CAFile: r.S3.CAFile,
		AccessKey: r.S3.AccessKey.Reveal(), SecretKey: r.S3.SecretKey.Reveal(), SessionToken: r.S3.SessionToken.Reveal(),
		CredentialsFile: r.S3.CredentialsFile, Profile: r.S3.Profile,
	})
}

// bucket is the store with retries and, where configured, emulated create-once.
func (a *app) bucket(context.Context) (storage.Bucket, error) { return a.bucketWith(retry.Options{}) }

// bucketWith is bucket with another patience.
func (a *app) bucketWith(o retry.Options) (storage.Bucket, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = a.logger()
	}
	var bucket storage.Bucket = retry.New(store, o)
	if a.loaded.Repository().ConditionalWrites == config.Emulate {
		bucket = emulate.New(bucket)
	}
	return bucket, nil
}

// repository is the cluster's repository of one system identifier. Nothing is
// asked of the store.
func (a *app) repository(_ context.Context, system postgres.SystemIdentifier) (*catalog.Repository, error) {
	return a.repositoryWith(system, retry.Options{})
}

// repositoryWith is repository with another patience.
func (a *app) repositoryWith(system postgres.SystemIdentifier, o retry.Options) (*catalog.Repository, error) {
	bucket, err := a.bucketWith(o)
	if err != nil {
		return nil, err
	}
	return catalog.New(bucket, a.location(system), a.options()), nil
}

func (a *app) location(system postgres.SystemIdentifier) catalog.Location {
	return catalog.Location{Scope: a.loaded.Cluster.Scope, System: system}
}

func (a *app) options() catalog.Options {
	r := a.loaded.Repository()
	name, level, _ := codec.Parse(r.Codec, r.Level) // validated
	return catalog.Options{Codec: name, Level: level, PartSize: int(a.loaded.Backup.PartSize)}
}

// json prints one document.
func (a *app) json(v any) error {
	encoder := json.NewEncoder(a.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// topology is the Patroni cluster as it is now, its leader confirmed.
func (a *app) topology(ctx context.Context) (cluster.Topology, error) {
	c, err := a.config()
	if err != nil {
		return cluster.Topology{}, err
	}
	e, api := c.Patroni.Etcd, c.Patroni.API
	if len(e.Endpoints) == 0 && api.URL == "" {
		return cluster.Topology{}, fail(exitConfig, "set patroni.config to the path of patroni.yml, or patroni.etcd.endpoints",
			"%s says nothing of Patroni", c.File)
	}
	observer, err := patroni.New(patroni.Options{
		Scope: c.Cluster.Scope, Namespace: c.Patroni.Namespace, Log: a.logger(),
		Endpoints: e.Endpoints, V2: e.V2, Username: e.Username, Password: e.Password.Reveal(),
		TLS: patroni.TLS{CAFile: e.CAFile, CertFile: e.CertFile, KeyFile: e.KeyFile, NoVerify: e.NoVerify},
		API: api.URL, APITLS: patroni.TLS{CAFile: api.CAFile, CertFile: api.CertFile, KeyFile: api.KeyFile, NoVerify: api.NoVerify},
	})
	if err != nil {
		return cluster.Topology{}, fail(exitConfig, "", "%w", err)
	}
	t, err := observer.Topology(ctx)
	return t, errors.Join(err, observer.Close())
}

// systemFlag adds --system-id to a command that reads a repository.
func systemFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("system-id", "", "system identifier, where the repository holds several clusters of this name")
}
