#!/usr/bin/env bash
# Takes promtool, which judges alert rules, out of the host suite's own package, into the cache. The package
# itself is not installed: it would start a server.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ ! -x "$cache/bin/promtool" ]; then
  say "unpacking promtool"
  mkdir -p "$cache/bin"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  [ -n "$(apt-cache policy prometheus 2>/dev/null | sed -nE 's/^ *Candidate: ([^(].*)/\1/p')" ] || apt-get -qq update
  (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download prometheus)
  dpkg-deb --fsys-tarfile "$work"/prometheus_*.deb | tar -x -C "$work" ./usr/bin/promtool
  install -m 755 "$work/usr/bin/promtool" "$cache/bin/promtool.new"
  mv "$cache/bin/promtool.new" "$cache/bin/promtool"
fi
