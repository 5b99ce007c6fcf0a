#!/usr/bin/env bash
# Ends and removes runs of the harness whose own process is gone.
set -euo pipefail
shopt -s nullglob
for run in "${TMPDIR:-/tmp}"/pgha-lab-*; do
  owner=${run##*/pgha-lab-}
  owner=${owner%%-*}
  [ -d "/proc/$owner" ] && continue
  for process in /proc/[0-9]*; do
    at="$(readlink "$process/cwd" || true) $(tr '\0' ' ' <"$process/cmdline" || true)"
    case "$at" in
      *"$run"/*) kill -KILL "${process#/proc/}" || true ;;
    esac
  done 2>/dev/null
  rm -rf -- "$run"
  echo "removed $run"
done
