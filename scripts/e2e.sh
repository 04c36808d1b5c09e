#!/usr/bin/env bash
# The sandbox's own tests, one after the other: the simulators by themselves, then by clients that are not ours, then the whole.
#
#   e2e.sh [vcenter] [vcenter-judges] [vddk] [images] [azure-judges] [sandbox]     some of them (all)
set -euo pipefail
cd "$(dirname "$0")/.."
steps=(vcenter vcenter-judges vddk images azure-judges sandbox)
(($#)) || set -- "${steps[@]}"

vcenter() { (cd e2e/vcenter && nice go test ./...); }
vcenter-judges() { e2e/vcenter/judges/run.sh; }
vddk() { e2e/vddk/test.sh && e2e/vddk/test-vcenter.sh; }
images() { e2e/images/test.sh; }
azure-judges() { e2e/azure/judges/run.sh; }
sandbox() { e2e/images/build.sh && e2e/sandbox/test.sh; }

for step in "$@"; do
  [[ " ${steps[*]} " == *" $step "* ]] || { echo "e2e.sh: no step $step: name some of ${steps[*]}" >&2; exit 2; }
done
e2e/sandbox/setup.sh
ran=()
for step in "$@"; do
  echo "== $step"
  began=$SECONDS
  "$step"
  ran+=("$step $((SECONDS - began)) s")
done
printf 'e2e ok:'; printf ' %s;' "${ran[@]}"; echo
