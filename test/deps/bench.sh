#!/usr/bin/env bash
# Installs what the benchmark compares with. Run as root, or by somebody with sudo.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ "$(id -u)" -ne 0 ]; then
  exec sudo env "PATH=$PATH" "PGHA_CACHE=$cache" "${BASH_SOURCE[0]}"
fi
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
packages pgbackrest lz4 time
