//! Writes crds/*.yaml and docs/api.md from the types.

mod files;

fn main() -> std::io::Result<()> {
    for (path, text) in files::all() {
        std::fs::write(files::root().join(&path), text)?;
        println!("{path}");
    }
    Ok(())
}
