package main

// exitMapper turns an exit code into the one that PostgreSQL must see.
type exitMapper func(code int) int

// guard is called before anything else. It protects PostgreSQL from what an
// archive client's exit status would make it believe.
func guard(args []string) exitMapper { return func(code int) int { return code } }
