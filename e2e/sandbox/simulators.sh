# shellcheck shell=bash disable=SC2034 # DAEMON_ENV is for `start`
# vCenter, Azurite and Azure's ARM: how each is started, and known to be ready. Sourced.

# A simulator says `ready <url>` when it serves.
said_ready() { grep -q '^ready ' "$STATE/logs/$1.log"; }

start_vcenter() {
  local inventory
  # Whoever gives it means their own folder; the simulator has another.
  inventory=$(realpath -- "${HAWSER_SANDBOX_INVENTORY:-$HERE/inventory.yaml}")
  mkdir -p "$STATE/vcenter"
  start vcenter "$BIN/vcenter" --listen "$NODE_IP:443" --control "$NODE_IP:8181" --cert "$STATE/server.pem" --key "$STATE/server.key" \
    --inventory "$inventory" --state "$STATE/vcenter"
}
ready_vcenter() { said_ready vcenter; }

start_azurite() {
  mkdir -p "$STATE/azurite"
  start azurite "$ROOT/.cache/azurite/node_modules/.bin/azurite-blob" --blobHost "$NODE_IP" --blobPort 10000 --oauth basic \
    --cert "$STATE/server.pem" --key "$STATE/server.key" --location "$STATE/azurite" --skipApiVersionCheck --disableTelemetry
}
# Without a credential it refuses, which shows that it serves.
ready_azurite() {
  local code
  code=$(curl --silent --noproxy '*' --max-time 2 --cacert "$STATE/ca.pem" -o /dev/null -w '%{http_code}' \
    "https://$NODE_IP:10000/devstoreaccount1?comp=list")
  [[ $code == 40[0-9] ]]
}

start_azure-simulator() {
  mkdir -p "$STATE/azure"
  sed "s/NODE_IP/$NODE_IP/g" "$HERE/azure.yaml" >"$STATE/azure.yaml"
  # It fetches the keys of the cluster's issuer, whose certificate the sandbox's authority signed.
  DAEMON_ENV=(SSL_CERT_FILE="$STATE/ca.pem")
  start azure-simulator "$BIN/azure-simulator" --listen "$NODE_IP:8443" --disks "$NODE_IP:8446" --control "$NODE_IP:8180" \
    --cert "$STATE/server.pem" --key "$STATE/server.key" --public-disks-url "https://$NODE_IP:8446" \
    --state "$STATE/azure" --config "$STATE/azure.yaml"
  DAEMON_ENV=()
}
ready_azure-simulator() { said_ready azure-simulator; }
