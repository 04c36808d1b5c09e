#!/usr/bin/env bash
# Judges the simulator by clients that are not ours: @azure/arm-compute, @azure/arm-network, @azure/identity, @azure/storage-blob, and
# Python's azure-storage-blob and azure-identity, over TLS on loopback, with Azurite beside it. Ends with 1 when any check fails.
# SIMULATOR=path takes a binary that was built already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
fail() { echo "azure judges: $*" >&2; exit 1; }
command -v openssl >/dev/null || fail "openssl is missing; run make setup"

"$here/setup.sh"
if [[ -z ${SIMULATOR:-} ]]; then
  (cd "$root" && cargo build --quiet --workspace --bin azure-simulator)
  SIMULATOR=${CARGO_TARGET_DIR:-$root/target}/debug/azure-simulator
fi
[[ -x $SIMULATOR ]] || fail "$SIMULATOR is not there; build it with make programs"

work=$(mktemp -d)
pids=()
cleanup() {
  local status=$?
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  if ((status)) && [[ -s $work/simulator.log ]]; then
    echo "--- the simulator said:" >&2
    tail -n 40 "$work/simulator.log" >&2
  fi
  rm -rf "$work"
}
trap cleanup EXIT

# A CA, and a leaf that is no CA: rustls takes no certificate for both.
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=judges' CA" -keyout "$work/ca.key" -out "$work/ca.pem" \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj "/CN=azure.sandbox" -keyout "$work/server.key" -out "$work/server.csr" 2>/dev/null
openssl x509 -req -in "$work/server.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -days 2 -out "$work/server.pem" 2>/dev/null \
  -extfile <(printf '%s\n' basicConstraints=critical,CA:FALSE extendedKeyUsage=serverAuth subjectAltName=IP:127.0.0.1,DNS:localhost)

# Free ports: asked of the kernel, all at once.
read -r arm disks control blob < <(python3 - <<'PY'
import socket
held = [socket.socket() for _ in range(4)]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PY
)
export NODE_EXTRA_CA_CERTS=$work/ca.pem SSL_CERT_FILE=$work/ca.pem REQUESTS_CA_BUNDLE=$work/ca.pem
export ARM_URL=https://127.0.0.1:$arm CONTROL_URL=http://127.0.0.1:$control BLOB_URL=https://127.0.0.1:$blob/devstoreaccount1
export WORK=$work PYTHON=$root/.cache/venv-azure/bin/python HERE=$here
export NODE_NO_WARNINGS=1

# ES modules are looked for beside the file that wants them: the scripts run from where the clients are installed.
scripts=$root/.cache/azure-judges/scripts
mkdir -p "$scripts"
cp "$here"/*.mjs "$scripts/"
# The cluster of a workload identity: its keys, and a token that it projects.
node "$scripts/issuer.mjs" "$work"
sed -e "s|@WORK@|$work|; s|@BLOB@|$BLOB_URL|" "$here/config.yaml" >"$work/config.yaml"

"$SIMULATOR" --listen "127.0.0.1:$arm" --disks "127.0.0.1:$disks" --control "127.0.0.1:$control" --cert "$work/server.pem" \
  --key "$work/server.key" --state "$work/state" --config "$work/config.yaml" >"$work/ready" 2>"$work/simulator.log" &
pids+=($!)
AZURITE_SKIP_API_VERSION_CHECK=true node "$root/.cache/azurite/node_modules/.bin/azurite-blob" --inMemoryPersistence --silent --disableTelemetry \
  --oauth basic --cert "$work/server.pem" --key "$work/server.key" --blobHost 127.0.0.1 --blobPort "$blob" >"$work/azurite.log" 2>&1 &
pids+=($!)
for _ in $(seq 300); do
  kill -0 "${pids[0]}" 2>/dev/null || fail "the simulator ended: $(tail -n 3 "$work/simulator.log")"
  kill -0 "${pids[1]}" 2>/dev/null || fail "Azurite ended: $(tail -n 3 "$work/azurite.log")"
  if grep -q '^ready ' "$work/ready" && (exec 3<>"/dev/tcp/127.0.0.1/$blob") 2>/dev/null; then break; fi
  sleep 0.1
done
grep -q '^ready ' "$work/ready" || fail "the simulator is not ready after 30 s"

node "$scripts/judge.mjs"
