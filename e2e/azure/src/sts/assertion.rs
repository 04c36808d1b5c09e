//! Another issuer's token in the place of a secret: a ServiceAccount's, projected by a cluster, for a federated credential of the
//! application ("Workload identity federation concepts", learn.microsoft.com). Issuer, subject and audience have to be those of one
//! credential, to the letter.

use jiff::Timestamp;
use serde_json::Value;

use super::Denied;
use super::jwt::{self, JwtError, Parsed};
use crate::config::{Federated, Principal};

/// How far an issuer's clock may be ahead or behind.
const SKEW: i64 = 300;

/// How long an issuer may take to show its keys.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

fn no_record(code: u64, what: &str, value: &str) -> Denied {
    let text = format!(
        "No matching federated identity record found for presented assertion {what} '{value}'. Check your federated identity credential \
         Subject, Audience and Issuer against the presented assertion. https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
    );
    Denied::new(401, "invalid_client", code, text)
}

fn audiences(parsed: &Parsed) -> Vec<String> {
    match parsed.claims.get("aud") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// The credential that the token is for: the code says what of it fits none.
fn credential<'a>(principal: &'a Principal, parsed: &Parsed) -> Result<&'a Federated, Denied> {
    let text = |name: &str| parsed.claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if principal.federated.is_empty() {
        return Err(Denied::new(
            401,
            "invalid_client",
            70_025,
            format!("The client '{}' has no configured federated identity credentials.", principal.client_id),
        ));
    }
    let (issuer, subject) = (text("iss"), text("sub"));
    let of_issuer: Vec<&Federated> = principal.federated.iter().filter(|held| held.issuer == issuer).collect();
    if of_issuer.is_empty() {
        return Err(no_record(700_211, "issuer", &issuer));
    }
    let of_subject: Vec<&Federated> = of_issuer.into_iter().filter(|held| held.subject == subject).collect();
    if of_subject.is_empty() {
        return Err(no_record(700_213, "subject", &subject));
    }
    let sent = audiences(parsed);
    let found = of_subject.into_iter().find(|held| sent.contains(&held.audience));
    found.ok_or_else(|| no_record(700_212, "audience", &sent.join(" ")))
}

/// The issuer's keys: a file that is read anew each time, since clusters change their keys, or its discovery document.
async fn keys(credential: &Federated, http: &reqwest::Client) -> Result<Value, Denied> {
    let unreachable = |why: String| {
        let text = format!("Request to External OIDC endpoint failed: {why}");
        Denied::new(400, "invalid_request", 50_166, text)
    };
    if let Some(path) = &credential.keys {
        let text = tokio::fs::read_to_string(path).await.map_err(|error| unreachable(format!("{}: {error}", path.display())))?;
        return serde_json::from_str(&text).map_err(|error| unreachable(format!("{}: {error}", path.display())));
    }
    let fetch = async |url: &str| {
        let answer = http.get(url).timeout(PATIENCE).send().await.and_then(reqwest::Response::error_for_status);
        match answer {
            Ok(answer) => answer.json::<Value>().await.map_err(|error| unreachable(error.to_string())),
            Err(error) => Err(unreachable(error.to_string())),
        }
    };
    let discovery = format!("{}/.well-known/openid-configuration", credential.issuer.trim_end_matches('/'));
    let document = fetch(&discovery).await?;
    match document.get("jwks_uri").and_then(Value::as_str) {
        Some(url) => fetch(url).await,
        None => Err(unreachable(format!("{discovery} has no jwks_uri"))),
    }
}

/// Whether the token stands for the application's secret.
pub(super) async fn check(principal: &Principal, token: &str, http: &reqwest::Client, now: Timestamp) -> Result<(), Denied> {
    let malformed = || Denied::new(401, "invalid_client", 50_027, "JWT token is invalid or malformed.");
    let parsed = jwt::parse(token).map_err(|_| malformed())?;
    let credential = credential(principal, &parsed)?;
    let keys = keys(credential, http).await?;
    jwt::verify(&keys, token, &parsed).map_err(|error| match error {
        JwtError::Malformed => malformed(),
        JwtError::Algorithm(name) => {
            Denied::new(401, "invalid_client", 5_002_738, format!("Invalid JWT token. '{name}' is not a supported signature algorithm."))
        }
        JwtError::NoKey(_) => invalid_signature("The key was not found."),
        JwtError::Signature => invalid_signature("The provided signature value did not match the expected signature value."),
    })?;
    let time = |name: &str| parsed.claims.get(name).and_then(Value::as_i64);
    let now = now.as_second();
    let until = time("exp").ok_or_else(malformed)?;
    if now >= until.saturating_add(SKEW) || time("nbf").is_some_and(|from| now < from.saturating_sub(SKEW)) {
        let text = format!("Client assertion is not within its valid time range. Current time: {now}, expiry time of assertion: {until}.");
        return Err(Denied::new(401, "invalid_client", 700_024, text));
    }
    Ok(())
}

fn invalid_signature(reason: &str) -> Denied {
    Denied::new(401, "invalid_client", 700_027, format!("Client assertion contains an invalid signature. [Reason - {reason}]"))
}
