//! What stands for the operator: it starts cycles, orders, and cleans up by the rules of the design, looks at the world every few seconds, and
//! now and then does what operators, admins and second clusters do at the wrong moment.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use blocklog::{
    cycle::{Manifest, Order, OrderSeed, Phase, State},
    document,
    ids::{Cycle, CycleId, Digest, DiskKey, Incarnation, Owner},
    ledger::{Ledger, Refusal, Seed},
    names,
    steward::{Look, Steward},
    store::{LeaseId, LogStore, When},
};
use replica::{ReplicaDisk, ReplicaError};
use uuid::Uuid;
use worker::{
    applier::{self, ReplicaOpener},
    cpu::Inline,
    env::{Env, Limits, Silent},
    gateway,
    throttle::Throttle,
};

use crate::{
    scheduler::{ActorId, SeededEntropy},
    vm::{Control, DISKS},
    world::{ActorDisk, ActorStore, BLOCK, VM, World},
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(3);

/// A cluster that acts, and the mirror of the ledger in its objects' status.
#[derive(Clone)]
struct Cluster {
    owner: Owner,
    incarnation: Incarnation,
}

#[derive(Default)]
struct Now {
    cycle: Option<CycleId>,
    gateways: Vec<ActorId>,
    appliers: Vec<ActorId>,
    /// Order taken back; not placed again before this time.
    cancelled_until: Duration,
    refused: bool,
    partial: bool,
    started: Duration,
}

/// The operator. Clones are the same one.
#[derive(Clone)]
pub struct Operator {
    world: World,
    cluster: Arc<Mutex<Cluster>>,
    now: Arc<Mutex<Now>>,
    calm: Arc<Mutex<bool>>,
}

impl Operator {
    /// Creates the ledger and looks at the world from now on.
    pub fn start(world: &World) -> Self {
        let operator = Self::idle(world);
        operator.again();
        operator
    }

    /// Creates the ledger, and does only what it is told.
    pub fn idle(world: &World) -> Self {
        let cluster = Cluster {
            owner: Owner { cluster: "one".to_owned(), object: "default/vm".to_owned() },
            incarnation: Incarnation(Uuid::from_u128(1)),
        };
        let seeds = DISKS.iter().map(|(disk, capacity)| (*disk, seed(u128::from(disk.0), *capacity))).collect();
        let ledger = Ledger::new(VM, cluster.owner.clone(), cluster.incarnation, BLOCK, seeds);
        let operator = Self { world: world.clone(), cluster: Arc::new(Mutex::new(cluster)), now: Arc::default(), calm: Arc::default() };
        operator.put(&names::ledger(VM), &ledger, When::Absent, None);
        operator
    }

    /// Starts the next cycle and runs its gateway to the end.
    pub fn send(&self, full: bool) -> CycleId {
        self.start_cycle(&self.world.ledger().unwrap());
        let of = self.now.lock().unwrap().cycle.take().unwrap();
        self.run_gateway(of, full);
        of
    }

    /// Runs a gateway for a cycle until it ends.
    pub fn run_gateway(&self, of: CycleId, full: bool) {
        let cluster = self.cluster.lock().unwrap().clone();
        self.run(self.gateway(&cluster, of, full));
    }

    /// Writes the order for a cycle that is sent.
    pub fn place_order(&self, of: CycleId) {
        let cluster = self.cluster.lock().unwrap().clone();
        let (manifest, digest) = self.world.read::<Manifest>(&names::manifest(of)).unwrap();
        self.put(
            &names::order(&cluster.owner, VM),
            &self.order(&cluster, &manifest, digest, &self.world.ledger().unwrap()),
            When::Always,
            None,
        );
    }

    /// Runs an applier until it ends.
    pub fn run_applier(&self) {
        let cluster = self.cluster.lock().unwrap().clone();
        self.run(self.applier(&cluster));
    }

    /// Runs an applier as its pod does: what it could not do is written down.
    pub fn run_pod(&self) {
        let (operator, owner) = (self.clone(), self.cluster.lock().unwrap().owner.clone());
        let actor = self.world.sim.spawn(async move {
            let env = operator.env(0);
            let opener = Opener { world: operator.world.clone(), actor: 0 };
            let name = names::order(&owner, VM);
            let (order, _) = document::require::<Order>(env.store.as_ref(), &env.keys, &name).await.unwrap();
            let end = applier::carry_out(&env, &opener, name.clone(), order.clone(), std::future::pending()).await;
            operator.world.sim.note(format!("applier: {end:?}"));
            if let Err(error) = end {
                applier::note_setback(&env, &name, &order, &error).await.unwrap();
            }
        });
        self.run(actor);
    }

    /// What is to be done by the log alone, as an operator asks.
    pub fn look_at_log(&self) -> Look {
        let (ledger, cluster) = (self.world.ledger().unwrap(), self.cluster.lock().unwrap().clone());
        self.world.now(self.steward().look(&ledger, &cluster.owner, |_| {})).unwrap()
    }

    /// Claims a number for a new cycle.
    pub fn claim(&self, above: Cycle) -> CycleId {
        let (ledger, cluster) = (self.world.ledger().unwrap(), self.cluster.lock().unwrap().clone());
        self.world.now(self.steward().claim(&ledger, &cluster.owner, above)).unwrap()
    }

    /// Takes the order back.
    pub fn drop_order(&self) {
        self.delete(&names::order(&self.cluster.lock().unwrap().owner, VM));
    }

    /// The real operator's part in the log.
    pub fn steward(&self) -> Steward {
        Steward { store: self.world.store.clone(), keys: self.world.keys.clone() }
    }

    fn run(&self, actor: ActorId) {
        while self.world.sim.alive(actor) {
            assert_eq!(self.world.sim.violation(), None);
            self.world.sim.run(self.world.sim.now() + EVERY);
        }
    }

    /// From now on nothing goes wrong any more.
    pub fn calm_down(&self) {
        *self.calm.lock().unwrap() = true;
    }

    fn again(&self) {
        let operator = self.clone();
        self.world.sim.at(EVERY, move || {
            operator.look();
            operator.again();
        });
    }

    fn chance(&self, one_in: u64) -> bool {
        !*self.calm.lock().unwrap() && self.world.sim.random(|r| r.one_in(one_in))
    }

    fn put<D: document::Document>(&self, name: &str, document: &D, when: When, lease: Option<LeaseId>) -> bool {
        let bytes = document::encode(&self.world.keys, name, document).unwrap();
        let done = self.world.now(self.world.store.put(name, bytes, when, lease)).is_ok();
        if done {
            self.world.look(name);
        }
        done
    }

    fn delete(&self, name: &str) {
        // One that is leased stays.
        let _ = self.world.now(self.world.store.delete(name, None));
    }

    fn look(&self) {
        let world = &self.world;
        for _ in 0..world.sim.random(|r| r.below(3)) {
            world.vm.guest_writes();
        }
        if self.chance(120) {
            world.sim.note("the VM is reverted");
            world.vm.revert();
        }
        if self.chance(60) {
            world.sim.note("an admin removes our snapshots");
            world.vm.lose_snapshots();
        }
        let Some(ledger) = world.ledger() else { return };
        if self.chance(150) {
            let (disk, _) = DISKS[world.sim.random(|r| r.below(2)) as usize];
            let id = Uuid::from_u128(u128::from(world.sim.random(|r| r.next())));
            world.sim.note(format!("the seed of disk {disk} is replaced by an empty one"));
            world.hosts[&disk].replace_with_empty(Some(id), 0);
        }
        if self.chance(200) {
            self.take_over();
            return;
        }
        if !self.reseed(&ledger) {
            return;
        }
        let cycle = self.now.lock().unwrap().cycle;
        match cycle {
            None => self.start_cycle(&ledger),
            Some(of) => self.go_on(of, &ledger),
        }
    }

    /// A seed that is not the ledger's is made anew, under the ledger's lease. False while that waits.
    fn reseed(&self, ledger: &Ledger) -> bool {
        let world = &self.world;
        for (disk, capacity) in DISKS {
            if world.seed_id(disk) == ledger.seeds[&disk].unique_id {
                continue;
            }
            let (name, lease) = (names::ledger(VM), LeaseId(Uuid::from_u128(u128::from(world.sim.random(|r| r.next())))));
            if world.now(world.store.acquire(&name, lease)).is_err() {
                return false;
            }
            if let Some(ledger) = world.ledger() {
                // What is found is not trusted: nobody knows what wrote it. The new seed is one of our own making.
                let id = u128::from(world.sim.random(|r| r.next()));
                world.hosts[&disk].replace_with_empty(Some(Uuid::from_u128(id)), ledger.turn.next().0);
                world.sim.note(format!("re-seed of disk {disk}"));
                self.put(&name, &ledger.reseed(disk, seed(id, capacity)), When::Always, Some(lease));
            }
            let _ = world.now(world.store.release(&name, lease));
            return false;
        }
        true
    }

    /// A second cluster takes the replica over: breaks the lease, waits, and writes. The first cluster's workers go on, and are refused.
    fn take_over(&self) {
        let world = &self.world;
        let n = world.sim.random(|r| r.next());
        let next = Cluster {
            // No two of the same name: the order of the first would stand where the second's belongs.
            owner: Owner { cluster: format!("c{n}"), object: "default/vm".to_owned() },
            incarnation: Incarnation(Uuid::from_u128(u128::from(n))),
        };
        world.sim.note(format!("{} takes over", next.owner));
        let (name, lease) = (names::ledger(VM), LeaseId(Uuid::from_u128(u128::from(n) + 1)));
        let _ = world.now(world.store.break_lease(&name));
        if world.now(world.store.acquire(&name, lease)).is_err() {
            return;
        }
        let operator = self.clone();
        // It keeps the lease while it waits, in two halves, and writes only then.
        let wait = Duration::from_secs(31);
        let (inner, keep) = (self.clone(), name.clone());
        world.sim.at(wait, move || {
            let _ = inner.world.now(inner.world.store.renew(&keep, lease));
        });
        world.sim.at(wait * 2, move || {
            let world = &operator.world;
            let Some(ledger) = world.ledger() else { return };
            if operator.put(&name, &ledger.take_over(next.owner.clone(), next.incarnation), When::Always, Some(lease)) {
                *operator.cluster.lock().unwrap() = next;
                *operator.now.lock().unwrap() = Now::default();
            }
            let _ = world.now(world.store.release(&name, lease));
        });
    }

    fn start_cycle(&self, ledger: &Ledger) {
        let world = &self.world;
        let cluster = self.cluster.lock().unwrap().clone();
        if ledger.owner != cluster.owner {
            return;
        }
        // Status restored from a backup: the mirror shows the ledger as it was.
        let stale = if self.chance(6) { world.older_ledger().filter(|old| old.incarnation == ledger.incarnation) } else { None };
        let mirror = stale.as_ref().unwrap_or(ledger);
        if let Some(stale) = &stale {
            world.sim.note(format!("status as of turn {} is restored", stale.turn));
        }
        let mut cycle = mirror.begun;
        loop {
            cycle = blocklog::cycle::next(cycle);
            let of = CycleId { vm: VM, incarnation: cluster.incarnation, cycle };
            if self.put(&names::state(of), &State::new(of, cluster.owner.clone(), mirror.turn), When::Absent, None) {
                world.sim.note(format!("cycle {cycle} from turn {}", mirror.turn));
                *self.now.lock().unwrap() = Now { cycle: Some(of), started: world.sim.now(), ..Now::default() };
                return;
            }
        }
    }

    fn go_on(&self, of: CycleId, ledger: &Ledger) {
        let world = &self.world;
        let cluster = self.cluster.lock().unwrap().clone();
        let order = names::order(&cluster.owner, VM);
        let done = ledger.is_clean() && ledger.begun == of.cycle && ledger.incarnation == of.incarnation;
        let mut now = self.now.lock().unwrap();
        // A cycle that gets nowhere is given up in the end, and superseded by the next.
        let stuck = world.sim.now() > now.started + Duration::from_secs(1200) && !done;
        if done || now.refused || now.partial || stuck {
            world
                .sim
                .note(format!("cycle {} ends: done {done}, refused {}, partial {}, stuck {stuck}", of.cycle, now.refused, now.partial));
            self.delete(&order);
            *now = Now::default();
            drop(now);
            self.clean_up(ledger);
            return;
        }
        let gateway = now.gateways.iter().any(|id| world.sim.alive(*id));
        let applier = now.appliers.iter().any(|id| world.sim.alive(*id));
        let manifest = world.read::<Manifest>(&names::manifest(of));
        let state = world.read::<State>(&names::state(of)).map(|(state, _)| state);
        let (sent, failed) = match state.as_ref().map(|state| &state.phase) {
            Some(Phase::Failed(_)) => (false, true),
            _ => (manifest.is_some(), false),
        };
        if failed && manifest.is_none() && !gateway {
            now.refused = true;
            return;
        }
        let released = state.as_ref().is_none_or(|state| state.snapshot == blocklog::cycle::SnapshotNote::Released);
        if !(gateway || sent && released) || self.chance(40) {
            let full = self.chance(5);
            let id = self.gateway(&cluster, of, full);
            now.gateways.push(id);
        }
        let Some((manifest, digest)) = manifest else { return };
        if world.sim.now() < now.cancelled_until {
            return;
        }
        if world.store.peek(&order).is_none() {
            self.put(&order, &self.order(&cluster, &manifest, digest, ledger), When::Always, None);
        } else if applier && self.chance(12) {
            world.sim.note("the order is taken back");
            self.delete(&order);
            now.cancelled_until = world.sim.now() + world.sim.random(|r| r.millis(0, 200_000));
            if world.sim.random(|r| r.one_in(2)) {
                now.refused = true;
            }
            return;
        }
        if !applier || self.chance(30) {
            let id = self.applier(&cluster);
            now.appliers.push(id);
        }
    }

    fn order(&self, cluster: &Cluster, manifest: &Manifest, digest: Digest, ledger: &Ledger) -> Order {
        let entropy = SeededEntropy::new(self.world.sim.random(|r| r.next()));
        let seed = |disk: &DiskKey| {
            let id = &ledger.seeds[disk].unique_id;
            OrderSeed::seal(&self.world.keys, VM, cluster.incarnation, *disk, id, b"by heart", &entropy)
        };
        let seeds = manifest.written().map(|disk| (disk, seed(&disk))).collect();
        let tokens = BTreeMap::from([("syncNow".to_owned(), format!("token-{}", manifest.of.cycle))]);
        Order { of: manifest.of, owner: cluster.owner.clone(), manifest: digest, seeds, tokens }
    }

    /// What the table of the log says may go.
    fn clean_up(&self, ledger: &Ledger) {
        let world = &self.world;
        let named = |cycle: Cycle| {
            ledger.dirty.iter().any(|begun| begun.cycle == cycle) || ledger.lost.iter().any(|lost| *lost == ledger.cycle(cycle))
        };
        for number in 1..=ledger.begun.0 {
            let of = ledger.cycle(Cycle(number));
            let over = number < ledger.begun.0 || ledger.is_clean();
            if !over {
                continue;
            }
            if world.vm.standing() == 0 {
                self.delete(&names::state(of));
            }
            for name in world.store.names().into_iter().filter(|name| name.starts_with(&names::cycle(of)) && name.ends_with(".seg")) {
                self.delete(&name);
            }
            // The schedules' own checks read the clean cycle's manifest; the next clean write lets it go.
            if !named(of.cycle) && number < ledger.begun.0 {
                self.delete(&names::manifest(of));
            }
        }
    }

    fn env(&self, actor: ActorId) -> Env {
        let world = &self.world;
        let clock: Arc<dyn blocklog::clock::Clock> = Arc::new(world.sim.clone());
        Env {
            store: Arc::new(ActorStore { world: world.clone(), actor }),
            keys: world.keys.clone(),
            throttle: Arc::new(Throttle::new(clock.clone(), None)),
            clock,
            entropy: Arc::new(SeededEntropy::new(world.sim.random(|r| r.next()))),
            cpu: Arc::new(Inline),
            limits: Limits {
                segment: 12 << 10,
                part: 5 << 10,
                memory: 64 << 10,
                reads: 3,
                uploads: 2,
                writes: 2,
                disks: 2,
                check_every: Duration::from_secs(4),
            },
            progress: Arc::new(Silent),
        }
    }

    fn gateway(&self, cluster: &Cluster, of: CycleId, full: bool) -> ActorId {
        let (operator, job) = (self.clone(), gateway::Job { of, owner: cluster.owner.clone(), full });
        // The actor learns its own number when it first runs.
        let id = Arc::new(Mutex::new(0));
        let own = Arc::clone(&id);
        let actor = self.world.sim.spawn(async move {
            let actor = *own.lock().unwrap();
            let env = operator.env(actor);
            let control = Control { vm: operator.world.vm.clone(), sim: operator.world.sim.clone(), actor };
            let end = gateway::run(&env, &control, &job).await;
            operator.world.sim.note(format!("#{actor} gateway of cycle {}: {end:?}", job.of.cycle));
        });
        *id.lock().unwrap() = actor;
        self.world.sim.note(format!("#{actor} is a gateway of cycle {}", of.cycle));
        actor
    }

    fn applier(&self, cluster: &Cluster) -> ActorId {
        let (operator, owner) = (self.clone(), cluster.owner.clone());
        let id = Arc::new(Mutex::new(0));
        let own = Arc::clone(&id);
        let actor = self.world.sim.spawn(async move {
            let actor = *own.lock().unwrap();
            let env = operator.env(actor);
            let opener = Opener { world: operator.world.clone(), actor };
            let end = applier::run(&env, &opener, &owner, VM).await;
            operator.world.sim.note(format!("#{actor} applier: {end:?}"));
            match end {
                Ok(applier::End::Refused(Refusal::OwnedByOther { .. })) => {}
                Ok(applier::End::Refused(_)) => operator.now.lock().unwrap().refused = true,
                Ok(applier::End::Partial) => operator.now.lock().unwrap().partial = true,
                _ => {}
            }
        });
        *id.lock().unwrap() = actor;
        self.world.sim.note(format!("#{actor} is an applier"));
        actor
    }
}

struct Opener {
    world: World,
    actor: ActorId,
}

#[async_trait]
impl ReplicaOpener for Opener {
    async fn open(&self, disk: DiskKey, _: &[u8]) -> Result<Arc<dyn ReplicaDisk>, ReplicaError> {
        Ok(Arc::new(ActorDisk::new(&self.world, self.actor, disk)))
    }
}

fn seed(id: u128, capacity: u64) -> Seed {
    Seed { id: "memory".to_owned(), unique_id: Uuid::from_u128(id).to_string(), capacity }
}
