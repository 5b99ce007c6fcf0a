#!/usr/bin/env bash
# Installs PostgreSQL 18 and Patroni 4.1, which only the campaign wants: their suite changes every day.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ "$(id -u)" -ne 0 ]; then
  exec sudo env "PATH=$PATH" "PGHA_CACHE=$cache" "${BASH_SOURCE[0]}"
fi
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
suite_postgres 18 sid 9>&-
