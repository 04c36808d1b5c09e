#!/usr/bin/env bash
# Builds the images of the sandbox as OCI archives, without a registry: what the release's Containerfile makes, on the base of base.sh.
#
#   build.sh [WORKER]       WORKER is the worker's binary (target/release/worker)
#
#   .cache/images/worker.tar        hawser.dev/worker:dev        the release's image
#   .cache/images/worker-vddk.tar   hawser.dev/worker-vddk:dev   the same with the stand-in for VMware's library, where users mount the real one
#
# An image is built when what goes into it has changed. Needs: buildah, debootstrap, gcc, make, libgnutls28-dev.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
out=$root/.cache/images

worker=${1:-target/release/worker}
if [[ ! -x $worker ]]; then
	echo "build.sh: there is no worker at $worker: cargo build --release -p worker, or name another binary" >&2
	exit 1
fi
for tool in buildah make gcc; do
	command -v "$tool" >/dev/null || { echo "build.sh: $tool is missing: apt-get install $tool" >&2; exit 1; }
done

tree=$(e2e/images/base.sh)
mkdir -p "$out"
exec 9>"$out/build.lock"
flock 9

# Storage of its own, so that the machine's containers know nothing of it; isolation that needs neither cgroups nor a network.
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
images() { buildah --root "$out/storage" --runroot "$out/run" "$@"; }
policy=$(mktemp)
work=$(mktemp -d)
trap 'rm -rf "$policy" "$work"' EXIT
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$policy"

digest() { cat "$@" | sha256sum | cut -c1-32; }
say() { echo "images: $*" >&2; }

# fresh NAME KEY: the archive is there, and was made of the same things.
fresh() { [[ -f $out/$1.tar && -f $out/$1.key && $(<"$out/$1.key") == "$2" ]]; }

# keep NAME KEY IMAGE: from the storage into an archive, in one step.
keep() {
	images push --quiet --signature-policy "$policy" "$3" "oci-archive:$out/$1.tar.new:$3"
	mv "$out/$1.tar.new" "$out/$1.tar"
	echo "$2" >"$out/$1.key"
	say "$1.tar: $(stat -c %s "$out/$1.tar" | numfmt --to=iec-i)B"
}

base_key=$(<"$tree/../.key")
base=hawser.dev/base:$base_key
worker_key=$(digest Containerfile e2e/images/build.sh "$worker" <(echo "$base_key"))
vddk_key=$(digest e2e/vddk/Makefile e2e/vddk/*.[ch] <(echo "$worker_key"))

build_base() {
	images inspect --type image "$base" >/dev/null 2>&1 && return
	say "base"
	local container
	container=$(images from --pull-never scratch)
	images add --quiet "$container" "$tree" / >/dev/null
	images commit --quiet --rm --signature-policy "$policy" "$container" "$base" >/dev/null
}

build_worker() {
	images inspect --type image hawser.dev/worker:dev >/dev/null 2>&1 && fresh worker "$worker_key" && return
	build_base
	say "worker"
	mkdir -p "$work/context"
	cp "$worker" "$work/context/worker"
	images bud --quiet --pull-never --layers=false --signature-policy "$policy" --build-arg "BASE=$base" --build-arg WORKER=worker \
		--file Containerfile --tag hawser.dev/worker:dev "$work/context" >/dev/null
	keep worker "$worker_key" hawser.dev/worker:dev
}

build_worker_vddk() {
	fresh worker-vddk "$vddk_key" && return
	say "worker-vddk"
	local container library=$work/vddk
	CFLAGS=-O2 make -s -C e2e/vddk OUT="$library" "$library/lib64/libvixDiskLib.so.8"
	container=$(images from --pull-never hawser.dev/worker:dev)
	images add --quiet --chmod 0755 "$container" "$library/lib64/libvixDiskLib.so.8" /opt/vmware-vix-disklib/lib64/ >/dev/null
	images commit --quiet --rm --signature-policy "$policy" "$container" hawser.dev/worker-vddk:dev >/dev/null
	keep worker-vddk "$vddk_key" hawser.dev/worker-vddk:dev
}

if ! fresh worker "$worker_key" || ! fresh worker-vddk "$vddk_key"; then
	build_worker
	build_worker_vddk
	# What a newer build has taken the place of goes.
	images images --noheading --filter reference=hawser.dev/base --format '{{.Name}}:{{.Tag}}' |
		grep -vxF "$base" | xargs -r -n1 buildah --root "$out/storage" --runroot "$out/run" rmi >/dev/null 2>&1 || true
	images rmi --prune >/dev/null 2>&1 || true
fi
