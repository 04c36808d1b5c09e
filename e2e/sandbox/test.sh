#!/usr/bin/env bash
# The sandbox's own test: what a cluster must do, what must be refused, how fast it starts, how it mends, and that it leaves nothing behind.
#
#   test.sh
#   HAWSER_SANDBOX             the sandbox to use up (test and a number, another for each working copy). One of that name that stands is
#                              taken down first
#   HAWSER_SANDBOX_SECONDS     what a warm start may take (15)
#   HAWSER_SANDBOX_TEST_ONLY   kubernetes: without the simulators
set -euo pipefail
HAWSER_SANDBOX=${HAWSER_SANDBOX:-test-$(realpath "$0" | cksum | cut -c1-6)}
export HAWSER_SANDBOX
# shellcheck source-path=SCRIPTDIR source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source "$HERE/machine.sh"
bound=${HAWSER_SANDBOX_SECONDS:-15}
only=()
[[ ${HAWSER_SANDBOX_TEST_ONLY:-} != kubernetes ]] || only=(--only kubernetes)
second=${NAME:0:18}-2
work=$(mktemp -d)
test_began=$SECONDS

ok() { echo "ok: $*"; }
bad() { echo "test.sh: $*" >&2; exit 1; }
clean_up() {
  local status=$?
  trap - EXIT
  ((status == 0)) || echo "test.sh: failed after $((SECONDS - test_began)) s; taking down what it started" >&2
  HAWSER_SANDBOX=$second "$HERE/down.sh" >/dev/null || true
  "$HERE/down.sh" >/dev/null || true
  rm -rf "$work"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

up() { "$HERE/up.sh" ${only[@]+"${only[@]}"}; }
k() { "$BIN/kubectl" --request-timeout=30s "$@"; }
# Runs a command whose failure is what is wanted; its words are in $answer.
refused() { if answer=$("$@" 2>&1); then return 1; fi; }
fetch() { curl --silent --show-error --fail --noproxy '*' --max-time 10 --cacert "$CA_FILE" "$@"; }
# The same, from the node.
fetch_inside() {
  nsenter --net="/run/netns/$NETNS" curl --silent --show-error --fail --noproxy '*' --max-time 10 --cacert "$CA_FILE" "$@"
}
timed() { # sets $took, in ms
  local began
  began=$(now_ms)
  "$@"
  took=$(($(now_ms) - began))
}
seconds() { echo "$(($1 / 1000)).$(printf %03d $(($1 % 1000)))"; }
within() { # seconds, what, command...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until answer=$("$@" 2>&1); do
    ((SECONDS < end)) || bad "$what: not so. The last answer: $answer"
    sleep 0.2
  done
}

# --- what the machine has: each line is one thing, and those of other sandboxes are left out. Of mounts those that a sandbox could have
# made: whoever else works on the machine mounts things, too
machine() {
  local hierarchy entry
  findmnt --raw --noheadings --output TARGET,SOURCE,FSTYPE | sed 's/^/mount /' |
    grep -E "hawser|$ROOT/.cache/sandbox|/run/netns|nsfs|$(node_folders | cut -d' ' -f1 | paste -sd'|')" || true
  for entry in /sys/class/net/*; do echo "interface ${entry##*/} $(cat "$entry/ifalias" 2>/dev/null)"; done
  ip -4 route show table all | sed 's/^/route /'
  nft list tables | sed 's/^/nftables /'
  for entry in /run/netns/* /run/hawser-*; do [[ ! -e $entry ]] || echo "entry $entry"; done
  for hierarchy in "${HIERARCHIES[@]}"; do find "$hierarchy" -mindepth 1 -maxdepth 1 -type d -name '*hawser*' -printf 'cgroup %p\n'; done
  while read -r entry _; do [[ ! -e $entry ]] || echo "folder $entry"; done < <(node_folders)
  for entry in $SYSCTLS; do echo "sysctl ${entry%=*} $(cat "/proc/sys/${entry%=*}" 2>/dev/null)"; done
}
of_others() {
  local pattern='^$' other index
  for other in /run/hawser-*; do
    [[ -s $other/index && $other != "/run/hawser-$NAME" && $other != "/run/hawser-$second" ]] || continue
    index=$(<"$other/index")
    # The folders are shared: they stay as long as one stands.
    pattern+="|^folder |${other#/run/}( |/|\$)|hawser$index( |\$)|10\\.(231\\.$index|$((96 + index))\\.0|$((160 + index))\\.0)\\."
  done
  grep -vE "$pattern"
}
# The processes and namespaces of the sandbox that stands, to look for when it is gone.
remember() {
  local pid kind space
  members | while read -r pid; do
    echo "process $pid $(start_time "$pid" || echo gone)"
    for kind in net mnt pid ipc uts; do
      space=$(readlink "/proc/$pid/ns/$kind" || true)
      [[ -z $space || $space == "$(readlink "/proc/self/ns/$kind")" ]] || echo "namespace $space"
    done
  done | sort -u >"$work/seen"
  [[ $(grep -c '^process' "$work/seen") -ge ${#KUBERNETES[@]} && $(grep -c '^namespace' "$work/seen") -ge 2 ]] ||
    bad "the test itself: it sees too little of a sandbox that stands: $(cat "$work/seen")"
}
nothing_left() { # what has been taken down
  local kind what when pid left
  while read -r kind what when; do
    [[ $kind != process || $(start_time "$what" || true) != "$when" ]] ||
      bad "$1: process $what is left: $(tr '\0' ' ' <"/proc/$what/cmdline")"
  done <"$work/seen"
  for pid in /proc/[0-9]*; do
    left=$(readlink "$pid"/ns/* 2>/dev/null | grep -xFf <(sed -n 's/^namespace //p' "$work/seen") | head -n 1) || true
    [[ -z $left ]] || bad "$1: the namespace $left is left: process ${pid#/proc/} is in it"
    if [[ ${pid#/proc/} != "$$" ]] && { tr '\0' ' ' <"$pid/cmdline"; } 2>/dev/null | grep -qE "($STATE|$RUN|$STATE-2|$RUN-2)/"; then
      # What this test itself runs to look around ends at once.
      sleep 0.3
      [[ ! -e $pid/cmdline ]] || bad "$1: process ${pid#/proc/} is left: $(tr '\0' ' ' <"$pid/cmdline")"
    fi
  done
  machine | of_others | sort >"$work/after"
  diff "$work/before" "$work/after" >"$work/differs" ||
    bad "$1: the machine is not as it was (< before, > after):"$'\n'"$(cat "$work/differs")"
  ok "$1: no process, mount, namespace, interface, route, nftables table, control group or changed sysctl is left"
}
claims() { # of a token
  local part
  part=$(cut -d. -f"${2:-2}" <<<"$1" | tr '_-' '/+')
  while ((${#part} % 4)); do part+='='; done
  base64 --decode <<<"$part"
}

# --- from nothing
"$HERE/setup.sh"
HAWSER_SANDBOX=$second "$HERE/down.sh" >/dev/null
"$HERE/down.sh" >/dev/null
machine | of_others | sort >"$work/before"
timed up
echo "first start: $(seconds "$took") s, with what had to be built"
# shellcheck disable=SC1091 # written by up.sh
source "$STATE/env"
export KUBECONFIG
[[ $(k version -o json | jq -r .serverVersion.gitVersion) == v1.34.* ]] || bad "not Kubernetes 1.34: $(k version)"
ok "Kubernetes $(k version -o json | jq -r '.serverVersion.gitVersion') stands"
"$HERE/status.sh" >"$work/status" || bad "status.sh finds fault: $(cat "$work/status")"

# --- a second `up` while it stands
before=$(cat "$RUN"/pids/*)
timed up >"$work/again"
grep -q 'stands already' "$work/again" || bad "a second up does not say that it stands: $(cat "$work/again")"
[[ $(cat "$RUN"/pids/*) == "$before" ]] || bad "a second up has started something"
ok "a second up changes nothing, in $(seconds "$took") s"

# --- a Deployment, its service from a pod and from the host; exec, logs, port-forward
k apply -f "$HERE/testdata/service.yaml" >/dev/null
k rollout status deployment/web --timeout=60s >/dev/null
k wait pod/client --for=condition=Ready --timeout=60s >/dev/null
address=$(k get service web -o jsonpath='{.spec.clusterIP}')
within 15 "the service at $address from a pod" k exec client -- /probe get "http://$address/"
[[ $answer == web-*" for "* ]] || bad "the service answers a pod: $answer"
ok "a pod reaches the service $address: $answer"
within 15 "the service at $address from the host" fetch "http://$address/"
[[ $answer == web-*" for "* ]] || bad "the service answers the host: $answer"
ok "the host reaches the service $address: $answer"
both_serve() {
  for _ in {1..20}; do fetch "http://$address/" | cut -d' ' -f1; done | sort -u | tee "$work/served"
  [[ $(wc -l <"$work/served") == 2 ]]
}
within 15 "two pods answer behind the service" both_serve
ok "both pods of the Deployment serve"
[[ $(k logs -l app=web --tail=-1) == *"GET / from "* ]] || bad "the logs don't have the request"
ok "logs show the requests"
fetch_inside "http://$address/" >/dev/null || bad "a process of the node does not reach the service"
ok "a process in the node's namespace reaches the service"
k port-forward deployment/web :8080 >"$work/forward" 2>&1 &
forward=$!
within 15 "port-forward" grep -oE '127\.0\.0\.1:[0-9]+' "$work/forward"
fetch "http://${answer%%$'\n'*}/" >/dev/null || bad "nothing answers through port-forward"
kill "$forward"
wait "$forward" 2>/dev/null || true
ok "port-forward"

# --- no way out
# A documentation address for the world, the clouds' metadata service, and the machine's own addresses.
own=$(ip -4 -brief address show scope global | grep -v '^hawser' | awk '{ sub("/.*", ":22", $3); print $3 }')
for target in 203.0.113.1:80 169.254.169.254:80 $own; do
  refused k exec client -- /probe dial "$target" || bad "a pod has reached $target: $answer"
  [[ $answer == *unreachable* ]] || bad "a pod was not told at once that $target is unreachable: $answer"
  # shellcheck disable=SC2016 # expanded by the inner shell
  refused nsenter --net="/run/netns/$NETNS" timeout 5 bash -c 'exec 3<>"/dev/tcp/${0%:*}/${0#*:}"' "$target" ||
    bad "a process of the node has reached $target"
  [[ $answer == *unreachable* ]] || bad "a process of the node was not told at once that $target is unreachable: $answer"
  ok "no way out to $target: neither for a pod nor for a process of the node"
done
k exec client -- /probe dial "$NODE_IP:6443" >/dev/null || bad "the same dial does not reach the node either: it shows nothing"
[[ -z $(ip -n "$NETNS" route show default) ]] || bad "there is a default route: $(ip -n "$NETNS" route show default)"

# --- a restricted namespace, and a token for Azure
k apply -f "$HERE/testdata/restricted.yaml" >/dev/null
refused k apply -f "$HERE/testdata/refused.yaml" || bad "the restricted namespace takes a pod that is not"
[[ $answer == *'violates PodSecurity "restricted'* ]] || bad "the pod was refused for another reason: $answer"
ok "a namespace that enforces restricted refuses a pod that is not"
k wait pod/worker -n restricted --for=condition=Ready --timeout=60s >/dev/null
ok "a restricted pod runs there"
refused k exec -n restricted worker -- /probe write /file || bad "its root file system can be written"
[[ $answer == *"read-only"* ]] || bad "writing its root file system fails for another reason: $answer"
k exec -n restricted worker -- /probe write /scratch/file || bad "its emptyDir can't be written"
ok "its root file system is read-only, its emptyDir is not"
status=$(k exec -n restricted worker -- /probe cat /proc/self/status)
given=$(awk '/^(CapBnd|NoNewPrivs|Seccomp):/ { printf "%s%s ", $1, $2 }' <<<"$status")
[[ $given == "CapBnd:0000000000000000 NoNewPrivs:1 Seccomp:2 " ]] || bad "it has more than restricted gives: $given"
ok "it has no capabilities, no new privileges, and a seccomp filter"
token=$(k exec -n restricted worker -- /probe cat /var/run/secrets/azure/tokens/azure-identity-token)
claims "$token" >"$work/claims"
jq -e --arg issuer "https://$NODE_IP:6443" '.iss == $issuer and .aud == ["api://AzureADTokenExchange"]
  and .sub == "system:serviceaccount:restricted:worker" and .exp - .iat == 3600
  and .["kubernetes.io"].pod.name == "worker"' "$work/claims" >/dev/null ||
  bad "the token's claims: $(cat "$work/claims")"
[[ $(claims "$token" 1 | jq -r .alg) == RS256 ]] || bad "the token is not signed with RS256, which Entra ID wants: $(claims "$token" 1)"
ok "its projected token says: $(jq -c '{iss, aud, sub}' "$work/claims")"
# As the token endpoint does it: from the issuer's document to its keys, with no account.
document=$(fetch_inside "https://$NODE_IP:6443/.well-known/openid-configuration") ||
  bad "the issuer's document can't be had without an account"
jwks=$(fetch_inside "$(jq -r .jwks_uri <<<"$document")") || bad "the issuer's keys can't be had"
jq -e --arg kid "$(claims "$token" 1 | jq -r .kid)" '.keys[] | select(.kid == $kid and .alg == "RS256")' <<<"$jwks" >/dev/null ||
  bad "the token's key is not among the issuer's: $jwks"
ok "the issuer's keys, to be had without an account, have the token's"
review() { # token, audience: whether the API server takes it for that
  jq -n --arg token "$1" --arg audience "$2" '{
    apiVersion: "authentication.k8s.io/v1", kind: "TokenReview", spec: {token: $token, audiences: [$audience]}}' |
    k create -f - -o json | jq -e '.status.authenticated == true'
}
review "$token" api://AzureADTokenExchange >/dev/null || bad "the API server does not know its own token"
refused review "$token" api://other || bad "the token is taken for another audience"
refused review "${token%????????}AAAAAAAA" api://AzureADTokenExchange || bad "the token is taken with a signature that is not right"
refused fetch -H "Authorization: Bearer $token" "https://$NODE_IP:6443/api" || bad "the API takes a token that is for Azure"
[[ $answer == *" 401"* ]] || bad "the API refuses a token that is for Azure, but for another reason: $answer"
ok "the token holds for its audience; for another, changed, or at the API itself it is refused"

# --- the simulators: from a pod, over TLS that the sandbox's authority vouches for, and the cluster's token in the place of a secret
exchange() { # token
  fetch "$STS_URL/11111111-1111-4111-8111-111111111111/oauth2/v2.0/token" --data-urlencode "client_assertion=$1" \
    -d 'grant_type=client_credentials&client_id=33333333-3333-4333-8333-333333333333' \
    -d 'scope=https%3A%2F%2Fmanagement.azure.com%2F.default' \
    -d 'client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer' | jq -re .access_token
}
if ((${#only[@]} == 0)); then
  for port in 443 8181 8443 8446 8180 10000; do
    k exec client -- /probe dial "$NODE_IP:$port" >/dev/null || bad "a pod does not reach port $port of the node"
  done
  refused fetch --cacert /etc/ssl/certs/ca-certificates.crt "$VCENTER_URL" || bad "vCenter's certificate is taken without our authority"
  [[ $answer == *certificate* ]] || bad "vCenter does not answer for another reason than its certificate: $answer"
  fetch "$VCENTER_URL" -H 'Content-Type: text/xml' -d '<Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>
    <RetrieveServiceContent xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance</_this></RetrieveServiceContent>
    </Body></Envelope>' >"$work/soap" || bad "vCenter does not answer"
  grep -q 'VirtualCenter' "$work/soap" || bad "vCenter answers: $(cat "$work/soap")"
  ok "a pod reaches vCenter, Azurite and Azure's ports; vCenter answers by its certificate"
  stranger=$(k create token default -n restricted --audience=api://AzureADTokenExchange)
  refused exchange "$stranger" || bad "the token endpoint takes the token of a service account that is no credential"
  elsewhere=$(k create token worker -n restricted --audience=api://other)
  refused exchange "$elsewhere" || bad "the token endpoint takes a token for another audience"
  azure=$(exchange "$token") || bad "the token endpoint does not take the pod's token"
  subscription=$ARM_URL/subscriptions/22222222-2222-4222-8222-222222222222
  group=$(fetch -H "Authorization: Bearer $azure" "$subscription/resourcegroups/hawser?api-version=2021-04-01" | jq -r .name)
  [[ $group == hawser ]] || bad "ARM tells of this resource group: $group"
  ok "the pod's token is exchanged for one that ARM takes; another account's and another audience's are refused"
fi

# --- helm
"$BIN/helm" install chart "$HERE/testdata/chart" --wait --timeout 90s >/dev/null
[[ $("$BIN/helm" list -o json | jq -r '.[] | select(.name == "chart") | .status') == deployed ]] || bad "helm list: $("$BIN/helm" list)"
address=$(k get service chart -o jsonpath='{.spec.clusterIP}')
within 15 "the chart's service" fetch "http://$address/"
"$BIN/helm" uninstall chart --wait --timeout 60s >/dev/null
[[ $(k get deployment,service -o name | grep -c '/chart$') == 0 ]] || bad "helm has left something: $(k get deployment,service)"
helm_version=$("$BIN/helm" version --template '{{.Version}}')
[[ $helm_version == v3.* ]] || bad "helm calls itself '$helm_version'"
ok "helm $helm_version installs a chart that serves, and removes it"

# --- another beside it
timed env HAWSER_SANDBOX="$second" "$HERE/up.sh" --only kubernetes >"$work/second" ||
  bad "a second sandbox does not start: $(cat "$work/second")"
# shellcheck disable=SC1090 # written by up.sh
other_node=$(. "$ROOT/.cache/sandbox/$second/env" && echo "$NODE_IP")
other_config=$ROOT/.cache/sandbox/$second/kubeconfig
[[ $other_node != "$NODE_IP" ]] || bad "both have the address $NODE_IP"
KUBECONFIG=$other_config k apply -f "$HERE/testdata/service.yaml" >/dev/null
KUBECONFIG=$other_config k rollout status deployment/web --timeout=60s >/dev/null
other_address=$(KUBECONFIG=$other_config k get service web -o jsonpath='{.spec.clusterIP}')
within 15 "the second sandbox's service" fetch "http://$other_address/"
refused k exec client -- /probe dial "$other_node:6443" || bad "a pod of one reaches the other's node"
[[ $answer == *unreachable* ]] || bad "a pod was not told at once that the other's node is unreachable: $answer"
[[ $(k get pods -o name | wc -l) == 3 ]] || bad "the first has other pods now: $(k get pods)"
ok "a second sandbox stands beside it after $(seconds "$took") s, out of its pods' reach"
HAWSER_SANDBOX=$second "$HERE/down.sh" >/dev/null
web=$(k get service web -o jsonpath='{.spec.clusterIP}')
k exec client -- /probe get "http://$web/" >/dev/null || bad "taking the second down has harmed the first"
ok "taking the second down leaves the first as it is"

# --- what is killed is told, and comes back
for part in etcd containerd kubelet kube-proxy; do
  alive "$part" && kill -KILL "$PID"
done
within 5 "what is killed ends" bash -c '! kill -0 '"$PID"
if "$HERE/status.sh" >"$work/status"; then bad "status.sh finds no fault though four parts are dead"; fi
[[ $(grep -c ' DIED ' "$work/status") == 4 ]] || bad "status.sh does not tell which died: $(cat "$work/status")"
timed up >"$work/mended" || bad "up does not mend: $(cat "$work/mended")"
grep -q 'started anew: etcd containerd kube-proxy kubelet' "$work/mended" || bad "up does not tell what it mended: $(cat "$work/mended")"
within 30 "pods answer after that" k exec client -- /probe get "http://$web/"
[[ $(k get pods -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}') == "0 0 0" ]] ||
  bad "containers were started anew: $(k get pods)"
ok "after kill -9 of etcd, containerd, kubelet and kube-proxy up mends them in $(seconds "$took") s, and no container was lost"

# --- away, and back
remember
timed "$HERE/down.sh" >/dev/null
nothing_left "after down ($(seconds "$took") s)"
[[ $("$HERE/down.sh") == *"nothing stands"* ]] || bad "a second down does not say that nothing stands"
ok "a second down says that nothing stands"
timed up >"$work/warm" || bad "the second start fails: $(cat "$work/warm")"
warm=$took
echo "warm start: $(seconds "$warm") s"
((warm <= bound * 1000)) ||
  bad "a warm start may take $bound s, and took $(seconds "$warm") s (HAWSER_SANDBOX_SECONDS=60 for a machine that is busy)"
ok "a warm start takes $(seconds "$warm") s, no more than $bound"

# --- down with nothing in order: parts killed, a pod running, the list of processes gone
"$BIN/kubectl" run left --image=hawser.dev/probe:1 --image-pull-policy=Never -- serve :8080 >/dev/null
k wait pod/left --for=condition=Ready --timeout=60s >/dev/null
remember
alive containerd && kill -KILL "$PID"
alive etcd && kill -KILL "$PID"
rm -rf "$RUN/pids"
"$HERE/down.sh" >/dev/null
nothing_left "after kill -9 and a lost list of processes"

# --- an `up` that fails tells why, and down takes away the half that stands
mkdir "$work/bin"
ln -s "$BIN"/* "$work/bin/"
rm "$work/bin/kube-scheduler"
printf '#!/bin/sh\necho the scheduler has no wish to schedule\nexit 1\n' >"$work/bin/kube-scheduler"
chmod +x "$work/bin/kube-scheduler"
if HAWSER_SANDBOX_BIN=$work/bin "$HERE/up.sh" --only kubernetes >"$work/half" 2>&1; then
  bad "an up whose scheduler ends at once succeeds: $(cat "$work/half")"
fi
for words in 'kube-scheduler: ' 'the scheduler has no wish to schedule' 'Remedy: '; do
  grep -qF "$words" "$work/half" || bad "an up that fails does not say '$words': $(cat "$work/half")"
done
ok "an up that fails names the part, shows the end of its log, and the remedy"
remember_half() { members | while read -r pid; do echo "process $pid $(start_time "$pid" || echo gone)"; done >"$work/seen"; }
remember_half
"$HERE/down.sh" >/dev/null
nothing_left "after an up that failed"

# --- a name that another working copy has, and has left behind dead
up >/dev/null || bad "the last start fails"
echo "$work/elsewhere" >"$RUN/owner"
refused "$HERE/down.sh" || bad "a sandbox that another working copy started is taken down while it runs"
[[ $answer == *"started from $work/elsewhere"*HAWSER_SANDBOX=* ]] || bad "it is not told whose the sandbox is: $answer"
ok "another working copy's sandbox that runs is left alone"
kill_members
refused "$HERE/status.sh" || bad "what another working copy left dead is taken for a sandbox that stands"
[[ $answer == *"none stands"* ]] || bad "status.sh on what another working copy left: $answer"
up >"$work/taken" || bad "up does not clear away what another working copy left dead: $(cat "$work/taken")"
"$HERE/status.sh" >/dev/null || bad "what stands in its place has died: $("$HERE/status.sh")"
remember
"$HERE/down.sh" >/dev/null
nothing_left "after another working copy's dead sandbox was cleared away, and a new one"

echo "sandbox test ok: first_start_and_checks=$((SECONDS - test_began))s warm_start=$(seconds "$warm")s"
