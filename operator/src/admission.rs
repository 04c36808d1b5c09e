//! Which of the cycles that are due may begin: one cycle a VM, the disks of an appliance and of each of its hosts, initial cycles before deltas, and each
//! of them first come first served.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// A cycle that goes on, with the slots that it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub vm: String,
    /// The host that its VM is on now: limits follow a vMotion. None where that is not known.
    pub host: Option<String>,
    /// Disks that it transfers at a time, or may.
    pub disks: usize,
}

/// A VM whose cycle is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub vm: String,
    /// The host that its VM is on now, where that is known.
    pub host: Option<String>,
    pub disks: usize,
    /// Whether there is no replica of it yet: such go before deltas.
    pub initial: bool,
    /// Since when it is due.
    pub since: Timestamp,
}

/// How many disks may transfer at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub appliance: usize,
    pub host: usize,
}

impl Limits {
    /// How many of a VM's disks transfer at a time. One with more than a limit allows goes alone, so many at a time.
    #[must_use]
    pub fn at_a_time(&self, disks: usize) -> usize {
        disks.min(self.appliance).min(self.host).max(1)
    }
}

/// What disk slots are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    Appliance,
    /// A host, by its name.
    Host(String),
}

impl Resource {
    /// Whether a VM on this host takes slots of it.
    fn is_for(&self, host: Option<&String>) -> bool {
        match self {
            Self::Appliance => true,
            Self::Host(name) => host == Some(name),
        }
    }
}

/// Whether a cycle may begin now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    Start,
    /// Slots are taken.
    Full {
        of: Resource,
        /// Slots in use.
        used: usize,
        total: usize,
        holders: Vec<String>,
        /// The place among those that wait for them, from 1.
        position: usize,
    },
}

/// Whether `me` may begin, seen all that goes on and all others that wait.
#[must_use]
pub fn admit(me: &Candidate, holders: &[Holder], waiting: &[Candidate], limits: Limits) -> Admission {
    let mut before: Vec<&Candidate> = waiting.iter().filter(|other| place(other) < place(me)).collect();
    before.sort_by(|one, other| place(one).cmp(&place(other)));
    let mut free = Free::beside(holders, limits);
    for other in &before {
        free.pass(other);
    }
    let Some(of) = free.lacks(me) else { return Admission::Start };
    let position = 1 + before.iter().filter(|other| of.is_for(other.host.as_ref())).count();
    let mine = || holders.iter().filter(|holder| of.is_for(holder.host.as_ref()));
    Admission::Full {
        used: mine().map(|holder| holder.disks).sum(),
        total: if of == Resource::Appliance { limits.appliance } else { limits.host },
        holders: mine().map(|holder| holder.vm.clone()).take(10).collect(),
        position,
        of,
    }
}

fn place(candidate: &Candidate) -> (bool, Timestamp, &str) {
    (!candidate.initial, candidate.since, &candidate.vm)
}

/// Slots that nobody has, and nobody waits for.
struct Free<'a> {
    limits: Limits,
    appliance: usize,
    /// Those of hosts that somebody has some of.
    hosts: BTreeMap<&'a str, usize>,
}

impl<'a> Free<'a> {
    fn beside(holders: &'a [Holder], limits: Limits) -> Self {
        let mut free = Self { limits, appliance: limits.appliance, hosts: BTreeMap::new() };
        for holder in holders {
            free.grant(holder.host.as_deref(), holder.disks);
        }
        free
    }

    fn grant(&mut self, host: Option<&'a str>, disks: usize) {
        self.appliance = self.appliance.saturating_sub(disks);
        if let Some(host) = host {
            let left = self.hosts.entry(host).or_insert(self.limits.host);
            *left = left.saturating_sub(disks);
        }
    }

    /// What a candidate lacks, its host before the appliance.
    fn lacks(&self, candidate: &Candidate) -> Option<Resource> {
        let needs = self.limits.at_a_time(candidate.disks);
        let host = candidate.host.as_ref().filter(|host| self.hosts.get(host.as_str()).is_some_and(|left| *left < needs));
        host.cloned().map(Resource::Host).or((self.appliance < needs).then_some(Resource::Appliance))
    }

    /// One that is before others begins, or keeps what it lacks from them: a VM with many disks gets its turn. The appliance's slots it keeps
    /// only once its host has some for it, so that a full host keeps nobody of another one waiting.
    fn pass(&mut self, candidate: &'a Candidate) {
        let host = candidate.host.as_deref();
        match self.lacks(candidate) {
            None => self.grant(host, self.limits.at_a_time(candidate.disks)),
            Some(Resource::Appliance) => self.appliance = 0,
            Some(Resource::Host(_)) => self.hosts.extend(host.map(|host| (host, 0))),
        }
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
