// @azure/storage-blob's PageBlobClient on the SAS of disks.
import { AnonymousCredential, PageBlobClient } from "@azure/storage-blob";
import { check, control, equal, footer, noise, refused, sha256 } from "./harness.mjs";

const MIB = 1 << 20;
export const pages = (sas) => new PageBlobClient(sas, new AnonymousCredential(), { retryOptions: { maxTries: 1 } });

async function read(client, offset, length) {
  const parts = [];
  for (let at = offset; at < offset + length; at += 4 * MIB) {
    const answer = await client.download(at, Math.min(4 * MIB, offset + length - at));
    for await (const part of answer.readableStreamBody) parts.push(part);
  }
  return Buffer.concat(parts);
}

/// Fills an upload disk; its SHA-256.
export async function fill(sas, content) {
  const client = pages(sas);
  const data = Buffer.from(noise(content, "node"));
  data.fill(0, 3 * MIB, 5 * MIB);
  await check("@azure/storage-blob: an upload disk is a page blob, 512 bytes larger", async () => {
    const { contentLength, blobType } = await client.getProperties();
    equal([contentLength, blobType], [content + 512, "PageBlob"]);
  });
  await check("@azure/storage-blob fills it", async () => {
    await client.uploadPages(footer(content), content, 512);
    for (let at = 0; at < content; at += 4 * MIB) {
      const piece = data.subarray(at, at + 4 * MIB);
      await client.uploadPages(piece, at, piece.length);
    }
    await client.clearPages(3 * MIB, 2 * MIB);
    equal(sha256(await read(client, 0, content)), sha256(data));
  });
  await check("its page ranges", async () => {
    const found = [];
    for await (const range of client.listPageRanges()) if (!range.isClear) found.push([range.start, range.end]);
    equal(found, [[0, 3 * MIB - 1], [5 * MIB, content + 511]]);
  });
  await refused("5 MiB at once", 413, "RequestBodyTooLarge", () => client.uploadPages(Buffer.alloc(5 * MIB), 0, 5 * MIB));
  await refused("half a sector", 416, "InvalidPageRange", () => client.uploadPages(Buffer.alloc(256), 0, 256));
  await refused("beyond the end", 416, "InvalidPageRange", () => client.uploadPages(Buffer.alloc(512), content + 512, 512));
  const sum = { transactionalContentCrc64: Buffer.alloc(8, 1) };
  await refused("a wrong CRC64", 400, "Crc64Mismatch", () => client.uploadPages(Buffer.alloc(512), 0, 512, sum));
  const denied = "AuthorizationPermissionMismatch";
  await refused("metadata", 403, denied, () => client.setMetadata({ a: "b" }));
  await refused("a lease", 403, denied, () => client.getBlobLeaseClient().acquireLease(15));
  await refused("a snapshot", 403, denied, () => client.createSnapshot());
  await refused("creating it anew", 403, denied, () => client.create(content + 512));
  await refused("deleting it", 403, denied, () => client.delete());
  await refused("another size", 403, denied, () => client.resize(content));
  await refused("a sequence number", 403, denied, () => client.updateSequenceNumber("max", 3));
  await refused("a forged signature", 403, "AuthenticationFailed", () => pages(sas.replace(/sig=./, "sig=%2B")).getProperties());
  await check("nothing of it took effect", async () => equal(sha256(await read(client, 0, content)), sha256(data)));
  return sha256(data);
}

/// Conditions, as the switch has them.
export async function conditions(sas) {
  const client = pages(sas);
  const page = noise(512, "node");
  const before = { conditions: { ifUnmodifiedSince: new Date(Date.now() - 3_600_000) } };
  await refused("a condition that does not hold", 412, "ConditionNotMet", () => client.uploadPages(page, 0, 512, before));
  await control("PATCH", "/disks/switches", { conditions: "ignored" });
  await check("the same where conditions are ignored", () => client.uploadPages(page, 0, 512, before));
  await control("PATCH", "/disks/switches", { conditions: "refused" });
  await refused("the same where they are refused", 400, "ConditionHeadersNotSupported", () => client.uploadPages(page, 0, 512, before));
  await control("POST", "/reset");
  await control("PUT", "/arm/throttle", { scale: 0 });
}

/// Fills a new upload disk from a snapshot's read SAS, server-side, range by range.
export async function reseed(from, to, content) {
  const [source, target] = [pages(from), pages(to)];
  for await (const { start, end, isClear } of source.listPageRanges()) {
    if (isClear || start >= content) continue;
    for (let at = start; at <= Math.min(end, content - 1); at += 4 * MIB) {
      const length = Math.min(4 * MIB, Math.min(end, content - 1) + 1 - at);
      await target.uploadPagesFromURL(from, at, at, length);
    }
  }
  await target.uploadPages(footer(content), content, 512);
}

export { read };
