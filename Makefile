# Everything a fresh Debian 12 machine needs beyond Rust, Node and root, these targets install themselves.
.DEFAULT_GOAL := help
SHELL := /bin/bash

.PHONY: help setup azurite build programs test check unit e2e e2e-hostile demo demo-local sandbox-up sandbox-down sandbox-status bench fuzz clean

help: ## What there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## Install what tests and demo use: nbdkit, nbdcopy, qemu-img, e2fsprogs, Azurite
	@scripts/setup.sh

azurite:
	@scripts/azurite.sh

build: ## Operator and worker, optimised
	cargo build --release -p operator -p worker

# For demos and tests. Always of the whole workspace: so the crates of others are those that the unit tests have compiled.
programs:
	cargo build --workspace --bins

test: ## All tests, as CI runs them
	@began=$$SECONDS; $(MAKE) --no-print-directory setup && $(MAKE) --no-print-directory check && $(MAKE) --no-print-directory unit && \
		$(MAKE) --no-print-directory e2e && echo "make test ok: $$((SECONDS - began)) s"

check: ## Formatting, lints, documentation, and what must not drift
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	@test -z "$$(gofmt -l e2e)" || { gofmt -d e2e; exit 1; }
	cd e2e/vcenter && go vet ./...
	scripts/check-tree.sh

unit: ## Unit, property and integration tests, and the schedules
	scripts/unit.sh

e2e: setup programs ## The sandbox, its simulators, and their judges
	@scripts/e2e.sh

e2e-hostile: setup programs ## Each server fails for two minutes, with ten VMs: nobody storms it (a quarter of an hour)
	@e2e/sandbox/setup.sh
	@e2e/system/test.sh hostile::

sandbox-up: setup programs ## A real Kubernetes, a vCenter and Azure's rules, on this machine
	@e2e/sandbox/setup.sh
	@e2e/images/build.sh
	@e2e/sandbox/up.sh

sandbox-down: ## Leaves nothing of it
	@e2e/sandbox/down.sh

sandbox-status: ## What of it runs
	@e2e/sandbox/status.sh

demo: sandbox-up ## The whole system: a VM of three disks is replicated before your eyes, from helm install to equal hashes
	@"$${CARGO_TARGET_DIR:-target}/debug/demo"

demo-local: setup programs ## The data path alone, on this machine: a disk, full, two deltas, full again
	@scripts/demo.sh

bench: setup build ## Ratios of the data path, measured on this machine now
	@scripts/bench.sh

fuzz: ## A minute for each fuzz target (needs a nightly toolchain and cargo-fuzz)
	@scripts/fuzz.sh

clean: ## Remove what was built and fetched
	cargo clean
	rm -rf .cache
