#!/usr/bin/env bash
# Measures the data path on this machine, now: ratios, each to something that is measured beside it in the same run. See docs/performance.md.
#
#   HAWSER_BENCH_ONLY   some of the figures by number, as in 1,4 (all)
#   HAWSER_BENCH_RUNS   repetitions of each measurement (5)
#   HAWSER_BENCH_MIB    MiB of each kind of data (512)
#   HAWSER_BENCH_DIR    a folder in memory (/dev/shm), where 12 GiB are free
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo bench --quiet -p worker --bench data_path
