#!/usr/bin/env bash
# The whole of Hawser in a sandbox of its own: the demo first, then every scenario of tests/system, many at once.
#
#   test.sh [TEST...]   some of the tests (all), by parts of their names
#   HAWSER_SANDBOX        the sandbox's name (system and a number, another for each working copy)
#   HAWSER_SYSTEM_AT_ONCE how many run beside each other (8)
#   HAWSER_SYSTEM_KEEP    leaves it standing, to look around when something failed
#   HAWSER_SYSTEM_BESIDE  a command that is run beside the scenarios that strike all others, and has to succeed as they do
set -euo pipefail
cd "$(dirname "$0")/../.."
HAWSER_SANDBOX=${HAWSER_SANDBOX:-system-$(cksum <<<"$PWD" | cut -c1-6)}
export HAWSER_SANDBOX
export HAWSER_SANDBOX_INVENTORY=$PWD/e2e/system/inventory.yaml
state=.cache/sandbox/$HAWSER_SANDBOX
said=.cache/system-tests.log
beside=

# What somebody who reads only the output needs: the last words of the pods, what was told, the objects that are not as they should be, and last
# of all why the tests failed.
look_around() {
  local kubectl="$PWD/.cache/sandbox-bin/kubectl --kubeconfig=$state/kubeconfig --request-timeout=10s" pod
  [[ -e $state/kubeconfig ]] || return 0
  for pod in $($kubectl get pods --namespace hawser --output name); do
    echo "--- $pod"
    $kubectl logs --namespace hawser "$pod" --tail=15 | cut -c 1-400 || true
  done
  $kubectl get events --all-namespaces --field-selector=type=Warning --sort-by=.lastTimestamp | grep -v MissingClusterDNS | tail -n 40 || true
  $kubectl get pods,appliances,replicatedvms --all-namespaces || true
  $kubectl get replicationcycles --all-namespaces | grep -v Succeeded || true
  sed -n '/^failures:/,$p' "$said" 2>/dev/null | cut -c 1-2000 || true
}
clean_up() {
  local status=$?
  trap - EXIT
  if [[ -n $beside ]]; then
    kill -- "-$beside" 2>/dev/null || true
    tail -n 20 .cache/system-beside.log >&2 || true
  fi
  ((status == 0)) || look_around >&2
  [[ -n ${HAWSER_SYSTEM_KEEP:-} ]] || e2e/sandbox/down.sh
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

e2e/images/build.sh
cargo test --quiet --workspace --test system --no-run
e2e/sandbox/down.sh
e2e/sandbox/up.sh
"${CARGO_TARGET_DIR:-target}/debug/demo"
# The rules of the API, which the crate's own tests ask of another engine, by the apiserver itself.
CRDS_KUBECONFIG=$PWD/$state/kubeconfig PATH=$PWD/.cache/sandbox-bin:$PATH cargo test --quiet --workspace --test rules
began=$SECONDS
scenarios() { RUST_BACKTRACE=0 cargo test --quiet --workspace --test system -- "$@" 2>&1 | tee "$said"; }
at_once=${HAWSER_SYSTEM_AT_ONCE:-8}
if (($#)); then
  scenarios --test-threads="$at_once" "$@"
else
  # Those that strike all others come first, and the others wait for none of them. They mostly wait themselves.
  if [[ -n ${HAWSER_SYSTEM_BESIDE:-} ]]; then
    setsid nice bash -c "$HAWSER_SYSTEM_BESIDE" >.cache/system-beside.log 2>&1 &
    beside=$!
  fi
  scenarios --test-threads=1 ::alone::
  echo "alone: $((SECONDS - began)) s"
  if [[ -n $beside ]]; then
    wait "$beside" && ended=0 || ended=$?
    beside=
    cat .cache/system-beside.log
    ((ended == 0)) || { echo "test.sh: this failed: $HAWSER_SYSTEM_BESIDE" >&2; exit "$ended"; }
    echo "and what ran beside them: $((SECONDS - began)) s"
  fi
  # Those that take a quarter of an hour are run by their name alone: make e2e-hostile.
  scenarios --test-threads="$at_once" --skip ::alone:: --skip hostile::
fi
echo "system ok: $((SECONDS - began)) s after the demo"
