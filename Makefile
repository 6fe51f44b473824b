# Everything a developer types. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One set of flags for every build, test and lint step, because the flags are
# part of the compiler cache's key: another set costs minutes. They are added to
# what the machine has. Never -trimpath: it makes caddytest skip silently.
TAGS := nobadger,nomysql,nopgx
MACHINE_GOFLAGS := $(shell go env GOFLAGS)
export GOFLAGS := $(strip $(MACHINE_GOFLAGS) $(if $(findstring -tags=$(TAGS),$(MACHINE_GOFLAGS)),,-tags=$(TAGS)))

BIN := .cache/bin
LEAF := ./framecodec/... ./socks5/... ./tunnel/...

# For make test, make mutants and make fuzz: PKG=./tunnel/... RUN=TestModel
PKG ?=
RUN ?=
FUZZTIME ?= 30s

##@ Using it

.PHONY: help
help: ## list these targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## build and run Caddyfile.example: a gateway and a client on loopback
	@scripts/setup modules
	@echo "== building cmd/caddy (the first time on a machine: about three minutes)"
	@go build -o bin/caddy-dev ./cmd/caddy
	@scripts/announce $$$$ & exec bin/caddy-dev run --config Caddyfile.example --adapter caddyfile

.PHONY: build
build: ## build bin/caddy with xcaddy, as xcaddy.json says, from this checkout
	@echo "== building bin/caddy with xcaddy (the first time: two to four minutes)"
	@mkdir -p $(BIN)
	@go build -C tools -o ../$(BIN)/xcaddybuild ./xcaddybuild
	@$(BIN)/xcaddybuild -o bin/caddy xcaddy.json
	@bin/caddy version

##@ Proving it

.PHONY: setup
setup: ## fetch what the tests need (Debian packages, modules, the reference's wheel)
	@scripts/setup

.PHONY: test
test: setup ## run every test, with one summary at the end [PKG=./tunnel/... RUN=TestX]
	@mkdir -p $(BIN)
	@go build -C tools -o ../$(BIN)/testrun ./testrun
	@$(BIN)/testrun -run '$(RUN)' $(PKG)

.PHONY: check
check: lint ## format, vet, lint, leaf packages: in under two minutes
	@echo "== leaf packages"
	@go test -short $(LEAF)

.PHONY: lint
lint: $(BIN)/golangci-lint ## format, vet, lint
	@echo "== gofmt"
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
		if [ -n "$$unformatted" ]; then echo "not formatted (make fmt):"; echo "$$unformatted"; exit 1; fi
	@echo "== go vet"
	@go vet ./...
	@go vet -C tools ./...
	@echo "== golangci-lint"
	@$(BIN)/golangci-lint run ./...
	@cd tools && ../$(BIN)/golangci-lint run --config ../.golangci.yml ./...

$(BIN)/golangci-lint: tools/go.mod
	@echo "== building golangci-lint (once: about two minutes)"
	@mkdir -p $(BIN)
	@go build -C tools -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

.PHONY: cross
cross: ## build for the other systems and architectures, test the codecs on them
	@scripts/cross

.PHONY: mutants
mutants: ## plant the committed bugs one by one; the tests must find each [RUN=name]
	@mkdir -p $(BIN)
	@go build -C tools -o ../$(BIN)/mutants ./mutants
	@$(BIN)/mutants -run '$(RUN)' tunnel/testdata/mutants

.PHONY: fuzz
fuzz: ## fuzz every parser for a while [FUZZTIME=30s PKG=./framecodec]
	@FUZZTIME=$(FUZZTIME) scripts/fuzz $(or $(PKG),$(LEAF) .)

.PHONY: faults
faults: setup ## every fault of docs/faults.md against real processes, which is written anew (half an hour)
	@rm -f .cache/faults.md .cache/neighbours.md; status=0; \
		CULVERT_FAULTS=1 CULVERT_FAULTS_TABLE=$(CURDIR)/.cache/faults.md CULVERT_NEIGHBOURS_TABLE=$(CURDIR)/.cache/neighbours.md \
		go test -count=1 -v -timeout 90m -run '^(TestFaults|TestNeighbours)$$' ./integration/twonets || status=$$?; \
		cat .cache/faults.md .cache/neighbours.md > docs/faults.md; exit $$status

##@ Measuring it

.PHONY: datagrams
datagrams: setup ## 10,000 datagrams a second for 30 s, with loss, beside a stream: the long versions
	@CULVERT_LONG=1 go test -count=1 -v -timeout 30m -run '^TestDatagram(Rate|Loss|sBesideBulk)$$' ./integration/twonets

.PHONY: bench
bench: setup ## compare with the reference system, in one interleaved run [BENCH="flags"]
	@go run ./bench $(BENCH)

.PHONY: bench-micro
bench-micro: ## benchmarks of the codec and the engine, with allocations
	@go test -run '^$$' -bench . -benchmem $(or $(PKG),$(LEAF))

##@ Keeping it

.PHONY: fmt
fmt: $(BIN)/golangci-lint ## format the Go code and group its imports
	@$(BIN)/golangci-lint fmt ./...
	@cd tools && ../$(BIN)/golangci-lint fmt --config ../.golangci.yml ./...

.PHONY: clean
clean: ## remove what was built here (bin/, .cache/); Go's own caches stay
	rm -rf bin .cache
