package lab

import (
	"maps"
	"net"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

type object = map[string]any

// patroniYAML writes a member's patroni.yml much as the guides for three-node clusters do,
// with the shortest times that Patroni allows.
func (c *Cluster) patroniYAML(m *Member, o ClusterOptions) string {
	c.t.Helper()
	address := net.JoinHostPort(m.Host, strconv.Itoa(m.Port))
	api := strings.TrimPrefix(m.API, "http://")
	parameters := object{
		"wal_level": "replica", "hot_standby": "on", "wal_log_hints": "on", "max_connections": 100, "max_wal_senders": 10,
		"max_replication_slots": 10, "wal_keep_size": "64MB", "archive_mode": "on", "archive_timeout": "300s",
		"shared_buffers": "64MB", "log_line_prefix": "%m [%p] " + m.Name + " ", "log_checkpoints": "on",
	}
	for k, v := range o.Parameters {
		parameters[k] = v
	}
	postgresql := object{"use_pg_rewind": true, "use_slots": true, "parameters": parameters}
	own := object{
		"listen": address, "connect_address": address, "data_dir": m.DataDir, "bin_dir": m.BinDir, "pgpass": m.Home + "/.pgpass",
		"use_unix_socket": true, "use_unix_socket_repl": true,
		"authentication": object{
			"superuser":   object{"username": "postgres", "password": Password},
			"replication": object{"username": "replicator", "password": Password},
			"rewind":      object{"username": "rewinder", "password": Password},
		},
		"parameters": object{"unix_socket_directories": m.SocketDir},
		"basebackup": []any{object{"checkpoint": "fast"}},
		"pg_hba": []any{
			"local all all scram-sha-256", "local replication replicator scram-sha-256",
			"host replication replicator 127.0.0.0/8 scram-sha-256", "host all all 127.0.0.0/8 scram-sha-256",
		},
	}
	names := strings.NewReplacer("{member}", m.Name, "{home}", m.Home)
	place := func(command string) (where object, expanded string) {
		expanded = names.Replace(command)
		if expanded == command {
			return postgresql, expanded
		}
		return own, expanded
	}
	where, command := place(or(o.ArchiveCommand, "/bin/true"))
	where["parameters"].(object)["archive_command"] = command
	if o.RestoreCommand != "" {
		where, command := place(o.RestoreCommand)
		where["recovery_conf"] = object{"restore_command": command}
	}
	config := object{
		"scope": c.Scope, "namespace": c.Namespace, "name": m.Name,
		"restapi": object{"listen": api, "connect_address": api},
		"etcd3":   object{"hosts": strings.Join(c.Etcd.Endpoints(), ",")},
		"log":     object{"level": "INFO"},
		"bootstrap": object{
			"dcs": object{
				"ttl": 20, "loop_wait": 2, "retry_timeout": 3, "maximum_lag_on_failover": 1048576,
				"synchronous_mode": o.SynchronousMode, "postgresql": postgresql,
			},
			"initdb": []any{object{"encoding": "UTF8"}, object{"locale": "C.UTF-8"}, "data-checksums"},
		},
		"postgresql": own,
		"tags":       object{"nofailover": false, "noloadbalance": false, "clonefrom": false, "nosync": false},
	}
	merge(config, o.Extra)
	b, err := yaml.Marshal(config)
	if err != nil {
		c.t.Fatalf("lab: %v", err)
	}
	return names.Replace(string(b))
}

// merge lays extra over base, object by object.
func merge(base, extra object) {
	for k, v := range extra {
		below, nested := base[k].(object)
		above, also := v.(object)
		if nested && also {
			below = maps.Clone(below)
			merge(below, above)
			base[k] = below
			continue
		}
		base[k] = v
	}
}
