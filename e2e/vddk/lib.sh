# Shared by the tests of the stand-in library and of the images: a work folder, nbdkit out of a trixie tree, and checks that count.
# Who sources it sets: base (the tree), library (the folder of lib64), password, control and faults (URL and path that faults go to).
# shellcheck shell=bash disable=SC2154

need() {
	local tool=$1 package=$2
	command -v "$tool" >/dev/null || { echo "missing: $tool: apt-get install $package" >&2; exit 1; }
}

passed=0
failed=0
pids=()
work=$(mktemp -d /tmp/vddk-test.XXXXXX)
chmod 755 "$work"
mkdir -m 777 "$work/s"

cleanup() {
	local pid
	for pid in "${pids[@]}"; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	rm -rf --one-file-system "$work"
}
trap cleanup EXIT

ok() {
	passed=$((passed + 1))
	printf 'ok    %s\n' "$1"
}

# A failure is shown with what nbdkit and its client said.
bad() {
	failed=$((failed + 1))
	printf 'FAIL  %s\n' "$1"
	tail -n 12 "$work/client.log" "$work/nbdkit.log" 2>/dev/null | sed 's/^/      | /' || true
}

# check NAME COMMAND...: the command must succeed.
check() {
	local name=$1
	shift
	if "$@" >>"$work/client.log" 2>&1; then ok "$name"; else bad "$name"; fi
}

# refused NAME TEXT COMMAND...: the command must fail, and nbdkit must say TEXT.
refused() {
	local name=$1 text=$2
	shift 2
	if "$@" >>"$work/client.log" 2>&1; then
		bad "$name: was not refused"
	elif grep -qF -- "$text" "$work/nbdkit.log"; then
		ok "$name: $text"
	else
		bad "$name: refused, but not with: $text"
	fi
}

# Runs a command in the base image as the release's container does: another user, nothing writable but /tmp and the sockets' folder.
# The mounts live in a namespace of their own, and go with the process.
in_image() {
	# shellcheck disable=SC2016 # expanded by the inner shell
	exec unshare --mount --propagation private bash -c '
		set -euo pipefail
		root=$1 lib=$2 share=$3
		shift 3
		mount --bind "$root" "$root"
		mount --rbind /dev "$root/dev"
		mount -t proc proc "$root/proc"
		mount -t tmpfs tmpfs "$root/tmp"
		mount --bind "$share" "$root/mnt"
		mount -t tmpfs tmpfs "$root/opt"
		mkdir "$root/opt/vmware-vix-disklib"
		mount --bind "$lib" "$root/opt/vmware-vix-disklib"
		mount -o remount,bind,ro "$root"
		exec chroot --userspec=65532:65532 "$root" "$@"
	' bash "$base" "$library" "$work/s" "$@"
}

# Preset, so that nbdkit need not execute itself again, which it can do only where /tmp can be written.
environment=(LD_LIBRARY_PATH=/opt/vmware-vix-disklib/lib64)

# start_nbdkit NAME ARGUMENTS...: nbdkit with a socket of that name; sets $uri and $nbdkit (its pid). The password comes by descriptor 3.
start_nbdkit() {
	local name=$1 i
	shift
	rm -f "$work/s/$name"
	: >"$work/nbdkit.log"
	: >"$work/client.log"
	(in_image env "${environment[@]}" nbdkit -f -U "/mnt/$name" "$@") \
		3<<<"$password" >>"$work/nbdkit.log" 2>&1 &
	nbdkit=$!
	pids+=("$nbdkit")
	uri="nbd+unix:///?socket=$work/s/$name"
	for ((i = 0; i < 100; i++)); do
		[[ -S $work/s/$name ]] && return
		kill -0 "$nbdkit" 2>/dev/null || return 0
		sleep 0.05
	done
}

stop_nbdkit() {
	kill "$nbdkit" 2>/dev/null || true
	wait "$nbdkit" 2>/dev/null || true
}

# with ARGUMENTS... -- COMMAND...: nbdkit with these arguments, then the command, then nbdkit's end. Its status is the command's.
with() {
	local arguments=() status=0 nbdkit uri
	while [[ $1 != -- ]]; do
		arguments+=("$1")
		shift
	done
	shift
	start_nbdkit with "${arguments[@]}"
	"$@" || status=$?
	stop_nbdkit
	return $status
}

# with_env VARIABLE=VALUE ARGUMENTS...: the same with another environment.
with_env() {
	local environment=("$1")
	shift
	with "$@"
}

same() { # same ORACLE [nbdcopy's options]: a copy of the disk is equal to the oracle
	local oracle=$1
	shift
	rm -f "$work/copy"
	timeout 120 nbdcopy "$@" "$uri" "$work/copy" && cmp "$work/copy" "$oracle"
}

info() { timeout 60 nbdinfo --size "$uri"; }

fault() { curl -fsS -X POST -d "$1" "$control$faults" >/dev/null; }
clear_faults() { curl -fsS -X DELETE "$control$faults"; }
state() { curl -fsS "$control/state"; }

finish() {
	echo "$passed passed, $failed failed"
	[[ $failed -eq 0 && $passed -gt 0 ]]
}
