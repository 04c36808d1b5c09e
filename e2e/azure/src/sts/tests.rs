use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::config::{CLIENT, Federated, TENANT};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const SUBJECT: &str = "system:serviceaccount:hawser:hawser-operator";
const ARM: &str = "https://management.azure.com";

struct Cluster {
    key: KeyPair,
    folder: tempfile::TempDir,
}

impl Cluster {
    fn new() -> Self {
        let cluster = Self { key: KeyPair::generate(KeySize::Rsa2048).unwrap(), folder: tempfile::tempdir().unwrap() };
        std::fs::write(cluster.path(), jwt::jwks(&cluster.key, "k1").to_string()).unwrap();
        cluster
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("jwks.json")
    }

    /// A projected token, with `change` made to its claims.
    fn token(&self, now: Timestamp, change: impl FnOnce(&mut Value)) -> String {
        let second = now.as_second();
        let mut claims = json!({ "iss": ISSUER, "sub": SUBJECT, "aud": [EXCHANGE], "iat": second, "nbf": second, "exp": second + 3600 });
        change(&mut claims);
        jwt::sign(&self.key, "k1", &claims).unwrap()
    }
}

fn sts(cluster: &Cluster) -> (Sts, Clock) {
    let clock = Clock::held("2026-01-01T00:00:00Z".parse().unwrap());
    let mut config = Config::default();
    config.principals[0].federated = vec![Federated {
        issuer: ISSUER.to_owned(),
        subject: SUBJECT.to_owned(),
        audience: EXCHANGE.to_owned(),
        keys: Some(cluster.path()),
    }];
    (Sts::new(&config, clock.clone()).unwrap(), clock)
}

fn form(fields: &[(&str, &str)]) -> HashMap<String, String> {
    let mut form: HashMap<String, String> = [
        ("grant_type", "client_credentials"),
        ("client_id", CLIENT),
        ("scope", "https://management.azure.com/.default"),
        ("client_secret", "sandbox"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    for (name, value) in fields {
        form.insert((*name).to_owned(), (*value).to_owned());
    }
    form
}

fn asserted(token: &str) -> HashMap<String, String> {
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let mut form = form(&[("client_assertion", token), ("client_assertion_type", kind)]);
    form.remove("client_secret");
    form
}

async fn code(sts: &Sts, form: &HashMap<String, String>) -> u64 {
    sts.token(TENANT, form).await.err().map_or(0, |denied| denied.code)
}

#[tokio::test]
async fn secrets_and_what_goes_with_them() {
    let cluster = Cluster::new();
    let (sts, _) = sts(&cluster);
    assert_eq!(code(&sts, &form(&[])).await, 0);
    assert_eq!(code(&sts, &form(&[("client_secret", "wrong")])).await, 7_000_215);
    assert_eq!(code(&sts, &form(&[("client_secret", "")])).await, 7_000_216);
    assert_eq!(code(&sts, &form(&[("client_id", "33333333-3333-4333-8333-000000000000")])).await, 700_016);
    assert_eq!(code(&sts, &form(&[("grant_type", "password")])).await, 70_003);
    assert_eq!(code(&sts, &form(&[("scope", "")])).await, 900_144);
    assert_eq!(code(&sts, &form(&[("scope", "https://management.azure.com/user_impersonation")])).await, 1_002_012);
    assert_eq!(code(&sts, &form(&[("scope", "https://nowhere.example/.default")])).await, 500_011);
    assert_eq!(code(&sts, &form(&[("scope", "https://storage.azure.com/.default https://vault.azure.net/.default")])).await, 70_011);
    let other = "11111111-1111-4111-8111-000000000000";
    let denied = sts.token(other, &form(&[])).await.unwrap_err();
    assert_eq!((denied.code, denied.status), (90_002, 400));
}

#[tokio::test]
async fn a_federated_token_fits_to_the_letter() {
    let cluster = Cluster::new();
    let (sts, clock) = sts(&cluster);
    let now = clock.now();
    let with = async |change: fn(&mut Value)| code(&sts, &asserted(&cluster.token(now, change))).await;
    assert_eq!(with(|_| ()).await, 0);
    assert_eq!(with(|claims| claims["aud"] = json!(EXCHANGE)).await, 0, "one audience as a string");
    assert_eq!(with(|claims| claims["iss"] = json!(format!("{ISSUER}/"))).await, 700_211);
    assert_eq!(with(|claims| claims["sub"] = json!("system:serviceaccount:hawser:Hawser-operator")).await, 700_213);
    assert_eq!(with(|claims| claims["aud"] = json!(["https://kubernetes.default.svc"])).await, 700_212);
    assert_eq!(with(|claims| claims["exp"] = json!(claims["iat"].as_i64().unwrap() - 301)).await, 700_024);
    assert_eq!(with(|claims| claims["nbf"] = json!(claims["iat"].as_i64().unwrap() + 301)).await, 700_024);
    assert_eq!(
        with(|claims| {
            claims.as_object_mut().unwrap().remove("exp");
        })
        .await,
        50_027
    );
    assert_eq!(code(&sts, &asserted("no.token")).await, 50_027);
    let denied = sts.token(TENANT, &asserted(&cluster.token(now, |claims| claims["sub"] = json!("x")))).await.unwrap_err();
    assert_eq!((denied.status, denied.error), (401, "invalid_client"));
    let mut untyped = asserted(&cluster.token(now, |_| ()));
    untyped.insert("client_assertion_type".to_owned(), "saml".to_owned());
    assert_eq!(code(&sts, &untyped).await, 50_048);
}

#[tokio::test]
async fn a_federated_token_is_signed_by_the_cluster() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let (sts, clock) = sts(&cluster);
    let now = clock.now();
    assert_eq!(code(&sts, &asserted(&other.token(now, |_| ()))).await, 700_027, "another cluster's key");
    let token = cluster.token(now, |_| ());
    let parts: Vec<&str> = token.split('.').collect();
    let forged =
        URL_SAFE_NO_PAD.encode(json!({ "iss": ISSUER, "sub": SUBJECT, "aud": EXCHANGE, "exp": now.as_second() + 999_999 }).to_string());
    assert_eq!(code(&sts, &asserted(&format!("{}.{forged}.{}", parts[0], parts[2]))).await, 700_027, "changed claims");
    for algorithm in ["none", "HS256", "ES256"] {
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": algorithm, "kid": "k1" }).to_string());
        assert_eq!(code(&sts, &asserted(&format!("{header}.{}.{}", parts[1], parts[2]))).await, 5_002_738, "{algorithm}");
    }
    let renamed = URL_SAFE_NO_PAD.encode(json!({ "alg": "RS256", "kid": "k2" }).to_string());
    assert_eq!(code(&sts, &asserted(&format!("{renamed}.{}.{}", parts[1], parts[2]))).await, 700_027, "a key that is not there");
    // The cluster changes its keys: the file is read anew.
    std::fs::write(cluster.path(), jwt::jwks(&other.key, "k1").to_string()).unwrap();
    assert_eq!(code(&sts, &asserted(&other.token(now, |_| ()))).await, 0);
    assert_eq!(code(&sts, &asserted(&token)).await, 700_027);
    std::fs::remove_file(cluster.path()).unwrap();
    assert_eq!(code(&sts, &asserted(&token)).await, 50_166, "no keys to be had");
}

#[tokio::test]
async fn an_application_without_credentials() {
    let cluster = Cluster::new();
    let clock = Clock::held("2026-01-01T00:00:00Z".parse().unwrap());
    let mut config = Config::default();
    config.principals[0].secret = None;
    let sts = Sts::new(&config, clock.clone()).unwrap();
    assert_eq!(code(&sts, &asserted(&cluster.token(clock.now(), |_| ()))).await, 70_025);
    assert_eq!(code(&sts, &form(&[])).await, 7_000_215, "no secret was ever made");
}

#[tokio::test]
async fn tokens_end_and_are_for_one_resource() {
    let cluster = Cluster::new();
    let (sts, clock) = sts(&cluster);
    let issue = async |scope: &str| {
        let answer = sts.token(TENANT, &form(&[("scope", scope)])).await.unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    };
    let token = issue("https://management.azure.com/.default").await;
    let caller = sts.check(&token, &[ARM]).unwrap();
    assert_eq!((caller.client_id.as_str(), caller.tenant.as_str()), (CLIENT, TENANT));
    assert_eq!(caller.object_id, Config::default().principals[0].object_id);
    let storage = issue("https://storage.azure.com/.default").await;
    assert_eq!(sts.check(&storage, &[ARM]), Err(TokenRefused::Audience("https://storage.azure.com".to_owned())));
    let slash = issue("https://management.core.windows.net//.default").await;
    assert!(sts.check(&slash, &["https://management.core.windows.net/"]).is_ok(), "the resource's own slash stays");
    let (head, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[9] ^= 1;
    let forged = format!("{head}.{}", URL_SAFE_NO_PAD.encode(bytes));
    assert_eq!(sts.check(&forged, &[ARM]), Err(TokenRefused::Signature));
    assert_eq!(sts.check("x", &[ARM]), Err(TokenRefused::Malformed));
    let foreign =
        Sts::new(&Config { tenant: "11111111-1111-4111-8111-000000000000".to_owned(), ..Config::default() }, clock.clone()).unwrap();
    assert!(matches!(sts.check(&foreign.token_for(CLIENT, ARM).unwrap(), &[ARM]), Err(TokenRefused::Issuer(_))));
    clock.advance(std::time::Duration::from_secs(3598));
    assert!(sts.check(&token, &[ARM]).is_ok());
    clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(sts.check(&token, &[ARM]), Err(TokenRefused::Expired));
}
