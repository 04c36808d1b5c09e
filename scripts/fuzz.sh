#!/usr/bin/env bash
# Runs each fuzz target for SECONDS_EACH seconds (60). Needs a nightly toolchain and `cargo install cargo-fuzz`.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo +nightly fuzz --version >/dev/null || { echo "fuzz: rustup toolchain install nightly && cargo install cargo-fuzz" >&2; exit 1; }
for target in $(cargo +nightly fuzz list --fuzz-dir fuzz); do
  cargo +nightly fuzz run --fuzz-dir fuzz "$target" -- -max_total_time="${SECONDS_EACH:-60}" -rss_limit_mb=512
done
