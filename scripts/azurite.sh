#!/bin/sh
# Installs the pinned Azurite, the blob store that the tests run against, into .cache/azurite, unless it is there already.
# The lock file names versions and digests but no registry, so that the one npm is set up for is asked.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
from=$root/scripts/azurite
to=$root/.cache/azurite

# Written last, so that an installation that was cut short is done again.
if cmp -s "$from/package-lock.json" "$to/.installed" && [ -x "$to/node_modules/.bin/azurite-blob" ]; then
    exit 0
fi
command -v npm >/dev/null || { echo "azurite.sh: npm is missing; install Node.js 20 or newer" >&2; exit 1; }
mkdir -p "$to"
rm -f "$to/.installed"
cp "$from/package.json" "$from/package-lock.json" "$to/"
cd "$to"
npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error
cp package-lock.json .installed
