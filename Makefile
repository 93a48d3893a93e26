# make help lists what there is.

SHELL := /bin/bash
export CGO_ENABLED := 0

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
BASE := base/image/base.tar.zst
BIN := bin

.DEFAULT_GOAL := build
PREFIX ?= /usr/local
BINDIR = $(PREFIX)/bin
DOCDIR = $(PREFIX)/share/doc/tarn
UNITDIR ?= $(PREFIX)/lib/systemd

.PHONY: build install demo test lint fuzz damage crash power cycles stress bench clean help

build: $(BASE) ## Build bin/tarn, one static binary with the default image in it; bin/tarn-monitor, bin/tarn-runtime
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN)/ ./cmd/tarn ./cmd/tarn-monitor ./cmd/tarn-runtime

install: ## Install what was built below PREFIX (/usr/local) and DESTDIR: programs, completion, and a service that starts containers at boot
	@test -x $(BIN)/tarn || { echo "nothing is built yet: make build" >&2; exit 1; }
	install -D -t $(DESTDIR)$(BINDIR) $(BIN)/tarn $(BIN)/tarn-monitor $(BIN)/tarn-runtime
	install -D -m 644 -t $(DESTDIR)$(DOCDIR) README.md LICENSE
	for place in system user; do \
		mkdir -p $(DESTDIR)$(UNITDIR)/$$place && \
		sed 's|@bindir@|$(BINDIR)|; s|@docdir@|$(DOCDIR)|' dist/tarn-restart.service.in >$(DESTDIR)$(UNITDIR)/$$place/tarn-restart.service || exit; \
	done
	mkdir -p $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(BIN)/tarn completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/tarn
	$(BIN)/tarn completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_tarn
	$(BIN)/tarn completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/tarn.fish

$(BASE): $(wildcard scripts/base/*.go) scripts/base/go.mod scripts/base/go.sum
	@echo 'base: compiling the default image (half a minute, once)'
	cd scripts/base && go run . -o ../../$(BASE)

demo: build ## Set up, build, and show the main job on the embedded image
	@scripts/demo.sh

test: build ## Set up, and run all tests, those that need root included
	@scripts/test.sh

lint: $(BASE) ## Check style, formatting and the walls between packages
	@scripts/lint.sh

fuzz: ## Run each fuzz target for FUZZTIME (20s)
	@scripts/fuzz.sh

damage: ## Damage a store in DAMAGE (1200) ways: all must be found, and mended (as root)
	TARN_DAMAGE_CASES=$(or $(DAMAGE),1200) go test -count=1 -timeout=0 -run TestDamageIsFoundAndMended -v ./engine

crash: ## Kill commands at, and fail, each of their system calls that change a disk; and fill disks (as root)
	TARN_FAULT_POINTS=$(or $(CRASH),all) go test -count=1 -timeout=0 -run 'TestKilledAtEachCall|TestKilledWithoutRoom|TestErrorsAtEachCall|TestFullDisks' -v ./engine

power: ## Cut the power POWER (250) times on ext4, and on xfs, while commands run: all must be there again (as root)
	TARN_POWER_CUTS=$(or $(POWER),250) go test -count=1 -timeout=0 -run TestPowerCuts -v ./cmd/tarn

cycles: ## Start and stop containers CYCLES (1000) times while tarn's own processes are killed at random (as root)
	TARN_CYCLES=$(or $(CYCLES),1000) go test -count=1 -timeout=0 -run TestCycles -v ./cmd/tarn

stress: ## Have 16 users do everything at once for STRESS (300) seconds (as root)
	TARN_STRESS_SECONDS=$(or $(STRESS),300) go test -count=1 -timeout=0 -run TestStress -v ./cmd/tarn

bench: build ## Compare with other tools on this machine, writing bench/RESULTS.md (as root)
	@scripts/setup.sh bench
	@scripts/debian-root.sh
	@scripts/debian-roots.sh
	@scripts/docker.sh
	@scripts/nginx.sh
	go run ./bench

clean: ## Remove what was built here (not the caches of the tests and of Go)
	rm -rf $(BIN) $(BASE)

help: ## List the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
