#!/usr/bin/env bash
# All unit, property and integration tests: those of `cargo test --workspace`, but several programs at a time, because many of them mostly wait. What a
# program prints is shown when it ends; in the end, which took longest.
#
#   unit.sh
#   HAWSER_UNIT_AT_ONCE   how many run beside each other (3)
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --workspace --no-run
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The programs, each with the folder that cargo would run it in. The longest first, so that nothing is waited for in the end.
cargo test --quiet --workspace --no-run --message-format=json | python3 -c '
import json, os, sys
longest = ["schedules", "kill", "cli", "vcenter"]
found = []
for line in sys.stdin:
    one = json.loads(line)
    if one["reason"] == "compiler-artifact" and one["profile"]["test"] and one.get("executable"):
        name = one["target"]["name"]
        rank = longest.index(name) if name in longest else len(longest)
        found.append((rank, os.path.dirname(one["manifest_path"]), one["executable"]))
for _, folder, program in sorted(found):
    print(folder, program, sep="\t")
' >"$work/programs"
[[ -s $work/programs ]] || { echo "unit.sh: no tests were found" >&2; exit 1; }

run() { # folder, program
  local name=${2##*/} began=$SECONDS status=0
  (cd "$1" && "$2" --quiet) >"$work/$name.log" 2>&1 || status=$?
  { echo "== $name: $((SECONDS - began)) s"; grep -v '^$' "$work/$name.log" || true; } >"$work/$name.said"
  flock "$work/programs" cat "$work/$name.said"
  echo "$((SECONDS - began)) s  $name" >>"$work/took"
  ((status == 0)) || { echo "$name" >>"$work/failed"; return 1; }
}
export -f run
export work
xargs -P "${HAWSER_UNIT_AT_ONCE:-3}" -d '\n' -I{} bash -c 'IFS=$'"'\t'"' read -r folder program <<<"$1"; run "$folder" "$program"' _ {} <"$work/programs" || true
if [[ -s $work/failed ]]; then
  echo "unit.sh: these failed: $(tr '\n' ' ' <"$work/failed")" >&2
  exit 1
fi
(($(wc -l <"$work/took") == $(wc -l <"$work/programs"))) || { echo "unit.sh: not all of them ran" >&2; exit 1; }
cargo test --quiet --workspace --doc
echo "unit ok: $(wc -l <"$work/programs") programs; the longest: $(sort -rn "$work/took" | head -6 | tr -s '\n ' ', ' | sed 's/,$//')"
