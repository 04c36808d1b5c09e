//! What is committed is what the types say.
#![allow(clippy::unwrap_used, reason = "a failure here is a failure of the test")]

#[path = "../generate/files/mod.rs"]
mod files;

use std::collections::BTreeSet;

#[test]
fn what_is_committed_is_what_the_types_say() {
    let mut drifted = Vec::new();
    for (path, text) in files::all() {
        if std::fs::read_to_string(files::root().join(&path)).ok().as_deref() != Some(&*text) {
            drifted.push(path);
        }
    }
    assert!(drifted.is_empty(), "{drifted:?} differ from the types; this mends it: {}", files::COMMAND);
}

#[test]
fn kubectl_apply_finds_nothing_else_there() {
    let made: BTreeSet<String> = files::all().into_iter().map(|(path, _)| path).collect();
    for entry in std::fs::read_dir(files::root().join("crds")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)) {
            assert!(made.contains(&format!("crds/{name}")), "crds/{name} is no definition: `kubectl apply -f crds/` would apply it");
        }
    }
}
