#!/usr/bin/env bash
# What e2e/images/build.sh made: operator and worker run as nobody on a read-only root, nbdkit finds the stand-in library where users mount
# VMware's, and a build without a change does nothing.
# shellcheck source-path=SCRIPTDIR source-path=SCRIPTDIR/../vddk disable=SC2034,SC2153 # what lib.sh reads, and a fake server's lines
set -euo pipefail
cd "$(dirname "$0")/../vddk"
# shellcheck source=lib.sh
. ./lib.sh
[[ $EUID -eq 0 ]] || { echo "test.sh: run it as root: it enters an image's tree" >&2; exit 1; }
need tar tar
need python3 python3

../images/build.sh "$@"
archives=../../.cache/images
mounted=/opt/vmware-vix-disklib/vmware-vix-disklib-distrib

# unpack NAME: the archive's layers into a tree, as a runtime does (there are no whiteouts in them: nothing is removed by a layer).
unpack() {
	mkdir -p "$work/$1/oci" "$work/$1/root"
	tar -xf "$archives/$1.tar" -C "$work/$1/oci"
	python3 - "$work/$1/oci" >"$work/$1/layers" 3>"$work/$1/config" <<-'PY'
		import json, os, sys
		def blob(d): return os.path.join(sys.argv[1], "blobs", *d["digest"].split(":"))
		index = json.load(open(os.path.join(sys.argv[1], "index.json")))
		manifest = json.load(open(blob(index["manifests"][0])))
		for layer in manifest["layers"]: print(blob(layer))
		c = json.load(open(blob(manifest["config"])))["config"]
		os.write(3, ("%s %s %s\n" % (index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], c["User"], " ".join(c["Entrypoint"]))).encode())
	PY
	local layer
	while read -r layer; do tar -xf "$layer" -C "$work/$1/root"; done <"$work/$1/layers"
}
config_is() { [[ $(<"$work/$1/config") == "hawser.dev/$1:dev 65532:65532 /usr/local/bin/$1" ]]; }

# run NAME COMMAND...: in the image's tree, mounted read-only, as its user.
run() {
	# shellcheck disable=SC2016 # expanded by the inner shell
	unshare --mount --propagation private bash -c '
		mount --bind "$1" "$1" && mkdir -p "$1/opt/vmware-vix-disklib" && mount --bind "$0" "$1/opt/vmware-vix-disklib" && mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -o remount,bind,ro "$1" &&
			exec chroot --userspec=65532:65532 "$@"' "$archives/vddk" "$work/$1/root" "${@:2}"
}
says() { # says TEXT COMMAND...
	{ "${@:2}" 2>&1 || true; } | tee -a "$work/client.log" | grep -F -- "$1" >/dev/null
}
not() { ! "$@"; }
none_of() { [[ -z $(find "$1" -name "$2") ]]; }
anonymous() { [[ ! -s $1/resolv.conf && ! -e $1/machine-id && ! -e $1/apt/sources.list && $(<"$1/hostname") == localhost ]]; }
quick() { [[ -z $(../images/build.sh "$@" 2>&1) ]]; }

for image in operator worker; do
	unpack "$image"
	check "$image: name, user and entry point" config_is "$image"
	check "$image: it starts" run "$image" "/usr/local/bin/$image" --help
	check "$image: it is not root" says 65532 run "$image" id -u
	check "$image: its root can't be written to" not run "$image" touch /tmp/x
	check "$image: certificates of authorities" run "$image" test -s /etc/ssl/certs/ca-certificates.crt
	check "$image: it tells nothing of where it was built" anonymous "$work/$image/root/etc"
done
check "worker: nbdkit 1.42.3" says "nbdkit 1.42.3" run worker nbdkit --version
check "worker: no library of VMware's, nor the stand-in" none_of "$work/worker/root" 'libvixDiskLib*'
check "worker: without it nbdkit says what it misses" says "set libdir=/path/to/vmware-vix-disklib-distrib" \
	run worker nbdkit -f -U /none vddk libdir=/opt file=x
check "worker: nbdkit finds the stand-in in a volume" says vddk_library_version=8 \
	run worker env LD_LIBRARY_PATH="$mounted/lib64" nbdkit vddk --dump-plugin "libdir=$mounted"
check "a second build does nothing" quick "$@"
finish
