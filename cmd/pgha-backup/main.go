// Command pgha-backup gives a PostgreSQL cluster run by Patroni and etcd its backups and its way back.
package main

import "fmt"

// version is set when the program is built.
var version = "unknown"

func main() { fmt.Println("pgha-backup", version) }
