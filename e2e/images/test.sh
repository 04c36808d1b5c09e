#!/usr/bin/env bash
# What e2e/images/build.sh made: the worker runs as nobody on a read-only root, nbdkit finds the stand-in library where users mount VMware's,
# and a build without a change does nothing.
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
config_is() { [[ $(<"$work/$1/config") == "hawser.dev/$1:dev 65532:65532 /usr/local/bin/worker" ]]; }

# run NAME COMMAND...: in the image's tree, mounted read-only, as its user.
run() {
	# shellcheck disable=SC2016 # expanded by the inner shell
	unshare --mount --propagation private bash -c '
		mount --bind "$1" "$1" && mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && mount -o remount,bind,ro "$1" &&
			exec chroot --userspec=65532:65532 "$@"' bash "$work/$1/root" "${@:2}"
}
says() { # says TEXT COMMAND...
	{ "${@:2}" 2>&1 || true; } | tee -a "$work/client.log" | grep -F -- "$1" >/dev/null
}
not() { ! "$@"; }
anonymous() { [[ ! -s $1/resolv.conf && ! -e $1/machine-id && ! -e $1/apt/sources.list && $(<"$1/hostname") == localhost ]]; }
quick() { [[ -z $(../images/build.sh "$@" 2>&1) ]]; }

for image in worker worker-vddk; do
	unpack "$image"
	check "$image: name, user and entry point" config_is "$image"
	check "$image: the worker starts" run "$image" /usr/local/bin/worker --help
	check "$image: it is not root" says 65532 run "$image" id -u
	check "$image: its root can't be written to" not run "$image" touch /tmp/x
	check "$image: nbdkit 1.42.3" says "nbdkit 1.42.3" run "$image" nbdkit --version
	check "$image: certificates of authorities" run "$image" test -s /etc/ssl/certs/ca-certificates.crt
	check "$image: it tells nothing of where it was built" anonymous "$work/$image/root/etc"
done
check "worker: no library of VMware's, nor the stand-in" not says vddk_library_version run worker nbdkit vddk --dump-plugin
check "worker: without it nbdkit says what it misses" says "set libdir=/path/to/vmware-vix-disklib-distrib" \
	run worker nbdkit -f -U /none vddk libdir=/opt file=x
check "worker-vddk: nbdkit finds the stand-in" says vddk_library_version=8 \
	run worker-vddk env LD_LIBRARY_PATH=/opt/vmware-vix-disklib/lib64 nbdkit vddk --dump-plugin libdir=/opt/vmware-vix-disklib
check "a second build does nothing" quick "$@"
finish
