// What the demo asks of the storage account beside the worker, in a client that is not ours: `create URL` makes a container, `download URL FILE`
// writes a blob to a file. The account's key is read from the file that KEY_FILE names.
import { createHmac } from "node:crypto";
import { createWriteStream, readFileSync } from "node:fs";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

const [verb, address, file] = process.argv.slice(2);
const url = new URL(address);
const account = url.pathname.split("/")[1];
const key = Buffer.from(readFileSync(process.env.KEY_FILE, "utf8").trim(), "base64");

// Shared Key, as the storage service's reference has it; of the standard headers none is sent.
function headers(method) {
  const own = { "x-ms-date": new Date().toUTCString(), "x-ms-version": "2025-01-05" };
  const canonical = Object.keys(own).sort().map((name) => `${name}:${own[name]}\n`).join("");
  const query = [...url.searchParams].sort().map(([name, value]) => `\n${name}:${value}`).join("");
  const text = `${method}${"\n".repeat(12)}${canonical}/${account}${url.pathname}${query}`;
  const signature = createHmac("sha256", key).update(text).digest("base64");
  return { ...own, Authorization: `SharedKey ${account}:${signature}` };
}

async function ask(method) {
  const answer = await fetch(url, { method, headers: headers(method) });
  if (!answer.ok && answer.status !== 409) throw new Error(`${method} ${url.pathname}: ${answer.status} ${await answer.text()}`);
  return answer;
}

if (verb === "create") {
  url.searchParams.set("restype", "container");
  await ask("PUT");
} else if (verb === "download") {
  await pipeline(Readable.fromWeb((await ask("GET")).body), createWriteStream(file));
} else {
  throw new Error(`unknown verb ${verb}`);
}
