//! `createOption: Import`: a disk from a page blob.
//!
//! Rules: FAQ for disks and the REST API (`sourceUri` and `storageAccountId` both; same region; a fixed VHD whose size is a whole number of
//! MiB). The bytes come by HTTP from where the blob is, by the URL's SAS or else by the account's key.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::{Method, Response, Url};
use serde_json::Value;
use uuid::Uuid;

use super::error::ArmError;
use super::path::ResourceId;
use super::request::Call;
use super::world::{MIB, World};
use crate::State;

const FOOTER: u64 = 512;
/// What one Get Blob asks for.
const PIECE: u64 = 4 << 20;
const VERSION: &str = "2021-12-02";

/// A page blob that a disk is made from.
#[derive(Debug, Clone)]
pub struct Blob {
    url: Url,
    account: String,
    key: String,
}

/// Looks at what `creationData` says.
///
/// # Errors
/// For URLs and accounts that do not fit, and for accounts that the caller may not see.
pub fn source(world: &World, call: &Call, id: &str, location: &str, creation: &Value) -> Result<Blob, ArmError> {
    let need = |field: &str| {
        let at = format!("disk.creationData.{field}");
        creation[field].as_str().ok_or_else(|| ArmError::invalid(&at, format!("Required parameter '{at}' is missing (null).")))
    };
    let (uri, account) = (need("sourceUri")?, need("storageAccountId")?);
    let parsed = ResourceId::parse(account, "creationData.storageAccountId")?;
    let own = (id, "Microsoft.Compute/disks/write");
    call.may_link(world, (own.1, own.0), "Microsoft.Storage/storageAccounts/read", account)?;
    let fixture = world.fixtures.get(&parsed.key).filter(|_| parsed.is("Microsoft.Storage", "storageAccounts"));
    let Some(fixture) = fixture else {
        return Err(ArmError::not_found("Microsoft.Storage/storageAccounts", &parsed.name, &parsed.group));
    };
    if fixture.location != location {
        let message =
            format!("The storage account '{}' is in location '{}': Import needs one in '{location}'.", parsed.name, fixture.location);
        return Err(ArmError::invalid("creationData.storageAccountId", message));
    }
    let known = call.state.config.storage_accounts.iter().find(|known| known.name.eq_ignore_ascii_case(&parsed.name));
    let bad = |message: String| ArmError::invalid("creationData.sourceUri", message);
    let Some(known) = known else { return Err(bad(format!("The storage account '{}' has no blobs.", parsed.name))) };
    let endpoint = known.blob_endpoint.trim_end_matches('/');
    let inside = uri.strip_prefix(endpoint).is_some_and(|rest| rest.starts_with('/') && rest.trim_matches('/').contains('/'));
    if !inside {
        return Err(bad(format!(
            "The source blob {uri} does not belong to the storage account '{}', whose blobs are below {endpoint}/.",
            known.name
        )));
    }
    let url = Url::parse(uri).map_err(|error| bad(format!("The source blob uri {uri} is invalid: {error}.")))?;
    Ok(Blob { url, account: known.name.clone(), key: known.key.clone() })
}

/// Lets the operation wait until the bytes are there, and fetches them.
pub fn begin(world: &mut World, call: &Call, operation: Uuid, key: &str, blob: Blob) {
    if let Some(operation) = world.operations.get_mut(&operation) {
        operation.waits = true;
    }
    let (state, key) = (call.state.clone(), key.to_owned());
    let size = world.volumes.get(&key).map_or(0, |volume| volume.content);
    tokio::runtime::Handle::current().spawn(async move {
        let result = fetch(&state, &key, &blob, size).await;
        let now = state.clock.now();
        let mut world = state.arm.world();
        match result {
            Ok(content) => {
                if let Some(volume) = world.volumes.get_mut(&key) {
                    volume.content = content;
                }
                if let Some(operation) = world.operations.get_mut(&operation) {
                    operation.waits = false;
                    operation.due = operation.due.max(now);
                }
            }
            Err(error) => {
                state.disks.delete(&key);
                if let Some(volume) = world.volumes.get_mut(&key) {
                    volume.content = 0;
                }
                world.end(operation, &state, now, Some(error));
            }
        }
    });
}

async fn fetch(state: &State, key: &str, blob: &Blob, size: u64) -> Result<u64, ArmError> {
    let bad = |code: &str, message: String| ArmError::new(400, code, message);
    let shown = { blob.url.as_str().split('?').next().unwrap_or_default().to_owned() };
    let client = reqwest::Client::new();
    let unreachable = |error: &dyn std::fmt::Display| bad("BlobNotReachable", format!("The source blob {shown} cannot be read: {error}"));
    let head = ask(&client, state, blob, Method::HEAD, None, "").await.map_err(|error| unreachable(&error))?;
    let header = |name: &str| head.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if !head.status().is_success() {
        let message = format!("The source blob {shown} could not be read: {}.", head.status());
        return Err(bad(if head.status() == 404 { "SourceBlobNotFound" } else { "BlobNotReachable" }, message));
    }
    let length: u64 = header("content-length").parse().unwrap_or(0);
    let only = || bad("InvalidVhd", format!("Only blobs formatted as VHDs can be imported: {shown} is none."));
    if header("x-ms-blob-type") != "PageBlob" || length <= FOOTER {
        return Err(only());
    }
    let content = length - FOOTER;
    if !content.is_multiple_of(MIB) {
        return Err(bad("InvalidVhd", format!("The virtual size of the VHD {shown} ({content} bytes) must be a multiple of 1 MiB.")));
    }
    let store = |error: std::io::Error| ArmError::new(500, "InternalServerError", format!("the simulator's disk store: {error}"));
    state.disks.create(key, content, true).map_err(store)?;
    for (start, end) in ranges(&client, state, blob, length).await.map_err(|error| unreachable(&error))? {
        let mut at = start;
        while at < end {
            let stop = (at + PIECE).min(end);
            let answer = ask(&client, state, blob, Method::GET, Some((at, stop)), "").await.map_err(|error| unreachable(&error))?;
            if answer.status() != 206 && answer.status() != 200 {
                return Err(unreachable(&answer.status()));
            }
            let bytes = answer.bytes().await.map_err(|error| unreachable(&error))?;
            if bytes.len() as u64 != stop - at {
                return Err(unreachable(&"it is shorter than it says"));
            }
            state.disks.write(key, at, &bytes).map_err(store)?;
            at = stop;
        }
    }
    state.disks.footer(key).map_err(|error| bad("InvalidVhd", error.to_string()))?;
    if size > content {
        state.disks.resize(key, size).map_err(store)?;
    }
    Ok(content.max(size))
}

/// The pages that are not zero.
async fn ranges(client: &reqwest::Client, state: &State, blob: &Blob, length: u64) -> Result<Vec<(u64, u64)>, String> {
    let answer = ask(client, state, blob, Method::GET, None, "comp=pagelist").await.map_err(|error| error.to_string())?;
    if !answer.status().is_success() {
        return Err(answer.status().to_string());
    }
    let text = answer.text().await.map_err(|error| error.to_string())?;
    let number = |part: &str, tag: &str| -> Option<u64> { part.split_once(&format!("<{tag}>"))?.1.split_once('<')?.0.parse().ok() };
    let mut list = Vec::new();
    for part in text.split("<PageRange>").skip(1) {
        let (Some(start), Some(end)) = (number(part, "Start"), number(part, "End")) else {
            return Err("an odd list of page ranges".to_owned());
        };
        list.push((start, (end + 1).min(length)));
    }
    Ok(list)
}

async fn ask(
    client: &reqwest::Client,
    state: &State,
    blob: &Blob,
    method: Method,
    range: Option<(u64, u64)>,
    query: &str,
) -> Result<Response, reqwest::Error> {
    let mut url = blob.url.clone();
    let by_sas = url.query_pairs().any(|(name, _)| name == "sig");
    if !query.is_empty() {
        url.set_query(Some(&url.query().map_or(query.to_owned(), |known| format!("{known}&{query}"))));
    }
    let mut headers = vec![("x-ms-date", date(state.clock.now())), ("x-ms-version", VERSION.to_owned())];
    if let Some((start, end)) = range {
        headers.push(("x-ms-range", format!("bytes={start}-{}", end - 1)));
    }
    headers.sort();
    let mut request = client.request(method.clone(), url.clone());
    for (name, value) in &headers {
        request = request.header(*name, value);
    }
    if !by_sas {
        let signed: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let mut resource = format!("/{}{}", blob.account, url.path());
        let mut pairs: Vec<_> = url.query_pairs().collect();
        pairs.sort();
        for (name, value) in pairs {
            resource = format!("{resource}\n{}:{value}", name.to_lowercase());
        }
        // "Authorize with Shared Key": none of the standard headers is sent, so their eleven lines are empty.
        let text = format!("{method}\n{}{signed}{resource}", "\n".repeat(11));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(&blob.key).unwrap_or_default());
        let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()).as_ref());
        request = request.header("authorization", format!("SharedKey {}:{signature}", blob.account));
    }
    request.send().await
}

fn date(now: Timestamp) -> String {
    now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
