// The whole way of a replica: upload disks, grants, bytes, seal, snapshot, copies, network card, virtual machine, and back to nothing; and
// what Azure refuses on it.
import { spawnSync } from "node:child_process";
import { ComputeManagementClient } from "@azure/arm-compute";
import { NetworkManagementClient } from "@azure/arm-network";
import { GROUP, LOCATION, READER, SUBSCRIPTION, check, compute, control, env, equal, finish, network, oracle, refused, sha256 } from "./harness.mjs";
import { conditions, fill, pages, read, reseed } from "./pages.mjs";
import { azurite, secret, tokens } from "./tokens.mjs";

const MIB = 1 << 20;
const CONTENT = 20 * MIB;
const SIZE = CONTENT + 512;
const options = { endpoint: env("ARM_URL"), retryOptions: { maxRetries: 0 } };
const arm = new ComputeManagementClient(secret(), SUBSCRIPTION, options);
const net = new NetworkManagementClient(secret(), SUBSCRIPTION, options);
const stranger = new ComputeManagementClient(secret(READER), SUBSCRIPTION, options);
const { disks, snapshots, virtualMachines: vms } = arm;

const upload = (size, more = {}) => ({
  location: LOCATION,
  sku: { name: "Premium_LRS" },
  creationData: { createOption: "Upload", uploadSizeBytes: size },
  ...more,
});
const os = { osType: "Linux", hyperVGeneration: "V2" };
const copyOf = (id, more = {}) => ({
  location: LOCATION,
  sku: { name: "Premium_LRS" },
  creationData: { createOption: "Copy", sourceResourceId: id },
  ...more,
});
const write = { access: "Write", durationInSeconds: 3600 };
const reading = { access: "Read", durationInSeconds: 3600 };
const state = async (name) => (await disks.get(GROUP, name)).diskState;
const python = (script, input) => {
  const ran = spawnSync(env("PYTHON"), [`${env("HERE")}/${script}`], { input, encoding: "utf8", maxBuffer: 1 << 24 });
  if (ran.status !== 0) throw new Error(`${script}: ${ran.stderr.trim().split("\n").slice(-5).join("\n")}`);
  return ran.stdout;
};

await tokens();
await check("Python's azure-identity: secret, projected token, wrong secret", () => python("identity.py", ""));
await azurite();

// Upload disks.
await refused("an upload that is no whole number of MiB", 400, "BadRequest", () => disks.createOrUpdate(GROUP, "odd", upload(SIZE + 512)));
await refused("an upload by a reader", 403, "AuthorizationFailed", () => stranger.disks.createOrUpdate(GROUP, "mine", upload(SIZE)));
await check("two upload disks", async () => {
  const made = await Promise.all([disks.createOrUpdate(GROUP, "seed-os", upload(SIZE, os)), disks.createOrUpdate(GROUP, "seed-data", upload(SIZE))]);
  equal(made.map((disk) => disk.diskState), ["ReadyToUpload", "ReadyToUpload"]);
});
await refused("reading what is to be uploaded", 409, "OperationNotAllowed", () => disks.grantAccess(GROUP, "seed-os", reading));
const osSas = (await check("write access", () => disks.grantAccess(GROUP, "seed-os", write))).accessSAS;
await check("it is open for upload", async () => equal(await state("seed-os"), "ActiveUpload"));
// The operation is accepted, and fails: what the poller throws has no status.
await refused("a seal without a footer", undefined, "InvalidVhd", () => disks.revokeAccess(GROUP, "seed-os"));
await check("it stays open", async () => equal(await state("seed-os"), "ActiveUpload"));
const osSum = await fill(osSas, CONTENT);
await check("the control port has the same bytes", async () => equal(await oracle(compute("disks", "seed-os")), osSum));
await conditions(osSas);
await refused("a snapshot of an open upload", 409, "OperationNotAllowed", () =>
  snapshots.createOrUpdate(GROUP, "early", copyOf(compute("disks", "seed-os"), { sku: { name: "Standard_LRS" }, incremental: true })));
const dataSas = (await disks.grantAccess(GROUP, "seed-data", write)).accessSAS;
await check("Python's azure-storage-blob fills the other one", async () => {
  const { sha256: sum, checks } = JSON.parse(python("disk.py", JSON.stringify({ sas: dataSas, content: CONTENT, seed: "python" })));
  for (const one of checks) console.log(`      python: ${one}`);
  equal(await oracle(compute("disks", "seed-data")), sum);
});

// Expiry, revocation.
await check("an expired SAS is refused, a new one is not", async () => {
  await control("POST", "/disks/expire", { id: compute("disks", "seed-data") });
  const found = await pages(dataSas).getProperties().then(() => 200, (error) => error.statusCode);
  equal(found, 403);
  const renewed = (await disks.grantAccess(GROUP, "seed-data", write)).accessSAS;
  await pages(renewed).getProperties();
});
await check("sealed: both disks are Unattached", async () => {
  await Promise.all([disks.revokeAccess(GROUP, "seed-os"), disks.revokeAccess(GROUP, "seed-data")]);
  equal([await state("seed-os"), await state("seed-data")], ["Unattached", "Unattached"]);
});
await refused("a write by a revoked SAS", 403, "AuthenticationFailed", () => pages(osSas).uploadPages(Buffer.alloc(512), 0, 512));
await refused("a second upload", 409, "OperationNotAllowed", () => disks.grantAccess(GROUP, "seed-os", write));

// Snapshot, copies, reading, and a re-seed from the snapshot.
const snapshot = copyOf(compute("disks", "seed-os"), { sku: { name: "Standard_LRS" }, incremental: true });
await check("a snapshot", () => snapshots.createOrUpdate(GROUP, "point", snapshot));
const snapshotSas = (await check("read access to it", () => snapshots.grantAccess(GROUP, "point", reading)))?.accessSAS;
await check("it reads as the disk, with a footer", async () => {
  const bytes = await read(pages(snapshotSas), 0, SIZE);
  equal([sha256(bytes.subarray(0, CONTENT)), bytes.subarray(CONTENT, CONTENT + 8).toString()], [osSum, "conectix"]);
});
await refused("a write by a read SAS", 403, "AuthorizationPermissionMismatch", () => pages(snapshotSas).uploadPages(Buffer.alloc(512), 0, 512));
await check("Put Page From URL: a new seed from the snapshot", async () => {
  await disks.createOrUpdate(GROUP, "reseed", upload(SIZE, os));
  const { accessSAS } = await disks.grantAccess(GROUP, "reseed", write);
  await reseed(snapshotSas, accessSAS, CONTENT);
  equal(await oracle(compute("disks", "reseed")), osSum);
  await disks.revokeAccess(GROUP, "reseed");
});
await check("the snapshot's access ends", async () => {
  await snapshots.revokeAccess(GROUP, "point");
  equal(await pages(snapshotSas).getProperties().then(() => 200, (error) => error.statusCode), 403);
});
await check("copies for the machine", async () => {
  await Promise.all([
    disks.createOrUpdate(GROUP, "vm-os", copyOf(compute("snapshots", "point"), os)),
    disks.createOrUpdate(GROUP, "vm-data", copyOf(compute("disks", "seed-data"))),
  ]);
  equal(await oracle(compute("disks", "vm-os")), osSum);
  equal(await oracle(compute("disks", "vm-data")), await oracle(compute("disks", "seed-data")));
});

// Network card, machine.
const subnet = { id: `${network("virtualNetworks", "production")}/subnets/default` };
const card = (subnetId = subnet) => ({
  location: LOCATION,
  ipConfigurations: [{ name: "ipconfig1", primary: true, privateIPAllocationMethod: "Dynamic", subnet: subnetId }],
  networkSecurityGroup: { id: network("networkSecurityGroups", "default-nsg") },
});
await refused("a card in a subnet that is none", 400, "InvalidResourceReference", () =>
  net.networkInterfaces.createOrUpdate(GROUP, "lost", card({ id: `${network("virtualNetworks", "production")}/subnets/none` })));
await check("a network card", async () => {
  const made = await net.networkInterfaces.createOrUpdate(GROUP, "nic", card());
  if (!made.ipConfigurations[0].privateIPAddress?.startsWith("10.1.0.")) throw new Error(JSON.stringify(made.ipConfigurations));
});
const machine = (more = {}, osDisk = "vm-os", nic = "nic") => ({
  location: LOCATION,
  hardwareProfile: { vmSize: "Standard_D2s_v5" },
  storageProfile: {
    osDisk: { createOption: "Attach", osType: "Linux", caching: "ReadWrite", deleteOption: "Detach", managedDisk: { id: compute("disks", osDisk) } },
    dataDisks: [{ lun: 0, createOption: "Attach", caching: "None", managedDisk: { id: compute("disks", "vm-data") } }],
  },
  networkProfile: { networkInterfaces: [{ id: network("networkInterfaces", nic), primary: true }] },
  ...more,
});
await refused("premium disks on a size that takes none", 400, "InvalidParameter", () =>
  vms.createOrUpdate(GROUP, "vm", machine({ hardwareProfile: { vmSize: "Standard_A2_v2" } })));
await refused("a size that cannot start generation 2", 400, "BadRequest", async () => {
  await disks.createOrUpdate(GROUP, "plain", copyOf(compute("snapshots", "point"), { ...os, sku: { name: "Standard_LRS" } }));
  const asked = machine({ hardwareProfile: { vmSize: "Standard_A2_v2" } }, "plain");
  asked.storageProfile.dataDisks = [];
  return vms.createOrUpdate(GROUP, "vm", asked);
});
await refused("an OS profile beside an attached disk", 400, "InvalidParameter", () =>
  vms.createOrUpdate(GROUP, "vm", machine({ osProfile: { computerName: "vm", adminUsername: "a", adminPassword: "Secret-1-Secret" } })));
await check("a machine of both copies", async () => {
  const made = await vms.createOrUpdate(GROUP, "vm", machine());
  equal([made.provisioningState, await state("vm-os"), await state("vm-data")], ["Succeeded", "Attached", "Attached"]);
});
await net.networkInterfaces.createOrUpdate(GROUP, "nic2", card());
await refused("a second machine of the same disk", 409, "ConflictingUserInput", () => vms.createOrUpdate(GROUP, "twin", machine({}, "vm-os", "nic2")));
await refused("a machine of an upload that was never filled", 409, "OperationNotAllowed", async () => {
  await disks.createOrUpdate(GROUP, "empty", upload(SIZE, os));
  return vms.createOrUpdate(GROUP, "twin", machine({}, "empty", "nic2"));
});
await check("it runs: instance view", async () => {
  await vms.start(GROUP, "vm");
  const codes = (await vms.instanceView(GROUP, "vm")).statuses.map((status) => status.code);
  if (!codes.includes("PowerState/running")) throw new Error(codes.join(" "));
});
await refused("deleting a disk of a machine", 409, "OperationNotAllowed", () => disks.delete(GROUP, "vm-os"));
await refused("deleting a card of a machine", 400, "NicInUse", () => net.networkInterfaces.delete(GROUP, "nic"));
await check("stopped and deallocated", async () => {
  await vms.powerOff(GROUP, "vm");
  await vms.deallocate(GROUP, "vm");
  const codes = (await vms.instanceView(GROUP, "vm")).statuses.map((status) => status.code);
  if (!codes.includes("PowerState/deallocated")) throw new Error(codes.join(" "));
});
await refused("429 with Retry-After", 429, "TooManyRequests", async () => {
  const effect = { kind: "answer", status: 429, code: "TooManyRequests", retryAfter: 1 };
  await control("POST", "/arm/faults", { method: "GET", path: "*/disks/vm-os", times: 1, effect });
  return disks.get(GROUP, "vm-os");
});

await control("POST", "/arm/roles", { clientId: READER, role: "Contributor" });
await refused("a role that was given just now", 403, "AuthorizationFailed", () => stranger.disks.createOrUpdate(GROUP, "granted", upload(SIZE)));
await check("a minute later it holds", async () => {
  await control("POST", "/clock", { advanceSeconds: 61 });
  await stranger.disks.createOrUpdate(GROUP, "granted", upload(SIZE));
});

// Back to nothing.
await check("all is deleted, machine first", async () => {
  await vms.delete(GROUP, "vm");
  await net.networkInterfaces.delete(GROUP, "nic");
  await net.networkInterfaces.delete(GROUP, "nic2");
  for (const name of ["granted", "empty", "plain", "vm-os", "vm-data", "seed-os", "seed-data", "reseed"]) await disks.delete(GROUP, name);
  await snapshots.delete(GROUP, "point");
  equal((await control("GET", "/disks")).disks, []);
  const left = await control("GET", "/arm");
  equal([left.disks, left.snapshots, left.networkInterfaces, left.virtualMachines], [[], [], [], []]);
});
await refused("what is deleted", 404, "ResourceNotFound", () => disks.get(GROUP, "vm-os"));
finish();
