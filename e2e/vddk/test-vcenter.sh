#!/usr/bin/env bash
# Snapshots of the vCenter simulator, read by the real nbdkit-plugin-vddk of Debian trixie through the stand-in library, while guests write.
# Needs root, and what test.sh needs. The library's own refusals are that script's; here are those that take a vCenter.
# shellcheck source-path=SCRIPTDIR disable=SC2034,SC2153 # what lib.sh reads
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=lib.sh
. ./lib.sh

[[ $EUID -eq 0 ]] || { echo "test-vcenter.sh: run it as root: it enters an image's tree" >&2; exit 1; }
need go golang
need gcc gcc
need make make
need curl curl
need nbdinfo libnbd-bin
need nbdcopy libnbd-bin
need openssl openssl
need python3 python3

base=$(../images/base.sh)
library=$work/lib
nice make -s OUT="$library" "$library/lib64/libvixDiskLib.so.8"
(cd ../vcenter && nice go build -o "$work/vcenter" .)
"$work/vcenter" --listen 127.0.0.1:0 --control 127.0.0.1:0 --inventory testdata/inventory.yaml --state "$work/state" >"$work/env" 2>"$work/vcenter.log" &
vcenter=$!
pids+=("$vcenter")
for _ in {1..300}; do
	grep -q ^ready "$work/env" && break
	kill -0 "$vcenter" 2>/dev/null || { cat "$work/vcenter.log" >&2; exit 1; }
	sleep 0.05
done
url=$(sed -n 's/^ready //p' "$work/env")
control=$(sed -n 's/^control //p' "$work/env")
faults=/v1/vddk/faults
at=${url#https://}
thumbprint=$(openssl s_client -connect "$at" </dev/null 2>/dev/null | openssl x509 -noout -fingerprint -sha1 | cut -d= -f2)
password=sandbox

call() { curl -fsS -X "$@"; }
# value URL EXPRESSION: of the JSON that is there, as Python sees it (j).
value() { call GET "$control$1" | python3 -c "import json, sys; j = json.load(sys.stdin); print($2)"; }
snapshot() { # snapshot VM NAME: takes it, and prints its reference
	call POST "$control/v1/vms/$1/snapshots" -d "{\"name\": \"$2\"}" | python3 -c 'import json, sys; print(json.load(sys.stdin)["ref"])'
}
vm() { value "/v1/vms/$1" 'j["ref"]'; }
# file VM SNAPSHOT KEY: the disk's name in the snapshot's configuration.
file() { value "/v1/vms/$1" "[d['file'] for s in j['snapshots'] if s['ref'] == '$2' for d in s['disks'] if d['key'] == $3][0]"; }
oracle() { call GET "$control/v1/snapshots/$1/disks/$2/bytes" -o "$3"; } # oracle SNAPSHOT KEY TARGET
eventually() { for _ in {1..60}; do "$@" && return; sleep 0.1; done; return 1; }
open_is() { [[ $(value /v1/vddk 'len(j["openDisks"])') == "$1" ]]; }

remote=(vddk libdir=/opt/vmware-vix-disklib "server=${at%:*}" "port=${at##*:}" "thumbprint=$thumbprint" user=administrator@vsphere.local
	password=-3 transports=file:nbdssl:nbd)
filters=(--filter=cacheextents --filter=retry --filter=blocksize)
limits=(minblock=512 maxdata=2M retries=2 retry-delay=1)

busy=$(vm busy)
read -r first second third < <(value /v1/vms/busy '" ".join(str(d["key"]) for d in j["disks"])')

# The guest: writes runs of its pattern, everywhere, as fast as the port takes them.
guest() {
	local i=100 offset
	while :; do
		i=$((i + 1))
		offset=$(((RANDOM * 32768 + RANDOM) % 750 * 65536 + RANDOM % 100 * 512))
		curl -fsS -X PUT "$control/v1/vms/busy/disks/$first/bytes?offset=$offset&length=$((RANDOM % 20 * 512 + 512))&seed=$i" >/dev/null 2>&1 || sleep 0.1
	done
}
written() { value /v1/vms/busy "[d['deltas'] for d in j['disks'] if d['key'] == $first][0]"; }

echo "# Snapshots of a guest that writes"
guest &
pids+=($!)
snap=$(snapshot busy one)
disk=$(file busy "$snap" "$first")
oracle "$snap" "$first" "$work/oracle"
bare=(-r "${remote[@]}" "vm=moref=$busy" "snapshot=$snap" "$disk")
ours=(-r "${filters[@]}" "${remote[@]}" "vm=moref=$busy" "snapshot=$snap" "$disk" "${limits[@]}")

# While it is read the guest must have written, else the test shows nothing.
during() {
	local before after
	before=$(written)
	"$@" || return
	after=$(written)
	echo "the guest's deltas: $before, then $after bytes"
	[[ $after -gt $before ]]
}
fault '{"op": "read", "delayMs": 20}' # so that there is time to write
check "nbdcopy as the worker reads" with "${ours[@]}" -- during same "$work/oracle" --request-size=1048576 --requests=4
check "nbdcopy without filters and extents" with "${bare[@]}" -- during same "$work/oracle" --no-extents
clear_faults
differs() { call GET "$control/v1/vms/busy/disks/$first/bytes" -o "$work/now" && ! cmp -s "$work/now" "$work/oracle"; }
check "the running disk is another by now" differs
size_is() { [[ $(info) == "$1" ]]; }
check "nbdinfo: the size" with "${bare[@]}" -- size_is $((48 << 20))
extents() { # the data extents are what the oracle calls allocated
	call GET "$control/v1/snapshots/$snap/disks/$first/allocated" >"$work/allocated"
	nbdinfo --map --json "$uri" | python3 -c '
import json, sys
want = [(a["start"], a["start"] + a["length"]) for a in json.load(open(sys.argv[1]))]
got = [(e["offset"], e["offset"] + e["length"]) for e in json.load(sys.stdin) if not e["type"] & 1]
def merged(runs):
    out = []
    for a, b in sorted(runs):
        if out and out[-1][1] == a: out[-1][1] = b
        else: out.append([a, b])
    return out
assert merged(want) == merged(got) and len(merged(got)) > 2, (merged(want), merged(got))
' "$work/allocated"
}
check "nbdinfo --map: the extents are the oracle's" with "${bare[@]}" -- extents

two=$(snapshot busy two)
oracle "$two" "$first" "$work/oracle2"
check "a second snapshot, whose disk is a chain" with -r "${remote[@]}" "vm=moref=$busy" "snapshot=$two" "$(file busy "$two" "$first")" -- \
	during same "$work/oracle2" --no-extents
check "the first reads as before" with "${bare[@]}" -- same "$work/oracle"
check "they differ" bash -c "! cmp -s '$work/oracle' '$work/oracle2'"
empty=$(file busy "$snap" "$third")
oracle "$snap" "$third" "$work/oracle3"
check "an empty disk" with -r "${remote[@]}" "vm=moref=$busy" "snapshot=$snap" "$empty" -- same "$work/oracle3"

echo "# What the vCenter refuses"
refused "a wrong thumbprint" "VixDiskLib_Open: $disk: Unknown error" with "${bare[@]}" "thumbprint=${thumbprint%??}00" -- info
refused "a wrong user" "VixDiskLib_Open: $disk: Insufficient permissions" with "${bare[@]}" user=nobody@vsphere.local -- info
refused "a wrong password" "VixDiskLib_Open: $disk: Insufficient permissions" with "${bare[@]}" password=wrong -- info
refused "a user without the privileges" "VixDiskLib_Open: $disk: Insufficient permissions" with "${bare[@]}" user=reader@vsphere.local -- info
refused "a wrong VM" "VixDiskLib_Open: $disk: The virtual machine cannot be found" with "${bare[@]}" vm=moref=vm-9999 -- info
refused "a wrong snapshot" "VixDiskLib_Open: $disk: The snapshot does not exist" with "${bare[@]}" snapshot=snapshot-9999 -- info
foreign=$(snapshot other theirs)
refused "another VM's snapshot" "VixDiskLib_Open: $disk: The snapshot does not exist" with "${bare[@]}" "snapshot=$foreign" -- info
refused "no snapshot, of a running VM" "You do not have access rights to this file" with -r "${remote[@]}" "vm=moref=$busy" \
	"$(value /v1/vms/busy "[d['file'] for d in j['disks'] if d['key'] == $first][0]")" -- info
refused "a wrong path" "[ds-1] busy/none.vmdk: A file was not found" with "${bare[@]}" "file=[ds-1] busy/none.vmdk" -- info
refused "another VM's disk" "A file was not found" with "${bare[@]}" "file=$(file other "$foreign" 2000)" -- info
refused "the layer that the guest writes" "A file was not found" with "${bare[@]}" \
	"file=$(value /v1/vms/busy "[d['file'] for d in j['disks'] if d['key'] == $first][0]")" -- info
refused "writing" "VixDiskLib_Open: $disk: The file is write-protected" with "${remote[@]}" "vm=moref=$busy" "snapshot=$snap" "$disk" -- info
off_oracle() { call GET "$control/v1/vms/off/disks/2000/bytes" -o "$work/off"; }
off_oracle
check "but a VM that is off is read without a snapshot" with -r "${remote[@]}" "vm=moref=$(vm off)" \
	"$(value /v1/vms/off 'j["disks"][0]["file"]')" -- same "$work/off"

# hold NAME ARGUMENTS...: a reader whose first read gets no answer.
hold() {
	local name=$1 n
	shift
	n=$(value /v1/vddk 'len(j["openDisks"])')
	fault '{"op": "read", "stall": true, "count": 1}'
	start_nbdkit "$name" "$@"
	nbdcopy "$uri" "$work/$name" >>"$work/client.log" 2>&1 &
	reader=$!
	pids+=("$reader")
	eventually open_is $((n + 1))
}
check "a reader holds a disk" hold one "${bare[@]}"
holder=$nbdkit
held=$reader
check "the control port lists it" test "$(value /v1/vddk 'j["openDisks"][0]["path"]')" = "$disk"
refused "the same disk once more" "VixDiskLib_Open: $disk: The file is already in use" with "${bare[@]}" -- info
other_disk=$(file busy "$snap" "$second")
check "a reader holds another" hold two -r "${remote[@]}" "vm=moref=$busy" "snapshot=$snap" "$other_disk"
refused "a disk more than the host's budget of 2" "VixDiskLib_Open: $empty: The server refused connection" with -r "${remote[@]}" "vm=moref=$busy" "snapshot=$snap" "$empty" -- info
clear_faults
check "the first gets its answer, and all the bytes" wait "$held"
check "they are right" cmp "$work/one" "$work/oracle"
wait "$reader" || true
kill "$holder" "$nbdkit"
wait "$holder" "$nbdkit" 2>/dev/null || true
check "all is closed" eventually open_is 0

echo "# What happens to an open disk"
check "a reader holds a disk" hold one "${bare[@]}"
call POST "$control/v1/vms/busy/migrate" -d '{"host": "esx-2.test"}' >>"$work/client.log" 2>&1 || bad "vMotion by the control port"
clear_faults
status=0
wait "$reader" || status=$?
if [[ $status -ne 0 ]] && grep -q "The connection was lost" "$work/nbdkit.log"; then ok "vMotion: the connection was lost"; else bad "vMotion: the connection was lost"; fi
stop_nbdkit
check "then it opens on the new host" with "${bare[@]}" -- same "$work/oracle"
check "a reader holds a disk" hold one "${bare[@]}"
call POST "$control/v1/vddk/drop" >/dev/null
status=0
wait "$reader" || status=$?
if [[ $status -ne 0 ]] && grep -q "The connection was lost" "$work/nbdkit.log"; then ok "all connections cut"; else bad "all connections cut"; fi
stop_nbdkit
clear_faults
fault '{"op": "read", "path": "busy", "drop": true, "skip": 2, "count": 1}'
check "a cut connection, with the retry filter" with "${ours[@]}" -- same "$work/oracle"
clear_faults
call DELETE "$control/v1/snapshots/$two" >/dev/null
call DELETE "$control/v1/snapshots/$snap" >/dev/null
refused "a snapshot that was removed" "The snapshot does not exist" with "${bare[@]}" -- info
check "nothing is open at the end" eventually open_is 0
finish
