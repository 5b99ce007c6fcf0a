#!/usr/bin/env bash
# Installs what the benchmark compares with. Run as root, or by somebody with sudo.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ "$(id -u)" -ne 0 ]; then
  exec sudo env "PATH=$PATH" "PGHA_CACHE=$cache" "${BASH_SOURCE[0]}"
fi
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
packages lz4 time pgbackrest patchelf zstd

# The latest pgBackRest is in sid. It goes into a prefix of its own, with its libraries.
prefix=$cache/pgbackrest
[ ! -e "$prefix/complete" ] || exit 0
say "installing pgBackRest of sid into $prefix"
world=$(mktemp -d)
trap 'rm -rf "$world"' EXIT
suite_open "$world" sid
mapfile -t closure < <(
  suite_apt "$world" apt-get --print-uris -y install pgbackrest |
    sed -nE "s/^'[^']*' ([^_]+)_.*/\\1/p" |
    grep -E '^(pgbackrest|lib|zlib1g)' | grep -vE '^lib(perl|python)|-perl$|-common$'
)
rm -rf "$prefix"
suite_unpack "$world" "$prefix" "${closure[@]}"
if [ -d "$prefix/lib" ] && [ ! -L "$prefix/lib" ]; then
  cp -an "$prefix/lib/." "$prefix/usr/lib/"
fi
own_libraries "$prefix" "$prefix/usr/bin/pgbackrest"
"$prefix/usr/bin/pgbackrest" version >/dev/null
touch "$prefix/complete"
