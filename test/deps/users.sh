#!/usr/bin/env bash
# Makes the unprivileged users that the test servers run as, each in a group of its own.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

for user in pgha1 pgha2 pgha3 pgha-s3 pgha-infra; do
  getent passwd "$user" >/dev/null ||
    useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
done
