//! Waiting for tasks.
//!
//! There is no fixed end to it: a removal of 500 GB takes hours, and one that is given up on goes on anyway and is in the way of the next. What
//! a wait tells instead is whether the task gets on.

use std::time::Duration;

use crate::{
    classify::{Class, Doing, classify},
    error::Error,
    fault::Fault,
    methods::properties::Wanted,
    model::task::{Task, TaskState},
    moref::MoRef,
    session::Client,
};

const FIRST_LOOK: Duration = Duration::from_millis(250);
const LAST_LOOK: Duration = Duration::from_secs(5);

/// How patient a wait is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A task whose progress has not changed for so long is told as stalled (and waited for all the same).
    pub stall_after: Duration,
    /// A vCenter that has not answered for so long is an error. The task goes on, and is found again by its id.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { stall_after: Duration::from_secs(900), silence: Duration::from_secs(120) }
    }
}

/// What a wait tells on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It waits in vCenter, or runs; how far, in percent.
    Running {
        /// The task.
        task: MoRef,
        /// What it does.
        name: String,
        /// How far it is, if told.
        percent: Option<u8>,
    },
    /// Nothing has moved.
    Stalled {
        /// The task.
        task: MoRef,
        /// What it does.
        name: String,
        /// How far it is, if told.
        percent: Option<u8>,
        /// For how long.
        since: Duration,
    },
}

/// How a task has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well; what it has made, if that is an object.
    Done(Option<MoRef>),
    /// Not well.
    Failed(Box<Fault>),
    /// vCenter does not know it any more: it was restarted, or the task ended long ago. What it did has to be looked for.
    Forgotten,
}

impl Client {
    /// A task.
    ///
    /// # Errors
    /// [`Error`]; `ManagedObjectNotFound` where vCenter does not know it any more.
    pub async fn task(&self, task: &MoRef) -> Result<Task, Error> {
        let content = self.read(task, &["info"]).await?;
        match content.property("info") {
            Some(info) => Task::read(info),
            None => Err(Error::answer("TaskInfo", "it is not told")),
        }
    }

    /// Some tasks. Those that are gone are left out.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn tasks(&self, tasks: &[MoRef]) -> Result<Vec<Task>, Error> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let found = match self.retrieve(&[Wanted { kind: "Task", paths: &["info"] }], tasks).await {
            // A server that says of all of them that one is gone.
            Err(error) if error.is("ManagedObjectNotFound") && tasks.len() > 1 => {
                let mut found = Vec::new();
                for task in tasks {
                    match self.read(task, &["info"]).await {
                        Ok(content) => found.push(content),
                        Err(error) if error.is("ManagedObjectNotFound") => {}
                        Err(error) => return Err(error),
                    }
                }
                found
            }
            Err(error) if error.is("ManagedObjectNotFound") => Vec::new(),
            result => result?,
        };
        found.iter().filter_map(|content| content.property("info")).map(Task::read).collect()
    }

    /// Waits until a task has ended, whoever started it, however long that takes.
    ///
    /// # Errors
    /// [`Error`] where vCenter keeps silent for longer than `patience` allows, or refuses us.
    pub async fn wait(&self, task: &MoRef, patience: Patience, tell: &mut (dyn FnMut(Progress) + Send)) -> Result<Outcome, Error> {
        let clock = self.clock().clone();
        let mut look = FIRST_LOOK;
        let (mut heard, mut moved) = (clock.monotonic(), clock.monotonic());
        let mut last = None;
        loop {
            match self.task(task).await {
                Ok(found) => {
                    heard = clock.monotonic();
                    let percent = match found.state {
                        TaskState::Success(result) => return Ok(Outcome::Done(result)),
                        TaskState::Error(fault) => return Ok(Outcome::Failed(fault)),
                        TaskState::Running(percent) => percent,
                        TaskState::Queued => None,
                    };
                    if last != Some(percent) {
                        (last, moved) = (Some(percent), heard);
                        tell(Progress::Running { task: task.clone(), name: found.name, percent });
                    } else if heard.saturating_sub(moved) >= patience.stall_after {
                        tell(Progress::Stalled { task: task.clone(), name: found.name, percent, since: heard.saturating_sub(moved) });
                    }
                }
                Err(error) if error.is("ManagedObjectNotFound") => return Ok(Outcome::Forgotten),
                Err(error) if classify(&error, Doing::Other).class != Class::Retry => return Err(error),
                Err(error) if clock.monotonic().saturating_sub(heard) >= patience.silence => return Err(error),
                Err(error) => tracing::debug!(%error, %task, "looking at a task"),
            }
            clock.sleep(look).await;
            look = (look * 2).min(LAST_LOOK);
        }
    }
}
