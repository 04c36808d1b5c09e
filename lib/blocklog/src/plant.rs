//! Faults that can be planted on purpose, to prove that the schedules would find them. Only code built with the feature `plant` has them; in
//! every other build [`planted`] is `false` and the compiler removes the branch.

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// The manifest is written before its last segments are durable.
    ManifestBeforeSegments,
    /// Change IDs advance with the dirty mark.
    ChangeIdBeforeClean,
    /// Writes are sent to the replica without any fence.
    NoFence,
    /// The fence is raised only when a begun cycle is taken over.
    FenceOnlyAtTakeOver,
    /// The blocks of a begun cycle keep their fingerprints.
    FingerprintsOfBegunKept,
    /// Blocks written in part keep their fingerprints.
    FingerprintsOfPartialKept,
    /// A cycle is applied whatever it was computed from.
    BasisUnchecked,
    /// A gateway that takes over goes on in its predecessor's epoch, with its data key.
    EpochReused,
    /// A cycle writes without a dirty mark.
    DirtyMarkLeftOut,
    /// A new seed keeps the baseline and the fingerprints of the old one.
    BaselineKeptForNewSeed,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::ManifestBeforeSegments,
        Self::ChangeIdBeforeClean,
        Self::NoFence,
        Self::FenceOnlyAtTakeOver,
        Self::FingerprintsOfBegunKept,
        Self::FingerprintsOfPartialKept,
        Self::BasisUnchecked,
        Self::EpochReused,
        Self::DirtyMarkLeftOut,
        Self::BaselineKeptForNewSeed,
    ];
}

#[cfg(feature = "plant")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Plant>> = const { std::cell::Cell::new(None) };
}

/// Plants a fault for the current thread, or none. The schedules run on one thread.
#[cfg(feature = "plant")]
pub fn plant(fault: Option<Plant>) {
    PLANTED.set(fault);
}

/// True where this fault is planted.
#[cfg(feature = "plant")]
#[must_use]
pub fn planted(fault: Plant) -> bool {
    PLANTED.get() == Some(fault)
}

/// True where this fault is planted: never, in this build.
#[cfg(not(feature = "plant"))]
#[must_use]
#[inline(always)]
pub const fn planted(_: Plant) -> bool {
    false
}
