#!/usr/bin/env bash
# Installs what the benchmark compares with. Run as root, or by somebody with sudo.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ "$(id -u)" -ne 0 ]; then
  exec sudo env "PATH=$PATH" "PGHA_CACHE=$cache" "${BASH_SOURCE[0]}"
fi
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
packages lz4 patchelf python3-boto3 python3-dateutil python3-psycopg2 python3-zstandard time zstd

# The latest pgBackRest and Barman are in sid. Each goes into a prefix of its own: the one with its libraries, the
# other runs on the host's Python.
prefix=$cache/pgbackrest barman=$cache/barman
[ ! -e "$prefix/complete" ] || [ ! -e "$barman/complete" ] || exit 0
world=$(mktemp -d)
trap 'rm -rf "$world"' EXIT
suite_open "$world" sid
if [ ! -e "$barman/complete" ]; then
  say "installing Barman of sid into $barman"
  rm -rf "$barman"
  suite_unpack "$world" "$barman" barman-cli-cloud python3-barman
  PYTHONPATH=$barman/usr/lib/python3/dist-packages /usr/bin/python3 "$barman/usr/bin/barman-cloud-backup" --version >/dev/null
  touch "$barman/complete"
  rm -f "$world"/debs/*.deb
fi
[ ! -e "$prefix/complete" ] || exit 0
say "installing pgBackRest of sid into $prefix"
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
