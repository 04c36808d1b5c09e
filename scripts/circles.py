#!/usr/bin/env python3
"""Circles among the modules of a crate: who uses whom, by `use` and by paths that begin with crate, super or self. Tests may use whom they like.

    circles.py FOLDER    a crate's src
"""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
files = {}
for path in root.rglob("*.rs"):
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] in ("mod", "lib"):
        parts.pop()
    if parts != ["main"] and not re.search(r"(^|_)tests?$|^test_support$|^pitfalls$", parts[-1] if parts else ""):
        files[tuple(parts)] = path


def without_tests(text):
    """Comments, and modules that only tests have, say nothing of who uses whom."""
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r"#\[cfg\(test\)\]\s*(#\[path[^\]]*\]\s*)?(pub(\([a-z]+\))? )?mod \w+( \{.*|;)", "", text, flags=re.S)


def spread(tree):
    """The paths of a tree of imports: a::{b, c::{d, e}} is a::b, a::c::d, a::c::e."""
    head, brace, rest = tree.partition("{")
    if not brace:
        return [tree.strip()]
    paths, depth, part = [], 0, ""
    for char in rest[: rest.rindex("}")] + ",":
        if char == "," and depth == 0:
            if part.strip():
                paths += [head.strip() + one for one in spread(part.strip())]
            part = ""
            continue
        depth += (char == "{") - (char == "}")
        part += char
    return paths


def module(path, at):
    """The file that a path leads into; the top of the crate is no room of its own."""
    words = [word.strip() for word in path.split("::")]
    here = list(at)
    while words and words[0] in ("crate", "super", "self"):
        word = words.pop(0)
        here = [] if word == "crate" else here[:-1] if word == "super" else here
    found = tuple(here)
    for word in words:
        if found + (word,) not in files:
            break
        found += (word,)
    return found


uses = {}
for at, path in files.items():
    text = without_tests(path.read_text())
    paths = [one for tree in re.findall(r"\buse\s+((?:crate|super|self)\b[^;]*);", text) for one in spread(tree)]
    paths += re.findall(r"\b(?:crate|super|self)(?:::\w+)+", re.sub(r"\buse\s[^;]*;", "", text))
    # A module names its own rooms without a prefix.
    rooms = {room[-1] for room in files if room[:-1] == at and at}
    paths += [f"self::{room}" for room in rooms if re.search(rf"(?<![\w:]){room}::", text)]
    uses[at] = {module(one, at) for one in paths} - {at, ()}

# Whatever can be reached from a module and reaches it again is in a circle with it.
def reached(start):
    seen, todo = set(), list(uses.get(start, ()))
    while todo:
        one = todo.pop()
        if one not in seen:
            seen.add(one)
            todo += uses.get(one, ())
    return seen


reach = {at: reached(at) for at in uses}
circles = {tuple(sorted(other for other in uses if other in reach[at] and at in reach[other])) for at in uses if at in reach[at]}
for circle in sorted(circles):
    print(f"{root}: a circle: " + " <-> ".join("::".join(one) for one in circle))
    for at in circle:
        print(f"  {'::'.join(at)} uses " + ", ".join("::".join(one) for one in sorted(uses[at]) if one in circle))
sys.exit(bool(circles))
