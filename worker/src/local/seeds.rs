//! The ledger and the seeds of a local cycle: made where there are none, taken over where that was asked for, made anew where one is gone.
//!
//! The ledger names a seed before the seed is made. So a crash in between leaves a seed that is named and missing, which is made anew; the other
//! way round it would leave one that nobody names, and that nobody may touch.

use std::{collections::BTreeMap, io::ErrorKind, sync::Arc};

use blocklog::{
    LogError,
    codec::MAX_BLOCK,
    document,
    held::Held,
    ids::{DiskKey, Incarnation, Turn},
    ledger::{Ledger, Seed},
    names,
    store::{LEASE, StoreError},
};
use reasons::Reason;
use replica::{
    NO_SEED, ReplicaDisk, ReplicaError,
    access::{self, Purpose, ReplicaAccess},
    disk_sas::DiskSasDisk,
    page_blob::PageBlobDisk,
    raw_file::RawFileDisk,
};
use uuid::Uuid;

use super::{Local, RunEvent, mend, open::whereabouts};
use crate::{
    env::Event,
    failure::{Failure, Kind, grown},
};

/// Something else stands where a seed should be.
const FOREIGN: &str = "Name another place for the replica; where what is there may go, delete it (a file's `.hawser` too), and run again.";

impl Local {
    /// The ledger, ours, with every seed in its place.
    pub(super) async fn prepare(&self) -> Result<Ledger, Failure> {
        let name = names::ledger(self.file.vm);
        let found = document::read::<Ledger>(self.env.store.as_ref(), &self.env.keys, &name).await?;
        let ledger = match found {
            None => self.create().await?,
            Some((ledger, _)) if ledger.owner == self.file.owner => ledger,
            Some(_) if self.take_over => self.take_over().await?,
            Some((ledger, _)) => return Err(of_another(&ledger)),
        };
        if let Some(disk) = ledger.seeds.keys().find(|disk| !self.file.disks.contains_key(disk)) {
            let message = format!("the ledger has disk {disk}, the cycle's file does not name it");
            let remedy = "Name every disk of the replica in the file; a replica with fewer disks is another VM: give it an id of its own.";
            return Err(Failure::new(Kind::BadFile, message, remedy).because(Reason::DiskMissing));
        }
        let ledger = self.seat(ledger).await?;
        for (disk, size) in self.images.sizes() {
            let capacity = ledger.seeds[&disk].capacity;
            if size < capacity {
                let message = format!("disk {disk}: the source ends at {size} bytes, its replica was made for {capacity}");
                let remedy =
                    "Give the whole image; where the disk was really cut, move its replica away, and the next run makes a new one.";
                return Err(Failure::new(Kind::SourceTooShort, message, remedy));
            }
            if size > capacity {
                return Err(grown(disk.0, size, capacity));
            }
        }
        Ok(ledger)
    }

    /// The first ledger of the VM.
    async fn create(&self) -> Result<Ledger, Failure> {
        for disk in self.file.disks.keys() {
            self.vacant(*disk).await?;
        }
        let seeds = self.images.sizes().into_iter().map(|(disk, size)| (disk, self.seed(disk, size))).collect();
        let incarnation = Incarnation(self.env.entropy.uuid());
        let ledger = Ledger::new(self.file.vm, self.file.owner.clone(), incarnation, MAX_BLOCK, seeds);
        document::write_new(self.env.store.as_ref(), &self.env.keys, &names::ledger(self.file.vm), &ledger).await?;
        Ok(ledger)
    }

    fn seed(&self, disk: DiskKey, capacity: u64) -> Seed {
        let id = whereabouts(&self.replicas[&disk].access);
        Seed { id, unique_id: self.env.entropy.uuid().to_string(), capacity }
    }

    /// Takes the ledger of another owner, knowingly.
    async fn take_over(&self) -> Result<Ledger, Failure> {
        let name = names::ledger(self.file.vm);
        let message = format!("the other owner's lease is broken; what it has sent may take effect for {} s", LEASE.as_secs());
        self.waiting(Reason::TakingOver, message);
        let env = &self.env;
        Ok(self.steward().take_over(&name, &self.file.owner, env.clock.clone(), env.entropy.as_ref()).await?)
    }

    /// The ledger under its lease.
    async fn hold_ledger(&self) -> Result<Held<Ledger>, Failure> {
        let env = &self.env;
        mend::hold(&self.file, env.store.clone(), &env.keys, env.clock.clone(), env.entropy.as_ref(), self.listener.as_ref()).await
    }

    /// Makes sure that every seed is the one that the ledger names, and makes those that are missing.
    async fn seat(&self, mut ledger: Ledger) -> Result<Ledger, Failure> {
        let sizes = self.images.sizes();
        let mut missing = BTreeMap::new();
        for (disk, size) in sizes {
            match ledger.seeds.get(&disk) {
                Some(seed) if self.is_there(disk, seed).await? => {}
                // Nothing was ever written to it, so a new one is as good as the old one was.
                Some(seed) if ledger.turn == Turn(0) && seed.capacity == size => self.make(disk, seed, ledger.turn).await?,
                Some(_) => {
                    let told = "its seed is gone; a new one is made, and the disk is sent in full";
                    self.listener.tell(RunEvent::Warning(format!("disk {disk}: {told}")));
                    missing.insert(disk, self.seed(disk, size));
                }
                None => {
                    self.vacant(disk).await?;
                    self.listener.tell(RunEvent::Warning(format!("disk {disk} is new; it is sent in full")));
                    missing.insert(disk, self.seed(disk, size));
                }
            }
        }
        if missing.is_empty() {
            return Ok(ledger);
        }
        let mut held = self.hold_ledger().await?;
        // What was seen without the lease is only worth something where nobody wrote in between.
        if *held.value() == ledger {
            for (disk, seed) in &missing {
                ledger = ledger.reseed(*disk, seed.clone());
            }
            held.write(ledger.clone()).await?;
        } else {
            held.release().await;
            return Err(StoreError::Changed(names::ledger(self.file.vm)).into());
        }
        held.release().await;
        for (disk, seed) in &missing {
            self.make(*disk, seed, ledger.turn).await?;
        }
        Ok(ledger)
    }

    /// True where the seed is there; false where there is nothing, or an upload disk that is no seed yet. Anything else is not ours to touch.
    async fn is_there(&self, disk: DiskKey, seed: &Seed) -> Result<bool, Failure> {
        let about = |error: ReplicaError| Failure::from(error).about(format_args!("disk {disk}"));
        match self.reach(disk, Purpose::Write).await {
            Ok(found) => {
                let id = found.unique_id().await.map_err(about)?;
                if id == seed.unique_id {
                    let capacity = found.capacity();
                    return if capacity >= seed.capacity {
                        Ok(true)
                    } else {
                        Err(about(ReplicaError::TooSmall { capacity, needed: seed.capacity }))
                    };
                }
            }
            Err(ReplicaError::WrongSeed { .. }) => {}
            Err(error) => return Err(about(error)),
        }
        self.vacant(disk).await.map(|()| false)
    }

    /// An error where a seed can't be made because something is there already.
    async fn vacant(&self, disk: DiskKey) -> Result<(), Failure> {
        let refuse = |why: String, remedy: &str| {
            Err(Failure::new(Kind::ReplicaRefused, format!("disk {disk}: {why}"), remedy).because(Reason::SeedReplaced))
        };
        let replica = &self.replicas[&disk];
        let place = whereabouts(&replica.access);
        if let ReplicaAccess::File { path } = &replica.access {
            return match std::fs::symlink_metadata(path) {
                Ok(_) => refuse(format!("{place} exists, and is not the seed of this VM"), FOREIGN),
                Err(error) if error.kind() == ErrorKind::NotFound => match path.parent() {
                    Some(folder) if !folder.is_dir() => refuse(
                        format!("{} is not a folder", folder.display()),
                        "Make the replica's folder, or mount what it lies on, and run again.",
                    ),
                    _ => Ok(()),
                },
                Err(error) => refuse(format!("{place}: {error}"), FOREIGN),
            };
        }
        let upload = matches!(replica.access, ReplicaAccess::DiskSas { .. });
        match self.reach(disk, Purpose::Verify).await {
            Err(ReplicaError::WrongSeed { found, .. }) if found == NO_SEED && !upload => Ok(()),
            Ok(found) if upload => match found.unique_id().await {
                Ok(id) if id == NO_SEED => Ok(()),
                Ok(id) => refuse(format!("{place} is the seed {id}, which is not of this VM"), FOREIGN),
                Err(error) => Err(Failure::from(error).about(format_args!("disk {disk}"))),
            },
            Ok(_) | Err(ReplicaError::WrongSeed { .. }) => {
                refuse(format!("at {place} is something else than the seed of this VM"), FOREIGN)
            }
            Err(error) => Err(Failure::from(error).about(format_args!("disk {disk}"))),
        }
    }

    async fn make(&self, disk: DiskKey, seed: &Seed, turn: Turn) -> Result<(), Failure> {
        let about = |error: ReplicaError| match error {
            ReplicaError::WrongSeed { .. } => Failure::from(error).with_remedy(FOREIGN).about(format_args!("disk {disk}")),
            error => Failure::from(error).about(format_args!("disk {disk}")),
        };
        let unique_id = Uuid::parse_str(&seed.unique_id).map_err(|_| {
            Failure::from(LogError::damaged(&names::ledger(self.file.vm), format!("the unique id of disk {disk} is no uuid")))
        })?;
        let replica = &self.replicas[&disk];
        let (clock, capacity) = (self.env.clock.clone(), seed.capacity);
        match &replica.access {
            ReplicaAccess::File { path } => drop(RawFileDisk::create(path, capacity, unique_id).await.map_err(about)?),
            ReplicaAccess::PageBlob { url } => {
                drop(PageBlobDisk::create(url.expose().clone(), &replica.auth, clock, turn.0, capacity, unique_id).await.map_err(about)?);
            }
            ReplicaAccess::DiskSas { url, api_version } => {
                let made = DiskSasDisk::format(url.expose().clone(), clock, api_version.as_deref(), capacity, unique_id).await;
                drop(made.map_err(about)?);
            }
        }
        Ok(())
    }

    async fn reach(&self, disk: DiskKey, purpose: Purpose) -> Result<Arc<dyn ReplicaDisk>, ReplicaError> {
        let replica = &self.replicas[&disk];
        access::open(&replica.access, purpose, &replica.auth, self.env.clock.clone()).await
    }

    pub(super) fn waiting(&self, reason: Reason, message: String) {
        self.env.progress.note(Event::Waiting { reason, message });
    }
}

pub(super) fn of_another(ledger: &Ledger) -> Failure {
    let message = format!("the replica belongs to {}", ledger.owner);
    let remedy = "Name that owner in the file if it is you; or run with --take-over, once nobody else works on the replica.";
    Failure::new(Kind::LedgerOfAnother, message, remedy)
}
