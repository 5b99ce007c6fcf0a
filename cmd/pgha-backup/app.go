package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/pgha-backup/pgha-backup/catalog"
	"github.com/pgha-backup/pgha-backup/cluster"
	"github.com/pgha-backup/pgha-backup/cluster/patroni"
	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/daemon"
	"github.com/pgha-backup/pgha-backup/internal/codec"
	"github.com/pgha-backup/pgha-backup/postgres"
	"github.com/pgha-backup/pgha-backup/storage"
	"github.com/pgha-backup/pgha-backup/storage/emulate"
	"github.com/pgha-backup/pgha-backup/storage/file"
	"github.com/pgha-backup/pgha-backup/storage/retry"
	"github.com/pgha-backup/pgha-backup/storage/s3"
)

// app is what the commands share: the configuration and what is made from it.
type app struct {
	path   string // of the configuration file
	format string // table or json
	args   []string
	stdout io.Writer
	stderr io.Writer
	uid    int
	now    func() time.Time

	config config.Config // after load
	log    *slog.Logger  // to stderr, from load on as the configuration says
}

func newApp(stdout, stderr io.Writer) *app {
	return &app{stdout: stdout, stderr: stderr, uid: os.Geteuid(), now: time.Now, log: slog.New(slog.NewTextHandler(stderr, nil))}
}

// load reads the configuration.
func (a *app) load() (err error) {
	if a.config, err = config.Load(a.path); err != nil {
		return err
	}
	var level slog.Level
	_ = level.UnmarshalText([]byte(a.config.Log.Level)) // validated
	options := &slog.HandlerOptions{Level: level}
	a.log = slog.New(slog.NewTextHandler(a.stderr, options))
	if a.config.Log.Format == "json" {
		a.log = slog.New(slog.NewJSONHandler(a.stderr, options))
	}
	return nil
}

// with is the same program with another configuration.
func (a *app) with(c config.Config) *app {
	other := *a
	other.config = c
	return &other
}

// store is the driver itself, without retries.
func (a *app) store() (storage.Bucket, error) {
	r := a.config.Repository()
	if r.Type == config.TypeFile {
		return file.New(r.File.Path), nil
	}
	return a.bucketNamed(r.S3.Bucket)
}

// bucketNamed is the driver for a bucket of the configured S3 store.
func (a *app) bucketNamed(bucket string) (storage.Bucket, error) {
	r := a.config.Repository()
	styles := map[string]s3.Style{"auto": s3.Auto, "path": s3.Path, "virtual": s3.VirtualHost}
	options := s3.Options{
		Endpoint: r.S3.Endpoint, Bucket: bucket, Prefix: r.S3.Prefix, Region: r.S3.Region,
		Style: styles[r.S3.PathStyle], CAFile: r.S3.CAFile,
		AccessKey: r.S3.AccessKey.Reveal(), SecretKey: r.S3.SecretKey.Reveal(), SessionToken: r.S3.SessionToken.Reveal(),
		CredentialsFile: r.S3.CredentialsFile, Profile: r.S3.Profile,
		Encryption: r.S3.Encryption, KMSKeyID: r.S3.KMSKeyID,
	}
	if r.S3.AccessKey.FromFile() || r.S3.SecretKey.FromFile() || r.S3.SessionToken.FromFile() {
		options.Fresh = func() (s3.Keys, error) {
			access, err := r.S3.AccessKey.Again()
			secret, err2 := r.S3.SecretKey.Again()
			token, err3 := r.S3.SessionToken.Again()
			return s3.Keys{Access: access, Secret: secret, Token: token}, errors.Join(err, err2, err3)
		}
	}
	driver, err := s3.New(options)
	if err != nil {
		return nil, fail(exitConfig, "pgha-backup config show: what is in force, and where it comes from", "%w", err)
	}
	return driver, nil
}

// bucket is the store with retries and, where configured, emulated create-once.
func (a *app) bucket() (storage.Bucket, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	var bucket storage.Bucket = retry.New(store, retry.Options{Log: a.log})
	if a.config.Repository().ConditionalWrites == config.Emulate {
		bucket = emulate.New(bucket)
	}
	return bucket, nil
}

// repository is the cluster's repository of one system identifier. Nothing is
// asked of the store.
func (a *app) repository(system postgres.SystemIdentifier) (*catalog.Repository, error) {
	open, err := a.opener()
	if err != nil {
		return nil, err
	}
	return open(system), nil
}

// opener gives the repositories of any system identifier on one store.
func (a *app) opener() (daemon.Opener, error) {
	bucket, err := a.bucket()
	if err != nil {
		return nil, err
	}
	scope, options := a.config.Cluster.Scope, a.options()
	return func(system postgres.SystemIdentifier) *catalog.Repository {
		return catalog.New(bucket, catalog.Location{Scope: scope, System: system}, options)
	}, nil
}

func (a *app) options() catalog.Options {
	r := a.config.Repository()
	name, level, _ := codec.Parse(r.Codec, r.Level) // validated
	return catalog.Options{Codec: name, Level: level, Author: a.config.Cluster.Member, PartSize: int(a.config.Backup.PartSize)}
}

// warn logs each of several warnings.
func (a *app) warn(all []string) {
	for _, text := range all {
		a.log.Warn(text)
	}
}

// print shows a document as JSON where that is asked for, else as text does.
func (a *app) print(document any, text func() error) error {
	if a.format != "json" {
		return text()
	}
	encoder := json.NewEncoder(a.stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(document)
}

// say prints a document as JSON where that is asked for, else one line.
func (a *app) say(document any, format string, args ...any) error {
	return a.print(document, func() error {
		_, err := fmt.Fprintf(a.stdout, format+"\n", args...)
		return err
	})
}

// hasPatroni tells whether there is anybody to ask for the topology.
func (a *app) hasPatroni() bool {
	return len(a.config.Patroni.Etcd.Endpoints) > 0 || a.config.Patroni.API.URL != ""
}

// patroniOptions say how to reach the cluster's etcd and REST API.
func patroniOptions(c config.Config, log *slog.Logger) patroni.Options {
	e, api := c.Patroni.Etcd, c.Patroni.API
	return patroni.Options{
		Scope: c.Cluster.Scope, Namespace: c.Patroni.Namespace, Log: log,
		Endpoints: e.Endpoints, V2: e.V2, Username: e.Username, Password: e.Password.Reveal(),
		TLS: patroni.TLS{CAFile: e.CAFile, CertFile: e.CertFile, KeyFile: e.KeyFile, NoVerify: e.NoVerify},
		API: api.URL, APIUsername: api.Username, APIPassword: api.Password.Reveal(), APITLS: patroni.TLS{CAFile: api.CAFile, CertFile: api.CertFile, KeyFile: api.KeyFile, NoVerify: api.NoVerify},
	}
}

// topology is the Patroni cluster as it is now, its leader confirmed.
func (a *app) topology(ctx context.Context) (cluster.Topology, error) {
	observer, err := patroni.New(patroniOptions(a.config, a.log))
	if err != nil {
		return cluster.Topology{}, fail(exitConfig, "", "%w", err)
	}
	t, err := observer.Topology(ctx)
	return t, errors.Join(err, observer.Close())
}
