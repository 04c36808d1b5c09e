#!/usr/bin/env bash
# Builds what the sandbox runs into .cache/sandbox-bin, from the pinned modules beside this file: Kubernetes, etcd, helm, the images of its
# own, and the two simulators. Nothing is built again that is as it was: each step leaves a stamp of what went into it.
#
#   build.sh [kubernetes] [etcd] [helm] [images] [vcenter] [azure]     some of the steps (all)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
bin=$root/.cache/sandbox-bin
mkdir -p "$bin/.stamps" "$bin/images"

fail() { echo "build.sh: $*" >&2; exit 1; }
command -v go >/dev/null || fail "go is missing: install Go 1.26 or later, and put it into PATH"
go_version=$(go env GOVERSION)

# Static, so that the same file runs in an image from nothing.
export CGO_ENABLED=0
pinned() { # the version of a module in a step's go.mod
  local version
  version=$(awk -v module="$2" '$1 == "require" { $0 = $2 " " $3 } $1 == module { print $2; exit }' "$here/$1/go.mod")
  [[ $version == v* ]] || fail "e2e/sandbox/$1/go.mod does not require $2"
  echo "$version"
}
kubernetes_version=$(pinned kubernetes k8s.io/kubernetes)
IFS=. read -r major minor _ <<<"${kubernetes_version#v}"
helm_version=$(pinned helm helm.sh/helm/v3)
# What helm takes a cluster for that it can't ask: the Kubernetes its client library is of.
IFS=. read -r _ helm_minor _ <<<"$(pinned helm k8s.io/client-go)"
# Without these a server calls itself v0.0.0, and clients that compare versions refuse it.
version=k8s.io/component-base/version
kubernetes_flags="-s -w -X $version.gitVersion=$kubernetes_version -X $version.gitMajor=$major -X $version.gitMinor=$minor"
kubernetes_flags+=" -X $version.gitTreeState=clean"
helm_flags="-s -w -X helm.sh/helm/v3/internal/version.version=$helm_version"
for package in lint/rules chartutil; do
  helm_flags+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=$helm_minor"
done

# Whether the step's stamp tells that it was done with the same inputs and that its outcome is still there.
fresh() { # step, key, files...
  local step=$1 key=$2 file
  shift 2
  for file in "$@"; do [[ -s $bin/$file ]] || return 1; done
  [[ -f $bin/.stamps/$step && $(<"$bin/.stamps/$step") == "$key" ]]
}
# Files are put in place whole: a sandbox that runs the old one goes on running it.
put() { local file; for file in "$@"; do mv -f "$work/$(basename "$file")" "$bin/$file"; done; }
key_of() { printf '%s\n' "$go_version" "$@" | sha256sum | cut -d' ' -f1; }
say() { echo "build.sh: $*"; }

# One module's programs, by the packages in its go.mod's tool lines.
module() { # step, linker flags, program=package...
  local step=$1 flags=$2 key names=() packages=() pair
  shift 2
  for pair in "$@"; do names+=("${pair%%=*}") packages+=("${pair#*=}"); done
  key=$(key_of "$flags" "$*" "$(cat "$here/$step/go.mod" "$here/$step/go.sum")")
  fresh "$step" "$key" "${names[@]}" && return
  local began=$SECONDS
  say "$step: ${names[*]}"
  if ((${#packages[@]} == 1)); then
    (cd "$here/$step" && nice go build -mod=readonly -ldflags "$flags" -o "$work/${names[0]}" "${packages[0]}")
  else
    (cd "$here/$step" && nice go build -mod=readonly -ldflags "$flags" -o "$work/" "${packages[@]}")
  fi || fail "$step: it does not build; \`cd e2e/sandbox/$step && go mod verify\` tells whether what was downloaded is sound"
  put "${names[@]}"
  echo "$key" >"$bin/.stamps/$step"
  say "$step: built in $((SECONDS - began)) s"
}

build_kubernetes() {
  local program pairs=()
  for program in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
    pairs+=("$program=k8s.io/kubernetes/cmd/$program")
  done
  module kubernetes "$kubernetes_flags" "${pairs[@]}"
}
build_etcd() { module etcd "-s -w" etcd=go.etcd.io/etcd/server/v3; }
build_helm() { module helm "$helm_flags" helm=helm.sh/helm/v3/cmd/helm; }

# An OCI archive of one static program and nothing else. No registry and no builder: the format is three JSON documents and a tar.
archive() { # program, image's name, arguments as JSON, the user
  local program=$1 image=$2 arguments=$3 user=$4 dir=$work/oci-$1
  mkdir -p "$dir/layer" "$dir/blobs/sha256"
  install -m 755 "$work/$program" "$dir/layer/$program"
  pack "$dir/layer.tar" "$dir/layer" "$program"
  local layer config manifest
  layer=$(blob "$dir/layer.tar")
  printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":%s,"User":"%s"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(go env GOARCH)" "$arguments" "$user" "$layer" >"$dir/config.json"
  config=$(blob "$dir/config.json")
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
    "$(described config.v1+json "$config")" "$(described layer.v1.tar "$layer")" >"$dir/manifest.json"
  manifest=$(blob "$dir/manifest.json")
  printf '{"imageLayoutVersion":"1.0.0"}' >"$dir/oci-layout"
  # containerd takes the image's name from this annotation.
  local named="\"annotations\":{\"io.containerd.image.name\":\"$image\"}"
  printf '{"schemaVersion":2,"manifests":[%s]}' "$(described manifest.v1+json "$manifest" | sed "s|}\$|,$named}|")" >"$dir/index.json"
  pack "$work/$program.tar" "$dir" oci-layout index.json blobs
}
# The same bytes from the same files, whenever and by whomever.
pack() { # archive, folder, files...
  tar --create --file="$1" --directory="$2" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner "${@:3}"
}
# Moves a file among the blobs by its digest, and prints that.
blob() {
  local digest
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  mv "$1" "$(dirname "$1")/blobs/sha256/$digest"
  echo "$digest"
}
described() { # kind, digest
  printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%s}' "$1" "$2" "$(stat -c %s "$dir/blobs/sha256/$2")"
}

build_images() {
  local key
  key=$(key_of "$(cat "$here"/image/go.mod "$here"/image/*/*.go "$here/build.sh")")
  fresh images "$key" images/pause.tar images/probe.tar && return
  say "images: pause, probe"
  (cd "$here/image" && nice go build -ldflags "-s -w" -o "$work/" ./pause ./probe) || fail "images: they do not build"
  # The user of `pause` is the one that Kubernetes' own has.
  archive pause hawser.dev/pause:1 '["/pause"]' 65535:65535
  archive probe hawser.dev/probe:1 '["/probe"]' 65532:65532
  put images/pause.tar images/probe.tar
  echo "$key" >"$bin/.stamps/images"
}

# The simulators change as they are worked on: Go knows in half a second whether there is anything to do.
build_vcenter() {
  [[ -f $root/e2e/vcenter/go.mod ]] || fail "e2e/vcenter is not there; \`e2e/sandbox/up.sh --only kubernetes\` does without it"
  (cd "$root/e2e/vcenter" && nice go build -mod=readonly -o "$bin/vcenter" .) || fail "vcenter: it does not build"
}
build_azure() {
  [[ -f $root/e2e/azure/Cargo.toml ]] || fail "e2e/azure is not there; \`e2e/sandbox/up.sh --only kubernetes\` does without it"
  command -v cargo >/dev/null || fail "cargo is missing: install Rust 1.90 or later"
  # The profile and the folder of the tests, so that nothing is compiled twice. A link, because copying it takes longer than starting it.
  local target=${CARGO_TARGET_DIR:-target}
  [[ $target == /* ]] || target=$root/$target
  ln -sfn "$target/debug/azure-simulator" "$bin/azure-simulator"
  # Cargo knows, too, but would first wait for whoever else compiles. It has written down what it has used.
  local stamp=$bin/.stamps/azure
  local used="$root/Cargo.lock $root/Cargo.toml $root/e2e/azure/Cargo.toml $root/.cargo/config.toml" file newer=
  if [[ -x $target/debug/azure-simulator && -f $target/debug/azure-simulator.d && -f $stamp ]]; then
    for file in $used $(sed 's/^[^:]*://; s/\\ /?/g' "$target/debug/azure-simulator.d"); do
      [[ ! $file -nt $stamp && -e $file ]] || newer=1
    done
    [[ -n $newer ]] || return 0
  fi
  # As of before: what is changed while it compiles is newer.
  : >"$stamp.new"
  (cd "$root" && nice cargo build --workspace --bin azure-simulator 2> >(grep --line-buffered -v '^ *Finished' >&2)) ||
    fail "azure-simulator: it does not build"
  mv "$stamp.new" "$stamp"
}

steps=("$@")
((${#steps[@]})) || steps=(kubernetes etcd helm images vcenter azure)
exec 9>"$bin/.lock"
flock -n 9 || { say "another build is under way: waiting for it"; flock 9; }
rm -rf "$bin"/.work.*
work=$(mktemp -d "$bin/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
for step in "${steps[@]}"; do
  declare -F "build_$step" >/dev/null || fail "there is no step $step: kubernetes, etcd, helm, images, vcenter, azure"
  "build_$step"
done
