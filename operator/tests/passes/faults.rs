//! Whatever the apiserver does to one request, the next passes come to the same end: nothing is doubled, nothing is lost.
//!
//! A life (a replica is made, has its two first cycles, and is cleaned up) is gone through once as it should be, then once for each of its writes with a
//! fault at that one, and a few times with a fault at every so many of its reads.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{Asked, Fault, NAMESPACE, WEB, World};

/// What a fault may not change: what people see but for times and words of the way there, and all that is stored.
#[derive(Debug, PartialEq)]
struct End {
    vm: Value,
    cycles: Vec<Value>,
    blobs: Vec<String>,
    disks: Vec<String>,
    ledger: Value,
}

/// Looks at a world that has come to rest.
async fn look(world: &World) -> End {
    let vm = world.api.get("replicatedvms", NAMESPACE, WEB).unwrap_or_default();
    let drawn = vm["status"]["incarnation"].as_str().unwrap_or("none").to_owned();
    // Each world draws its own, and a fault may have had it drawn twice.
    let plain = |text: String| {
        let all = text.replace(&drawn, "INCARNATION").replace(&drawn.replace('-', ""), "INCARNATION");
        if drawn.len() > 8 { all.replace(&drawn[..8], "INC") } else { all }
    };
    let same = |value: &Value| serde_json::from_str::<Value>(&plain(value.to_string())).unwrap();
    let status = &vm["status"];
    let conditions = |object: &Value| -> Vec<Value> {
        let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let mut all: Vec<Value> = all.iter().map(|one| json!([one["type"], one["status"], one["reason"]])).collect();
        all.sort_by_key(Value::to_string);
        all
    };
    let cycle = |cycle: Value| {
        let (spec, status) = (&cycle["spec"], &cycle["status"]);
        let meta = &cycle["metadata"];
        json!({
            "name": meta["name"], "finalizers": meta["finalizers"], "deleted": meta["deletionTimestamp"].is_string(), "spec": same(spec),
            "phase": status["phase"], "conditions": conditions(&cycle), "written": status["target"]["writtenBytes"], "turn": status["target"]["turn"],
        })
    };
    let disks: Vec<Value> =
        status["disks"].as_array().into_iter().flatten().map(|disk| json!([disk["key"], disk["seedDisk"]["name"]])).collect();
    let seen = json!({
        "finalizers": vm["metadata"]["finalizers"], "phase": status["phase"], "conditions": conditions(&vm), "disks": same(&json!(disks)),
        "point": status["recoveryPoint"]["cycle"], "last": status["lastCycle"]["cycle"], "succeeded": status["lastCycle"]["succeeded"],
        "failures": status["failures"], "waits": status["waitingFor"], "current": status["currentCycle"],
    });
    let site = world.context.sites.get(NAMESPACE, crate::support::APPLIANCE).unwrap();
    let arm = &site.target.as_ref().unwrap().arm;
    let listed = arm.disks(azure_simulator::config::SUBSCRIPTION, "hawser").await.unwrap();
    let mut disks: Vec<String> = listed.iter().map(|disk| plain(disk.id.name.clone())).collect();
    disks.sort();
    let ledger = if vm.is_object() { world.ledger(WEB).await } else { None };
    let ledger = ledger.map(|it| json!([it.begun, it.turn, it.seeds.len(), it.dirty.len(), it.recovery_point.map(|point| point.cycle)]));
    End {
        vm: seen,
        cycles: world.api.all("replicationcycles").into_iter().map(cycle).collect(),
        blobs: world.store.names().into_iter().map(plain).collect(),
        disks,
        ledger: ledger.unwrap_or_default(),
    }
}

/// A life: how it was when its second cycle was over, and at its end.
async fn life(world: &World) -> [End; 2] {
    world.settle(WEB).await;
    let midst = look(world).await;
    if world.vm(WEB).is_some() {
        world.api.delete("replicatedvms", NAMESPACE, WEB);
    }
    world.settle(WEB).await;
    [midst, look(world).await]
}

/// Which requests of a life are struck.
#[derive(Debug, Clone, Copy)]
enum At {
    /// The n-th that writes, and no other.
    Write(usize),
    /// Of the first so many that write nothing but an event, each that has this rest.
    Others(usize, usize),
}

/// So many lives strike all that read: each of them strikes another part. A pass has fewer, so that it is not struck each time.
const PARTS: usize = 9;

/// True for what changes more than that people are told.
fn counts(asked: &Asked) -> bool {
    asked.writes() && asked.resource != "events"
}

/// The same life again and again, with a fault at one request after another.
async fn at_each_request(fault: Fault) {
    let world = World::new().await;
    let wanted = life(&world).await;
    let others = world.api.take_asked().iter().filter(|asked| !counts(asked)).count();
    assert_eq!((wanted[0].disks.len(), wanted[0].cycles.len(), &wanted[0].vm["succeeded"]), (2, 2, &json!(true)), "{wanted:?}");
    assert!(
        wanted[1].disks.is_empty() && wanted[1].blobs.is_empty() && wanted[1].cycles.is_empty() && wanted[1].vm["finalizers"].is_null()
    );
    let mut write = 0;
    loop {
        write += 1;
        let (found, met) = life_with(&world, &fault, At::Write(write)).await;
        if met.is_empty() {
            break;
        }
        assert_eq!(found, wanted, "{fault:?} at the write {write}: {met:?}");
    }
    assert!(write > 20, "a life has more writes than {write}");
    for rest in 0..PARTS {
        let (found, met) = life_with(&world, &fault, At::Others(others, rest)).await;
        assert!(met.len() > 5, "a life has more requests: {met:?}");
        assert_eq!(found, wanted, "{fault:?} at {met:?}");
    }
}

/// A life with faults, and what was struck.
async fn life_with(world: &World, fault: &Fault, at: At) -> ([End; 2], Vec<Asked>) {
    world.add_vm(WEB);
    let met = Arc::new(Mutex::new(Vec::new()));
    let (planted, told) = (fault.clone(), met.clone());
    let (mut writes, mut others) = (0, 0);
    world.api.plan(move |asked| {
        *if counts(asked) { &mut writes } else { &mut others } += 1;
        let struck = match at {
            At::Write(number) => counts(asked) && writes == number,
            At::Others(first, rest) => !counts(asked) && others <= first && others % PARTS == rest,
        };
        if !struck {
            return None;
        }
        told.lock().unwrap().push(asked.clone());
        // Who makes what is there already is told so.
        match (&planted, asked.verb) {
            (Fault::Refused(409, ..), "create") => Some(Fault::Refused(409, "AlreadyExists", "planted".to_owned())),
            _ => Some(planted.clone()),
        }
    });
    let found = life(world).await;
    world.api.no_plan();
    let met = met.lock().unwrap().clone();
    (found, met)
}

#[tokio::test]
async fn a_404_changes_no_end() {
    at_each_request(Fault::status(404)).await;
}

#[tokio::test]
async fn a_409_changes_no_end() {
    at_each_request(Fault::status(409)).await;
}

#[tokio::test]
async fn a_410_changes_no_end() {
    at_each_request(Fault::status(410)).await;
}

#[tokio::test]
async fn a_500_changes_no_end() {
    at_each_request(Fault::status(500)).await;
}

#[tokio::test]
async fn a_lost_request_changes_no_end() {
    at_each_request(Fault::Dropped { after: false }).await;
}

#[tokio::test]
async fn a_lost_answer_changes_no_end() {
    at_each_request(Fault::Dropped { after: true }).await;
}
