#!/usr/bin/env bash
# What no compiler looks at: the length of files, things left open, and that the documents name what exists.
set -euo pipefail
cd "$(dirname "$0")/.."
status=0
fail() { echo "check-tree: $*" >&2; status=1; }

while read -r lines file; do
  [[ $file == total ]] && continue
  # Tests may be long where they are one table; code may not.
  ((lines <= 650)) || fail "$file has $lines lines: is it still one room?"
done < <(git ls-files '*.rs' '*.sh' '*.go' '*.c' '*.h' '*.py' '*.mjs' | xargs wc -l)

# The operator's rooms are to stay small enough that each has one subject, and none may need another that needs it.
while read -r lines file; do
  ((lines <= 400)) || fail "$file has $lines lines: cut it into rooms"
done < <(git ls-files operator/src | grep -vE '(^|[/_])tests?\.rs$|test_support|pitfalls' | xargs wc -l | grep -v ' total$')
python3 scripts/circles.py operator/src || fail "modules of the operator need each other in a circle"

if git grep -nE '\b(todo!|unimplemented!)\(|\b(TODO|FIXME|XXX|HACK)\b' -- '*.rs' '*.sh' '*.go' '*.c' '*.py' '*.mjs' ':!scripts/check-tree.sh'; then
  fail "something is left open"
fi

# A reason is a value: nobody keeps it as text, or reads it back out of one.
source=('operator/src/*.rs' 'worker/src/*.rs' 'lib/*/src/*.rs' 'crds/src/*.rs')
for rule in '\b(reason_of|finer)\(' \
  "reason(\(&self\))? ?(:|->) &'static str" \
  '\breason(\(\))? ?[=!]= ?"' \
  '\b(reason|why|error|message|said|word)(\(\)|\.to_string\(\))*\.(starts_with|contains|strip_prefix)\("[A-Z][a-z]+([A-Z][a-z]+)+[":]' \
  '\b(reason|why|error|message|said)(\(\)|\.to_string\(\))*\.r?split(_once|n)?\([^)]*["'"'"']: ?["'"'"']'; do
  # Why a privilege is needed is a sentence.
  if git grep -nE "$rule" -- "${source[@]}" ':!lib/vsphere/src/methods/rights.rs' ':!*tests.rs'; then
    fail "a reason is text there: say it as a reasons::Reason"
  fi
done

# A row of the table of pitfalls that names a test names one that exists.
while read -r test; do
  git grep -qE "fn $test\b" -- '*.rs' || fail "docs/pitfalls.md names the test $test, which does not exist"
done < <(grep -oE '`[a-z0-9_]{12,}`' docs/pitfalls.md 2>/dev/null | tr -d '\140' | sort -u)

# So does a rule of the sandbox.
while read -r test; do
  git grep -qE "(fn|func|def|mod) $test\b" -- e2e || fail "docs/sandbox.md names the test $test, which does not exist"
done < <(grep '^|' docs/sandbox.md | grep -oE '\b(Test[A-Z][A-Za-z0-9]+|[a-z0-9]+(_[a-z0-9]+){2,})\b' | sort -u)

# A test's name is its rule, and is read as one: at most 60 characters. Where that is seen to:
named=(crds e2e lib operator worker)
while IFS=: read -r file test; do
  ((${#test} <= 60)) || fail "$file: the name of the test $test has ${#test} characters, more than 60"
done < <(
  git ls-files "${named[@]/%//*.rs}" | xargs awk '
    FNR == 1 { test = 0 }
    /#\[(tokio::)?test[](]/ { test = 1; next }
    test && match($0, /fn [a-z0-9_]+/) { print FILENAME ":" substr($0, RSTART + 3, RLENGTH - 3); test = 0 }'
)

# The chart brings the definitions as they are.
for definition in crds/*.yaml; do
  cmp -s "$definition" "charts/hawser/crd/${definition##*/}" || fail "charts/hawser/crd has another ${definition##*/}: cp crds/*.yaml charts/hawser/crd/"
done

# What a user has to grant is what is asked for.
while read -r right; do
  grep -qF "\`$right\`" docs/getting-started.md || fail "docs/getting-started.md does not name $right, without which nothing is replicated"
done < <(
  grep -A1 ' required($' lib/vsphere/src/methods/rights.rs | grep -oE '[A-Za-z]+\.[A-Za-z.]+'
  sed -n '/pub const REPLICATION/,/];/p' lib/azure/src/rights.rs | grep -oE 'Microsoft\.[A-Za-z./]+'
)

# Links between documents lead somewhere.
while IFS=: read -r file link; do
  [[ -e $(dirname "$file")/$link ]] || fail "$file links to $link, which does not exist"
done < <(git ls-files '*.md' | xargs grep -oE '\]\([^)#: ]+' 2>/dev/null | sed -E 's/\]\(//')
exit $status
