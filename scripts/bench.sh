#!/usr/bin/env bash
# Measures the data path on this machine, now: ratios, each to something that is measured beside it in the same run. See docs/performance.md.
# HAWSER_BENCH_ONLY=1,4 runs some of the figures, HAWSER_BENCH_MIB and HAWSER_BENCH_RUNS set size and repetitions.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --quiet -p worker --bench data_path
