// A cluster's service-account issuer, signed by Node's own crypto: keys (jwks.json) and a projected token (token.jwt) in a folder.
import { createPrivateKey, createSign, generateKeyPairSync } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

export const claims = () => {
  const now = Math.floor(Date.now() / 1000);
  return {
    iss: "https://kubernetes.default.svc.cluster.local",
    sub: "system:serviceaccount:hawser:hawser-operator",
    aud: ["api://AzureADTokenExchange"],
    iat: now,
    nbf: now,
    exp: now + 3600,
  };
};

export const sign = (folder, changes = {}) => {
  const key = createPrivateKey(readFileSync(`${folder}/issuer.pem`));
  const text = `${encode({ alg: "RS256", kid: "cluster" })}.${encode({ ...claims(), ...changes })}`;
  return `${text}.${createSign("RSA-SHA256").update(text).sign(key).toString("base64url")}`;
};

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const folder = process.argv[2];
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  writeFileSync(`${folder}/issuer.pem`, privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  writeFileSync(`${folder}/jwks.json`, JSON.stringify({ keys: [{ ...publicKey.export({ format: "jwk" }), kid: "cluster", use: "sig", alg: "RS256" }] }));
  writeFileSync(`${folder}/token.jwt`, sign(folder));
}
