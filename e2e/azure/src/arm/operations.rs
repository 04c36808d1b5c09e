//! Long-running operations, by both headers.
//!
//! Rules: learn.microsoft.com, "Track asynchronous Azure operations". The status URL (`Azure-AsyncOperation`) answers 200 with a status;
//! the result URL (`Location`) answers 202 while it runs and then what the call would have answered. Which of the two a call gives, and
//! how the URLs look, differs by provider: disks give both for everything, virtual machines give only the status URL for PUT, network
//! cards too. Nothing runs in the background: an operation that is due ends when the next call comes, at the time when it was due.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::ArmError;
use super::request::{Answer, Call};
use super::world::World;
use crate::Inner;

/// What an operation does when it ends.
pub type Finish = Box<dyn FnOnce(&mut World, &Inner, Timestamp) -> Result<Value, ArmError> + Send>;

/// Whose operation it is: how its URLs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Disks and snapshots.
    Disk,
    /// Virtual machines.
    Compute,
    /// Network cards.
    Network,
}

/// A long-running operation.
pub struct Operation {
    /// Whose it is.
    pub provider: Provider,
    /// Its region, a part of its URLs.
    pub location: String,
    /// The resource it holds, in lower case.
    pub key: String,
    /// The resource's canonical id.
    pub id: String,
    /// `PUT`, `PATCH`, `POST`, `DELETE`.
    pub method: String,
    /// When it began.
    pub started: Timestamp,
    /// When it ends.
    pub due: Timestamp,
    /// Which of those that are due at the same time comes first.
    pub sequence: u64,
    /// The fault that holds it.
    pub held: Option<u64>,
    /// Whether it waits for bytes that come from elsewhere.
    pub waits: bool,
    /// The failure that was planted.
    pub fail: Option<ArmError>,
    /// What it does when it ends.
    pub finish: Option<Finish>,
    /// When it ended, and how.
    pub ended: Option<(Timestamp, Result<Value, ArmError>)>,
}

/// What a call asks for.
pub struct Start {
    /// Whose operation it is.
    pub provider: Provider,
    /// Its region.
    pub location: String,
    /// The resource it holds.
    pub id: String,
    /// How long it takes.
    pub length: Duration,
    /// The status of the first answer: 200, 201 or 202.
    pub status: u16,
    /// The body of the first answer.
    pub body: Option<Value>,
    /// What it does when it ends.
    pub finish: Finish,
}

impl World {
    /// Starts an operation: it holds its resource, and the answer has the headers of its provider.
    pub fn start(&mut self, call: &Call, start: Start) -> (Uuid, Answer) {
        let id = Uuid::new_v4();
        let key = start.id.to_ascii_lowercase();
        if let Some(common) = self.common_mut(&key) {
            common.busy = Some(id);
        }
        self.sequence += 1;
        let length = SignedDuration::try_from(start.length).unwrap_or(SignedDuration::MAX);
        let operation = Operation {
            provider: start.provider,
            location: start.location,
            key,
            id: start.id,
            method: call.method.clone(),
            started: call.now,
            due: call.now.saturating_add(length).unwrap_or(Timestamp::MAX),
            sequence: self.sequence,
            held: call.held,
            waits: false,
            fail: call.fail.clone(),
            finish: Some(start.finish),
            ended: None,
        };
        let mut answer = Answer { status: start.status, headers: Vec::new(), body: start.body };
        let base = |kind: &str| {
            let namespace = if operation.provider == Provider::Network { "Microsoft.Network" } else { "Microsoft.Compute" };
            format!(
                "https://{}/subscriptions/{}/providers/{namespace}/locations/{}/{kind}/{id}",
                call.host,
                call.subscription(),
                operation.location
            )
        };
        let version = format!("api-version={}", call.version);
        // The status URL has a parameter of its own in reality too: clients must not rebuild it.
        let token = operation.sequence;
        let (status, result) = match operation.provider {
            Provider::Disk => (
                format!("{}?p={token}&{version}", base("DiskOperations")),
                Some(format!("{}?p={token}&monitor=true&{version}", base("DiskOperations"))),
            ),
            Provider::Compute => {
                let result = (call.method != "PUT" && call.method != "PATCH")
                    .then(|| format!("{}?p={token}&monitor=true&{version}", base("operations")));
                (format!("{}?p={token}&{version}", base("operations")), result)
            }
            Provider::Network => (
                format!("{}?{version}", base("operations")),
                (call.method == "DELETE").then(|| format!("{}?{version}", base("operationResults"))),
            ),
        };
        answer.headers.push(("azure-asyncoperation", status));
        answer.headers.extend(result.map(|url| ("location", url)));
        answer.headers.push(("retry-after", call.state.config.times.retry_after.to_string()));
        self.operations.insert(id, operation);
        (id, answer)
    }

    /// Ends what is due, in order, each at its time.
    pub fn settle(&mut self, state: &Inner, now: Timestamp) {
        loop {
            let due = self
                .operations
                .iter()
                .filter(|(_, op)| op.ended.is_none() && !op.waits && op.due <= now)
                .filter(|(_, op)| op.held.is_none_or(|held| !state.arm.knobs.is_planted(held)))
                .min_by_key(|(_, op)| (op.due, op.sequence))
                .map(|(id, op)| (*id, op.due));
            let Some((id, due)) = due else { return };
            self.end(id, state, due, None);
        }
    }

    /// Ends an operation now, as planned, or with this failure.
    pub fn end(&mut self, id: Uuid, state: &Inner, at: Timestamp, failure: Option<ArmError>) {
        let Some(operation) = self.operations.get_mut(&id) else { return };
        let (finish, fail, key) = (operation.finish.take(), failure.or(operation.fail.take()), operation.key.clone());
        let deletes = operation.method == "DELETE";
        if let Some(common) = self.common_mut(&key) {
            common.busy = None;
        }
        let result = match (fail, finish) {
            (Some(error), _) => Err(error),
            (None, Some(finish)) => finish(self, state, at),
            (None, None) => Ok(Value::Null),
        };
        if result.is_err() {
            self.failed(&key, deletes);
        }
        if let Some(operation) = self.operations.get_mut(&id) {
            operation.ended = Some((at, result));
        }
    }

    /// What a failure leaves behind.
    fn failed(&mut self, key: &str, deletes: bool) {
        if let Some(common) = self.common_mut(key) {
            common.provisioning = match common.provisioning {
                "Creating" | "Updating" if !deletes => "Failed",
                "Deleting" => "Failed",
                other => other,
            };
        }
        super::vms::after_failure(self, key);
    }

    /// Answers for a status or result URL.
    ///
    /// # Errors
    /// 404 where there is no such operation; at the result URL the operation's own error.
    pub fn show_operation(&self, call: &Call, kind: &str, location: &str, id: &str) -> Result<Answer, ArmError> {
        let unknown = || ArmError::new(404, "NotFound", "The entity was not found in this Azure location.");
        let id = Uuid::parse_str(id).map_err(|_| unknown())?;
        let operation = self.operations.get(&id).ok_or_else(unknown)?;
        let fits = match operation.provider {
            Provider::Disk => kind.eq_ignore_ascii_case("DiskOperations"),
            Provider::Compute => kind.eq_ignore_ascii_case("operations"),
            Provider::Network => kind.eq_ignore_ascii_case("operations") || kind.eq_ignore_ascii_case("operationResults"),
        };
        let token = operation.sequence.to_string();
        let own = operation.provider == Provider::Network || call.query("p") == Some(token.as_str());
        if !fits || !own || !operation.location.eq_ignore_ascii_case(location) {
            return Err(unknown());
        }
        let monitor = call.query("monitor") == Some("true") || kind.eq_ignore_ascii_case("operationResults");
        let retry = ("retry-after", call.state.config.times.retry_after.to_string());
        if monitor {
            return match &operation.ended {
                None => Ok(Answer { status: 202, headers: vec![("location", call.url.clone()), retry], body: None }),
                Some((_, Err(error))) => Err(error.clone()),
                Some((_, Ok(value))) => Ok(Answer { status: 200, headers: Vec::new(), body: (!value.is_null()).then(|| value.clone()) }),
            };
        }
        let mut headers = Vec::new();
        let mut body = match &operation.ended {
            None => {
                headers.push(retry);
                json!({ "status": "InProgress" })
            }
            Some((_, Err(error))) => json!({ "status": "Failed", "error": error.inner() }),
            Some((_, Ok(value))) if operation.provider == Provider::Disk && !value.is_null() => {
                json!({ "status": "Succeeded", "properties": { "output": value } })
            }
            Some((_, Ok(_))) => json!({ "status": "Succeeded" }),
        };
        if operation.provider != Provider::Network {
            body["name"] = json!(id);
            body["startTime"] = json!(operation.started);
            if let Some((ended, _)) = &operation.ended {
                body["endTime"] = json!(ended);
            }
        }
        Ok(Answer { status: 200, headers, body: Some(body) })
    }
}
