#!/usr/bin/env bash
# Brings a sandbox up: Kubernetes, vCenter, Azurite and Azure's rules, in one network namespace with no route out. What stands already is
# left alone, what has died is started again.
#
#   up.sh [--only kubernetes]
#   HAWSER_SANDBOX             its name (hawser); several can stand side by side
#   HAWSER_SANDBOX_INVENTORY   vCenter's inventory (e2e/sandbox/inventory.yaml)
#   HAWSER_SANDBOX_BIN         a folder of programs to use, unbuilt and as they are (.cache/sandbox-bin)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$HERE/machine.sh"
source "$HERE/certificates.sh"
source "$HERE/images.sh"
source "$HERE/kubernetes.sh"
source "$HERE/simulators.sh"

simulators=1
while (($#)); do
  case $1 in
    --only)
      [[ ${2:-} == kubernetes ]] || die "--only takes one word: kubernetes"
      simulators=
      shift 2
      ;;
    *) die "unknown: $1. Usage: up.sh [--only kubernetes]" ;;
  esac
done
((EUID == 0)) || die "namespaces, mounts and control groups are root's: run it as root"
began=$(now_ms)
lock
check_owner
parts=("${KUBERNETES[@]}")
[[ -z $simulators ]] || parts+=("${SIMULATORS[@]}")

"$HERE/setup.sh"
if [[ -z ${HAWSER_SANDBOX_BIN:-} ]]; then
  steps=(kubernetes etcd helm images)
  if [[ -n $simulators ]]; then
    steps+=(vcenter azure)
    "$ROOT/scripts/azurite.sh"
  fi
  "$HERE/build.sh" "${steps[@]}" 9>&-
fi
built=$(now_ms)

if [[ -z $(members) ]] && { of_another_copy || ! has_namespace "/run/netns/$NETNS"; }; then
  # After a boot, a first start that was cut short, or what another copy left: nothing of what the folders say is so.
  remove_mounts
  remove_network
  rm -rf --one-file-system "$STATE"
elif [[ ! -e $RUN/owner ]]; then
  die "something of an earlier sandbox is left, which this one can't be built on: \`make sandbox-down\` removes it"
fi
mkdir -p "$STATE/logs" "$RUN/pids"
echo "$STATE" >"$RUN/owner"
for part in "${parts[@]}"; do
  if alive "$part"; then
    if ! has_namespace "/run/netns/$NETNS" || ! has_namespace "$RUN/mnt" || [[ ! -s $RUN/index || ! -d $TRACK ]]; then
      die "$part runs, but the namespaces it was started in are gone: \`make sandbox-down && make sandbox-up\`"
    fi
    # Its file was put anew under it: what runs is the old one.
    [[ $(readlink "/proc/$PID/exe") != *' (deleted)' ]] ||
      say "$part runs as it was before it was last built:" \
        "\`kill $PID && make sandbox-up\` starts the new one, without what the old one knew"
  elif [[ -e $STATE/env ]]; then
    say "$part does not run: starting it (its last words: $STATE/logs/$part.previous.log)"
  fi
done

make_cgroups
make_network
addresses
make_mounts
make_certificates

# Starts a part unless it runs.
need() { alive "$1" || "start_$1"; }

[[ -e $RUN/images ]] || alive containerd || make_store
need etcd
need containerd
if [[ -n $simulators ]]; then for part in "${SIMULATORS[@]}"; do need "$part"; done; fi
wait_until etcd 60 "it answers" ready_etcd
need kube-apiserver
wait_until containerd 60 "it answers" ready_containerd
import_new_images
wait_until kube-apiserver 120 "it is ready" ready_kube-apiserver
for part in kube-controller-manager kube-scheduler kube-proxy; do need "$part"; done
need kubelet
publish_issuer
if [[ -n $simulators ]]; then
  for part in "${SIMULATORS[@]}"; do wait_until "$part" 120 "it serves" "ready_$part"; done
fi
wait_until kubelet 120 "the node is Ready" ready_nodes
# Pods of a namespace wait for these two.
wait_until kube-controller-manager 60 "there is the default service account" api /api/v1/namespaces/default/serviceaccounts/default
wait_until kube-controller-manager 60 "pods can have the authority's certificate" \
  api /api/v1/namespaces/default/configmaps/kube-root-ca.crt
for part in "${parts[@]}"; do
  alive "$part" || part_failed "$part" "it started and ended"
done

cat >"$STATE/env.new" <<ENV
NAME=$NAME
INDEX=$INDEX
NETNS=$NETNS
STATE='$STATE'
HOST_IP=$HOST_IP
NODE_IP=$NODE_IP
KUBECONFIG='$STATE/kubeconfig'
CA_FILE='$STATE/ca.pem'
VCENTER_URL=https://$NODE_IP/sdk
VCENTER_CONTROL=http://$NODE_IP:8181
ARM_URL=https://$NODE_IP:8443
STS_URL=https://$NODE_IP:8443
BLOB_URL=https://$NODE_IP:10000/devstoreaccount1
DISKS_URL=https://$NODE_IP:8446
AZURE_CONTROL=http://$NODE_IP:8180
ENV
stood=
[[ ! -e $STATE/env ]] || stood=1
mv "$STATE/env.new" "$STATE/env"

took=$(($(now_ms) - began))
took="$((took / 1000)).$(printf %03d $((took % 1000)))"
if [[ -n $stood && ${#STARTED[@]} -eq 0 ]]; then
  say "stands already, all of its ${#parts[@]} parts run (looked at in $took s)"
elif [[ -n $stood ]]; then
  say "stands again after $took s; started anew: ${STARTED[*]}"
else
  say "stands after $took s, of which building took $((built - began)) ms"
fi
say "export KUBECONFIG=$STATE/kubeconfig; the rest is in $STATE/env"
