package server

import "testing"

func TestMovedTo(t *testing.T) {
	for _, c := range []struct{ dsn, to, want string }{
		{"host='/run/pg' port='5433' user='admin'", "postgres://10.0.0.2:5432/postgres", "host='/run/pg' port='5433' user='admin' host='10.0.0.2' port='5432'"},
		{"user=admin", "postgres://pg2/postgres", "user=admin host='pg2' port='5432'"},
		{"user=admin", "postgres://[fd00::2]:6000/postgres", "user=admin host='fd00::2' port='6000'"},
		{"postgres://admin:s%40x@localhost/db?sslmode=require&host=%2Frun", "postgres://10.0.0.2:6000/postgres", "postgres://admin:s%40x@10.0.0.2:6000/db?sslmode=require"},
		{"postgresql:///db?user=admin", "postgres://[fd00::2]/x", "postgresql://[fd00::2]:5432/db?user=admin"},
		{"user=admin", `postgres://x'sslmode='disable:1/`, `user=admin host='x\'sslmode=\'disable' port='1'`},
		{"user=admin", "", ""},
		{"user=admin", "http://[", ""},
	} {
		got, err := movedTo(c.dsn, c.to)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s to %s: %s, %v", c.dsn, c.to, got, err)
		}
	}
	if _, err := movedTo("user=admin", "nowhere"); err == nil || err.Error() != `the member's address "nowhere" is no connection URL` {
		t.Error(err)
	}
}
