# shellcheck shell=bash
# Kubernetes' parts: how each is set up, started, and known to be ready. Sourced.

start_etcd() {
  start etcd "$BIN/etcd" --name=sandbox --data-dir="$STATE/node/etcd" --unsafe-no-fsync --log-level=warn \
    --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
    --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
    --initial-cluster=sandbox=http://127.0.0.1:2380
}
ready_etcd() { inside curl --silent --fail --noproxy '*' --max-time 2 http://127.0.0.1:2379/health; }

start_containerd() {
  mkdir -p "$STATE/node/cni-config"
  containerd_settings /var/lib/containerd /run/containerd >"$STATE/node/containerd.toml"
  cat >>"$STATE/node/containerd.toml" <<TOML
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "hawser.dev/pause:1"
  # A negative oom_score_adj needs CAP_SYS_RESOURCE, which not every machine's root has; without it no pod would start.
  restrict_oom_score_adj = true
  # Below /run/containerd, which is of the sandbox's own mount namespace: the host's /run/netns never sees a pod.
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$STATE/node/cni-config"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
TOML
  # Routed and not bridged: on a bridge, answers from one pod to another by a service need the br_netfilter module to find their way back.
  cat >"$STATE/node/cni-config/10-sandbox.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "sandbox", "plugins": [
  {"type": "ptp", "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "/var/lib/cni/networks", "ranges": [[{"subnet": "$PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
]}
JSON
  start containerd containerd --config "$STATE/node/containerd.toml"
}
ready_containerd() { inside ctr --connect-timeout 1s version; }

start_kube-apiserver() {
  # The issuer is an address that the token endpoint of the sandbox can reach, as Entra ID must be able to reach a real cluster's.
  start kube-apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --advertise-address="$NODE_IP" --secure-port=6443 \
    --service-cluster-ip-range="$SERVICES" --allow-privileged=true \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --tls-cert-file="$STATE/pki/apiserver.pem" --tls-private-key-file="$STATE/pki/apiserver.key" --client-ca-file="$STATE/ca.pem" \
    --kubelet-client-certificate="$STATE/pki/apiserver-kubelet-client.pem" --kubelet-client-key="$STATE/pki/apiserver-kubelet-client.key" \
    --kubelet-certificate-authority="$STATE/ca.pem" --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer="$API" --service-account-jwks-uri="$API/openid/v1/jwks" --api-audiences="$API,https://kubernetes.default.svc" \
    --service-account-key-file="$STATE/pki/service-account.pub" --service-account-signing-key-file="$STATE/pki/service-account.key"
}
ready_kube-apiserver() { api /readyz; }

start_kube-controller-manager() {
  local config=$STATE/pki/kube-controller-manager.kubeconfig
  # With its own limit on requests, made for big clusters, it takes seconds to come to the first service account.
  start kube-controller-manager "$BIN/kube-controller-manager" --kubeconfig="$config" \
    --authentication-kubeconfig="$config" --authorization-kubeconfig="$config" --bind-address=127.0.0.1 --leader-elect=false \
    --kube-api-qps=500 --kube-api-burst=1000 \
    --use-service-account-credentials --service-account-private-key-file="$STATE/pki/service-account.key" \
    --root-ca-file="$STATE/ca.pem" --cluster-signing-cert-file="$STATE/ca.pem" --cluster-signing-key-file="$STATE/pki/ca.key"
}

start_kube-scheduler() {
  local config=$STATE/pki/kube-scheduler.kubeconfig
  start kube-scheduler "$BIN/kube-scheduler" --kubeconfig="$config" \
    --authentication-kubeconfig="$config" --authorization-kubeconfig="$config" --bind-address=127.0.0.1 --leader-elect=false
}

start_kube-proxy() {
  # The limit on tracked connections is the machine's, not the namespace's: leave it alone.
  start kube-proxy "$BIN/kube-proxy" --kubeconfig="$STATE/pki/kube-proxy.kubeconfig" --proxy-mode=nftables --cluster-cidr="$PODS" \
    --hostname-override="$NAME" --conntrack-max-per-core=0 --oom-score-adj=0 \
    --healthz-bind-address=127.0.0.1 --metrics-bind-address=127.0.0.1
}

start_kubelet() {
  cat >"$STATE/node/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {x509: {clientCAFile: $STATE/ca.pem}}
tlsCertFile: $STATE/pki/kubelet-server.pem
tlsPrivateKeyFile: $STATE/pki/kubelet-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
volumePluginDir: /var/lib/kubelet/volumeplugins
cgroupDriver: cgroupfs
cgroupRoot: /hawser-$NAME
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
localStorageCapacityIsolation: false
enforceNodeAllocatable: []
evictionHard: {}
imageGCHighThresholdPercent: 100
# No name can be asked for: there is no way out, and nobody inside who would answer.
resolvConf: ""
registerWithTaints: []
# What is told late is waited for: by people and tests.
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
# Only what is imported is there.
serializeImagePulls: false
maxPods: 200
YAML
  start kubelet "$BIN/kubelet" --kubeconfig="$STATE/pki/kubelet.kubeconfig" --config="$STATE/node/kubelet.yaml" \
    --hostname-override="$NAME" --node-ip="$NODE_IP"
}

# Anyone may ask for the issuer's document and keys: a token endpoint has no account here, as Entra ID has none in a real cluster.
publish_issuer() {
  api /apis/rbac.authorization.k8s.io/v1/clusterrolebindings/sandbox-issuer >/dev/null 2>&1 && return
  api /apis/rbac.authorization.k8s.io/v1/clusterrolebindings -X POST -H 'Content-Type: application/json' -o /dev/null -d '{
    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "sandbox-issuer"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}]}'
}
