#!/usr/bin/env bash
# Installs Azure's own clients, pinned, into .cache/azure-judges (Node) and .cache/venv-azure (Python), unless they are there already.
# Lock file and requirements name versions but no registry, so that the ones npm and pip are set up for are asked.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
node_to=$root/.cache/azure-judges
python_to=$root/.cache/venv-azure
fail() { echo "azure judges: $*" >&2; exit 1; }

# The marks are written last, so that an installation that was cut short is done again.
if ! cmp -s "$here/package-lock.json" "$node_to/.installed"; then
  command -v npm >/dev/null || fail "npm is missing; install Node.js 20 or newer"
  mkdir -p "$node_to"
  rm -f "$node_to/.installed"
  cp "$here/package.json" "$here/package-lock.json" "$node_to/"
  (cd "$node_to" && npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error)
  cp "$here/package-lock.json" "$node_to/.installed"
fi
if ! cmp -s "$here/requirements.txt" "$python_to/.installed"; then
  command -v python3 >/dev/null || fail "python3 is missing; install Python 3.11 or newer"
  # Debian has ensurepip in a package of its own.
  if ! python3 -c 'import ensurepip' 2>/dev/null; then
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
      fail "python3-venv is missing; install it (Debian: apt-get install python3-venv)"
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
  fi
  rm -rf "$python_to"
  python3 -m venv "$python_to"
  "$python_to/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
  cp "$here/requirements.txt" "$python_to/.installed"
fi
"$root/scripts/azurite.sh"
