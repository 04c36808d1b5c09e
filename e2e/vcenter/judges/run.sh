#!/usr/bin/env bash
# Judges the running simulator by clients that are not ours: pyvmomi and govc. Builds the simulator, starts it on loopback, runs all tests.
# Arguments are names of test modules (test_faults, test_govc.Govc.test_tree); none means all.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
"$here/setup.sh"
export JUDGES_BIN=$root/.cache/sandbox-bin
export PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1
(cd "$here/.." && nice go build -o "$JUDGES_BIN/vcenter" .)
cd "$here"
if (($#)); then
  exec "$root/.cache/venv/bin/python" -W ignore::ResourceWarning -m unittest -v "$@"
fi
exec "$root/.cache/venv/bin/python" -W ignore::ResourceWarning -m unittest discover -v -s "$here" -t "$here"
