# Shared by the scripts beside it. They install what the tests and the demo need, are run as root,
# and do nothing, quickly, when all is there.
# shellcheck shell=bash
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export here
cache=${PGHA_CACHE:-/var/cache/pgha-backup}
go_minor=26 # go.mod wants Go 1.26
export cache go_minor
umask 022

say() { printf 'deps: %s\n' "$*" >&2; }

# packages NAME... installs what is missing of packages of the host's own suite. No service and no default
# cluster is started by it.
packages() {
  local p missing=() policy=/usr/sbin/policy-rc.d
  for p in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# mirror prints the host's own Debian mirror.
mirror() {
  local from
  from=$(grep -hsE '^URIs:' /etc/apt/sources.list.d/*.sources | awk '{print $2}' | grep -vE 'security|snapshot' | head -n 1 || true)
  if [ -z "$from" ]; then
    from=$(grep -hsE '^deb ' /etc/apt/sources.list /etc/apt/sources.list.d/*.list | grep -oE 'https?://[^ ]+' | grep -v security | head -n 1 || true)
  fi
  printf '%s\n' "${from:-http://deb.debian.org/debian}"
}

# suite_apt DIR COMMAND... runs an apt command with DIR as its whole world; the host's own state is not touched.
suite_apt() {
  local dir=$1 command=$2
  shift 2
  "$command" -qq -o Dir::State="$dir/state" -o Dir::State::status="$dir/state/status" -o Dir::Cache="$dir/cache" \
    -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
    -o Acquire::Check-Valid-Until=false -o APT::Install-Recommends=false -o APT::Sandbox::User=root "$@"
}

# suite_open DIR SUITE makes such a world for one suite of Debian.
suite_open() {
  local dir=$1 suite=$2
  mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial" "$dir/debs"
  : >"$dir/state/status"
  printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$(mirror)" "$suite" >"$dir/sources.list"
  suite_apt "$dir" apt-get update
}

# suite_unpack DIR PREFIX PACKAGE... downloads packages and unpacks them below PREFIX, without dpkg's knowledge.
suite_unpack() {
  local dir=$1 prefix=$2 deb
  shift 2
  (cd "$dir/debs" && suite_apt "$dir" apt-get download "$@")
  mkdir -p "$prefix"
  for deb in "$dir"/debs/*.deb; do
    dpkg-deb -x "$deb" "$prefix"
  done
}

# own_libraries PREFIX FILE... makes ELF programs use the prefix's own C library. DT_RPATH and not
# DT_RUNPATH: the latter does not reach the libraries of libraries.
own_libraries() {
  local prefix=$1 file lib
  shift
  lib=$prefix/usr/lib/x86_64-linux-gnu
  for file in "$@"; do
    if [ -f "$file" ] && [ ! -L "$file" ] && patchelf --print-interpreter "$file" >/dev/null 2>&1; then
      patchelf --set-interpreter "$lib/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$lib" "$file"
    fi
  done
}

# suite_postgres MAJOR SUITE unpacks that PostgreSQL and the Patroni of its suite into the cache, beside the host's
# packages and without touching them. Patroni runs on the host's Python.
suite_postgres() {
  local major=$1 suite=$2 prefix=$cache/pg$1 world closure
  [ ! -e "$prefix/complete" ] || return 0
  say "installing PostgreSQL $major into $prefix"
  world=$(mktemp -d)
  # shellcheck disable=SC2064 # it is local
  trap "rm -rf '$world'" EXIT
  suite_open "$world" "$suite"
  mapfile -t closure < <(
    suite_apt "$world" apt-get --print-uris -y install "postgresql-$major" |
      sed -nE "s/^'[^']*' ([^_]+)_.*/\\1/p" |
      grep -E '^(postgresql-|lib|zlib1g)' | grep -vE '^lib(perl|python)|-common$|^postgresql-common'
  )
  # The programs find their libraries through an absolute path, so the prefix is built where it stays.
  rm -rf "$prefix"
  suite_unpack "$world" "$prefix" "${closure[@]}" patroni
  if [ -d "$prefix/lib" ] && [ ! -L "$prefix/lib" ]; then
    cp -an "$prefix/lib/." "$prefix/usr/lib/"
  fi
  own_libraries "$prefix" "$prefix/usr/lib/postgresql/$major"/bin/*
  "$prefix/usr/lib/postgresql/$major/bin/postgres" --version >/dev/null
  touch "$prefix/complete"
}

# good_go prints the directory of a Go that is new enough: the caller's, or the cache's.
good_go() {
  local dir minor
  for dir in "$(dirname "$(command -v go 2>/dev/null || echo /nowhere/go)")" "$cache"/go/usr/lib/go-1.*/bin /usr/local/go/bin; do
    [ -x "$dir/go" ] || continue
    minor=$(GOTOOLCHAIN=local "$dir/go" env GOVERSION 2>/dev/null | sed -nE 's/^go1\.([0-9]+).*/\1/p')
    if [ "${minor:-0}" -ge "$go_minor" ]; then
      printf '%s\n' "$dir"
      return 0
    fi
  done
  return 1
}
