//! Waiting for tasks: as long as they take, and not without a word.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use blocklog::{clock::Clock, test_support::ManualClock};
use vsphere::{
    Client, Credentials, MoRef, Secret,
    error::WireError,
    tasks::{Outcome, Patience, Progress},
    transport::{Reply, Request, Wire},
};

const HOUR: Duration = Duration::from_secs(3600);

/// A vCenter with one task, which reaches 42 % in its first hour and ends after so many; for an hour of them it does not answer.
struct Server {
    clock: ManualClock,
    ends: Duration,
    silent: std::ops::Range<Duration>,
}

fn envelope(body: &str) -> String {
    format!(
        r#"<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><e:Body>{body}</e:Body></e:Envelope>"#
    )
}

#[async_trait]
impl Wire for Server {
    async fn send(&self, request: Request) -> Result<Reply, WireError> {
        let passed = self.clock.monotonic();
        if self.silent.contains(&passed) {
            return Err(WireError::Status { host: "vc".into(), status: 503 });
        }
        let reply = |body: &str| Ok(Reply { cookie: Some(Secret::new("s")), body: envelope(body) });
        if request.action.is_none() {
            let body = "<namespaces><namespace><name>urn:vim25</name><version>8.0.3.0</version></namespace></namespaces>".into();
            return Ok(Reply { cookie: None, body });
        }
        if request.body.contains("<RetrieveServiceContent ") {
            return reply(
                r#"<RetrieveServiceContentResponse xmlns="urn:vim25"><returnval><rootFolder type="Folder">group-d1</rootFolder><propertyCollector type="PropertyCollector">p</propertyCollector><about><name>v</name><fullName>v</fullName><version>8.0.3</version><build>1</build><apiType>VirtualCenter</apiType><apiVersion>8.0.3.0</apiVersion></about><sessionManager type="SessionManager">s</sessionManager></returnval></RetrieveServiceContentResponse>"#,
            );
        }
        if request.body.contains("<Login ") {
            return reply(r#"<LoginResponse xmlns="urn:vim25"><returnval><key>k</key><userName>u</userName></returnval></LoginResponse>"#);
        }
        let state = if passed >= self.ends {
            "<state>success</state>".to_owned()
        } else {
            format!("<state>running</state><progress>{}</progress>", (passed.as_secs() * 42 / HOUR.as_secs()).min(42))
        };
        // As the type has it: what a task of vCenter tells.
        let (before, after) = state.split_once("</state>").unwrap();
        reply(&format!(
            r#"<RetrievePropertiesExResponse xmlns="urn:vim25"><returnval><objects><obj type="Task">task-1</obj><propSet><name>info</name><val xsi:type="TaskInfo"><key>task-1</key><task type="Task">task-1</task><name>RemoveSnapshot_Task</name><descriptionId>vm.Snapshot.remove</descriptionId>{before}</state><cancelled>false</cancelled><cancelable>false</cancelable>{after}<reason xsi:type="TaskReasonUser"><userName>u</userName></reason><queueTime>2025-01-01T00:00:00Z</queueTime><eventChainId>1</eventChainId></val></propSet></objects></returnval></RetrievePropertiesExResponse>"#
        ))
    }
}

async fn waited(ends: Duration, silent: std::ops::Range<Duration>) -> (Result<Outcome, vsphere::Error>, Vec<Progress>, Duration) {
    let clock = ManualClock::new();
    clock.auto_advance(true);
    let credentials = Credentials { user: "u".into(), password: Secret::new("p") };
    let server = Server { clock: clock.clone(), ends, silent };
    let client = Client::over(Box::new(server), credentials, Arc::new(clock.clone()));
    let mut told = Vec::new();
    let outcome = client.wait(&MoRef::task("task-1"), Patience::default(), &mut |progress| told.push(progress)).await;
    (outcome, told, clock.monotonic())
}

#[tokio::test]
async fn a_task_of_a_day_is_waited_for_and_said_to_stand_still() {
    let never = Duration::ZERO..Duration::ZERO;
    let (outcome, told, took) = waited(24 * HOUR, never).await;
    assert_eq!(outcome.unwrap(), Outcome::Done(None));
    assert!((24 * HOUR..25 * HOUR).contains(&took), "{took:?}");
    // Each step of the first hour once; then that nothing moves, after a quarter of an hour and not before.
    let steps: Vec<u8> = told.iter().filter_map(|one| if let Progress::Running { percent, .. } = one { *percent } else { None }).collect();
    assert_eq!(steps, (0..=42).collect::<Vec<_>>());
    let stalled: Vec<Duration> =
        told.iter().filter_map(|one| if let Progress::Stalled { since, .. } = one { Some(*since) } else { None }).collect();
    assert!(stalled[0] >= Patience::default().stall_after && stalled[0] < Patience::default().stall_after + Duration::from_secs(60));
    assert!(*stalled.last().unwrap() > 22 * HOUR, "{:?}", stalled.last());
}

#[tokio::test]
async fn a_vcenter_that_restarts_under_a_task_is_waited_for() {
    let minute = Duration::from_secs(60);
    let (outcome, ..) = waited(2 * HOUR, HOUR..HOUR + minute).await;
    assert_eq!(outcome.unwrap(), Outcome::Done(None));
}

#[tokio::test]
async fn a_vcenter_that_stays_away_under_a_task_is_told() {
    let (outcome, _, took) = waited(2 * HOUR, HOUR..24 * HOUR).await;
    assert!(matches!(outcome, Err(vsphere::Error::Wire(_))), "{outcome:?}");
    // It was heard up to five seconds before the silence began.
    let silence = Patience::default().silence;
    assert!((HOUR + silence - Duration::from_secs(5)..HOUR + silence + Duration::from_secs(5)).contains(&took), "{took:?}");
}
