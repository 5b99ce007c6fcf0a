#!/usr/bin/env bash
# Installs a Go that is new enough, where the host has none, from Debian's unstable suite into the cache.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if good_go >/dev/null; then exit 0; fi
say "installing Go 1.$go_minor or newer into $cache/go"
world=$(mktemp -d)
trap 'rm -rf "$world"' EXIT
suite_open "$world" sid
for minor in $(seq "$go_minor" $((go_minor + 6))); do
  if suite_apt "$world" apt-cache show "golang-1.$minor-go" >/dev/null 2>&1; then
    break
  fi
done
rm -rf "$cache/go.new" "$cache/go"
suite_unpack "$world" "$cache/go.new" "golang-1.$minor-go" "golang-1.$minor-src" libc6
own_libraries "$cache/go.new" "$cache/go.new/usr/lib/go-1.$minor/bin/"* "$cache/go.new/usr/lib/go-1.$minor/pkg/tool/"*/*
mv "$cache/go.new" "$cache/go"
good_go >/dev/null || { say "Go from sid does not run here"; exit 1; }
