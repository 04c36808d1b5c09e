// Checks, one after the other, and what the scripts share.
import { createHash } from "node:crypto";

export const env = (name) => process.env[name] ?? (() => { throw new Error(`${name} is not set: start run.sh`); })();
export const TENANT = "11111111-1111-4111-8111-111111111111";
export const SUBSCRIPTION = "22222222-2222-4222-8222-222222222222";
export const CLIENT = "33333333-3333-4333-8333-333333333333";
export const READER = "33333333-3333-4333-8333-333333333334";
export const GROUP = "hawser";
export const LOCATION = "westeurope";
export const compute = (kind, name) => `/subscriptions/${SUBSCRIPTION}/resourceGroups/${GROUP}/providers/Microsoft.Compute/${kind}/${name}`;
export const network = (kind, name) => `/subscriptions/${SUBSCRIPTION}/resourceGroups/${GROUP}/providers/Microsoft.Network/${kind}/${name}`;

const results = { passed: 0, failed: 0 };

export async function check(name, fn) {
  const start = Date.now();
  try {
    const value = await fn();
    results.passed += 1;
    console.log(`ok    ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
    return value;
  } catch (error) {
    results.failed += 1;
    console.log(`FAIL  ${name}: ${error.stack ?? error}`);
    return undefined;
  }
}

/// A call that has to be refused with this status and code.
export async function refused(name, status, code, fn) {
  const expected = status === undefined ? code : `${status} ${code}`;
  await check(`refused: ${name}: ${expected}`, async () => {
    let answer;
    try {
      answer = await fn();
    } catch (error) {
      const found = [error.statusCode ?? error.errorResponse?.statusCode, error.code ?? error.details?.errorCode];
      const text = `${found} ${error.message}`;
      if (status !== undefined && Number(found[0]) !== status) throw new Error(`expected ${expected}, found ${text}`);
      if (found[1] !== code && !String(error.message).includes(code)) throw new Error(`expected ${expected}, found ${text}`);
      return;
    }
    throw new Error(`it was let through: ${JSON.stringify(answer)?.slice(0, 300)}`);
  });
}

export function equal(found, expected, what = "") {
  const [one, other] = [JSON.stringify(found), JSON.stringify(expected)];
  if (one !== other) throw new Error(`${what} found ${one?.slice(0, 300)}, expected ${other?.slice(0, 300)}`);
}

export const sha256 = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest("hex");

/// The control port.
export async function control(method, path, body) {
  const answer = await fetch(env("CONTROL_URL") + path, { method, body: body === undefined ? undefined : JSON.stringify(body) });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  return JSON.parse(text);
}

/// SHA-256 of a disk's content, by ARM id.
export const oracle = async (id) => (await control("GET", `/disks/sha256?id=${encodeURIComponent(id)}&footer=false`)).sha256;

/// Bytes that no compression and no period of pages can hide behind.
export function noise(length, seed) {
  const parts = [];
  for (let at = 0; at * 32 < length; at += 1) parts.push(createHash("sha256").update(`${seed}:${at}`).digest());
  return Buffer.concat(parts).subarray(0, length);
}

/// The footer of a fixed VHD.
export function footer(content) {
  const bytes = Buffer.alloc(512);
  bytes.write("conectix", 0);
  bytes.writeUInt32BE(2, 8);
  bytes.writeUInt32BE(0x10000, 12);
  bytes.fill(0xff, 16, 24);
  bytes.write("win ", 28);
  bytes.writeUInt32BE(0xa0000, 32);
  bytes.write("Wi2k", 36);
  bytes.writeBigUInt64BE(BigInt(content), 40);
  bytes.writeBigUInt64BE(BigInt(content), 48);
  bytes.writeUInt32BE(2, 60);
  noise(16, "id").copy(bytes, 68);
  bytes.writeUInt32BE(~bytes.reduce((sum, byte) => sum + byte, 0) >>> 0, 64);
  return bytes;
}

export function finish() {
  console.log(`${results.passed} checks passed, ${results.failed} failed`);
  process.exitCode = results.failed === 0 && results.passed > 0 ? 0 : 1;
}
