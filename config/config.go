// Package config is the one strict YAML file, what Patroni's own file adds to it,
// and the environment. A value that Load returned is complete and valid.
package config

import "time"

// DefaultPath is where the file is looked for.
const DefaultPath = "/etc/pgha-backup/config.yaml"

// Config is the whole configuration.
type Config struct {
	Cluster      Cluster      `yaml:"cluster"`
	Patroni      Patroni      `yaml:"patroni"`
	Repositories []Repository `yaml:"repositories"`
	Archive      Archive      `yaml:"archive"`
	Backup       Backup       `yaml:"backup"`
	Schedules    []Schedule   `yaml:"schedules"`
	Retention    Retention    `yaml:"retention"`
	Daemon       Daemon       `yaml:"daemon"`
	Log          Log          `yaml:"log"`

	// File is where it was read from.
	File string `yaml:"-"`
	// Origins says for each field path where its value came from; a path that is
	// not in it has its default.
	Origins map[string]string `yaml:"-"`
	// Warnings are said to the user once; none of them stops the work.
	Warnings []string `yaml:"-"`
}

// Cluster says which cluster and which of its members this host serves. All of it
// can come from Patroni's file.
type Cluster struct {
	Scope   string `yaml:"scope"`
	Member  string `yaml:"member"`
	DataDir string `yaml:"data_dir"` // PGDATA
	BinDir  string `yaml:"bin_dir"`  // of pg_ctl and postgres
	// DSN connects to the local server as a superuser, in libpq's keyword form.
	DSN Secret `yaml:"dsn"`
	// StateDir is ours: stamps and spool; /var/lib/pgha-backup/<scope>/<member>.
	StateDir string `yaml:"state_dir"`
}

// Patroni says where to learn who leads.
type Patroni struct {
	Config    string `yaml:"config"` // patroni.yml, or a directory of such files
	Namespace string `yaml:"namespace"`
	Etcd      Etcd   `yaml:"etcd"`
	API       API    `yaml:"api"`
	// PrePromote is postgresql.pre_promote of patroni.yml.
	PrePromote string `yaml:"-"`
	// ReplicasAtOnce is how many members of the cluster are made from the repository at a time.
	ReplicasAtOnce int `yaml:"replicas_at_once"`
}

// Etcd is how to reach etcd's v3 API.
type Etcd struct {
	Endpoints []string `yaml:"endpoints"` // URLs; a scheme-less one is http
	CAFile    string   `yaml:"ca_file"`
	CertFile  string   `yaml:"cert_file"`
	KeyFile   string   `yaml:"key_file"`
	Username  string   `yaml:"username"`
	Password  Secret   `yaml:"password"`
	// V2 tells that Patroni keeps its keys in etcd's v2 API, which we do not speak:
	// the cluster is then seen through Patroni's REST API.
	V2 bool `yaml:"-"`
	// NoVerify follows Patroni, which does not verify etcd's certificate without a cacert.
	NoVerify bool `yaml:"-"`
}

// API is how to reach Patroni's REST API of the local member and of the others.
// Reading needs no password; patroni setup --apply writes.
type API struct {
	URL      string `yaml:"url"`
	Username string `yaml:"username"`
	Password Secret `yaml:"password"`
	CAFile   string `yaml:"ca_file"`
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	NoVerify bool   `yaml:"-"` // ctl.insecure of Patroni's file
}

// Repository is where backups and WAL are kept.
type Repository struct {
	Name  string `yaml:"name"`
	Type  string `yaml:"type"` // s3 or file
	S3    S3     `yaml:"s3"`
	File  File   `yaml:"file"`
	Codec string `yaml:"codec"` // zstd, s2 or none
	Level string `yaml:"level"` // fastest, default, better or best
	// ConditionalWrites is required (default), or emulate for a store that cannot
	// do create-once writes.
	ConditionalWrites string `yaml:"conditional_writes"`
}

// The types of repository and the values of ConditionalWrites.
const (
	TypeS3   = "s3"
	TypeFile = "file"
	Required = "required"
	Emulate  = "emulate"
)

// S3 is a bucket in an S3 store. Without an access key credentials_file holds, else the
// usual chain: AWS_* variables, ~/.aws, web identity or instance role.
type S3 struct {
	Endpoint        string `yaml:"endpoint"` // https://host[:port]
	Bucket          string `yaml:"bucket"`
	Prefix          string `yaml:"prefix"`
	Region          string `yaml:"region"`
	AccessKey       Secret `yaml:"access_key"`
	SecretKey       Secret `yaml:"secret_key"`
	SessionToken    Secret `yaml:"session_token"`
	CredentialsFile string `yaml:"credentials_file"`
	Profile         string `yaml:"profile"`
	PathStyle       string `yaml:"path_style"` // auto, path or virtual
	CAFile          string `yaml:"ca_file"`
	TLS             string `yaml:"tls"` // on, or off for a plain http endpoint
	// Encryption is what the store is asked for with each object: AES256 or aws:kms.
	Encryption string `yaml:"server_side_encryption"`
	KMSKeyID   string `yaml:"kms_key_id"` // the store's own key if empty
}

// File is a directory, which must exist: a missing one may be a filesystem that is
// not mounted.
type File struct {
	Path string `yaml:"path"`
}

// Archive bounds archive-push and archive-get.
type Archive struct {
	Spool    string `yaml:"spool"`     // directory of files fetched ahead; <state_dir>/spool
	GetBatch int    `yaml:"get_batch"` // files fetched at once, the asked one included
	// PushTimeout is how long a push may go without a byte of progress.
	PushTimeout time.Duration `yaml:"push_timeout"`
	// GetStandbyTimeout is all that a get may take while PostgreSQL is a standby.
	GetStandbyTimeout time.Duration `yaml:"get_standby_timeout"`
	// GetRewindTimeout is all that a get may take under pg_rewind.
	GetRewindTimeout time.Duration `yaml:"get_rewind_timeout"`
	// GetRecoveryTimeout is how long a get in recovery may go without progress.
	GetRecoveryTimeout time.Duration `yaml:"get_recovery_timeout"`
	// PushAhead is how many files the daemon pushes at once before PostgreSQL asks.
	PushAhead int `yaml:"push_ahead"`
	// KeepOnStandby bounds the WAL that a standby keeps until it is archived; 0: none is kept.
	KeepOnStandby Size `yaml:"keep_on_standby"`
	// FillAfter is how long the archive may lack a segment before a member that has it
	// pushes it; 0: never.
	FillAfter time.Duration `yaml:"fill_after"`
	// LostAfter is when a hole counts as lost though not every member could be asked.
	LostAfter time.Duration `yaml:"lost_after"`
	// OnFull is what a push does when pg_wal has less than FullBelow free and the store
	// has just failed: stop, or drop-and-record.
	OnFull    string `yaml:"on_full"`
	FullBelow Size   `yaml:"full_below"`
}

// The values of OnFull.
const (
	Stop          = "stop"
	DropAndRecord = "drop-and-record"
)

// Backup says how a base backup is taken.
type Backup struct {
	Workers   int  `yaml:"workers"`
	RateLimit Size `yaml:"rate_limit"` // bytes read per second by all workers; 0: no limit
	PackSize  Size `yaml:"pack_size"`  // plaintext bytes at which a pack ends
	PartSize  Size `yaml:"part_size"`  // bytes of one part of an upload
	MaxLag    Size `yaml:"max_lag"`    // bytes a replica may be behind when its backup begins; 0: no limit
	// WALTimeout is how long to wait for the WAL of the backup to be archived.
	WALTimeout time.Duration `yaml:"wal_timeout"`
}

// Log says what is logged to stderr.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // text or json
}

// Default is what holds where nothing is said.
func Default() Config {
	return Config{
		Patroni: Patroni{ReplicasAtOnce: 2},
		Archive: Archive{GetBatch: 8, PushTimeout: 60 * time.Second, GetStandbyTimeout: 2 * time.Second,
			GetRewindTimeout: 60 * time.Second, GetRecoveryTimeout: 15 * time.Minute,
			PushAhead: 4, KeepOnStandby: 16 << 30, FillAfter: 30 * time.Second, LostAfter: 15 * time.Minute, OnFull: Stop, FullBelow: 1 << 30},
		Backup:    Backup{Workers: 2, PackSize: 256 << 20, PartSize: 16 << 20, MaxLag: 256 << 20, WALTimeout: time.Hour},
		Retention: defaultRetention(),
		Daemon:    Daemon{Listen: "127.0.0.1:8018"},
		Log:       Log{Level: "info", Format: "text"},
		Origins:   map[string]string{},
	}
}

func defaultRepository() Repository {
	return Repository{Codec: "zstd", Level: "default", ConditionalWrites: Required, S3: S3{PathStyle: "auto", TLS: "on"}}
}

// Repository is the one repository. Load has made sure that there is one.
func (c Config) Repository() Repository { return c.Repositories[0] }

// Identity names the store for notes on this host.
func (r Repository) Identity() string {
	if r.Type == TypeFile {
		return "file://" + r.File.Path
	}
	return "s3://" + r.S3.Endpoint + "/" + r.S3.Bucket + "/" + r.S3.Prefix
}
