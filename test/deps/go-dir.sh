#!/usr/bin/env bash
# Prints the directory of a Go that is new enough; nothing when there is none yet.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
good_go || true
