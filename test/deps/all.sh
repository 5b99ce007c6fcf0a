#!/usr/bin/env bash
# Installs everything that tests and demo need on a Debian 12 machine. Run as root, or by somebody with sudo.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ "$(id -u)" -ne 0 ]; then
  exec sudo env "PATH=$PATH" "PGHA_CACHE=$cache" "${BASH_SOURCE[0]}"
fi
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
for part in packages go users tools promtool postgres17 postgres16; do
  "$here/$part.sh" 9>&-
done
