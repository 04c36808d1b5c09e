#!/usr/bin/env bash
# Builds the images of the sandbox as OCI archives, without a registry: what the release's Containerfile makes, on the base of base.sh.
#
#   build.sh [FOLDER]       where the binaries operator and worker are (target/debug: `make programs`; target/release: `make build`)
#
#   .cache/images/operator.tar   hawser.dev/operator:dev
#   .cache/images/worker.tar     hawser.dev/worker:dev
#   .cache/images/vddk           the stand-in for VMware's library, as a user's volume holds the real one: vmware-vix-disklib-distrib/lib64
#
# Each is built when what goes into it has changed. Needs: buildah, debootstrap, gcc, binutils, make, libgnutls28-dev.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
out=$root/.cache/images

binaries=${1:-${CARGO_TARGET_DIR:-target}/debug}
for binary in operator worker; do
	[[ -x $binaries/$binary ]] && continue
	echo "build.sh: there is no $binary in $binaries: make programs, or name another folder" >&2
	exit 1
done
for tool in buildah make gcc strip; do
	command -v "$tool" >/dev/null || { echo "build.sh: $tool is missing: apt-get install ${tool/strip/binutils}" >&2; exit 1; }
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
key_of() { digest Containerfile e2e/images/build.sh "$binaries/$1" <(echo "$base_key"); }

build_base() {
	images inspect --type image "$base" >/dev/null 2>&1 && return
	say "base"
	local container
	container=$(images from --pull-never scratch)
	images add --quiet "$container" "$tree" / >/dev/null
	images commit --quiet --rm --signature-policy "$policy" "$container" "$base" >/dev/null
}

# image NAME: the stage of the Containerfile with that name and the binary with that name.
image() {
	local key
	key=$(key_of "$1")
	fresh "$1" "$key" && return
	build_base
	say "$1"
	rm -rf "$work/context"
	mkdir -p "$work/context"
	# What a debugger reads is five sixths of a debug build.
	strip --strip-debug -o "$work/context/$1" "$binaries/$1"
	images bud --quiet --pull-never --layers=false --signature-policy "$policy" --build-arg "BASE=$base" --build-arg "${1^^}=$1" \
		--target "$1" --file Containerfile --tag "hawser.dev/$1:dev" "$work/context" >/dev/null
	keep "$1" "$key" "hawser.dev/$1:dev"
	built=1
}

vddk() {
	local key library=$out/vddk/vmware-vix-disklib-distrib/lib64
	key=$(digest e2e/vddk/Makefile e2e/vddk/*.[ch])
	[[ -f $library/libvixDiskLib.so.8 && -f $out/vddk.key && $(<"$out/vddk.key") == "$key" ]] && return
	say "the stand-in for VMware's library"
	CFLAGS=-O2 make -s -C e2e/vddk OUT="$work/vddk" "$work/vddk/lib64/libvixDiskLib.so.8"
	mkdir -p "$library"
	install --mode=0755 "$work/vddk/lib64/libvixDiskLib.so.8" "$library/libvixDiskLib.so.8.new"
	mv "$library/libvixDiskLib.so.8.new" "$library/libvixDiskLib.so.8"
	echo "$key" >"$out/vddk.key"
}

built=
vddk
image operator
image worker
if [[ -n $built ]]; then
	# What a newer build has taken the place of goes.
	images images --noheading --filter reference=hawser.dev/base --format '{{.Name}}:{{.Tag}}' |
		grep -vxF "$base" | xargs -r -n1 buildah --root "$out/storage" --runroot "$out/run" rmi >/dev/null 2>&1 || true
	images rmi --prune >/dev/null 2>&1 || true
fi
