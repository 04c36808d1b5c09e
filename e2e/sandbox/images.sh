# shellcheck shell=bash
# The images that a sandbox has, and how they get there without a registry. Sourced.
#
# Importing an image is mostly unpacking it, and would be most of a start. So it is done once, into a store of containerd's that no
# container has ever used; a sandbox begins with that, by hard links: nothing writes into what is unpacked, since what a container writes
# goes to a layer of its own.

IMAGE_STORE=$BIN/store
[[ -z ${HAWSER_SANDBOX_BIN:-} ]] || IMAGE_STORE=$ROOT/.cache/sandbox-bin/store

archives() { # our own, and whatever has been put beside
  local archive
  for archive in "$BIN"/images/*.tar "$ROOT"/.cache/images/*.tar; do
    [[ ! -f $archive ]] || echo "$archive"
  done
}
# What tells one version of an archive from the next.
stamp_of() { stat -L -c '%i %Y %s' "$1"; }

# The settings of containerd that store and node have in common: the folder that is its root, and its socket.
containerd_settings() {
  cat <<TOML
version = 2
root = "$1"
state = "$2"
[grpc]
  address = "$2/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$1/opt"
TOML
}

# Makes the store, unless it has these archives. The containerd that does it has no network and lives no longer than this script.
make_store() {
  local key lock links=1 work=$RUN/store log=$STATE/logs/store.log
  exec {lock}<"$(dirname "$IMAGE_STORE")"
  flock "$lock"
  key=$(containerd --version; archives | while read -r archive; do echo "${archive##*/} $(stamp_of "$archive")"; done)
  if [[ ! -f $IMAGE_STORE/.key || $(<"$IMAGE_STORE/.key") != "$key" ]]; then
    say "unpacking $(archives | wc -l) images"
    rm -rf --one-file-system "$work" "$IMAGE_STORE" "$IMAGE_STORE.new"
    mkdir -p "$work" "$IMAGE_STORE.new"
    { echo 'disabled_plugins = ["io.containerd.grpc.v1.cri"]'; containerd_settings "$IMAGE_STORE.new" "$work"; } >"$work/containerd.toml"
    # shellcheck disable=SC2016 # expanded by the inner shell
    unshare --mount --propagation private --pid --fork --kill-child --mount-proc --net bash -c '
      set -euo pipefail
      containerd --config "$0/containerd.toml" &
      for _ in {1..200}; do ctr --address "$0/containerd.sock" --connect-timeout 1s version >/dev/null 2>&1 && break; sleep 0.1; done
      while read -r archive; do
        ctr --address "$0/containerd.sock" --namespace k8s.io images import "$archive" ||
          { echo "the image archive $archive cannot be imported: remove it and build it anew"; exit 1; }
      done
      kill $!
      wait $! || true' "$work" < <(archives) >"$log" 2>&1 9>&- || { tail -n 5 "$log" >&2; die "the images can't be unpacked: see $log"; }
    rm -rf --one-file-system "$work"
    echo "$key" >"$IMAGE_STORE.new/.key"
    mv "$IMAGE_STORE.new" "$IMAGE_STORE"
  fi
  # What an `up` that was cut short has left would be written into, and with it what others share.
  find "$STATE/node/containerd" -mindepth 1 -delete
  # Another file system can't have links.
  ln "$IMAGE_STORE/.key" "$STATE/node/containerd/.key" 2>/dev/null || links=
  rm -f "$STATE/node/containerd/.key"
  cp --archive ${links:+--link} "$IMAGE_STORE/." "$STATE/node/containerd/"
  # Its books are written, though, and these are of each sandbox its own.
  (cd "$IMAGE_STORE" && find . -name '*.db' -exec cp --archive --remove-destination --parents {} "$STATE/node/containerd/" \;)
  exec {lock}<&-
  mkdir -p "$RUN/images"
  while read -r archive; do stamp_of "$archive" >"$RUN/images/$(basename "$archive")"; done < <(archives)
}

# Imports into a sandbox that stands what is new since.
import_new_images() {
  local archive stamp
  mkdir -p "$RUN/images"
  while read -r archive; do
    stamp=$RUN/images/$(basename "$archive")
    [[ $(stamp_of "$archive") != "$(cat "$stamp" 2>/dev/null)" ]] || continue
    inside ctr --namespace k8s.io images import "$archive" >>"$STATE/logs/images.log" 2>&1 ||
      { tail -n 5 "$STATE/logs/images.log" >&2; die "the image archive $archive can't be imported: remove it and build it anew"; }
    stamp_of "$archive" >"$stamp"
    say "imported ${archive#"$ROOT"/}, which is new"
  done < <(archives)
}
