// @azure/identity against the token endpoint, and its tokens on Azurite.
import { ClientAssertionCredential, ClientSecretCredential, WorkloadIdentityCredential } from "@azure/identity";
import { BlobServiceClient } from "@azure/storage-blob";
import { CLIENT, TENANT, check, control, env, equal, refused } from "./harness.mjs";
import { sign } from "./issuer.mjs";

const options = { authorityHost: env("ARM_URL"), disableInstanceDiscovery: true, retryOptions: { maxRetries: 0 } };
export const secret = (clientId = CLIENT, value = "sandbox", tenant = TENANT) => new ClientSecretCredential(tenant, clientId, value, options);
const ARM = "https://management.azure.com/.default";
const assertion = (changes) => new ClientAssertionCredential(TENANT, CLIENT, async () => sign(env("WORK"), changes), options);

export async function tokens() {
  const decode = (token) => JSON.parse(Buffer.from(token.split(".")[1], "base64url").toString());
  await check("@azure/identity: client secret", async () => {
    const { token, expiresOnTimestamp } = await secret().getToken(ARM);
    const found = decode(token);
    equal([found.aud, found.iss, found.appid], ["https://management.azure.com", `https://sts.windows.net/${TENANT}/`, CLIENT]);
    if (expiresOnTimestamp - Date.now() < 3_000_000) throw new Error("it ends within the hour");
  });
  await check("@azure/identity: workload identity, by a projected token", async () => {
    const credential = new WorkloadIdentityCredential({ tenantId: TENANT, clientId: CLIENT, tokenFilePath: `${env("WORK")}/token.jwt`, ...options });
    equal(decode((await credential.getToken("https://storage.azure.com/.default")).token).aud, "https://storage.azure.com");
  });
  await refused("a wrong secret", undefined, "AADSTS7000215", () => secret(CLIENT, "wrong").getToken(ARM));
  await refused("an application that is none", undefined, "AADSTS700016", () => secret("33333333-3333-4333-8333-000000000000").getToken(ARM));
  const nowhere = "11111111-1111-4111-8111-000000000000";
  await refused("a tenant that is none", undefined, "endpoints_resolution_error", () => secret(CLIENT, "sandbox", nowhere).getToken(ARM));
  await check("refused: the token endpoint of a tenant that is none: 400 AADSTS90002", async () => {
    const body = new URLSearchParams({ grant_type: "client_credentials", client_id: CLIENT, client_secret: "sandbox", scope: ARM });
    const answer = await fetch(`${env("ARM_URL")}/${nowhere}/oauth2/v2.0/token`, { method: "POST", body });
    equal([answer.status, (await answer.json()).error_codes], [400, [90002]]);
  });
  await refused("a resource that is none", undefined, "AADSTS500011", () => secret().getToken("https://nowhere.example/.default"));
  await refused("a scope without .default", undefined, "AADSTS1002012", () => secret().getToken("https://management.azure.com/user_impersonation"));
  await refused("another ServiceAccount", undefined, "AADSTS700213", () => assertion({ sub: "system:serviceaccount:hawser:default" }).getToken(ARM));
  await refused("another issuer", undefined, "AADSTS700211", () => assertion({ iss: "https://elsewhere.example" }).getToken(ARM));
  await refused("another audience", undefined, "AADSTS700212", () => assertion({ aud: "https://kubernetes.default.svc" }).getToken(ARM));
  await refused("a projected token that has ended", undefined, "AADSTS700024", () => assertion({ exp: Math.floor(Date.now() / 1000) - 600 }).getToken(ARM));
  const forged = sign(env("WORK")).replace(/\.[^.]*$/, (part) => `.${part[1] === "A" ? "B" : "A"}${part.slice(2)}`);
  const liar = new ClientAssertionCredential(TENANT, CLIENT, async () => forged, options);
  await refused("a forged signature", undefined, "AADSTS700027", () => liar.getToken(ARM));
  await check("the endpoint is out of order, then is not", async () => {
    await control("PUT", "/sts/outage", { status: 503, times: 1 });
    let failed = false;
    await secret().getToken(ARM).catch(() => { failed = true; });
    equal(failed, true);
    await secret().getToken(ARM);
  });
}

export async function azurite() {
  const client = (credential) => new BlobServiceClient(env("BLOB_URL"), credential, { retryOptions: { maxTries: 1 } });
  const container = client(secret()).getContainerClient(`judge${Date.now()}`);
  await check("Azurite by a token of the endpoint: a container and a blob", async () => {
    await container.create();
    const blob = container.getBlockBlobClient("log/1");
    await blob.upload("hello", 5);
    equal((await blob.downloadToBuffer()).toString(), "hello");
    await container.delete();
  });
  // Azurite looks at audience and times itself.
  const arm = { getToken: () => secret().getToken(ARM) };
  await refused("Azurite by a token for Resource Manager", 403, "AuthenticationFailed", () => client(arm).getContainerClient("judge-arm").create());

}
