#!/usr/bin/env bash
# The base of our images where no registry is at hand: a Debian trixie tree with what the release's Containerfile needs of Debian
# (nbdkit with its vddk plugin, which is in contrib since it needs VMware's library at run time). Prints the tree's folder.
#
# The mirror is this machine's own (or $DEBIAN_MIRROR). The tree is kept until this script changes; with --fresh it is made anew.
set -euo pipefail
cd "$(dirname "$0")/../.."

suite=trixie
components=main,contrib
packages=nbdkit,nbdkit-plugin-vddk,ca-certificates

if [[ $EUID -ne 0 ]]; then
	echo "base.sh: debootstrap needs root: run it with sudo" >&2
	exit 1
fi
if ! command -v debootstrap >/dev/null; then
	echo "base.sh: debootstrap is missing: apt-get install debootstrap" >&2
	exit 1
fi

tree=$PWD/.cache/images/base
key=$(sha256sum <e2e/images/base.sh | cut -c1-16)
if [[ ${1:-} != --fresh && -f $tree/.key && $(<"$tree/.key") == "$key" ]]; then
	echo "$tree/root"
	exit
fi

# shellcheck disable=SC2016 # apt-get's own variables
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 2>/dev/null | sed -n 1p)}
if [[ -z $mirror ]]; then
	echo "base.sh: apt names no Debian mirror: run apt-get update, or set DEBIAN_MIRROR=http://..." >&2
	exit 1
fi

mkdir -p .cache/images
exec 9>.cache/images/base.lock
flock 9
if [[ ${1:-} != --fresh && -f $tree/.key && $(<"$tree/.key") == "$key" ]]; then
	echo "$tree/root"
	exit
fi

new=$tree.new
rm -rf --one-file-system "$new"
mkdir -p "$new/root"
log=.cache/images/base.log
if ! debootstrap --variant=minbase --components="$components" --include="$packages" "$suite" "$new/root" "$mirror" >"$log" 2>&1; then
	tail -20 "$log" >&2
	echo "base.sh: debootstrap failed; all of its output is in $log" >&2
	exit 1
fi

# An image is what runs, not how it was fetched; nor does it tell where it was built.
rm -rf "$new/root/var/cache/apt/archives" "$new/root/var/lib/apt/lists" "$new/root/var/log" "$new/root/usr/share/doc" "$new/root/usr/share/man"
mkdir -p "$new/root/var/cache/apt/archives/partial" "$new/root/var/lib/apt/lists/partial" "$new/root/var/log"
rm -f "$new/root/etc/apt/sources.list"
: >"$new/root/etc/resolv.conf"
echo localhost >"$new/root/etc/hostname"
rm -f "$new/root/etc/machine-id"
find "$new/root/dev" -mindepth 1 -delete

echo "$key" >"$new/.key"
rm -rf --one-file-system "$tree"
mv "$new" "$tree"
echo "$tree/root"
