//! `worker log`.

use std::{fmt::Write, process::ExitCode};

use indicatif::HumanBytes;

use super::{LogCommand, output};
use crate::{
    failure::{Failure, Kind},
    local::{Inspector, Looked, Summary, Tally, file::CycleFile},
};

pub(super) async fn run(command: LogCommand) -> Result<ExitCode, Failure> {
    match command {
        LogCommand::Ls { file, vm } => {
            let summary = Inspector::open(&CycleFile::read(&file.file)?).await?.summary(vm.as_deref()).await?;
            output::line(&if file.json { json(&summary) } else { listing(&summary) });
            Ok(ExitCode::SUCCESS)
        }
        LogCommand::Show { file, blob } => {
            output::line(&Inspector::open(&CycleFile::read(&file)?).await?.show(&blob).await?);
            Ok(ExitCode::SUCCESS)
        }
        LogCommand::Verify(args) => {
            let inspector = Inspector::open(&CycleFile::read(&args.file)?).await?;
            let looked = inspector
                .verify(|damage| {
                    if args.json {
                        output::event(&output::Line::Damage(damage));
                    } else {
                        output::line(&format!("{}: {}. {}", damage.blob, damage.what, damage.remedy));
                    }
                })
                .await?;
            if args.json {
                output::event(&output::Line::from(&looked));
            } else {
                output::line(&verdict(&looked));
            }
            if looked.damaged.is_empty() { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::from(Kind::DamagedBlob.exit())) }
        }
    }
}

fn json(value: &impl serde::Serialize) -> String {
    // Maps of text and numbers can always be written.
    serde_json::to_string(value).unwrap_or_default()
}

fn tally(what: &str, tally: &Tally) -> String {
    format!("{} {what}{}, {}", tally.count, if tally.count == 1 { "" } else { "s" }, HumanBytes(tally.bytes))
}

fn verdict(looked: &Looked) -> String {
    let damaged = match looked.damaged.len() {
        0 => "nothing is damaged".to_owned(),
        1 => "1 blob is damaged".to_owned(),
        n => format!("{n} blobs are damaged"),
    };
    let unnamed =
        if looked.unnamed.count > 0 { format!("; {} that nothing names", tally("segment", &looked.unnamed)) } else { String::new() };
    format!("{} documents, {}: {damaged}{unnamed}", looked.documents, tally("segment", &looked.segments))
}

fn listing(summary: &Summary) -> String {
    let mut out = String::new();
    // A String takes everything.
    for (vm, of) in &summary.vms {
        let _ = writeln!(out, "{vm}{}", if of.ledger { "" } else { "  (no ledger)" });
        for (incarnation, of) in &of.incarnations {
            let _ = writeln!(out, "  {incarnation}: {}", tally("fingerprint blob", &of.fingerprints));
            for (cycle, of) in &of.cycles {
                let documents = of.documents.iter().copied().collect::<Vec<_>>().join(", ");
                let _ = writeln!(
                    out,
                    "    cycle {cycle}: {documents}{}{}",
                    if documents.is_empty() { "" } else { "; " },
                    tally("segment", &of.segments)
                );
            }
        }
    }
    let _ = write!(out, "{}; {} of another kind", tally("order", &summary.orders), tally("blob", &summary.unknown));
    out
}
