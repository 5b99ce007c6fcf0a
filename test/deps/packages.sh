#!/usr/bin/env bash
# Installs the packages of the host's own suite that tests and demo need. No service and no default
# cluster is started by it.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

packages=(postgresql-15 patroni python3-etcd python3-psycopg2 etcd-server etcd-client haproxy zstd age patchelf
  gcc libc6-dev git ca-certificates passwd shellcheck)

missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
say "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
