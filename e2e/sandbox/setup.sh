#!/usr/bin/env bash
# Installs the Debian packages that the sandbox needs, where they are missing. Debian 12, as root. Go, Rust, Node.js, Python are expected.
set -euo pipefail

packages=(
  # The node: the runtime, the network's plugins, and what kube-proxy and kubelet call.
  # pigz because containerd unpacks images with it where it is there, in a third less of the time.
  containerd pigz runc containernetworking-plugins nftables iptables conntrack iproute2 socat ethtool kmod
  # The images.
  buildah debootstrap debian-archive-keyring
  # The scripts and the judges.
  openssl curl jq util-linux procps python3 python3-venv
  # The stand-in for VDDK, and who reads through it.
  gcc make pkg-config libc6-dev libgnutls28-dev libnbd-bin
)

command -v dpkg-query >/dev/null || { echo "setup.sh: this is not Debian: install what ${packages[*]} have there" >&2; exit 1; }
# shellcheck disable=SC2016 # dpkg-query's own variables
installed=" $(dpkg-query -W -f '${db:Status-Status}:${Package} ' "${packages[@]}" 2>/dev/null || true)"
missing=()
for package in "${packages[@]}"; do
  [[ $installed == *" installed:$package "* ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0
((EUID == 0)) || { echo "setup.sh: ${missing[*]} are missing; run it as root, or: sudo apt-get install ${missing[*]}" >&2; exit 1; }
echo "installing: ${missing[*]}"

# The machine's own containerd is of no use here: the sandbox runs one of its own, in its own namespaces. What was not there before shall
# neither be started by its package now nor at the next boot; one that was there stays as it is.
ours=0
[[ " ${missing[*]} " == *" containerd "* ]] && ours=1
policy=/usr/sbin/policy-rc.d
if ((ours)) && [[ ! -e $policy ]]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 update -qq
apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
  { echo "setup.sh: apt-get could not install ${missing[*]}: see above; \`apt-get -f install\` mends what was cut short" >&2; exit 1; }
if ((ours)) && command -v systemctl >/dev/null; then
  systemctl disable --quiet containerd.service 2>/dev/null || rm -f /etc/systemd/system/multi-user.target.wants/containerd.service
fi
