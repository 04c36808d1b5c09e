#!/usr/bin/env bash
# Installs what tests and demo use, where it is missing. Debian 12, as root (or with what is listed already there).
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A package=(
  [nbdkit]=nbdkit [nbdcopy]=libnbd-bin [qemu-img]=qemu-utils [qemu-nbd]=qemu-utils [mkfs.ext4]=e2fsprogs [debugfs]=e2fsprogs
  [openssl]=openssl [cc]=build-essential [flock]=util-linux [curl]=curl
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
for tool in cargo go node npm; do
  command -v "$tool" >/dev/null || { echo "setup: $tool is missing: install Rust (1.90 or later), Go (1.26 or later) and Node.js (20 or later)" >&2; exit 1; }
done
scripts/azurite.sh
