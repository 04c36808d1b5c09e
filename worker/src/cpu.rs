//! Where blocks are hashed, packed and encrypted: off the async threads.

use tokio::sync::oneshot;

/// A job for a [`CpuPool`].
pub type Job = Box<dyn FnOnce() + Send>;

/// Threads for computing.
pub trait CpuPool: Send + Sync {
    /// How many jobs run at a time.
    fn width(&self) -> usize;

    /// Runs the job, at some time, once.
    fn spawn(&self, job: Job);
}

/// Runs `work` on the pool and gives its result. Dropping the future abandons the result, not the work.
pub async fn run<T: Send + 'static>(pool: &dyn CpuPool, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = oneshot::channel();
    // A receiver that is gone wants no result.
    pool.spawn(Box::new(move || drop(sender.send(work()))));
    match receiver.await {
        Ok(result) => result,
        // The pool dropped the job: it is being shut down, and so is whoever waits here.
        Err(_) => std::future::pending().await,
    }
}

/// Computes at once, on the caller's thread: for the schedules, where everything happens in one order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inline;

impl CpuPool for Inline {
    fn width(&self) -> usize {
        1
    }

    fn spawn(&self, job: Job) {
        job();
    }
}

/// Threads of its own.
pub struct Threads(rayon::ThreadPool);

impl Threads {
    /// A pool of `width` threads.
    ///
    /// # Errors
    /// Where the operating system gives no threads.
    pub fn new(width: usize) -> std::io::Result<Self> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(width.max(1))
            .thread_name(|n| format!("cpu-{n}"))
            .build()
            .map(Self)
            .map_err(std::io::Error::other)
    }
}

impl CpuPool for Threads {
    fn width(&self) -> usize {
        self.0.current_num_threads()
    }

    fn spawn(&self, job: Job) {
        self.0.spawn_fifo(job);
    }
}
