#!/usr/bin/env bash
# End to end, one after the other: the whole of Hawser in a sandbox, its demo first; then the sandbox's own tests: the simulators by themselves, by
# clients that are not ours, and all together.
#
#   e2e.sh [chart] [system] [vcenter] [vcenter-judges] [vddk] [images] [azure-judges] [sandbox]     some of them (all)
set -euo pipefail
cd "$(dirname "$0")/.."
steps=(chart system vcenter vcenter-judges vddk images azure-judges sandbox)
(($#)) || set -- "${steps[@]}"

system() { e2e/system/test.sh; }
vcenter() { (cd e2e/vcenter && nice go test ./...); }
vcenter-judges() { e2e/vcenter/judges/run.sh; }
vddk() { e2e/vddk/test.sh && e2e/vddk/test-vcenter.sh; }
images() { e2e/images/test.sh; }
azure-judges() { e2e/azure/judges/run.sh; }
sandbox() { e2e/images/build.sh && e2e/sandbox/test.sh; }
# Of the chart only that it is well formed, and refuses values that it does not know.
chart() {
  local helm=.cache/sandbox-bin/helm
  e2e/sandbox/build.sh helm
  "$helm" lint --strict charts/hawser
  "$helm" template hawser charts/hawser --set workloadIdentity.clientId=33333333-3333-4333-8333-333333333333 \
    --set workloadIdentity.tenantId=11111111-1111-4111-8111-111111111111 --set 'applianceNamespaces={site-b}' \
    --set metrics.service.enabled=true --set metrics.alerts.enabled=true --set metrics.alerts.labels.release=prometheus >/dev/null
  if "$helm" template hawser charts/hawser --set replicas=3 >/dev/null 2>&1; then
    echo "e2e.sh: the chart takes a value that it does not know" >&2
    return 1
  fi
}

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
