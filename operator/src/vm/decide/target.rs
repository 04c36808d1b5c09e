//! Checks of the target's side: whose the ledger is, and whether each disk has its seed.

use std::{collections::BTreeMap, time::Duration};

use azure::disks::Disk;
use blocklog::{ids::DiskKey, ledger::Ledger};
use crds::{conditions::ConditionType as C, reasons::Reason, replicated_vm::Replication};

use crate::{
    pass::{LATER, NOW, SOON, Said, retry_after},
    seeds::{self, Plan, Why},
    vm::{
        look::Pass,
        step::{End, NewSeed, ReadySeed, Step},
    },
};

pub(super) fn ledger(pass: &Pass, said: &mut Said) -> Option<End> {
    let seen = &pass.seen;
    let found = match &seen.ledger {
        Err(trouble) => return Some(stop(said, trouble.reason, trouble.message.clone(), retry_after(trouble, SOON))),
        Ok(None) => return no_ledger(pass, said),
        Ok(Some(found)) => found,
    };
    if found.owner != seen.owner {
        return Some(anothers(pass, said, found));
    }
    said.holds(C::LedgerOwned, Reason::AsExpected, format!("the ledger's owner is {}", found.owner));
    if found.sealed.is_some() {
        said.fails(C::SeedsReady, Reason::SeedsSealed, "the seed disks are sealed: nothing more is written to them");
        said.fails(C::Replicating, Reason::SeedsSealed, "the seed disks are sealed");
        return Some((Step::None, LATER));
    }
    // Without these nothing can be said of what goes on.
    let trouble = seen.due.as_ref().err().or(seen.order.as_ref().err())?;
    said.troubled(C::Replicating, trouble);
    Some((Step::None, retry_after(trouble, SOON)))
}

/// The chain ends: without a ledger of ours no cycle follows another.
fn stop(said: &mut Said, reason: Reason, message: String, wake: Duration) -> End {
    said.fails(C::LedgerOwned, reason, message.clone());
    said.fails(C::Replicating, reason, message);
    (Step::None, wake)
}

/// There is no ledger: because replication begins, or because it was lost.
fn no_ledger(pass: &Pass, said: &mut Said) -> Option<End> {
    let status = pass.seen.object.status.as_ref();
    if status.is_some_and(|status| status.last_cycle.is_some() || status.recovery_point.is_some()) {
        let message = "the ledger is missing from the log store, and with it what is known of the replica: bring it back, or set replication to \
                       Stopped, which deletes the replica, and then to Active";
        return Some(stop(said, Reason::BlobMissing, message.to_owned(), LATER));
    }
    if pass.incarnation().is_none() {
        return Some((Step::DrawIncarnation, NOW));
    }
    said.open(C::LedgerOwned, Reason::SeedsBeingMade, "the ledger is made when its seed disks stand");
    None
}

/// The ledger is another owner's: taken over where a person says so.
fn anothers(pass: &Pass, said: &mut Said, found: &Ledger) -> End {
    let owner = found.owner.to_string();
    if pass.seen.object.spec.take_over.as_deref() == Some(owner.as_str()) {
        let message = format!("the ledger of {owner} is being taken over: its last writer is given a minute to stop");
        said.open(C::LedgerOwned, Reason::TakingOver, message);
        return (Step::TakeOver, NOW);
    }
    let message = format!(
        "the replica belongs to {owner}: where nobody replicates the VM there any more, set takeOver to that owner, and replication goes on \
         from its baseline"
    );
    stop(said, Reason::OwnedByOther, message, LATER)
}

/// The disks that are to have a seed. Without the source's sizes only what is gone can be told.
fn replicated(pass: &Pass) -> Option<Vec<seeds::SourceDisk>> {
    match (&pass.seen.source, pass.seen.ours()) {
        (Ok(source), _) => {
            let wanted = source.disks.iter().filter(|disk| !disk.excluded);
            Some(wanted.map(|disk| seeds::SourceDisk { key: disk.key, capacity: disk.capacity }).collect())
        }
        (Err(_), Some(ledger)) => {
            Some(ledger.seeds.iter().map(|(key, seed)| seeds::SourceDisk { key: *key, capacity: seed.capacity }).collect())
        }
        (Err(_), None) => None,
    }
}

pub(super) fn seed_disks(pass: &Pass, said: &mut Said) -> Option<End> {
    let seen = &pass.seen;
    let running = seen.running() || seen.object.spec.replication == Replication::Stopped;
    let disks = match &seen.disks {
        Ok(disks) => disks,
        Err(trouble) => {
            said.troubled(C::SeedsReady, trouble);
            if running {
                return None;
            }
            said.troubled(C::Replicating, trouble);
            return Some((Step::None, retry_after(trouble, LATER)));
        }
    };
    let (incarnation, source) = (pass.incarnation()?, replicated(pass)?);
    let look = seeds::Look { owner: &seen.owner, incarnation, source: &source, ledger: seen.ours(), disks };
    let mut plans = seeds::plan(&look);
    let standing = plans.values().filter(|plan| **plan == Plan::Keep).count();
    // A cycle that runs is let finish where it can; on a seed that is gone it can't.
    plans.retain(|_, plan| !running || matches!(plan, Plan::Make { why: Why::Missing | Why::Replaced, .. }));
    if let Some(end) = make(pass, said, &plans) {
        return Some(end);
    }
    let gone: Vec<DiskKey> = plans.iter().filter(|(_, plan)| **plan == Plan::Leave).map(|(key, _)| *key).collect();
    if !gone.is_empty() {
        return Some((Step::Retire(gone), NOW));
    }
    said.holds(C::SeedsReady, Reason::AsExpected, format!("{standing} of {} seed disks are in place", source.len()));
    let replaced = seen.ours().map(|ledger| seeds::sweep(&seen.owner, ledger, disks)).unwrap_or_default();
    (!running && !replaced.is_empty()).then_some((Step::SweepSeeds(replaced), NOW))
}

/// Seeds that are to be made: managed disks first, then the ledger takes them in.
fn make(pass: &Pass, said: &mut Said, plans: &BTreeMap<DiskKey, Plan>) -> Option<End> {
    let (mut to_make, mut ready, mut words, mut coming) = (Vec::new(), Vec::new(), Vec::new(), false);
    for (key, plan) in plans {
        let Plan::Make { which, capacity, why, made } = plan else { continue };
        words.push((why.reason(), key.to_string()));
        match made.as_deref() {
            Some(disk) if !disk.provisioned => coming = true,
            Some(disk) if seeds::fits(disk, *capacity) => ready.push(ready_seed(*key, disk, *capacity)),
            made => to_make.push(NewSeed { which: *which, capacity: *capacity, replace: made.is_some() }),
        }
    }
    let reason = words.first()?.0;
    let keys: Vec<String> = words.into_iter().map(|(_, key)| key).collect();
    let message = format!("seed disks are being made for the disks {}", keys.join(", "));
    said.open(C::SeedsReady, reason, message.clone());
    said.fails(C::Replicating, reason, message);
    Some(match (to_make.is_empty(), coming, pass.seen.ours()) {
        (false, ..) => (Step::MakeDisks(to_make), NOW),
        (true, true, _) => (Step::None, SOON),
        (true, false, None) => (Step::CreateLedger(ready), NOW),
        (true, false, Some(_)) => (Step::Reseed(ready), NOW),
    })
}

fn ready_seed(disk: DiskKey, found: &Disk, capacity: u64) -> ReadySeed {
    ReadySeed { disk, id: found.id.clone(), unique_id: found.unique_id.clone(), capacity }
}
