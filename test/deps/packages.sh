#!/usr/bin/env bash
# Installs the packages of the host's own suite that tests and demo need. No service and no default
# cluster is started by it.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

packages=(postgresql-15 patroni python3-etcd python3-psycopg2 etcd-server etcd-client haproxy zstd age patchelf
  gcc libc6-dev git ca-certificates passwd shellcheck)

packages "${packages[@]}"
