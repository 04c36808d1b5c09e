//! What is written down for people, and for the operator, when a try came to nothing.

use blocklog::{LogError, cycle::Order, document, ledger::Ledger, names, setback::Setback, store::When};

use super::ApplierError;
use crate::env::Env;

/// The longest message. An event takes a kilobyte.
const MESSAGE: usize = 900;

/// Writes down that the order `order`, read from the blob `name`, could not be carried out: one write. What was written, or None where there
/// is nothing to say: the order is not there any more, or is another cycle's, or the cycle was given up before.
///
/// # Errors
/// The store's; [`blocklog::store::StoreError::Changed`] and [`blocklog::store::StoreError::Exists`] where another applier was quicker.
pub async fn note_setback(env: &Env, name: &str, order: &Order, error: &ApplierError) -> Result<Option<Setback>, LogError> {
    let (store, keys) = (env.store.as_ref(), &env.keys);
    // One that is taken back needs no word, and a blob written now might outlive the VM's folder.
    match document::read::<Order>(store, keys, name).await? {
        Some((now, _)) if now.of == order.of => {}
        _ => return Ok(None),
    }
    let place = names::setback(order.of);
    let found = store.get(&place).await?;
    // One that can't be read says nothing, and is replaced.
    let before = found.as_ref().and_then(|blob| document::decode::<Setback>(keys, &place, &blob.body).ok());
    let ledger = document::read::<Ledger>(store, keys, &names::ledger(order.of.vm)).await.ok().flatten();
    let now = env.clock.now();
    let setback = Setback {
        of: order.of,
        reason: error.reason(),
        message: error.to_string().chars().take(MESSAGE).collect(),
        disk: error.disk(),
        tries: 1,
        first: now,
        last: now,
        turn: ledger.map(|(ledger, _)| ledger.turn),
        for_good: error.is_for_good(order.of),
    };
    let Some(setback) = setback.following(before.as_ref()) else { return Ok(None) };
    let when = found.map_or(When::Absent, |blob| When::Matches(blob.etag));
    store.put(&place, document::encode(keys, &place, &setback)?, when, None).await?;
    Ok(Some(setback))
}

#[cfg(test)]
mod tests {
    use blocklog::{
        ids::{Cycle, CycleId, DiskCycle, DiskKey, Epoch, Incarnation, Owner, Turn, VmId},
        store::StoreError,
    };
    use replica::ReplicaError;
    use uuid::Uuid;

    use super::*;

    const DISK: DiskKey = DiskKey(2000);

    fn of(cycle: u64) -> CycleId {
        let vm = VmId { vcenter: Uuid::from_u128(1), instance: Uuid::from_u128(2) };
        CycleId { vm, incarnation: Incarnation(Uuid::from_u128(3)), cycle: Cycle(cycle) }
    }

    fn text() -> String {
        "x".to_owned()
    }

    // In each of these the match has no wildcard: a variant that is added has to be added to the list beside it.

    fn stores() -> Vec<StoreError> {
        let all = [
            StoreError::NotFound,
            StoreError::Exists,
            StoreError::Changed,
            StoreError::Leased,
            StoreError::LeaseLost,
            StoreError::Unreachable,
            StoreError::ContainerMissing,
            StoreError::Denied,
            StoreError::Full,
            StoreError::Failed,
        ];
        let all: Vec<_> = all.into_iter().map(|variant| variant(text())).collect();
        for error in &all {
            match error {
                StoreError::NotFound(_) | StoreError::Exists(_) | StoreError::Changed(_) | StoreError::Leased(_) => {}
                StoreError::LeaseLost(_) | StoreError::Unreachable(_) | StoreError::Denied(_) | StoreError::Full(_) => {}
                StoreError::ContainerMissing(_) | StoreError::Failed(_) => {}
            }
        }
        all
    }

    fn logs() -> Vec<LogError> {
        let mut all = vec![
            LogError::Missing(text()),
            LogError::damaged("x", "y"),
            LogError::UnknownVersion { name: text(), found: text(), known: 1 },
            LogError::WrongKey { version: 1 },
            LogError::KeyMissing { name: text(), version: 1 },
        ];
        all.extend(stores().into_iter().map(LogError::Store));
        for error in &all {
            match error {
                LogError::Store(_) | LogError::Missing(_) | LogError::Damaged { .. } | LogError::UnknownVersion { .. } => {}
                LogError::WrongKey { .. } | LogError::KeyMissing { .. } => {}
            }
        }
        all
    }

    fn replicas() -> Vec<ReplicaError> {
        let all = vec![
            ReplicaError::Fenced { turn: 1 },
            ReplicaError::WrongSeed { expected: text(), found: text() },
            ReplicaError::TooSmall { capacity: 1, needed: 2 },
            ReplicaError::Full(text()),
            ReplicaError::Unreachable(text()),
            ReplicaError::PermitEnds { until: jiff::Timestamp::UNIX_EPOCH },
            ReplicaError::Denied(text()),
            ReplicaError::InUse(text()),
            ReplicaError::Failed(text()),
            ReplicaError::Invalid(text()),
        ];
        for error in &all {
            match error {
                ReplicaError::Fenced { .. } | ReplicaError::WrongSeed { .. } | ReplicaError::TooSmall { .. } | ReplicaError::Full(_) => {}
                ReplicaError::Unreachable(_) | ReplicaError::PermitEnds { .. } | ReplicaError::Denied(_) => {}
                ReplicaError::InUse(_) | ReplicaError::Failed(_) | ReplicaError::Invalid(_) => {}
            }
        }
        all
    }

    fn appliers() -> Vec<ApplierError> {
        let mut all = vec![ApplierError::Stopped, ApplierError::BitmapMismatch { disk: DISK }];
        all.extend(logs().into_iter().map(ApplierError::Log));
        all.extend(replicas().into_iter().map(|error| ApplierError::Replica { disk: DISK, error }));
        for error in &all {
            match error {
                ApplierError::Log(_) | ApplierError::Replica { .. } | ApplierError::Stopped | ApplierError::BitmapMismatch { .. } => {}
            }
        }
        all
    }

    #[test]
    fn only_a_cycles_own_log_is_broken_for_good() {
        let (at, prints) = (DiskCycle { of: of(3), disk: DISK }, (of(3).vm, of(3).incarnation));
        let broken = |name: &str| {
            let all =
                [LogError::damaged(name, "x"), LogError::Missing(name.to_owned()), LogError::Store(StoreError::NotFound(name.to_owned()))];
            let all: std::collections::BTreeSet<_> = all.map(|error| ApplierError::Log(error).is_for_good(of(3))).into();
            assert_eq!(all.len(), 1, "{name}");
            all.contains(&true)
        };
        assert!(broken(&names::manifest(of(3))) && broken(&names::segment(at, Epoch(1), 0)));
        // The next cycle would meet the same.
        let others = [
            names::ledger(of(3).vm),
            names::manifest(of(2)),
            names::segment(DiskCycle { of: of(2), ..at }, Epoch(1), 0),
            names::state(of(3)),
            names::receipt(of(3)),
            names::order(&Owner { cluster: text(), object: text() }, of(3).vm),
            names::index(prints.0, prints.1, DISK, Turn(1)),
            names::chunk(prints.0, prints.1, DISK, Turn(1), 0),
            "x".to_owned(),
        ];
        for name in others {
            assert!(!broken(&name), "{name}");
        }
        // Of all that has no blob of the cycle's in it, one alone: what was written is not what its manifest says.
        let for_good: Vec<_> = appliers().into_iter().filter(|error| error.is_for_good(of(3))).collect();
        assert_eq!(for_good, [ApplierError::BitmapMismatch { disk: DISK }]);
        // A key that is missing mends when it is there.
        let name = names::segment(at, Epoch(1), 0);
        assert!(!ApplierError::Log(LogError::KeyMissing { name: name.clone(), version: 2 }).is_for_good(of(3)));
        assert_eq!(ApplierError::Log(LogError::Missing(name)).disk(), Some(DISK));
    }
}
