#!/usr/bin/env bash
# Takes a sandbox down, whatever is left of it: nothing of it stays on the machine but the logs in .cache/sandbox/NAME/logs.
#
#   down.sh
#   HAWSER_SANDBOX   its name (hawser)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$HERE/machine.sh"

(($# == 0)) || die "unknown: $1. Usage: down.sh"
((EUID == 0)) || die "namespaces, mounts and control groups are root's: run it as root"
began=$(now_ms)
lock
check_owner
# shellcheck disable=SC2034 # for the message alone
stood=
for trace in "$RUN" "$TRACK" "/run/netns/$NETNS" "$STATE/env"; do [[ ! -e $trace ]] || stood=1; done

# kubelet first: it would start again what ends. Its fellows have nothing to lose; the simulators may have files to remove.
stop 10 kubelet kube-scheduler kube-controller-manager kube-proxy
kill_members "$TRACK/kubepods"
stop 30 containerd "${SIMULATORS[@]}"
stop 10 kube-apiserver
stop 10 etcd
# The rest: the containers' shims, and all that lost its place in the list.
kill_members

# A shell that somebody has open in there would keep the namespace alive, with everything in it.
for namespace in "/run/netns/$NETNS:net" "$RUN/mnt:mnt"; do
  has_namespace "${namespace%:*}" || continue
  inode=$(stat -L -c %i "${namespace%:*}")
  find /proc/[0-9]*/ns/"${namespace#*:}" -lname "*$inode*" 2>/dev/null | while read -r process; do
    process=${process%/ns/*}
    say "process ${process#/proc/} is not the sandbox's, but in its namespaces: they go when it ends" \
      "($(tr '\0' ' ' <"$process/cmdline" 2>/dev/null | cut -c1-80))" >&2
  done || true
done

remove_mounts
remove_network
remove_cgroups
for entry in "$STATE"/* "$STATE"/.[!.]*; do
  [[ ! -e $entry && ! -L $entry ]] || [[ $entry == "$STATE/logs" ]] || rm -rf --one-file-system "$entry"
done

took=$(($(now_ms) - began))
if [[ -n $stood ]]; then
  say "is down, after $((took / 1000)).$(printf %03d $((took % 1000))) s; its logs are in $STATE/logs"
else
  say "nothing stands"
fi
