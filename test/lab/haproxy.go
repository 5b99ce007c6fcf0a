package lab

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

const proxyHead = `global
    maxconn 500
defaults
    mode tcp
    retries 2
    timeout connect 3s
    timeout client 30m
    timeout server 30m
    timeout check 2s
`

// startProxy starts HAProxy with one address for the leader, port 5000, and one for replicas, port 5001.
func (c *Cluster) startProxy(group int) {
	c.t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		c.t.Fatalf("lab: haproxy is not installed: run `make deps`")
	}
	c.vip = c.run.Prefix + strconv.Itoa(90+group)
	var b strings.Builder
	b.WriteString(proxyHead)
	for port, role := range map[int]string{5000: "primary", 5001: "replica"} {
		fmt.Fprintf(&b, "listen %s\n    bind %s:%d\n    option httpchk OPTIONS /%s\n    http-check expect status 200\n", role, c.vip, port, role)
		b.WriteString("    default-server inter 500ms fastinter 200ms fall 2 rise 1 on-marked-down shutdown-sessions\n")
		for _, m := range c.Members {
			fmt.Fprintf(&b, "    server %s %s:%d maxconn 100 check port 8008\n", m.Name, m.Host, m.Port)
		}
	}
	name := c.Scope + "-haproxy"
	file := c.run.WriteFile(UserInfra, 0o644, b.String(), name+".cfg")
	c.proxy = c.run.Start(UserInfra, name, nil, program, "-db", "-f", file)
}
