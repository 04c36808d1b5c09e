# shellcheck shell=bash disable=SC2153 # NAME is lib.sh's
# One authority for all that is in a sandbox, and what it signs. Sourced.

certificate() { # name, extensions (server or client), subject, alternative names
  local name=$1 kind=$2 subject=$3 names=${4:-}
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 -config "$STATE/pki/openssl.cnf" -extensions "$kind" \
    -CA "$STATE/ca.pem" -CAkey "$STATE/pki/ca.key" -subj "$subject" ${names:+-addext "subjectAltName=$names"} \
    -keyout "$STATE/pki/$name.key" -out "$STATE/pki/$name.pem" 2>"$STATE/pki/openssl.log" ||
    die "openssl could not make the certificate $name: $(<"$STATE/pki/openssl.log")"
}

make_certificates() {
  [[ ! -e $STATE/pki/complete ]] || return 0
  mkdir -p "$STATE/pki" "$STATE/home"
  chmod 700 "$STATE/pki"
  # Not Debian's: its defaults make an authority of whatever is self-signed.
  cat >"$STATE/pki/openssl.cnf" <<'CNF'
[req]
distinguished_name = name
prompt = no
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
authorityKeyIdentifier = keyid
CNF
  # RSA: Entra ID's federated credentials take tokens signed with RS256 alone. Looking for primes takes longest: beside the rest.
  local primes
  openssl genrsa -out "$STATE/pki/service-account.key" 2048 2>/dev/null 9>&- &
  primes=$!
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 -config "$STATE/pki/openssl.cnf" \
    -extensions authority -subj "/O=Hawser sandbox $NAME/CN=Hawser sandbox $NAME CA" \
    -keyout "$STATE/pki/ca.key" -out "$STATE/ca.pem" 2>"$STATE/pki/openssl.log" ||
    die "openssl could not make the authority: $(<"$STATE/pki/openssl.log")"

  certificate server server "/CN=$NODE_IP" "IP:$NODE_IP,IP:127.0.0.1,DNS:localhost,DNS:vcenter.sandbox,DNS:azure.sandbox"
  mv "$STATE/pki/server.pem" "$STATE/pki/server.key" "$STATE/"
  local service=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
  certificate apiserver server /CN=kube-apiserver "IP:$NODE_IP,IP:$API_SERVICE,IP:127.0.0.1,DNS:localhost,$service"
  certificate kubelet-server server "/O=system:nodes/CN=system:node:$NAME" "IP:$NODE_IP,DNS:$NAME"
  certificate kubelet client "/O=system:nodes/CN=system:node:$NAME"
  certificate apiserver-kubelet-client client /O=system:masters/CN=kube-apiserver-kubelet-client
  certificate kube-controller-manager client /CN=system:kube-controller-manager
  certificate kube-scheduler client /CN=system:kube-scheduler
  certificate kube-proxy client /CN=system:kube-proxy
  certificate admin client /O=system:masters/CN=admin
  wait "$primes" || die "openssl could not make the key of the service accounts"
  openssl rsa -in "$STATE/pki/service-account.key" -pubout -out "$STATE/pki/service-account.pub" 2>/dev/null

  kubeconfig kubelet >"$STATE/pki/kubelet.kubeconfig"
  kubeconfig kube-controller-manager >"$STATE/pki/kube-controller-manager.kubeconfig"
  kubeconfig kube-scheduler >"$STATE/pki/kube-scheduler.kubeconfig"
  kubeconfig kube-proxy >"$STATE/pki/kube-proxy.kubeconfig"
  kubeconfig admin >"$STATE/kubeconfig"
  chmod 600 "$STATE/kubeconfig"
  : >"$STATE/pki/complete"
}

kubeconfig() { # user: with everything inside, so that it can be copied
  cat <<YAML
apiVersion: v1
kind: Config
clusters:
- name: hawser-$NAME
  cluster:
    server: $API
    certificate-authority-data: $(base64 --wrap=0 "$STATE/ca.pem")
users:
- name: $1
  user:
    client-certificate-data: $(base64 --wrap=0 "$STATE/pki/$1.pem")
    client-key-data: $(base64 --wrap=0 "$STATE/pki/$1.key")
contexts:
- name: hawser-$NAME
  context: {cluster: hawser-$NAME, user: $1}
current-context: hawser-$NAME
YAML
}
