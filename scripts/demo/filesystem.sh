#!/usr/bin/env bash
# Makes an ext4 filesystem of so many MiB, with files of this machine in some 40 of them; prints its path, and what is in it.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
mebibytes=${1:?how many MiB}
work=$(mktemp -d "${TMPDIR:-/tmp}/hawser-files.XXXXXX")
trap 'rm -rf "$work"' EXIT
find /usr/share/common-licenses /etc/ssl /usr/bin /usr/share/doc -xdev -type f -size -2048k -readable -printf '%s %p\n' 2>/dev/null |
  awk '{ total += $1; if (total < 42e6) print substr($0, length($1) + 2) }' |
  tar --create --absolute-names --files-from=- 2>/dev/null | tar --extract --directory="$work" 2>/dev/null
image=$(mktemp "${TMPDIR:-/tmp}/hawser-filesystem.XXXXXX")
truncate -s "${mebibytes}M" "$image"
mkfs.ext4 -q -F -d "$work" "$image"
echo "$image"
echo "$(find "$work" -type f | wc -l) files, $(du -sm "$work" | cut -f1) MiB, on a filesystem of $mebibytes MiB"
