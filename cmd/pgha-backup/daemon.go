package main

import (
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pgha-backup/pgha-backup/config"
	"github.com/pgha-backup/pgha-backup/daemon"
)

func newDaemonCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "daemon",
		Short: "Serve: watch the cluster, back up and expire on schedule, show how all stands",
		Long: "Runs on every database node, or alone on a backup host (where cluster.data_dir is not given), until SIGTERM.\n" +
			"Each scheduled time gives one backup in the whole cluster, whoever leads; where a member has no daemon, one on a backup\n" +
			"host copies it over the replication protocol. Without etcd the daemon agrees with nobody: run one only.\n\n" +
			"Beside a server it answers pgha-wal at daemon.socket, keeps the WAL of a standby until it is archived (archive.keep_on_standby)\n" +
			"and stores what the archive lacks and this member has (archive.fill_after).\n\n" +
			"SIGHUP reads the configuration again; one with errors is refused and the old one stays. What is in cluster, patroni, daemon\n" +
			"and log takes a restart. daemon.listen (127.0.0.1:8018) serves /metrics, /health/live, /health/ready and /status.\n" +
			"Archiving needs no daemon: archive-push and archive-get go on while it is down.",
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			debug.SetGCPercent(manyBuffers)
			hangups := make(chan os.Signal, 1)
			signal.Notify(hangups, syscall.SIGHUP)
			defer signal.Stop(hangups)
			err := daemon.Run(cmd.Context(), daemon.Options{
				Config: a.config, Reload: hangups, Version: version, Log: a.log, Patroni: patroniOptions(a.config, a.log),
				Load:   func() (config.Config, error) { return config.Load(a.path) },
				HintOf: hintOf,
				Open:   func(c config.Config) (daemon.Opener, error) { return a.with(c).opener() },
				Clients: func(c config.Config) (daemon.Clients, error) {
					a := a.with(c)
					bucket, err := a.bucket()
					return daemon.Clients{Pusher: a.pusher(bucket), Getter: a.getter(bucket)}, err
				},
			})
			if is[*daemon.RunningError](err) {
				return fail(exitPreflight, hintOf(err), "%w", err)
			}
			return err
		},
	}
}
