//! Planted faults, throttles and counters.

use azure_simulator::arm::{Effect, Injection};
use serde_json::json;

use crate::sim::{DISKS, GROUP, MIB, Sim, act, config, disk, empty_body, upload_body, vm};

fn plant(sim: &Sim, method: &str, path: &str, times: u32, effect: Effect) -> u64 {
    sim.state.arm.knobs.inject(Injection { method: Some(method.to_owned()), path: path.to_owned(), times: Some(times), skip: 0, effect })
}

fn answer(status: u16, code: &str, retry_after: Option<u64>) -> Effect {
    Effect::Answer { status, code: code.to_owned(), message: String::new(), retry_after }
}

#[tokio::test]
async fn planted_answers_are_used_up() {
    let sim = Sim::start().await;
    plant(&sim, "PUT", "*/disks/*", 2, answer(429, "TooManyRequests", Some(17)));
    let refused = sim.put(&disk("a"), empty_body(1)).await;
    refused.refused(429, "TooManyRequests", "planted");
    assert_eq!(refused.header("retry-after"), "17");
    sim.get(&disk("a")).await.is(404);
    sim.put(&disk("a"), empty_body(1)).await.is(429);
    sim.put(&disk("a"), empty_body(1)).await.is(202);
    for status in [500, 503, 409] {
        plant(&sim, "GET", "*", 1, answer(status, "Planted", None));
        sim.get(&disk("a")).await.is(status);
    }
    sim.get(&disk("a")).await.is(200);
    plant(&sim, "GET", "*", 9, answer(500, "Planted", None));
    sim.state.arm.knobs.clear(None);
    sim.get(&disk("a")).await.is(200);
}

#[tokio::test]
async fn a_failure_is_told_in_other_words_each_time() {
    let sim = Sim::start().await;
    plant(&sim, "GET", "*", 4, answer(500, "InternalServerError", None));
    let (one, other) = (sim.get(&disk("a")).await, sim.get(&disk("a")).await);
    assert_ne!(one.message(), other.message(), "as Azure's own");
    assert!(
        one.message().contains("tracking id '") && one.message().contains(one.header("x-ms-correlation-request-id")),
        "{}",
        one.message()
    );
    sim.state.sts.set_outage(Some(azure_simulator::sts::Outage { status: Some(503), times: None }));
    let token = async || {
        let path = "/11111111-1111-4111-8111-111111111111/oauth2/v2.0/token";
        sim.raw("POST", path, Some(String::new()), None).await.unwrap().body["error_description"].as_str().unwrap().to_owned()
    };
    let (one, other) = (token().await, token().await);
    assert!(one != other && one.starts_with("AADSTS90033: A transient error has occurred. Please try again. Trace ID: "), "{one}");
}

#[tokio::test]
async fn a_dropped_call_is_not_done_or_is_done() {
    let sim = Sim::start().await;
    let bearer = format!("Bearer {}", sim.token(azure_simulator::config::CLIENT));
    let send = async |name: &str| sim.raw("PUT", &disk(name), Some(empty_body(1).to_string()), Some(&bearer)).await;
    plant(&sim, "PUT", "*", 1, Effect::Drop { after: false });
    assert!(send("a").await.is_err());
    sim.get(&disk("a")).await.is(404);
    plant(&sim, "PUT", "*", 1, Effect::Drop { after: true });
    assert!(send("a").await.is_err());
    sim.get(&disk("a")).await.is(200);
}

#[tokio::test]
async fn a_delayed_call_waits_by_the_clock() {
    let sim = Sim::start().await;
    plant(&sim, "GET", "*", 1, Effect::Delay { seconds: 120.0 });
    let path = disk("a");
    let call = sim.get(&path);
    let mut call = std::pin::pin!(call);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut call).await;
    assert!(early.is_err(), "it did not wait");
    sim.advance(121);
    assert_eq!(call.await.status, 404);
}

#[tokio::test]
async fn calls_are_counted_by_operation() {
    let sim = Sim::start().await;
    sim.upload("a", 20 * MIB).await;
    sim.grant("a", "Write", 60).await;
    sim.state.arm.knobs.reset_counts();
    sim.get(&disk("a")).await;
    sim.get(&disk("A").replace("Microsoft.Compute", "microsoft.compute")).await;
    sim.post(&act("disks", "a", "begingetaccess"), Some(json!({}))).await;
    sim.get(&vm("m")).await;
    let counts = sim.state.arm.knobs.counts();
    assert_eq!(counts["GET Microsoft.Compute/disks"], 2);
    assert_eq!(counts["POST Microsoft.Compute/disks/begingetaccess"], 1);
    assert_eq!(counts["GET Microsoft.Compute/virtualMachines"], 1);
}

#[tokio::test]
async fn two_hundred_writes_and_no_more() {
    let mut config = config();
    config.throttle.scale = 0.1;
    let sim = Sim::with(config).await;
    for left in (0..20).rev() {
        let reply = sim.delete(&disk("a")).await;
        assert_eq!((reply.status, reply.header("x-ms-ratelimit-remaining-subscription-deletes")), (204, left.to_string().as_str()));
    }
    let refused = sim.delete(&disk("a")).await;
    refused.refused(429, "SubscriptionRequestsThrottled", "Please try again after '1' seconds");
    assert_eq!(refused.header("retry-after"), "1");
    // Reads have a bucket of their own, and so has another principal.
    sim.get(&disk("a")).await.is(404);
    sim.call_as(crate::sim::READER, "DELETE", &disk("a"), None).await.is(403);
    sim.advance(1);
    sim.delete(&disk("a")).await.is(204);
    sim.delete(&disk("a")).await.is(429);
}

#[tokio::test]
async fn a_machine_is_asked_thirty_six_times() {
    let mut config = config();
    config.throttle.scale = 1.0;
    let sim = Sim::with(config).await;
    for _ in 0..36 {
        sim.get(&vm("m")).await.is(404);
    }
    let refused = sim.get(&vm("m")).await;
    refused.refused(429, "OperationNotAllowed", "too many requests");
    assert_eq!((refused.header("retry-after"), &refused.body["error"]["details"][0]["code"]), ("5", &json!("TooManyRequests")));
    sim.get(&vm("other")).await.is(404);
}

#[tokio::test]
async fn a_status_is_asked_forty_five_times() {
    let mut config = config();
    config.throttle.scale = 1.0;
    let sim = Sim::with(config).await;
    let started = sim.put(&disk("a"), upload_body(20 * MIB)).await;
    let url = started.header("azure-asyncoperation").to_owned();
    for _ in 0..45 {
        sim.get(&url).await.is(200);
    }
    sim.get(&url).await.refused(429, "OperationNotAllowed", "too many requests");
    sim.advance(4);
    sim.get(&url).await.is(200);
    sim.state.arm.set_throttle(0.0);
    for _ in 0..60 {
        sim.get(&format!("{GROUP}/providers/Microsoft.Compute/disks?api-version={DISKS}")).await.is(200);
    }
}
