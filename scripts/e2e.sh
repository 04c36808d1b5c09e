#!/usr/bin/env bash
# End to end: the whole of Hawser in a sandbox, its demo first; the sandbox's own tests: the simulators by themselves, by clients that are not ours,
# and all together. What needs no cluster runs beside those scenarios of the whole system that mostly wait.
#
#   e2e.sh [system] [demo-local] [chart] [vcenter] [vcenter-judges] [vddk] [images] [azure-judges] [sandbox]     some of them (all)
set -euo pipefail
cd "$(dirname "$0")/.."
clusterless=(demo-local chart vcenter vcenter-judges vddk images azure-judges)
steps=(system "${clusterless[@]}" sandbox)

system() { e2e/system/test.sh; }
demo-local() { scripts/demo.sh; }
vcenter() { (cd e2e/vcenter && nice go test ./...); }
vcenter-judges() { e2e/vcenter/judges/run.sh; }
vddk() { e2e/vddk/test.sh && e2e/vddk/test-vcenter.sh; }
images() { e2e/images/test.sh; }
azure-judges() { e2e/azure/judges/run.sh; }
# A machine that has just built everything is given more than a person's.
sandbox() { e2e/images/build.sh && HAWSER_SANDBOX_SECONDS=${HAWSER_SANDBOX_SECONDS:-30} e2e/sandbox/test.sh; }
# Of the chart only that it is well formed, and refuses what can't work, with a sentence that says why.
chart() {
  local helm=.cache/sandbox-bin/helm
  e2e/sandbox/build.sh helm
  "$helm" lint --strict charts/hawser
  local images=(--set image.repository=registry.example.com/operator --set worker.image.repository=registry.example.com/worker)
  "$helm" template hawser charts/hawser "${images[@]}" --set workloadIdentity.clientId=33333333-3333-4333-8333-333333333333 \
    --set workloadIdentity.tenantId=11111111-1111-4111-8111-111111111111 --set 'applianceNamespaces={site-b}' \
    --set 'imagePullSecrets[0].name=pull' --set metrics.service.enabled=true --set metrics.serviceMonitor.enabled=true \
    --set metrics.alerts.enabled=true --set metrics.alerts.labels.release=prometheus >/dev/null
  refused() { # what it says, arguments
    local says=$1 said
    shift
    if said=$("$helm" template hawser charts/hawser "$@" 2>&1 >/dev/null) || [[ $said != *"$says"* ]]; then
      echo "e2e.sh: the chart takes $*, or does not say «$says»: $said" >&2
      return 1
    fi
  }
  refused "image.repository is needed"
  refused "replicas" "${images[@]}" --set replicas=3
  refused "metrics.alerts.enabled needs metrics.service.enabled" "${images[@]}" --set metrics.alerts.enabled=true
  refused "metrics.serviceMonitor.enabled needs metrics.service.enabled" "${images[@]}" --set metrics.serviceMonitor.enabled=true
}

if ((!$#)); then
  export HAWSER_SYSTEM_BESIDE="scripts/e2e.sh ${clusterless[*]}"
  set -- system sandbox
fi
for step in "$@"; do
  [[ " ${steps[*]} " == *" $step "* ]] || { echo "e2e.sh: no step $step: name some of ${steps[*]}" >&2; exit 2; }
done
# As they ship: cargo's tests leave programs there into which faults can be planted.
cargo build --quiet --workspace --bins
e2e/sandbox/setup.sh
ran=()
for step in "$@"; do
  echo "== $step"
  began=$SECONDS
  "$step"
  ran+=("$step $((SECONDS - began)) s")
done
printf 'e2e ok:'; printf ' %s;' "${ran[@]}"; echo
