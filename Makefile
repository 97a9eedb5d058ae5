# Shortcuts for contributors. None is needed: `go test ./...` runs all tests.

FUZZTIME ?= 60s
TOOL = go tool -modfile=tools/go.mod

.PHONY: help test race lint bench demo fuzz cross pg18 ci

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "%-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## all tests
	go test ./...

race: ## all tests, with the race detector, in random order
	go test -race -shuffle=on ./...

lint: ## gofmt, vet, staticcheck, golangci-lint
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "run gofmt -w on: $$unformatted"; exit 1; }
	go vet ./...
	$(TOOL) staticcheck ./...
	$(TOOL) golangci-lint run ./...

bench: ## all Go benchmarks; compare two runs with benchstat, see CONTRIBUTING.md
	go test -run '^$$' -bench . -benchmem ./...

demo: ## the demo, on a throw-away PostgreSQL
	go run ./cmd/pq-dispatch demo

fuzz: ## every fuzz target for FUZZTIME (60s)
	@set -e; for package in $$(go list ./...); do \
		for target in $$(go test -run '^$$' -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

cross: ## build for macOS and Windows
	GOOS=darwin GOARCH=arm64 go build ./...
	GOOS=windows GOARCH=amd64 go build ./...

pg18: ## all tests on PostgreSQL 18, fetched once
	bin=$$(.ci/postgres18) && PQ_DISPATCH_PG_BIN=$$bin go test -count=1 ./...

ci: ## all that CI checks
	bash .ci/run
