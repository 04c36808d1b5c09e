//! Randomness as a dependency: production asks the operating system, the schedules a seed.

/// Fills buffers with random bytes.
pub trait Entropy: Send + Sync {
    /// Fills all of `out`.
    fn fill(&self, out: &mut [u8]);

    /// A random (version 4) UUID.
    fn uuid(&self) -> uuid::Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

/// The operating system's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) {
        // It fails only where the kernel has no randomness at all; nothing secret may be made then.
        aws_lc_rs::rand::fill(out).expect("the operating system gives random bytes");
    }
}
