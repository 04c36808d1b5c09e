# Everything a fresh Debian 12 machine needs beyond Rust, Node and root, these targets install themselves.
.DEFAULT_GOAL := help
SHELL := /bin/bash

.PHONY: help setup azurite build test check unit demo demo-local bench fuzz clean

help: ## What there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## Install what tests and demo use: nbdkit, nbdcopy, qemu-img, e2fsprogs, Azurite
	@scripts/setup.sh

azurite:
	@scripts/azurite.sh

build: ## The worker, optimised
	cargo build --release -p worker

test: setup check unit ## All tests, as CI runs them

check: ## Formatting, lints, documentation, and what must not drift
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	scripts/check-tree.sh

unit: ## Unit, property and integration tests, and the schedules
	cargo test --workspace

demo: demo-local ## A disk is replicated before your eyes: full, two deltas, full again

demo-local: setup build
	@scripts/demo.sh

bench: setup build ## Ratios of the data path, measured on this machine now
	@scripts/bench.sh

fuzz: ## A minute for each fuzz target (needs a nightly toolchain and cargo-fuzz)
	@scripts/fuzz.sh

clean: ## Remove what was built and fetched
	cargo clean
	rm -rf .cache
