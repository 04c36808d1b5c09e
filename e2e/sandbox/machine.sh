# shellcheck shell=bash
# What the sandbox takes of the machine, and gives back: control groups, a network namespace with a veth pair, a mount namespace. Sourced.

# Folders at which a node's programs keep things, some with no flag to say otherwise. In the sandbox's mount namespace each is its own, so
# that two sandboxes don't meet there, every mount below goes with the namespace, and things are found where they are on any node.
node_folders() {
  printf '%s %s\n' \
    /run/containerd "$RUN/containerd" \
    /var/lib/containerd "$STATE/node/containerd" \
    /var/lib/kubelet "$STATE/node/kubelet" \
    /var/lib/cni "$STATE/node/cni" \
    /var/log/pods "$STATE/logs/pods" \
    /var/log/containers "$STATE/node/log-containers"
}
# Left in a folder that had to be made for the mount, so that the last sandbox to go removes it.
MARK=.made-for-hawser-sandbox

# kubelet changes these on the machine, for good, unless they are so already. It shall find them so.
SYSCTLS="vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1"
SYSCTLS+=" kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000"

make_cgroups() {
  local hierarchy
  ((${#HIERARCHIES[@]})) || die "there are no control groups in /sys/fs/cgroup: kubelet and runc need them; mount them"
  [[ -d $(dirname "$TRACK") ]] || die "there is no control group hierarchy $(dirname "$TRACK"): mount it"
  for hierarchy in "${HIERARCHIES[@]}"; do
    [[ $hierarchy == */unified ]] || mkdir -p "$hierarchy/hawser-$NAME"
  done
  mkdir -p "$TRACK/system"
}

# Every process of the sandbox (or of the part of it that is given), whatever started it.
members() {
  local list
  [[ -d ${1:-$TRACK} ]] || return 0
  while read -r list; do cat "$list" 2>/dev/null || true; done < <(find "${1:-$TRACK}" -name cgroup.procs 2>/dev/null)
}

# Kills them until none is left: one that forks meanwhile is met in the next round.
kill_members() {
  local pids rounds=0
  while pids=$(members "${1:-$TRACK}") && [[ -n $pids ]]; do
    # shellcheck disable=SC2086 # a list
    kill -KILL $pids 2>/dev/null || true
    ((++rounds < 200)) || { say "processes that don't end: ${pids//$'\n'/ }" >&2; return 1; }
    sleep 0.05
  done
}

remove_cgroups() {
  local hierarchy folder tries
  for hierarchy in "${HIERARCHIES[@]}"; do
    folder=$hierarchy/hawser-$NAME
    for ((tries = 0; tries < 40; tries++)); do
      [[ -d $folder ]] || break
      find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.05
    done
    [[ ! -d $folder ]] || die "the control group $folder can't be removed; in it: $(members "$folder" | tr '\n' ' ')"
  done
}

has_namespace() { [[ $(stat --file-system --format=%T "$1" 2>/dev/null) == nsfs ]]; }

# The ranges of an index are free when no interface and no route of this machine has any of them.
free_index() {
  local i=$1 range
  [[ ! -e /sys/class/net/hawser$i ]] || return 1
  for range in "10.231.$i.0/30" "10.$((96 + i)).0.0/16" "10.$((160 + i)).0.0/16"; do
    [[ -z $(ip -4 route show root "$range") && -z $(ip -4 route show match "$range" | sed '/^default/d') ]] || return 1
  done
}

make_network() {
  local i
  if has_namespace "/run/netns/$NETNS" && [[ -s $RUN/index ]] && { addresses; [[ -e /sys/class/net/hawser$INDEX ]]; }; then return; fi
  # Not `ip netns add`: that leaves a mount of /run/netns upon itself behind.
  mkdir -p /run/netns
  if ! has_namespace "/run/netns/$NETNS"; then
    : >"/run/netns/$NETNS"
    unshare --net="/run/netns/$NETNS" true
  fi
  for i in {0..15}; do
    # Whoever makes the interface has the index: the kernel lets only one.
    if free_index "$i" && ip link add "hawser$i" type veth peer name eth0 netns "$NETNS" 2>/dev/null; then
      # By itself: the kernel does not look at an alias that is given with what is made.
      ip link set "hawser$i" alias "hawser-$NAME"
      echo "$i" >"$RUN/index"
      break
    fi
  done
  [[ -s $RUN/index ]] ||
    die "no index i from 0 to 15 is free: 10.231.i.0/30, 10.(96+i).0.0/16 and 10.(160+i).0.0/16 must all be unused" \
      "(\`ip route\`); take a sandbox down"
  addresses
  # IPv4 alone, for which the host's end has exactly one address that can be reached.
  echo 1 >"/proc/sys/net/ipv6/conf/hawser$INDEX/disable_ipv6" 2>/dev/null || true
  # shellcheck disable=SC2016 # expanded by the inner shell
  nsenter --net="/run/netns/$NETNS" bash -c '
    echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6 2>/dev/null || true
    echo 1 >/proc/sys/net/ipv4/ip_forward
    ip link set lo up
    ip addr add "$0/30" dev eth0
    ip link set eth0 up
    # kube-proxy redirects what goes to a service, but only what has a route. There is no default route: nothing leaves by the host.
    ip route add "$1" dev eth0 src "$0"
    # Without a route the kernel tells a pod so a few times, and then leaves it to its time-out. This tells it always.
    echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
    nft "add table ip sandbox; add chain ip sandbox inside { type filter hook prerouting priority raw; };
      add rule ip sandbox inside ip saddr $2 ip daddr != { $1, $2, $3 } reject with icmp net-unreachable"' \
    "$NODE_IP" "$SERVICES" "$PODS" "10.231.$INDEX.0/30"
  ip addr add "$HOST_IP/30" dev "hawser$INDEX"
  ip link set "hawser$INDEX" up
  ip route add "$SERVICES" via "$NODE_IP"
  ip route add "$PODS" via "$NODE_IP"
}

remove_network() {
  local link
  # By its alias, which also finds the one of an `up` that was cut short before it wrote the index down. At once: with its namespace alone it would go
  # only when the kernel gets to it.
  while read -r link; do
    ip link delete "$link" 2>/dev/null || true
  done < <(ip -json link show type veth 2>/dev/null | jq -r --arg alias "hawser-$NAME" '.[]? | select(.ifalias == $alias) | .ifname')
  if [[ -e /run/netns/$NETNS ]]; then
    while has_namespace "/run/netns/$NETNS"; do umount --lazy "/run/netns/$NETNS"; done
    rm -f "/run/netns/$NETNS"
  fi
  rmdir /run/netns 2>/dev/null || true
}

# Those folders are shared with other sandboxes of this machine: made and removed one at a time.
with_folders_locked() {
  local lock
  exec {lock}<"/run"
  flock "$lock"
  "$@"
  exec {lock}<&-
}

make_node_folders() {
  local folder source
  while read -r folder source; do
    mkdir -p "$source"
    [[ -d $folder ]] || { mkdir -p "$folder" && : >"$folder/$MARK"; }
  done < <(node_folders)
  mount --bind "$RUN" "$RUN"
  # A mount namespace can only be held by a file on a mount of which there are no copies elsewhere.
  mount --make-private "$RUN"
  : >"$RUN/mnt"
  mkdir -p "$RUN/sysctl"
  # The namespace sees what the host unmounts (where the host shares its mounts), and shows nothing to the host.
  # shellcheck disable=SC2016 # expanded by the inner shell
  unshare --mount="$RUN/mnt" --propagation slave bash -c '
    set -euo pipefail
    # Its copies of other namespaces would hold them after their owners let go.
    while read -r target; do umount --lazy "$target"; done < <(findmnt --raw --noheadings --output TARGET --types nsfs || true)
    # As kubelet expects it: volumes that are mounted later show in containers that ask for that.
    mount --make-rshared /
    while read -r folder source; do
      mount --bind "$source" "$folder"
      # A peer group of its own: else all that is mounted below would show at the source as well.
      mount --make-private "$folder"
      mount --make-shared "$folder"
    done <<<"$0"
    for setting in $2; do
      [[ -e /proc/sys/${setting%%=*} ]] || continue
      file=$1/sysctl/${setting//\//.}
      echo "${setting##*=}" >"$file"
      mount --bind "$file" "/proc/sys/${setting%%=*}"
    done' "$(node_folders)" "$RUN" "$SYSCTLS"
}
make_mounts() { has_namespace "$RUN/mnt" || with_folders_locked make_node_folders; }

remove_node_folders() {
  local folder source
  while has_namespace "$RUN/mnt"; do umount --lazy "$RUN/mnt"; done
  # What an `up` that was cut short may have left in the host's own namespace, the deepest first.
  while read -r folder; do umount --lazy "$folder" 2>/dev/null || true; done < <(mounts_below "$RUN" "$STATE")
  rm -rf --one-file-system "$RUN"
  # Removing a folder takes away what others have mounted there: only the last one may.
  compgen -G '/run/hawser-*/mnt' >/dev/null && return
  while read -r folder source; do
    [[ -e $folder/$MARK ]] || continue
    rm -f "$folder/$MARK"
    rmdir "$folder" 2>/dev/null || true
  done < <(node_folders)
}
remove_mounts() { with_folders_locked remove_node_folders; }

mounts_below() {
  findmnt --raw --noheadings --output TARGET | while read -r target; do
    local folder
    for folder in "$@"; do
      if [[ $target == "$folder" || $target == "$folder"/* ]]; then echo "$target"; fi
    done
  done | sort --reverse
}
