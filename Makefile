# make demo and make test work on a Debian 12 machine with nothing but make, bash, apt and root (or sudo):
# whatever is missing, Go included, is installed first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
CACHE   := $(or $(PGHA_CACHE),/var/cache/pgha-backup)
# Expanded when a recipe runs, after deps may have installed a Go.
WITH_GO  = export PATH="$$(test/deps/go-dir.sh):$(CACHE)/bin:$$PATH" GOTOOLCHAIN=local GOFLAGS="$${GOFLAGS:--buildvcs=false}";
AS_ROOT  = $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=GOFLAGS,GOTOOLCHAIN,PGHA_CACHE,PGHA_KEEP env "PATH=$$PATH" )
# What needs nothing but Go; everything below test/ needs real servers.
UNIT     = $$(go list ./... | grep -v '/test/')
FUZZTIME ?= 10s

.PHONY: help build demo demo-clean test unit check bench campaign campaign-members campaign-gap campaign-backlog campaign-flips campaign-crash campaign-oddities campaign-store fuzz deps clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 26

deps: ## install what tests and demo need
	@test/deps/all.sh

build: deps ## bin/pgha-backup and its companions
	@$(WITH_GO) for main in cmd/*/; do \
	  CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o "bin/$$(basename "$$main")" "./$$main"; \
	done

demo: build ## a cluster, a backup, a disaster and the way back, told as a story; PGHA_KEEP=1 keeps its files
	@$(WITH_GO) $(AS_ROOT)go run ./test/demo

demo-clean: ## remove what a demo that was kept has left
	@$(AS_ROOT)test/demo/clean.sh

unit: deps
	@$(WITH_GO) go test $(UNIT)

test: build unit ## unit tests, then end-to-end tests on real servers
	@$(WITH_GO) $(AS_ROOT)go test -count=1 -timeout 40m -p 3 ./test/e2e ./test/wal ./test/daemon ./test/... # the longest first

check: deps ## gofmt, vet, staticcheck, shellcheck, floors, race detector
	@$(WITH_GO) bad=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$bad" ] || { echo "gofmt -w $$bad"; exit 1; }
	@$(WITH_GO) go vet ./... && go vet -tags campaign ./test/e2e ./test/members ./test/backlog ./test/flips ./test/torture ./test/torture/store ./test/oddities
	@$(WITH_GO) staticcheck ./...
	@shellcheck -x -P SCRIPTDIR $$(git ls-files '*.sh' .ci/run)
	@$(WITH_GO) go test -count=1 ./internal/arch
	@$(WITH_GO) go test -race $(UNIT)

fuzz: deps ## every fuzz target for FUZZTIME (10s)
	@$(WITH_GO) git grep -hoE --untracked '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' >/dev/null || { echo "no fuzz targets"; exit 0; }; \
	git grep -oE --untracked '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | sed -E 's|(.*)/[^/]*:func (Fuzz.*)|\1 \2|' | sort -u | \
	while read -r dir name; do \
	  echo "== $$dir $$name"; go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "./$$dir"; \
	done

bench: build ## figures beside pgBackRest, pg_basebackup and Barman (an hour, 30 GB of disk); BENCH="-data DIR -feed DIR" keeps what takes long to make, -only restore-file makes one table
	@test/deps/bench.sh
	@$(WITH_GO) $(AS_ROOT)go run ./test/bench $(BENCH)

campaign: build ## leaders exchanged in every phase of a backup, for an hour; CAMPAIGN='-rounds 20 -seed 7' for more
	@$(WITH_GO) $(AS_ROOT)go test -tags campaign -count=1 -timeout 12h -v -run '^TestCampaign$$' ./test/e2e -args $(CAMPAIGN)

campaign-members: build ## members and new clusters from the repository on PostgreSQL 17 and 18; MEMBERS='-majors 18' for one
	@test/deps/postgres18.sh
	@$(WITH_GO) $(AS_ROOT)go test -tags campaign -count=1 -timeout 30m -v -run '^TestCampaignMembers$$' ./test/members -args $(MEMBERS)

campaign-gap: build ## leaders that die for good with a backlog, and what each of the means against gaps is for; GAP='-seed 7' for other moments
	@$(WITH_GO) $(AS_ROOT)go test -tags campaign -count=1 -timeout 3h -v -run '^TestCampaignGap$$' ./test/e2e -args $(GAP)

campaign-backlog: build ## 20,000 WAL files that wait when the store is back (20 GB of disk); BACKLOG='-files 500 -command archive-push' for less
	@$(WITH_GO) $(AS_ROOT)go test -tags campaign -count=1 -timeout 3h -v -run '^TestCampaignBacklog$$' ./test/backlog -args $(BACKLOG)

campaign-crash: build ## every command killed at its system calls, or its calls failing; CRASH='-points 2000 -seed 7 -only restore/' for other points
	@$(WITH_GO) $(AS_ROOT)go test -tags campaign -count=1 -timeout 12h -v -run '^TestCampaignCrash$$' ./test/torture -args $(CRASH)

campaign-oddities: build ## every oddity of a data directory, large ones too, PostgreSQL 15 to 18 (20 GB of disk); ODDITIES='-only relations' for one
	@test/deps/postgres18.sh
	@$(WITH_GO) $(AS_ROOT)go test -tags campaign -count=1 -timeout 3h -v -run '^TestCampaignOddities$$' ./test/oddities -args $(ODDITIES)

campaign-flips: build ## 10,000 single bits flipped in every kind of object: verify finds each; FLIPS='-flips 500 -seed 7' for others
	@$(WITH_GO) $(AS_ROOT)go test -tags campaign -count=1 -timeout 3h -v -run '^TestCampaignFlips$$' ./test/flips -args $(FLIPS)

campaign-store: build ## the store killed around every request, and one as bad as FoundationDB's simulator makes it (weather); STORE='-rounds 100 -weather 2 -seed 7' for less
	@$(WITH_GO) $(AS_ROOT)go test -tags campaign -count=1 -timeout 6h -v -run '^TestCampaignStore$$' ./test/torture/store -args $(STORE)

clean: ## remove what was built here
	rm -rf bin .cache
