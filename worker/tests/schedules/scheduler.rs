//! A deterministic scheduler: one thread, time that jumps from event to event, and every fault drawn from one seed.
//!
//! An *actor* is a worker: a future of the real code. All it can do to the world goes through [`Sim::io`], which decides by the seed when a
//! request takes effect, when its answer arrives, and what goes wrong: the actor dies before or after it, the request or the answer is lost,
//! the request arrives long after its sender has given up, or twice, or the actor falls asleep and wakes when others have gone on. What is on
//! its way when an actor dies still arrives.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use async_trait::async_trait;
use blocklog::{clock::Clock, entropy::Entropy};
use jiff::{SignedDuration, Timestamp};

/// Steele, Lea and Flood's SplitMix64: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }
}

pub type ActorId = u64;
type Event = Box<dyn FnOnce() + Send>;
type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Default)]
struct Actor {
    task: Option<Task>,
    ready: bool,
    asleep_until: Duration,
    dead: bool,
}

struct Inner {
    now: Duration,
    order: u64,
    queue: BTreeMap<(Duration, u64), Event>,
    actors: BTreeMap<ActorId, Actor>,
    random: Random,
    /// One request in so many goes wrong; 0 = none.
    fault_rate: u64,
    history: Vec<String>,
    violation: Option<String>,
}

/// The scheduler. Clones are the same one.
#[derive(Clone)]
pub struct Sim(Arc<Mutex<Inner>>);

struct Waking(Sim, ActorId);

impl Wake for Waking {
    fn wake(self: Arc<Self>) {
        if let Some(actor) = self.0.lock().actors.get_mut(&self.1) {
            actor.ready = true;
        }
    }
}

enum Fault {
    DiesBefore,
    DiesAfter,
    RequestLost,
    AnswerLost,
    Late,
    Twice,
    SleepsBefore,
    SleepsAfter,
}

/// How long a client waits for an answer: the log store's and the source's.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

impl Sim {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            now: Duration::ZERO,
            order: 0,
            queue: BTreeMap::new(),
            actors: BTreeMap::new(),
            random: Random::new(seed),
            fault_rate: 0,
            history: Vec::new(),
            violation: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub fn now(&self) -> Duration {
        self.lock().now
    }

    pub fn random<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.lock().random)
    }

    pub fn set_fault_rate(&self, one_in: u64) {
        self.lock().fault_rate = one_in;
    }

    /// Takes note of something, for whoever reads a failed schedule.
    pub fn note(&self, what: impl Into<String>) {
        let mut inner = self.lock();
        let line = format!("{:>9.3} {}", inner.now.as_secs_f64(), what.into());
        inner.history.push(line);
    }

    /// A rule is broken. The first one counts.
    pub fn violate(&self, what: impl Into<String>) {
        let what = what.into();
        self.note(format!("VIOLATION {what}"));
        self.lock().violation.get_or_insert(what);
    }

    pub fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    pub fn history(&self) -> Vec<String> {
        self.lock().history.clone()
    }

    pub fn at(&self, delay: Duration, event: impl FnOnce() + Send + 'static) {
        let mut inner = self.lock();
        let key = (inner.now + delay, inner.order);
        inner.order += 1;
        inner.queue.insert(key, Box::new(event));
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> ActorId {
        let mut inner = self.lock();
        let id = inner.order;
        inner.order += 1;
        inner.actors.insert(id, Actor { task: Some(Box::pin(task)), ready: true, ..Actor::default() });
        id
    }

    pub fn alive(&self, id: ActorId) -> bool {
        self.lock().actors.get(&id).is_some_and(|actor| !actor.dead)
    }

    pub fn kill(&self, id: ActorId) {
        if let Some(actor) = self.lock().actors.get_mut(&id) {
            actor.dead = true;
        }
    }

    fn put_to_sleep(&self, id: ActorId, length: Duration) {
        let mut inner = self.lock();
        let until = inner.now + length;
        if let Some(actor) = inner.actors.get_mut(&id) {
            actor.asleep_until = until;
        }
        drop(inner);
        // Something has to happen then, so that the actor is looked at.
        self.at(length, || {});
    }

    /// Runs until `until`, or a rule is broken, or nothing is left to do. Dead actors are dropped as soon as they are seen.
    pub fn run(&self, until: Duration) {
        while self.violation().is_none() {
            if self.poll_one() {
                continue;
            }
            let mut inner = self.lock();
            let Some(entry) = inner.queue.first_entry() else { return };
            let (at, _) = *entry.key();
            if at > until {
                inner.now = until;
                return;
            }
            let event = entry.remove();
            inner.now = inner.now.max(at);
            drop(inner);
            event();
        }
    }

    /// Ends everything that is under way: events and actors hold the scheduler, and it holds them.
    pub fn close(&self) {
        let mut inner = self.lock();
        let (queue, actors) = (std::mem::take(&mut inner.queue), std::mem::take(&mut inner.actors));
        drop(inner);
        drop((queue, actors));
    }

    /// Polls one actor that is ready, if there is one.
    fn poll_one(&self) -> bool {
        let mut inner = self.lock();
        // Futures are dropped without the lock: what they hold may want it.
        let gone: Vec<_> = inner.actors.iter().filter(|(_, actor)| actor.dead).map(|(id, _)| *id).collect();
        let dead: Vec<_> = gone.into_iter().filter_map(|id| inner.actors.remove(&id)).collect();
        let now = inner.now;
        let ready: Vec<_> = inner
            .actors
            .iter()
            .filter(|(_, actor)| actor.ready && actor.task.is_some() && actor.asleep_until <= now)
            .map(|(id, _)| *id)
            .collect();
        if ready.is_empty() {
            drop(inner);
            drop(dead);
            return false;
        }
        let id = ready[inner.random.below(ready.len() as u64) as usize];
        let actor = inner.actors.get_mut(&id).unwrap();
        actor.ready = false;
        let mut task = actor.task.take().unwrap();
        drop(inner);
        drop(dead);
        let waker = Waker::from(Arc::new(Waking(self.clone(), id)));
        let done = task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut inner = self.lock();
        let actor = inner.actors.get_mut(&id).unwrap();
        actor.dead |= done;
        if !done {
            actor.task = Some(task);
        }
        true
    }

    /// A request of `actor`. `effect` is what it does to the world, once it arrives; `lost` is what the actor sees when no answer comes.
    pub async fn io<R: Send + 'static>(
        &self,
        actor: ActorId,
        what: &str,
        mut effect: impl FnMut() -> R + Send + 'static,
        lost: impl FnOnce() -> R + Send + 'static,
    ) -> R {
        let slot: Arc<Mutex<(Option<R>, Option<Waker>)>> = Arc::default();
        let fill = {
            let slot = Arc::clone(&slot);
            move |result: R| {
                let mut slot = slot.lock().unwrap();
                slot.0.get_or_insert(result);
                if let Some(waker) = slot.1.take() {
                    waker.wake();
                }
            }
        };
        let (fault, there, back, late, nap) = self.random(|random| {
            (random.next(), random.millis(1, 20), random.millis(1, 20), random.millis(1, 90_000), random.millis(1, 150_000))
        });
        let fault = self.draw(fault);
        if let Some(fault) = &fault {
            self.note(format!("#{actor} {what}: {}", fault.word()));
        }
        let sim = self.clone();
        match fault {
            None => self.at(there, move || {
                let result = effect();
                sim.at(back, move || fill(result));
            }),
            Some(Fault::DiesBefore) => self.kill(actor),
            Some(Fault::DiesAfter) => self.at(there, move || {
                effect();
                sim.kill(actor);
            }),
            Some(Fault::RequestLost) => self.at(CLIENT_TIMEOUT, move || fill(lost())),
            Some(Fault::AnswerLost) => {
                self.at(there, move || drop(effect()));
                self.at(CLIENT_TIMEOUT, move || fill(lost()));
            }
            Some(Fault::Late) => {
                self.at(CLIENT_TIMEOUT, move || fill(lost()));
                self.at(CLIENT_TIMEOUT + late, move || drop(effect()));
            }
            Some(Fault::Twice) => self.at(there, move || {
                let result = effect();
                sim.at(back, move || fill(result));
                sim.at(late, move || drop(effect()));
            }),
            Some(Fault::SleepsBefore) => {
                self.put_to_sleep(actor, nap);
                self.at(there + nap, move || {
                    let result = effect();
                    sim.at(back, move || fill(result));
                });
            }
            Some(Fault::SleepsAfter) => {
                self.put_to_sleep(actor, nap);
                self.at(there, move || {
                    let result = effect();
                    sim.at(back, move || fill(result));
                });
            }
        }
        std::future::poll_fn(move |context| {
            let mut slot = slot.lock().unwrap();
            match slot.0.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    slot.1 = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn draw(&self, drawn: u64) -> Option<Fault> {
        let rate = self.lock().fault_rate;
        if rate == 0 || !drawn.is_multiple_of(rate) {
            return None;
        }
        Some(match (drawn / rate) % 10 {
            0 => Fault::DiesBefore,
            1 => Fault::DiesAfter,
            2 => Fault::RequestLost,
            3 => Fault::AnswerLost,
            4 | 5 => Fault::Late,
            6 | 7 => Fault::Twice,
            8 => Fault::SleepsBefore,
            _ => Fault::SleepsAfter,
        })
    }
}

impl Fault {
    fn word(&self) -> &'static str {
        match self {
            Self::DiesBefore => "dies before",
            Self::DiesAfter => "dies after",
            Self::RequestLost => "request lost",
            Self::AnswerLost => "answer lost",
            Self::Late => "arrives late",
            Self::Twice => "arrives twice",
            Self::SleepsBefore => "falls asleep before",
            Self::SleepsAfter => "falls asleep after",
        }
    }
}

#[async_trait]
impl Clock for Sim {
    fn now(&self) -> Timestamp {
        Timestamp::constant(1_735_689_600, 0) + SignedDuration::try_from(self.now()).unwrap()
    }

    fn monotonic(&self) -> Duration {
        self.now()
    }

    async fn sleep(&self, length: Duration) {
        let until = self.now() + length;
        let mut armed = false;
        std::future::poll_fn(move |context| {
            if self.now() >= until {
                return Poll::Ready(());
            }
            // An actor that was asleep is polled late: then it is late.
            let waker = context.waker().clone();
            if !armed {
                armed = true;
                self.at(until - self.now(), move || waker.wake());
            }
            Poll::Pending
        })
        .await;
    }
}

/// Randomness of one actor, from the schedule's seed.
pub struct SeededEntropy(Mutex<Random>);

impl SeededEntropy {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(Random::new(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) {
        let mut random = self.0.lock().unwrap();
        out.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]));
    }
}
