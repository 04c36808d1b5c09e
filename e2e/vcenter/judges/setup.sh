#!/usr/bin/env bash
# Installs the judges' clients, unless they are there already: pyvmomi into .cache/venv, govc into .cache/sandbox-bin.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
venv=$root/.cache/venv
bin=$root/.cache/sandbox-bin

command -v go >/dev/null || { echo "judges/setup.sh: go is missing: install Go 1.26 or later" >&2; exit 1; }
declare -A package=([python3]=python3 [openssl]=openssl [flock]=util-linux)
missing=()
for tool in "${!package[@]}"; do
  command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
done
# Debian's python3 cannot make a venv by itself.
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if ((${#missing[@]})); then
  echo "installing: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

mkdir -p "$root/.cache" "$bin"
exec 9>"$root/.cache/venv.lock"
flock 9
# The stamp is written last, so that an installation that was cut short is done again.
if ! cmp -s "$here/requirements.txt" "$venv/.judges"; then
  [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$venv/.judges"
fi
(cd "$here/govc" && nice go build -ldflags '-s -w' -o "$bin/govc" .)
