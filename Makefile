# Shortcuts for contributors. None is needed: `go test ./...` runs all tests.

FUZZTIME ?= 60s
TOOL = go tool -modfile=tools/go.mod

.PHONY: help test race lint vulncheck bench bench-peers bench-report bench-compare demo fuzz faults faults-long mutants cross pg18 ci

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## all tests
	go test ./...

race: ## all tests, with the race detector, in random order
	go test -race -shuffle=on ./...

lint: ## gofmt, vet, staticcheck, golangci-lint
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "run gofmt -w on: $$unformatted"; exit 1; }
	go vet ./...
	$(TOOL) staticcheck ./...
	$(TOOL) golangci-lint run ./...

vulncheck: ## known vulnerabilities, where their database can be reached
	.ci/vulncheck

bench: ## all Go benchmarks; compare two runs with benchstat, see CONTRIBUTING.md
	go test -run '^$$' -bench . -benchmem ./...

# The results of a comparison of which to make a report: the latest.
RESULTS ?= $(lastword $(sort $(wildcard docs/benchmarks/*.json)))

bench-peers: ## this project beside River, Graphile Worker, pg-boss and plain queues; about 15 minutes
	@if command -v npm >/dev/null; then cd bench/peers/node && npm ci; else echo "no npm: the contenders on Node are absent"; fi
	cd bench/peers && go run . run --json ../../docs/benchmarks/$$(date -u +%F).json

bench-report: ## the report of the latest results, or of RESULTS=file.json
	@test -n "$(RESULTS)" || { echo "no results in docs/benchmarks: run make bench-peers"; exit 1; }
	cd bench/peers && go run ./report -in "$(abspath $(RESULTS))"

bench-compare: ## is this checkout faster? BASE=ref [BENCHES="drain latency"] [COUNT=6] [FLAGS=--quick]
	@.ci/bench-compare "$(BASE)" $(BENCHES)

demo: ## the demo, on a throw-away PostgreSQL
	go run ./cmd/pq-dispatch demo

fuzz: ## every fuzz target for FUZZTIME (60s)
	@set -e; for package in $$(go list ./...); do \
		for target in $$(go test -run '^$$' -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

faults: ## 600 faults, 500 000 jobs: docs/reliability.md
	go run ./internal/faults

faults-long: ## the same for LONG (8h)
	go run ./internal/faults -duration $(or $(LONG),8h)

mutants: ## the judge of the faults has to catch each mutant of the product
	go run ./internal/faults -mutants

cross: ## build for macOS and Windows
	GOOS=darwin GOARCH=arm64 go build ./...
	GOOS=windows GOARCH=amd64 go build ./...

pg18: ## all tests on PostgreSQL 18, fetched once
	bin=$$(.ci/postgres18) && PQ_DISPATCH_PG_BIN=$$bin go test -count=1 ./...

ci: ## all that CI checks
	bash .ci/run
