//! What is made from the types: a file a definition, and the reference.

use std::path::{Path, PathBuf};

mod reference;

/// What mends a drift.
pub const COMMAND: &str = "cargo run -p crds --example generate";

/// The root of the tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the tree").to_owned()
}

/// Each file's path from the root, and its text.
pub fn all() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for definition in crds::definitions() {
        let yaml = serde_yaml_ng::to_string(&definition).expect("a definition can be written as YAML");
        let head = format!("# Made from crds/src by `{COMMAND}`. Edit that instead.\n");
        files.push((format!("crds/{}.yaml", definition.spec.names.plural), head + &yaml));
    }
    files.push(("docs/api.md".to_owned(), reference::page()));
    files
}
