#!/usr/bin/env bash
# Tells what of a sandbox runs. Exit status: 0 all of it, 1 something has died, 3 none stands.
#
#   status.sh
#   HAWSER_SANDBOX   its name (hawser)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$HERE/machine.sh"

(($# == 0)) || die "unknown: $1. Usage: status.sh"
others=()
for other in /run/hawser-*/owner; do
  other=$(basename "$(dirname "$other")")
  [[ $other == "hawser-$NAME" || $other == 'hawser-*' ]] || others+=("${other#hawser-}")
done
check_owner
if [[ ! -e $RUN/index ]] || of_another_copy; then
  say "none stands. \`make sandbox-up\` brings it up.${others[*]:+ Others that stand: ${others[*]}.}"
  exit 3
fi
addresses

address() {
  case $1 in
    kube-apiserver) echo "$API" ;;
    kube-proxy) echo "services $SERVICES" ;;
    kubelet) echo "pods $PODS" ;;
    vcenter) echo "https://$NODE_IP/sdk, control http://$NODE_IP:8181" ;;
    azurite) echo "https://$NODE_IP:10000/devstoreaccount1" ;;
    azure-simulator) echo "https://$NODE_IP:8443, disks :8446, control http://$NODE_IP:8180" ;;
    *) echo ;;
  esac
}

echo "sandbox $NAME: node $NODE_IP, host $HOST_IP, network namespace $NETNS"
status=0
for part in "${KUBERNETES[@]}" "${SIMULATORS[@]}"; do
  if alive "$part"; then
    memory=$(awk '/^VmRSS/ { printf "%.0f MiB", $2 / 1024 }' "/proc/$PID/status")
    since=$(ps -o etime= -p "$PID" | tr -d ' ')
    printf '  %-24s runs    pid %-7s %8s  for %-10s %s\n' "$part" "$PID" "$memory" "$since" "$(address "$part")"
  elif [[ -e $RUN/pids/$part ]]; then
    printf '  %-24s DIED    see %s\n' "$part" "$STATE/logs/$part.log"
    status=1
  else
    # Of a sandbox with Kubernetes alone the simulators are not missing.
    printf '  %-24s is not part of it\n' "$part"
  fi
done
if node=$(ready_nodes 2>/dev/null) && [[ -n $node ]]; then
  pods=$(api '/api/v1/pods' | jq -r '[.items[].status.phase] | "\(length) pods, \(map(select(. == "Running")) | length) of them running"')
  echo "  the node is Ready; $pods"
else
  echo "  the node is not Ready"
  status=1
fi
[[ -e $STATE/env ]] || { echo "  it was never up as a whole: \`make sandbox-up\` goes on where it stopped"; status=1; }
((status == 0)) || echo "  \`make sandbox-up\` starts again what has died"
echo "  export KUBECONFIG=$STATE/kubeconfig"
[[ -z ${others[*]:-} ]] || echo "  other sandboxes that stand: ${others[*]}"
exit $status
