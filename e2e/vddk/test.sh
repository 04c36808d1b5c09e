#!/usr/bin/env bash
# The stand-in library behind the real nbdkit-plugin-vddk of Debian trixie, against a fake vCenter: what it serves, and what it refuses.
# Needs root (for the image's tree), and what e2e/images/base.sh and the Makefile ask for. The work folder and all processes go at the end.
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../vddk disable=SC2034,SC2153 # what lib.sh reads, and a fake server's lines
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=lib.sh
. ./lib.sh

[[ $EUID -eq 0 ]] || { echo "test.sh: run it as root: it enters an image's tree" >&2; exit 1; }
need go golang
need gcc gcc
need make make
need curl curl
need nbdinfo libnbd-bin
need nbdcopy libnbd-bin
need unshare util-linux
need python3 python3

base=$(../images/base.sh)
library=$work/lib
nice make -s OUT="$library" all asan
(cd ../vcenter && nice go build -o "$work/serve" ./internal/vddk/vddktest/serve)
# start_server BUDGET: the fake vCenter, whose host lets so many disks be open.
start_server() {
	: >"$work/env"
	"$work/serve" -dir "$work" -budget "$1" >"$work/env" 2>"$work/serve.log" &
	server=$!
	pids+=("$server")
	for _ in {1..200}; do grep -q CONTROL "$work/env" && break; sleep 0.05; done
	# shellcheck disable=SC1091
	. "$work/env"
	control=$CONTROL
	faults=/faults
	# The arguments of the plugin; later ones win.
	remote=(vddk libdir=/opt/vmware-vix-disklib "server=$SERVER" "port=$PORT" "thumbprint=$THUMBPRINT" user=administrator@vsphere.local
		password=-3 vm=moref=vm-62 snapshot=snapshot-74 transports=file:nbdssl:nbd)
	ours=(-r "${filters[@]}" "${remote[@]}" "$disk" "${limits[@]}")
	bare=(-r "${remote[@]}" "$disk")
}
query() { state | python3 -c "import json, sys; s = json.load(sys.stdin); print($1)"; }
open_disks() { query 'len(s["open"])'; }
no_open_disks() { [[ $(open_disks) == 0 ]]; }
nothing_left() { [[ $(query 'len(s["open"]) + s["connections"] + s["logins"]') == 0 ]]; }
eventually() { for _ in {1..60}; do "$@" && return; sleep 0.1; done; return 1; }
# limited SECONDS: a copy, which must fail, and within that time.
limited() {
	local status=0
	timeout "$1" nbdcopy --no-extents "$uri" "$work/copy" || status=$?
	((status != 124)) || return 0
	return $status
}
slower() { # slower SECONDS COMMAND...: it takes at least so long
	local start
	start=$(date +%s.%N)
	"${@:2}" && python3 -c "import sys; sys.exit($(date +%s.%N) - $start < $1)"
}
no_password_in_arguments() { info && ! tr '\0' ' ' <"/proc/$nbdkit/cmdline" | grep -F "$password"; }
extents() { # extents ORACLE: the map covers the disk, holes are zeros in it, and there are some
	nbdinfo --map --json "$uri" | python3 -c '
import json, sys
data = open(sys.argv[1], "rb").read()
at = holes = 0
for e in json.load(sys.stdin):
    assert e["offset"] == at, e
    at += e["length"]
    assert at % 65536 == 0 or at == len(data), e
    if e["type"] & 1:
        holes += 1
        assert not any(data[e["offset"]:at]), e
assert at == len(data), (at, len(data))
assert holes > 0
' "$1"
}

password='p:ss word%'
disk='[datastore1] web/web.vmdk'
tail='[datastore1] web/web_1-000001.vmdk'
# What the worker uses, with less patience: the retry filter's own default is 5 retries in a minute.
filters=(--filter=cacheextents --filter=retry --filter=blocksize)
limits=(minblock=512 maxdata=2M retries=2 retry-delay=1)
echo "vixDiskLib.nfcAio.Session.BufCount=many" >"$work/s/nonsense"
chmod 644 "$work/s/nonsense"
start_server 2

echo "# The interface, without nbdkit"
export VDDK_SERVER=$SERVER VDDK_PORT=$PORT VDDK_THUMBPRINT=$THUMBPRINT VDDK_USER=administrator@vsphere.local VDDK_PASSWORD=$password
export VDDK_DISK=$disk VDDK_TAIL=$tail VDDK_ORACLE=$work/web.oracle
check "the driver, by itself" "$library/driver"
sed -n 's/^/      /p' "$work/client.log"
check "the driver, under the sanitisers" "$library/driver-asan"

echo "# What it serves"
check "the plugin finds the library and all its symbols" with --dump-plugin vddk libdir=/opt/vmware-vix-disklib -- true
for symbol in vddk_library_version=8 VixDiskLib_QueryAllocatedBlocks=1 VixDiskLib_AllocateConnectParams=1 vddk_transport_modes=file:nbdssl:nbd; do
	check "it shows $symbol" grep -qx "$symbol" "$work/nbdkit.log"
done
size_is() { [[ $(info) == $(stat -c %s "$1") ]]; }
check "nbdinfo: the size" with "${ours[@]}" -- size_is "$work/web.oracle"
check "nbdcopy: all bytes, as the worker reads, while the guest writes" with "${ours[@]}" -- same "$work/web.oracle" --request-size=1048576 --requests=4
check "nbdcopy: all bytes, without filters" with "${bare[@]}" -- same "$work/web.oracle"
check "nbdcopy: more in flight than the library's window" with "${bare[@]}" -- same "$work/web.oracle" --request-size=2097152 --requests=64
check "nbdcopy: without extents" with "${bare[@]}" -- same "$work/web.oracle" --no-extents
check "a disk that ends within a chunk" with -r "${remote[@]}" "$tail" -- same "$work/web_1-000001.oracle"
check "nbdinfo --map: holes are zeros, extents whole chunks" with "${ours[@]}" -- extents "$work/web.oracle"
check "nbdinfo --map of a disk that ends within a chunk" with -r "${remote[@]}" "$tail" -- extents "$work/web_1-000001.oracle"

echo "# Passwords and start"
printf '%s' "$password" >"$work/s/password"
chmod 644 "$work/s/password"
check "password=+FILE" with "${bare[@]}" password=+/mnt/password -- size_is "$work/web.oracle"
refused "password=+FILE with another password" "incorrect user name or password" with -v "${bare[@]}" password=+/etc/hostname -- info
check "re-executed for its LD_LIBRARY_PATH, with the password by descriptor" with_env LD_LIBRARY_PATH= "${bare[@]}" -- size_is "$work/web.oracle"
check "the password is in no argument" with "${bare[@]}" -- no_password_in_arguments

echo "# What it refuses"
# The real library (8.0) lets ConnectEx succeed and tells at Open, with "Unknown error" for all that goes before the login.
refused "a wrong thumbprint" "VixDiskLib_Open: $disk: Unknown error" with "${bare[@]}" "thumbprint=${THUMBPRINT%??}00" -- info
refused "a wrong thumbprint, in the log" "VixDiskLibVim: Failed to verify SSL certificate: actual thumbprint=$THUMBPRINT expected=12" \
	with -v "${bare[@]}" thumbprint=12 -- info
check "a thumbprint in small letters is none the less right" with "${bare[@]}" "thumbprint=${THUMBPRINT,,}" -- info
closed=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
refused "a server that is not there" "VixDiskLib_Open: $disk: Unknown error" with "${bare[@]}" "port=$closed" -- info
refused "a server that is not there, in the log" "Cannot connect to server $SERVER:$closed" with -v "${bare[@]}" "port=$closed" -- info
refused "a name that is not known" "Host address lookup for server vcenter.invalid failed" with -v "${bare[@]}" server=vcenter.invalid -- info
refused "a server that speaks no TLS" "Unknown error" with "${bare[@]}" "port=${CONTROL##*:}" -- info
refused "a wrong user" "VixDiskLib_Open: $disk: Insufficient permissions in the host operating system" with "${bare[@]}" user=nobody -- info
refused "a wrong password" "Insufficient permissions in the host operating system" with "${bare[@]}" password=wrong -- info
refused "a wrong VM" "VixDiskLib_Open: $disk: The virtual machine cannot be found" with "${bare[@]}" vm=moref=vm-63 -- info
refused "a wrong snapshot" "VixDiskLib_Open: $disk: The snapshot does not exist" with "${bare[@]}" snapshot=snapshot-75 -- info
refused "no snapshot, of a running VM" "VixDiskLib_Open: $disk: You do not have access rights to this file" with "${bare[@]/snapshot=*/compression=none}" -- info
refused "a wrong path" "VixDiskLib_Open: [datastore1] web/none.vmdk: A file was not found" with -r "${remote[@]}" "[datastore1] web/none.vmdk" -- info
refused "writing" "VixDiskLib_Open: $disk: The file is write-protected" with "${remote[@]}" "$disk" -- info
refused "transports that need the host's storage" "VixDiskLib_ConnectEx: The operation is not supported" with "${bare[@]}" transports=san:hotadd -- info
refused "a session cookie" "VixDiskLib_ConnectEx: The operation is not supported" with "${bare[@]}" cookie=abc -- info
refused "a configuration file with nonsense" "is not a number" with "${bare[@]}" config=/mnt/nonsense -- info

# A disk is held open by a reader whose first read gets no answer.
hold() { # hold ARGUMENTS...
	fault '{"op": "read", "stall": true, "count": 1}'
	start_nbdkit held -r "${remote[@]}" "$disk"
	holder=$nbdkit
	nbdcopy "nbd+unix:///?socket=$work/s/held" "$work/held" >>"$work/client.log" 2>&1 &
	reader=$!
	pids+=("$reader")
	for _ in {1..100}; do [[ $(open_disks) == 1 ]] && return; sleep 0.05; done
	return 1
}
release() {
	clear_faults
	wait "$reader"
	local status=$?
	kill "$holder"
	wait "$holder" || true
	return $status
}
check "a reader holds a disk" hold
refused "the same disk once more" "VixDiskLib_Open: $disk: The file is already in use" with "${bare[@]}" -- info
check "another disk is within the host's budget" with -r "${remote[@]}" "$tail" -- size_is "$work/web_1-000001.oracle"
check "the holder's read is answered, and its bytes are right" release
check "they are" cmp "$work/held" "$work/web.oracle"
check "then the disk opens again" with "${bare[@]}" -- info
check "a reader holds a disk again" hold
kill -9 "$holder"
wait "$holder" 2>/dev/null || true
wait "$reader" 2>/dev/null || true
check "kill -9 of nbdkit frees the disk" eventually no_open_disks
clear_faults

kill "$server"
start_server 1
check "a reader holds the only slot of a host" hold
refused "a disk more than the host's budget" "VixDiskLib_Open: $tail: The server refused connection" with -r "${remote[@]}" "$tail" -- info
check "it is let in once the slot is free" release
check "it is" with -r "${remote[@]}" "$tail" -- size_is "$work/web_1-000001.oracle"

echo "# What the library refuses in the data path"
refused "reads above 2 MiB" "received NFC error 5 from server: Failed to allocate the requested 4194328 bytes" \
	with "${bare[@]}" -- same "$work/web.oracle" --no-extents --request-size=4194304
refused "reads above 2 MiB, as the client's error" "asynchronous read failed: Memory allocation failed. Out of memory." \
	with "${bare[@]}" -- same "$work/web.oracle" --no-extents --request-size=4194304
check "the blocksize filter with maxdata=2M cures it" with "${ours[@]}" -- same "$work/web.oracle" --no-extents --request-size=4194304

# The real library has BufCount buffers of BufSizeIn64K for a disk: here 4 of 256 KiB. nbdkit has 16 threads, and asks for 16 reads at once.
printf 'vixDiskLib.nfcAio.Session.BufCount=2\nvixDiskLib.nfcAio.Session.BufSizeIn64K=8\n' >"$work/s/narrow"
chmod 644 "$work/s/narrow"
window() { # window N: with no read answered, N are in flight, and no more come
	fault '{"op": "read", "stall": true}'
	timeout 60 nbdcopy --no-extents --request-size=262144 --requests=64 "$uri" "$work/copy" &
	local client=$! status=0
	eventually in_flight "$1" && sleep 0.3 && in_flight "$1" || status=1
	clear_faults
	wait "$client" && cmp "$work/copy" "$work/web.oracle" || status=1
	return $status
}
in_flight() { [[ $(query 's["open"][0]["inFlight"] if s["open"] else 0') == "$1" ]]; }
check "no more reads are in flight than there are buffers: 4" with "${bare[@]}" config=/mnt/narrow -- window 4
check "16 with the default, which has room for them" with "${bare[@]}" -- window 16

echo "# Faults"
fault '{"op": "read", "delayMs": 700, "count": 1}'
check "a delayed read" with "${bare[@]}" -- slower 0.7 same "$work/web.oracle"
fault '{"op": "open", "error": 16064, "count": 1}'
refused "an error of opening" "VixDiskLib_Open: $disk: The host is not licensed for this feature" with "${bare[@]}" -- info
fault '{"op": "connect", "error": 18000}'
refused "an error of connecting" "VixDiskLib_Open: $disk: Cannot connect to the host" with "${bare[@]}" -- info
clear_faults
fault '{"op": "read", "error": 16007, "skip": 3, "count": 1}'
refused "an error of reading" "asynchronous read failed: You have requested access to an area" with "${bare[@]}" -- same "$work/web.oracle"
fault '{"op": "read", "error": 16007, "skip": 3, "count": 1}'
check "the retry filter gets over it" with "${ours[@]}" -- same "$work/web.oracle"
fault '{"op": "allocated", "error": 6, "count": 1}'
check "an error of the first query of blocks: no extents, all is read" with -r "${remote[@]}" "$disk" -- same "$work/web.oracle"
fault '{"op": "read", "drop": true, "skip": 3, "count": 1}'
refused "a connection that is cut" "asynchronous read failed: The connection was lost" with "${bare[@]}" -- same "$work/web.oracle"
fault '{"op": "read", "drop": true, "skip": 3, "count": 1}'
check "the retry filter connects anew" with "${ours[@]}" -- same "$work/web.oracle"
fault '{"op": "read", "dropAfterBytes": 3000000}'
refused "a connection that is cut in the middle of an answer" "asynchronous read failed: The connection was lost" \
	with "${bare[@]}" -- same "$work/web.oracle" --request-size=1048576
clear_faults
printf 'vixDiskLib.nfc.ReadTimeoutMs=500\nvixDiskLib.nfcAio.Session.BufCount=1\n' >"$work/s/impatient"
chmod 644 "$work/s/impatient"
fault '{"op": "read", "stall": true, "skip": 2, "count": 1}'
refused "a read that is never answered, after ReadTimeoutMs" "asynchronous read failed: There was an error in communication" \
	with "${bare[@]}" config=/mnt/impatient -- limited 10
clear_faults
fault '{"op": "read", "stall": true, "skip": 2, "count": 1}'
check "the retry filter gets over it, too" with "${ours[@]}" config=/mnt/impatient -- same "$work/web.oracle"
clear_faults

echo "# What is left"
check "no disk, no connection, no login is left at the server" eventually nothing_left
state | python3 -m json.tool --compact
finish
