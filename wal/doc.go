// Package wal is what PostgreSQL calls: archive_command and restore_command.
//
// A Pusher acknowledges a file only when it is durable in the repository. A Getter
// says "absent" only when that is proven; everything else is trouble, and what
// exit status trouble has depends on who waits for the file (Mode). Neither needs
// a daemon, etcd, a shell or PGDATA in the environment, and neither leaves
// anything running.
package wal
