//! Azure's control port: what was written to the seed disks, and fate.

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::{Result, sandbox::Sandbox};

/// The control port.
#[derive(Debug, Clone)]
pub struct Azure {
    url: String,
    http: reqwest::Client,
}

/// A client of control ports: they are reached directly, without the environment's proxy.
#[must_use]
pub(crate) fn plain() -> reqwest::Client {
    // It has nothing that could be wrong: no authorities, no proxy.
    reqwest::Client::builder().no_proxy().build().unwrap_or_default()
}

/// The answer, or the sentence against it.
pub(crate) async fn answer(request: RequestBuilder) -> Result<Value> {
    let answer = request.send().await.map_err(|error| format!("the control port: {error}"))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|error| format!("the control port: {error}"))?;
    match status.is_success() {
        true if text.is_empty() => Ok(Value::Null),
        true => serde_json::from_str(&text).map_err(|error| format!("the control port: {error}: {text}")),
        false => Err(format!("{status}: {text}")),
    }
}

pub(crate) async fn call(http: &reqwest::Client, method: Method, url: &str, body: Option<Value>) -> Result<Value> {
    let request = http.request(method, url);
    answer(if let Some(body) = body { request.json(&body) } else { request }).await
}

impl Azure {
    /// That of a sandbox.
    #[must_use]
    pub fn new(sandbox: &Sandbox) -> Self {
        Self { url: sandbox.get("AZURE_CONTROL").to_owned(), http: plain() }
    }

    /// Any request; an error is its sentence.
    ///
    /// # Errors
    /// What the simulator says against it.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        call(&self.http, method, &format!("{}{path}", self.url), body).await
    }

    /// The SHA-256 of a managed disk's first `length` bytes: what of it is the source's disk.
    ///
    /// # Errors
    /// Where there is no such disk.
    pub async fn sha256(&self, id: &str, length: u64) -> Result<String> {
        let query = [("id", id.to_owned()), ("offset", "0".to_owned()), ("length", length.to_string())];
        let found = answer(self.http.get(format!("{}/disks/sha256", self.url)).query(&query)).await?;
        found["sha256"].as_str().map(str::to_owned).ok_or_else(|| format!("no sha256: {found}"))
    }

    /// The managed disks' ids.
    ///
    /// # Errors
    /// Where the simulator does not answer.
    pub async fn disks(&self) -> Result<Vec<String>> {
        let all = self.call(Method::GET, "/disks", None).await?;
        let disks = all["disks"].as_array().cloned().unwrap_or_default();
        Ok(disks.iter().filter_map(|disk| disk["id"].as_str().map(str::to_owned)).collect())
    }
}
