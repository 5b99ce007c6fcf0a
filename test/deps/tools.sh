#!/usr/bin/env bash
# Builds the Go programs that tests and checks need, each once per version, into the cache.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

go=$(good_go)/go
export GOTOOLCHAIN=local GOFLAGS=

# tool NAME VERSION PACKAGE: NAME is the package's last element, or a name of our own for an old version of it.
tool() {
  local name=$1 version=$2 package=$3 dir found
  dir=$cache/tools/$name@$version
  if [ ! -x "$dir/$name" ]; then
    mkdir -p "$cache/tools" "$cache/bin"
    rm -rf "$dir.new"
    found=$HOME/go/bin/$name
    if [ -x "$found" ] && "$go" version -m "$found" | grep -qE "^[[:space:]]+mod[[:space:]].*[[:space:]]${version}[[:space:]]"; then
      install -D -m 755 "$found" "$dir.new/$name"
    else
      say "building $name $version"
      CGO_ENABLED=0 GOBIN=$dir.new "$go" install "$package@$version"
      [ -x "$dir.new/$name" ] || mv "$dir.new/${package##*/}" "$dir.new/$name"
    fi
    rm -rf "$dir"
    mv "$dir.new" "$dir"
  fi
  [ "$(readlink "$cache/bin/$name" || true)" = "$dir/$name" ] || ln -sfn "$dir/$name" "$cache/bin/$name"
}

tool versitygw v1.8.0 github.com/versity/versitygw/cmd/versitygw
tool staticcheck v0.8.2 honnef.co/go/tools/cmd/staticcheck
# An S3 server that takes conditional writes and ignores the condition.
tool gofakes3-careless v0.0.0-20240513200200-99de01ee122d github.com/johannesboyne/gofakes3/cmd/gofakes3
