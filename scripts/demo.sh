#!/usr/bin/env bash
# One disk, replicated before your eyes: nbdkit serves an image with an ext4 filesystem full of this machine's files, Azurite holds the log and the
# replica (a page blob), and the worker runs a full cycle, two deltas after real changes, and one more full cycle that finds nearly everything in place.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
worker=${CARGO_TARGET_DIR:-target}/debug/worker
began=$SECONDS

work=$(mktemp -d "${TMPDIR:-/tmp}/hawser-demo.XXXXXX")
pids=()
clean_up() {
  ((${#pids[@]})) && kill "${pids[@]}" 2>/dev/null
  wait 2>/dev/null
  rm -rf "$work"
}
trap clean_up EXIT
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[[ -t 1 ]] || say() { printf '\n%s\n' "$*"; }

# --- the disk: an ext4 filesystem with some 40 MiB of the machine's own files
say "A disk with files of this machine"
disk=$work/disk.img
{ read -r image; read -r what; } < <(TMPDIR=$work scripts/demo/filesystem.sh 128)
mv "$image" "$disk"
echo "$what"

# --- Azurite: the log's container and the replica's
port=$(node -e 'const s = require("net").createServer(); s.listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close(); })')
.cache/azurite/node_modules/.bin/azurite-blob --blobHost 127.0.0.1 --blobPort "$port" --inMemoryPersistence --silent --disableTelemetry \
  --skipApiVersionCheck >"$work/azurite.log" 2>&1 &
pids+=($!)
# The emulator's account and key, the same everywhere and published by Microsoft.
echo 'Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==' >"$work/account.key"
export KEY_FILE=$work/account.key
account=http://127.0.0.1:$port/devstoreaccount1
for _ in $(seq 100); do
  node scripts/demo/blob.mjs create "$account/log" 2>/dev/null && break
  sleep 0.1
done
node scripts/demo/blob.mjs create "$account/seeds"

"$worker" key new "$work/hawser.key" >/dev/null

# --- one cycle: freeze the disk (a snapshot), serve it, run the worker, compare
cycle() { # number, mode, changed
  local number=$1 mode=$2 changed=$3 socket=$work/nbd.sock began=$EPOCHREALTIME
  cp --sparse=always "$disk" "$work/snapshot-$number.img"
  nbdkit -r -f -U "$socket" file "$work/snapshot-$number.img" &
  local server=$!
  pids+=("$server")
  for _ in $(seq 100); do [[ -S $socket ]] && break; sleep 0.05; done
  cat >"$work/disk.yaml" <<YAML
owner: {cluster: demo, object: default/disk}
mode: $mode
snapshot: {id: snapshot-$number}
disks:
- key: 2000
  source: {nbd: "nbd+unix:///?socket=$socket"}
$changed
  replica: {pageBlob: {url: "$account/seeds/disk.vhd", accountKeyFile: $work/account.key}}
logStore: {azure: {accountUrl: "$account", container: log, accountKeyFile: $work/account.key}}
key: {file: $work/hawser.key}
YAML
  "$worker" cycle "$work/disk.yaml" --json >"$work/cycle-$number.json"
  local took
  took=$(node -p "($EPOCHREALTIME - $began).toFixed(1)")
  "$worker" verify "$work/disk.yaml" --json >"$work/verify-$number.json"
  kill "$server" && wait "$server" 2>/dev/null || true
  rm -f "$socket"
  node scripts/demo/row.mjs "$number" "$work/cycle-$number.json" "$work/verify-$number.json" "$took"
}

say "Four cycles"
node scripts/demo/row.mjs head
cycle 1 full ''

# A few files come, one goes, by the filesystem's own tools; what changed is told by comparing with the last snapshot.
head -c 3000000 /dev/urandom >"$work/random"
debugfs -w "$disk" >/dev/null 2>&1 <<EOF
mkdir news
write $work/random news/random
write $(command -v bash) news/bash
rm usr/share/common-licenses/GPL-3
EOF
cycle 2 changed "  changed: {compareWith: $work/snapshot-1.img, since: snapshot-1}"

# A file is overwritten in place, and free space elsewhere: what changed is told as a list of areas.
block=$(debugfs -R 'bmap news/random 0' "$disk" 2>/dev/null)
size=$(dumpe2fs -h "$disk" 2>/dev/null | awk '/^Block size/ {print $3}')
dd if=/dev/urandom of="$disk" bs="$size" seek="$block" count=64 conv=notrunc status=none
dd if=/dev/zero of="$disk" bs=4096 seek=$((100 * 256)) count=512 conv=notrunc status=none
cycle 3 changed "  changed: {areas: [[$((block * size)), $((64 * size))], [$((100 << 20)), $((512 * 4096))]], since: snapshot-2}"

cycle 4 full ''

# --- the judge: the bytes of disk and replica, without the 512 bytes of VHD footer
say "The replica"
node scripts/demo/blob.mjs download "$account/seeds/disk.vhd" "$work/replica.vhd"
want=$(sha256sum <"$disk" | cut -d' ' -f1)
got=$(head -c -512 "$work/replica.vhd" | sha256sum | cut -d' ' -f1)
qemu-img info -f vpc "$work/replica.vhd" | sed -n '2,3p'
echo "disk    sha256 $want"
echo "replica sha256 $got"
[[ $want == "$got" ]] || { echo "demo: the replica differs" >&2; exit 1; }
head -c -512 "$work/replica.vhd" >"$work/replica.img"
e2fsck -fn "$work/replica.img" >/dev/null 2>&1 || { echo "demo: the replica's filesystem is not sound" >&2; exit 1; }

say "Next: a disk of your own"
cat <<EOF
  $worker key new hawser.key
  printf 'disks:\n- {key: 2000, source: {file: disk.img}, replica: {file: replica.img}}\nlogStore: {directory: log}\nkey: {file: hawser.key}\n' > disk.yaml
  $worker cycle disk.yaml && $worker verify disk.yaml

EOF
echo "demo ok: cycles=4 disks=1 equal=1 seconds=$((SECONDS - began))"
