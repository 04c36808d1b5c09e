use axum::body::Body as HttpBody;
use http::Request;
use http_body_util::BodyExt;
use jiff::SignedDuration;
use tower::ServiceExt;
use uuid::Uuid;

use super::*;
use crate::Config;
use crate::config::CLIENT;
use crate::disks::{Access, DiskStore};
use crate::sts::Sts;

const DISK: &str = "/subscriptions/s/resourcegroups/g/providers/microsoft.compute/disks/seed";
const MIB: u64 = 1 << 20;

struct Port {
    state: State,
    router: Router,
    _folder: tempfile::TempDir,
}

impl Port {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::held("2026-01-01T00:00:00Z".parse().unwrap());
        let config = Config::default();
        let store = DiskStore::open(folder.path(), "https://127.0.0.1:8446", clock.clone()).unwrap();
        let sts = Sts::new(&config, clock.clone()).unwrap();
        let state = State::new(config, clock, store, sts);
        state.disks.create(DISK, 4 * MIB, true).unwrap();
        Self { router: router(state.clone()), state, _folder: folder }
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<HttpBody>) -> (u16, Vec<u8>) {
        let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    async fn json(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { HttpBody::empty() } else { HttpBody::from(body.to_string()) };
        let (status, bytes) = self.send(method, path, body).await;
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// The sentence of a refusal.
    async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.json(method, path, body).await;
        (status, answer["error"].as_str().unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn the_clock() {
    let port = Port::new();
    assert_eq!(port.json("GET", "/clock", Value::Null).await.1, json!({ "now": "2026-01-01T00:00:00Z", "held": true }));
    assert_eq!(port.json("POST", "/clock", json!({ "advanceSeconds": 90.5 })).await.1["now"], "2026-01-01T00:01:30.5Z");
    assert_eq!(port.json("POST", "/clock", json!({ "release": true })).await.1["held"], false);
    assert_eq!(port.json("POST", "/clock", json!({ "hold": true })).await.1["held"], true);
    assert!(port.refused("POST", "/clock", json!({ "advanceSeconds": -1 })).await.1.contains("only goes forward"));
    assert!(port.refused("POST", "/clock", json!({ "hold": true, "release": true })).await.1.contains("give one"));
    assert!(port.refused("POST", "/clock", json!({ "advance": 1 })).await.1.contains("unknown field"));
}

#[tokio::test]
async fn bytes_and_hashes() {
    let port = Port::new();
    let id = format!("id={DISK}");
    assert_eq!(port.send("PUT", &format!("/disks/bytes?{id}&offset=512"), "abcd").await.0, 200);
    let (status, bytes) = port.send("GET", &format!("/disks/bytes?{id}&offset=510&length=8"), "").await;
    assert_eq!((status, bytes.as_slice()), (200, b"\0\0abcd\0\0".as_slice()));
    let of = |bytes: &[u8]| hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes));
    let mut whole = vec![0; 4 * MIB as usize + 512];
    whole[512..516].copy_from_slice(b"abcd");
    let hash = async |query: &str| port.json("GET", &format!("/disks/sha256?{id}{query}"), Value::Null).await.1["sha256"].clone();
    assert_eq!(hash("").await, of(&whole));
    assert_eq!(hash("&footer=false").await, of(&whole[..4 << 20]));
    assert_eq!(hash("&offset=512&length=4").await, of(b"abcd"));
    assert_eq!(port.json("GET", &format!("/disks/ranges?{id}"), Value::Null).await.1, json!([[512, 516]]));
    assert!(port.refused("GET", "/disks/sha256?id=/x", Value::Null).await.1.contains("GET /disks lists them"));
    assert_eq!(port.refused("GET", &format!("/disks/bytes?{id}&offset=4194304&length=1024"), Value::Null).await.0, 400);
    assert_eq!(port.refused("GET", &format!("/disks/bytes?{id}&offset=18446744073709551615&length=2"), Value::Null).await.0, 400);
    assert_eq!(port.refused("GET", &format!("/disks/ranges?{id}&x=1"), Value::Null).await.0, 400);
    assert_eq!(port.refused("PUT", "/disks/bytes?id=/x&offset=0", Value::Null).await.0, 404);
}

#[tokio::test]
async fn switches_and_faults() {
    let port = Port::new();
    let (_, switches) = port.json("PATCH", "/disks/switches", json!({ "conditions": "ignored", "bytesPerSecond": 62914560 })).await;
    assert_eq!((&switches["conditions"], &switches["sequenceNumbers"]), (&json!("ignored"), &json!("ignored")));
    assert!(port.refused("PATCH", "/disks/switches", json!({ "condition": "ignored" })).await.1.contains("unknown field"));
    assert!(port.refused("PATCH", "/disks/switches", json!({ "conditions": "perhaps" })).await.1.contains("unknown variant"));
    let late = json!({ "disk": DISK, "operation": "PutPage", "times": 1, "effect": { "kind": "late", "seconds": 30 } });
    let (_, planted) = port.json("POST", "/disks/faults", late.clone()).await;
    let (_, faults) = port.json("GET", "/disks/faults", Value::Null).await;
    assert_eq!(faults[0]["fault"]["effect"], json!({ "kind": "late", "seconds": 30.0, "checked": "landing" }));
    assert_eq!(port.json("DELETE", &format!("/disks/faults?id={}", planted["id"]), Value::Null).await.0, 200);
    assert!(port.state.disks.faults().is_empty());
    let mut wrong = late.clone();
    wrong["disk"] = json!("/x");
    assert_eq!(port.refused("POST", "/disks/faults", wrong).await.0, 404);
    let mut wrong = late.clone();
    wrong["effect"]["kind"] = json!("later");
    assert!(port.refused("POST", "/disks/faults", wrong).await.1.contains("unknown variant"));
    let mut wrong = late;
    wrong["operation"] = json!("GetBlob");
    assert!(port.refused("POST", "/disks/faults", wrong).await.1.contains("PutPage"));
    let planted = json!({ "path": "*/disks/*", "effect": { "kind": "answer", "status": 429, "code": "TooManyRequests", "retryAfter": 7 } });
    assert_eq!(port.json("POST", "/arm/faults", planted).await.0, 200);
    assert_eq!(port.json("GET", "/arm/faults", Value::Null).await.1[0]["fault"]["effect"]["retryAfter"], 7);
    assert_eq!(port.json("PUT", "/sts/outage", json!({ "status": 503, "times": 1 })).await.0, 200);
    assert_eq!(port.refused("PUT", "/sts/outage", json!({ "status": 200 })).await.0, 400);
    assert_eq!(port.json("POST", "/reset", Value::Null).await.0, 200);
    assert_eq!(port.state.disks.switches(), Switches::default());
    assert!(port.state.arm.knobs.injections().is_empty() && port.state.sts.outage().is_none() && !port.state.clock.is_held());
}

#[tokio::test]
async fn grants_are_listed_and_ended() {
    let port = Port::new();
    let until = port.state.clock.now() + SignedDuration::from_hours(1);
    let url = port.state.disks.grant(DISK, Access::Write, until, Uuid::new_v4());
    let (_, listed) = port.json("GET", "/disks", Value::Null).await;
    let disk = &listed["disks"][0];
    assert_eq!((&disk["id"], &disk["content"], &disk["upload"]), (&json!(DISK), &json!(4 * MIB), &json!(true)));
    assert_eq!((&disk["grants"][0]["url"], &disk["grants"][0]["access"]), (&json!(url), &json!("Write")));
    assert_eq!(port.refused("POST", "/disks/expire", json!({ "id": "/x" })).await.0, 404);
    assert_eq!(port.json("POST", "/disks/expire", json!({ "id": DISK })).await.1, json!({ "expired": 1 }));
    assert_eq!(port.json("POST", "/disks/expire", json!({})).await.1, json!({ "expired": 0 }));
}

#[tokio::test]
async fn resource_manager() {
    let port = Port::new();
    let role = json!({ "clientId": CLIENT, "role": "Reader", "atOnce": true });
    assert_eq!(port.json("POST", "/arm/roles", role.clone()).await.0, 200);
    assert_eq!(port.json("DELETE", "/arm/roles", role).await.0, 200);
    assert_eq!(port.refused("POST", "/arm/roles", json!({ "clientId": "x", "role": "Reader" })).await.0, 404);
    assert_eq!(port.refused("POST", "/arm/roles", json!({ "role": "Reader" })).await.1, "objectId, clientId: give one of them");
    assert!(port.refused("POST", "/arm/roles", json!({ "clientId": CLIENT, "role": "King" })).await.1.contains("no role 'King'"));
    assert_eq!(port.refused("PUT", "/arm/power", json!({ "vm": "/x", "state": "running" })).await.0, 400);
    assert_eq!(port.refused("PUT", "/arm/quota", json!({ "location": "moon", "name": "cores", "limit": 1 })).await.0, 404);
    assert_eq!(port.json("PUT", "/arm/quota", json!({ "location": "westeurope", "name": "cores", "limit": 1 })).await.0, 200);
    assert_eq!(port.json("PUT", "/arm/providers", json!({ "name": "Microsoft.Compute", "registration": "NotRegistered" })).await.0, 200);
    assert_eq!(port.refused("PUT", "/arm/throttle", json!({ "scale": -1 })).await.0, 400);
    assert_eq!(port.json("PUT", "/arm/throttle", json!({ "scale": 0 })).await.0, 200);
    assert!(port.json("GET", "/arm", Value::Null).await.1["disks"].is_array());
    assert_eq!(port.json("GET", "/arm/counts", Value::Null).await.0, 200);
}

#[tokio::test]
async fn tokens_and_ways_that_are_none() {
    let port = Port::new();
    let (_, token) = port.json("GET", &format!("/sts/token?clientId={CLIENT}&audience=https://management.azure.com"), Value::Null).await;
    assert!(port.state.sts.check(token["token"].as_str().unwrap(), &["https://management.azure.com"]).is_ok());
    assert_eq!(port.refused("GET", "/sts/token?clientId=x&audience=y", Value::Null).await.0, 404);
    let (status, sentence) = port.refused("GET", "/nothing", Value::Null).await;
    assert!(status == 404 && sentence.contains("GET    /disks/sha256"), "{sentence}");
    assert_eq!(port.refused("DELETE", "/clock", Value::Null).await.0, 405);
    assert_eq!(port.send("GET", "/", "").await.0, 200);
}
