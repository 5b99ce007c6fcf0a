#!/usr/bin/env bash
# Unpacks PostgreSQL 17 and the Patroni of its suite into the cache, beside the host's packages and
# without touching them. Patroni runs on the host's Python.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

prefix=$cache/pg17
if [ -e "$prefix/complete" ]; then exit 0; fi
say "installing PostgreSQL 17 into $prefix"
world=$(mktemp -d)
trap 'rm -rf "$world"' EXIT
suite_open "$world" trixie
mapfile -t closure < <(
  suite_apt "$world" apt-get --print-uris -y install postgresql-17 |
    sed -nE "s/^'[^']*' ([^_]+)_.*/\\1/p" |
    grep -E '^(postgresql-|lib|zlib1g)' | grep -vE '^lib(perl|python)|-common$|^postgresql-common'
)
# The programs find their libraries through an absolute path, so the prefix is built where it stays.
rm -rf "$prefix"
suite_unpack "$world" "$prefix" "${closure[@]}" patroni
if [ -d "$prefix/lib" ] && [ ! -L "$prefix/lib" ]; then
  cp -an "$prefix/lib/." "$prefix/usr/lib/"
fi
own_libraries "$prefix" "$prefix"/usr/lib/postgresql/17/bin/*
"$prefix/usr/lib/postgresql/17/bin/postgres" --version >/dev/null
touch "$prefix/complete"
