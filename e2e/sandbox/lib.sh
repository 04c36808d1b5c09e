# shellcheck shell=bash disable=SC2034 # the variables are for those that source it
# What the sandbox's scripts share: its names and addresses, its parts as processes, and how to wait for them. Sourced, not run.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
export PATH

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
NAME=${HAWSER_SANDBOX:-hawser}
STATE=$ROOT/.cache/sandbox/$NAME
BIN=${HAWSER_SANDBOX_BIN:-$ROOT/.cache/sandbox-bin}
# What must not outlive a boot, and sockets, whose paths may have 107 characters.
RUN=/run/hawser-$NAME
NETNS=hawser-$NAME

# In the order in which they start.
KUBERNETES=(etcd containerd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet)
SIMULATORS=(vcenter azurite azure-simulator)

say() { echo "sandbox $NAME: $*"; }
die() { echo "sandbox $NAME: $*" >&2; exit 1; }

[[ $NAME =~ ^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$ ]] ||
  die "HAWSER_SANDBOX=$NAME is not a name for a sandbox: up to 20 of a-z, 0-9 and -, neither first nor last a -"

# Everything the sandbox runs is in one control group, so that what is its own can be told from all else on the machine.
if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
  HIERARCHIES=(/sys/fs/cgroup)
  TRACK=/sys/fs/cgroup/hawser-$NAME
else
  HIERARCHIES=()
  for hierarchy in /sys/fs/cgroup/*/; do
    [[ ! -e $hierarchy/cgroup.procs ]] || HIERARCHIES+=("${hierarchy%/}")
  done
  TRACK=/sys/fs/cgroup/pids/hawser-$NAME
fi

# The addresses follow from the sandbox's index among those that stand on this machine.
addresses() {
  INDEX=$(<"$RUN/index")
  HOST_IP=10.231.$INDEX.1
  NODE_IP=10.231.$INDEX.2
  SERVICES=10.$((96 + INDEX)).0.0/16
  API_SERVICE=10.$((96 + INDEX)).0.1
  PODS=10.$((160 + INDEX)).0.0/16
  API=https://$NODE_IP:6443
}

# One `up` or `down` of a sandbox at a time. Descriptor 9 must be closed in whatever goes on after this script.
lock() {
  mkdir -p "$ROOT/.cache/sandbox"
  exec 9>"$ROOT/.cache/sandbox/$NAME.lock"
  flock -n 9 || { say "another up or down is under way: waiting for it"; flock 9; }
}

# A folder of that name in /run belongs to one working copy.
of_another_copy() { [[ -e $RUN/owner && $(<"$RUN/owner") != "$STATE" ]]; }
# As long as anything of it runs: what another copy has left behind dead, whoever wants the name may clear away.
check_owner() {
  ! of_another_copy || [[ -z $(members) ]] ||
    die "a sandbox of this name stands already, started from $(<"$RUN/owner"):" \
      "take it down there, or give this one another name: HAWSER_SANDBOX=other"
}

# --- processes: a part is known by its process id and the moment it started, so that a number used again is never taken for it

start_time() {
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  # What follows the name in brackets, which may itself contain anything.
  read -ra stat <<<"${stat##*) }"
  [[ ${stat[0]} != Z && ${stat[0]} != X ]] || return 1
  echo "${stat[19]}"
}

# Sets PID, and fails when the part doesn't run.
alive() {
  local began now
  PID=
  [[ -s $RUN/pids/$1 ]] || return 1
  read -r PID began <"$RUN/pids/$1"
  now=$(start_time "$PID") && [[ $now == "$began" ]]
}

# Runs a command in the sandbox's network and mount namespaces, as `start` does, in the foreground.
inside() { nsenter --net="/run/netns/$NETNS" --mount="$RUN/mnt" -- "$@"; }

# Starts a part: in its control group before it is the program, so that nothing it forks can be outside; in the namespaces; with an
# environment that has no proxy, certificate or key of the person who calls.
start() { # part, command...
  local part=$1 log=$STATE/logs/$1.log
  shift
  [[ ! -s $log ]] || mv "$log" "$STATE/logs/$part.previous.log"
  # shellcheck disable=SC2016 # expanded by the inner shell
  setsid env -i PATH="$PATH" HOME="$STATE/home" LANG=C.UTF-8 HAWSER_SANDBOX="$NAME" ${DAEMON_ENV[@]+"${DAEMON_ENV[@]}"} \
    bash -c 'echo $$ >"$0" && exec nsenter --net="$1" --mount="$2" -- "${@:3}"' \
    "$TRACK/system/cgroup.procs" "/run/netns/$NETNS" "$RUN/mnt" "$@" >"$log" 2>&1 </dev/null 9>&- &
  local pid=$!
  disown "$pid"
  echo "$pid $(start_time "$pid" || echo 0)" >"$RUN/pids/$part"
  STARTED+=("$part")
}
STARTED=()
DAEMON_ENV=()

part_failed() { # part, what happened
  local part=$1 log=$STATE/logs/$1.log
  {
    echo "sandbox $NAME: $part: $2"
    if [[ -s $log ]]; then
      echo "--- the end of $log"
      tail -n 25 "$log"
      echo "---"
    else
      echo "($log is empty)"
    fi
    echo "Remedy: $(remedy "$part")"
  } >&2
  exit 1
}
remedy() {
  case $1 in
    vcenter | azure-simulator)
      echo "mend what the log says (it is built from e2e/${1%-simulator}), then \`make sandbox-up\` again: it starts what is missing"
      ;;
    azurite) echo "\`rm -rf .cache/azurite && scripts/azurite.sh\` installs it anew; then \`make sandbox-up\` again" ;;
    *) echo "\`make sandbox-down && make sandbox-up\` starts from nothing; if that fails too, remove .cache/sandbox-bin to build anew" ;;
  esac
}

now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }

# Waits until a command succeeds, no longer than its part lives or the seconds last.
wait_until() { # part, seconds, what is waited for, command...
  local part=$1 seconds=$2 what=$3 end
  shift 3
  end=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    alive "$part" || part_failed "$part" "ended before $what"
    ((SECONDS < end)) || part_failed "$part" "after $seconds s still not so: $what"
    sleep 0.1
  done
}

# Ends a part: asks, and after some tenths of a second insists.
stop() { # tenths, parts...
  local tenths=$1 part pid left
  shift
  for part in "$@"; do
    if alive "$part"; then kill -TERM "$PID" 2>/dev/null || true; fi
  done
  while :; do
    left=()
    for part in "$@"; do
      if alive "$part"; then left+=("$PID"); fi
    done
    ((${#left[@]} && tenths-- > 0)) || break
    sleep 0.1
  done
  for pid in ${left[@]+"${left[@]}"}; do kill -KILL "$pid" 2>/dev/null || true; done
}

# --- Kubernetes' API, without kubectl's tenth of a second of start-up

api() { # path, curl's arguments...
  local path=$1
  shift
  curl --silent --show-error --fail --noproxy '*' --max-time 10 \
    --cacert "$STATE/ca.pem" --cert "$STATE/pki/admin.pem" --key "$STATE/pki/admin.key" "$@" "$API$path"
}
ready_nodes() { api "/api/v1/nodes/$NAME" | jq -e '.status.conditions[] | select(.type == "Ready" and .status == "True")'; }
