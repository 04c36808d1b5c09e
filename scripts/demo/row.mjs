// Prints one row of the demo's table from what the worker said of a cycle and of the comparison after it.
import { readFileSync } from "node:fs";

const widths = [5, 8, 10, 10, 10, 10, 8, 8];
const print = (cells) => console.log(cells.map((cell, i) => String(cell).padStart(widths[i])).join("  "));
const mib = (bytes) => `${(bytes / 1048576).toFixed(1)} MiB`;
const last = (file, event) => {
  const lines = readFileSync(file, "utf8").trim().split("\n").map((line) => JSON.parse(line));
  return lines.filter((line) => line.event === event).at(-1);
};

const [number, cycle, verify, seconds] = process.argv.slice(2);
if (number === "head") {
  print(["cycle", "mode", "changed", "read", "uploaded", "applied", "seconds", "verified"]);
} else {
  const disk = last(cycle, "result").disks[0];
  const equal = last(verify, "result").equal;
  const applied = disk.applied.written + disk.applied.cleared;
  print([number, disk.mode, mib(disk.changed), mib(disk.read), mib(disk.uploaded), mib(applied), seconds, equal ? "equal" : "DIFFERS"]);
  if (!equal) process.exit(1);
}
