//! The configuration file and the clock.

use std::time::Duration;

use azure_simulator::{Clock, Config};
use jiff::{SignedDuration, Timestamp};

fn read(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, text).unwrap();
    Config::read(&path).map_err(|error| error.to_string())
}

#[track_caller]
fn wrong(text: &str, words: &str) {
    let error = read(text).unwrap_err();
    assert!(error.contains(words), "'{words}' is not in '{error}'");
}

#[test]
fn what_is_not_said_is_as_built_in() {
    let config = read("times:\n  disk: 0.25\nthrottle:\n  scale: 0.5\n").unwrap();
    assert_eq!((config.times.disk, config.times.rbac, config.throttle.scale), (0.25, 60.0, 0.5));
    assert_eq!((config.groups[0].name.as_str(), config.groups[0].location.as_str()), ("hawser", "westeurope"));
    Config::default().check().unwrap();
    let whole = serde_yaml_ng::to_string(&Config::default()).unwrap();
    assert_eq!(serde_yaml_ng::to_string(&read(&whole).unwrap()).unwrap(), whole);
}

#[test]
fn strangers_and_contradictions_are_named() {
    wrong("colour: red\n", "unknown field `colour`");
    wrong("times:\n  disc: 1\n", "unknown field `disc`");
    wrong("tenant: mine\n", "tenant: 'mine' is not a UUID");
    wrong("groups:\n- name: a\n  location: moon\n", "location 'moon' is not among locations: add it there");
    wrong("securityGroups:\n- group: other\n  name: a\n  location: westeurope\n", "group 'other' is not among groups: add it there");
    let network = |prefix: &str| {
        format!(
            "networks:\n- group: hawser\n  name: a\n  location: westeurope\n  prefix: 10.9.0.0/16\n  subnets:\n  - name: b\n    prefix: {prefix}\n"
        )
    };
    for prefix in ["10.9.0.1/24", "10.9.0.0", "10.9.0.0/33", "10.9.0.0/30", "ten/8"] {
        wrong(&network(prefix), "is no range of addresses such as 10.1.0.0/24");
    }
    read(&network("10.9.0.0/29")).unwrap();
    let size = |generation: &str| {
        format!("sizes:\n- {{name: S, family: f, vcpus: 1, memoryGib: 1, generations: [{generation}], maxDataDisks: 1, maxNics: 1}}\n")
    };
    wrong(&size("V3"), "generations have to be V1, V2 or both");
    wrong(&size(""), "generations have to be V1, V2 or both");
    let principal = |id: &str, role: &str| {
        format!("principals:\n- name: p\n  clientId: {id}\n  objectId: 33333333-3333-4333-8333-333333333333\n  roles: [{{role: {role}}}]\n")
    };
    wrong(&principal("me", "Owner"), "clientId 'me' is not a UUID");
    wrong(&principal("33333333-3333-4333-8333-333333333333", "King"), "no role 'King': declare it in roles");
    wrong("times:\n  disk: -1\n", "0 or more");
    wrong("times:\n  copyMib: 0\n", "times.copyMib");
    assert!(Config::read(std::path::Path::new("/nowhere/config.yaml")).unwrap_err().to_string().starts_with("/nowhere/config.yaml: "));
}

#[tokio::test]
async fn a_held_clock_moves_when_it_is_moved() {
    let start: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
    let clock = Clock::held(start);
    assert!(clock.is_held());
    let other = clock.clone();
    let sleeper = tokio::spawn(async move { other.sleep_until(start + SignedDuration::from_secs(10)).await });
    clock.advance(Duration::from_secs(9));
    let early = tokio::time::timeout(Duration::from_millis(100), async {
        while !sleeper.is_finished() {
            tokio::task::yield_now().await
        }
    })
    .await;
    assert!(early.is_err(), "it woke too early");
    clock.advance(Duration::from_secs(1));
    tokio::time::timeout(Duration::from_secs(10), sleeper).await.unwrap().unwrap();
    assert_eq!(clock.now(), start + SignedDuration::from_secs(10));
    clock.release();
    assert!(!clock.is_held());
    assert!(clock.now() >= start + SignedDuration::from_secs(10));
    clock.advance(Duration::from_secs(3600));
    clock.hold();
    let held = clock.now();
    assert!(held >= start + SignedDuration::from_secs(3610) && held < start + SignedDuration::from_secs(3700), "{held}");
    assert_eq!(clock.now(), held);
}
