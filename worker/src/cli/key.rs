//! `worker key`.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use blocklog::{entropy::SystemEntropy, keys::KeyRing};
use zeroize::Zeroizing;

use super::{KeyCommand, output};
use crate::failure::{Failure, Kind};

pub(super) fn run(command: &KeyCommand) -> Result<ExitCode, Failure> {
    match command {
        KeyCommand::New { file } => {
            write_new(file, &KeyRing::new_file(1, &SystemEntropy)).map_err(|error| {
                let (message, remedy) = match error.kind() {
                    ErrorKind::AlreadyExists => {
                        (format!("{} exists", file.display()), "Name another file; `worker key add` adds a version to this one.")
                    }
                    _ => (format!("{}: {error}", file.display()), "Name a file in a folder that exists and may be written."),
                };
                Failure::new(Kind::BadFile, message, remedy).because(reasons::Reason::CredentialsMissing)
            })?;
            output::say(&format!("{}: version 1. Keep a copy: without it the log can't be read.", file.display()));
        }
        KeyCommand::Add { file } => {
            let version = add(file)?;
            output::say(&format!("{}: version {version} is used from now on. Keep a copy.", file.display()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Only its owner may read it; it is on the disk when this returns.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path));
    if written.is_err() {
        // Half a key is worse than none.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn add(path: &Path) -> Result<u32, Failure> {
    let bad = |why: String| {
        let remedy = "Name a key file in a folder that may be written.";
        Failure::new(Kind::BadFile, format!("{}: {why}", path.display()), remedy).because(reasons::Reason::CredentialsMissing)
    };
    let mut text = Zeroizing::new(std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?);
    let keys = KeyRing::parse(&text).map_err(|error| Failure::from(error).about(path.display()))?;
    let version = keys.current().checked_add(1).ok_or_else(|| bad("it has the highest version that there can be".to_owned()))?;
    let fresh = KeyRing::new_file(version, &SystemEntropy);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    // The last line is the key; the one before it is the comment that the file has already.
    text.push_str(fresh.lines().next_back().unwrap_or_default());
    text.push('\n');
    // Beside it and renamed: a crash leaves the old file or the new one, never a part. A link is followed, not replaced.
    let target = std::fs::canonicalize(path).map_err(|error| bad(error.to_string()))?;
    let mut beside = target.clone().into_os_string();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let replaced = write_new(&beside, &text).and_then(|()| std::fs::rename(&beside, &target)).and_then(|()| sync_folder(&target));
    replaced.map_err(|error| bad(format!("{}: {error}", beside.display())))?;
    Ok(version)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
