//! The real controllers at work for a while: what wakes them, and how often they ask.

use std::{collections::BTreeMap, time::Duration};

use blocklog::clock::Clock;

use crate::support::{Asked, NAMESPACE, WEB, World};

fn counted(asked: &[Asked]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for one in asked {
        *counts.entry(one.word()).or_default() += 1;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn they_bring_a_vm_to_rest_and_then_leave_it_alone() {
    let world = World::paused().await;
    let works = async {
        loop {
            world.deploys();
            world.work(WEB).await;
            world.clock.sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = world.operates(Duration::from_secs(60)) => {}
        () = works => {}
    }
    let status = &world.api.get("replicatedvms", NAMESPACE, WEB).unwrap()["status"];
    assert_eq!((&status["lastCycle"]["cycle"], &status["lastCycle"]["succeeded"]), (&2.into(), &true.into()), "{status:#}");
    world.api.take_asked();
    world.operates(Duration::from_secs(120)).await;
    let asked = world.api.take_asked();
    let writes = counted(&asked.iter().filter(|asked| asked.writes()).cloned().collect::<Vec<_>>());
    assert!(writes.is_empty(), "{writes:?}");
    let counts = counted(&asked);
    // One look at the VM at first, and one when two minutes are over; the Appliance's are 7 s apart.
    assert!(counts["get replicatedvms"] <= 2 && counts["get appliances"] <= 22, "{counts:?}");
}
