package lab

import (
	"fmt"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// The users that servers run as. Each has a group of its own, so that no member can read another's data.
const (
	User1  = "pgha1"
	User2  = "pgha2"
	User3  = "pgha3"
	UserS3 = "pgha-s3"
	// UserInfra runs etcd and HAProxy.
	UserInfra = "pgha-infra"
)

var making sync.Mutex

// identity finds a user, and makes it as a system user without login if it is one of ours.
func (r *Run) identity(name string) *syscall.Credential {
	r.t.Helper()
	id, err := identity(name)
	if err != nil {
		r.t.Fatalf("lab: %v", err)
	}
	return id
}

func identity(name string) (*syscall.Credential, error) {
	making.Lock()
	defer making.Unlock()
	u, err := user.Lookup(name)
	if err != nil {
		if !strings.HasPrefix(name, "pgha") {
			return nil, err
		}
		out, failed := exec.Command("useradd", "--system", "--user-group", "--no-create-home",
			"--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", name).CombinedOutput()
		// Another test process may have made it in the meantime.
		if u, err = user.Lookup(name); err != nil {
			return nil, fmt.Errorf("make user %s: %v: %s", name, failed, out)
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
