#!/usr/bin/env bash
# Installs what tests and demo use, where it is missing. Debian 12, as root (or with what is listed already there).
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A package=(
  [nbdkit]=nbdkit [nbdcopy]=libnbd-bin [qemu-img]=qemu-utils [qemu-nbd]=qemu-utils [mkfs.ext4]=e2fsprogs [debugfs]=e2fsprogs
  [openssl]=openssl [cc]=build-essential [flock]=util-linux [curl]=curl [python3]=python3
)
missing=()
for tool in "${!package[@]}"; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
done
if ((${#missing[@]})); then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  echo "installing: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
lacks() { echo "setup: $*: install Rust 1.90, Go 1.26 and Node.js 20, each or later" >&2; exit 1; }
for tool in cargo go node npm; do
  command -v "$tool" >/dev/null || lacks "$tool is missing"
done
at_least() { # tool, least, what it says of itself
  [[ $3 =~ [0-9]+\.[0-9]+(\.[0-9]+)? ]] || lacks "$1 says no version: $3"
  [[ $(printf '%s\n' "$2" "${BASH_REMATCH[0]}" | sort -V | head -n 1) == "$2" ]] || lacks "$1 is ${BASH_REMATCH[0]}"
}
at_least cargo 1.90 "$(cargo --version)"
at_least go 1.26 "$(go env GOVERSION)"
at_least node 20.0 "$(node --version)"
scripts/azurite.sh
