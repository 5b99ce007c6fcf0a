#!/usr/bin/env bash
# Installs PostgreSQL 17 and Patroni 4.0, of the suite after the host's.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

suite_postgres 17 trixie
