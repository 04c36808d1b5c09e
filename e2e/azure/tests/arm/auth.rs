//! Who calls: tokens, their audience, their time.

use crate::sim::{GROUP, RESOURCES, Sim};

async fn refused(sim: &Sim, authorization: Option<&str>, code: &str, words: &str) {
    let reply = sim.raw("GET", &format!("{GROUP}?api-version={RESOURCES}"), None, authorization).await.unwrap();
    reply.refused(401, code, words);
    assert!(reply.header("www-authenticate").starts_with("Bearer authorization_uri=\"https://login.microsoftonline.com/"), "{reply:?}");
}

#[tokio::test]
async fn no_token_and_no_bearer() {
    let sim = Sim::start().await;
    refused(&sim, None, "AuthenticationFailed", "'Authorization' header is missing").await;
    refused(&sim, Some("Basic abc"), "AuthenticationFailedInvalidHeader", "invalid format").await;
    refused(&sim, Some("Bearer abc"), "InvalidAuthenticationToken", "invalid").await;
}

#[tokio::test]
async fn a_token_for_storage_is_not_for_resource_manager() {
    let sim = Sim::start().await;
    let token = sim.state.sts.token_for(azure_simulator::config::CLIENT, "https://storage.azure.com").unwrap();
    refused(
        &sim,
        Some(&format!("Bearer {token}")),
        "InvalidAuthenticationTokenAudience",
        "wrong audience or resource 'https://storage.azure.com'",
    )
    .await;
}

#[tokio::test]
async fn all_audiences_of_resource_manager_are_served() {
    let sim = Sim::start().await;
    for audience in ["https://management.azure.com", "https://management.azure.com/", "https://management.core.windows.net/"] {
        let token = sim.state.sts.token_for(azure_simulator::config::CLIENT, audience).unwrap();
        let reply = sim.raw("GET", &format!("{GROUP}?api-version={RESOURCES}"), None, Some(&format!("Bearer {token}"))).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
}

#[tokio::test]
async fn a_token_ends() {
    let sim = Sim::start().await;
    let bearer = format!("Bearer {}", sim.token(azure_simulator::config::CLIENT));
    let path = format!("{GROUP}?api-version={RESOURCES}");
    assert_eq!(sim.raw("GET", &path, None, Some(&bearer)).await.unwrap().status, 200);
    sim.advance(3601);
    refused(&sim, Some(&bearer), "ExpiredAuthenticationToken", "expiry").await;
}

#[tokio::test]
async fn a_token_of_another_directory() {
    let sim = Sim::start().await;
    let mut other = crate::sim::config();
    other.tenant = "11111111-1111-4111-8111-000000000000".to_owned();
    let other = azure_simulator::sts::Sts::new(&other, sim.state.clock.clone()).unwrap();
    let token = other.token_for(azure_simulator::config::CLIENT, "https://management.azure.com").unwrap();
    refused(&sim, Some(&format!("Bearer {token}")), "InvalidAuthenticationTokenTenant", "wrong issuer").await;
}

#[tokio::test]
async fn a_token_that_was_tampered_with() {
    let sim = Sim::start().await;
    let token = sim.token(azure_simulator::config::CLIENT);
    let (head, signature) = token.rsplit_once('.').unwrap();
    let other = sim.token(crate::sim::NOBODY);
    let (other_head, _) = other.rsplit_once('.').unwrap();
    assert_ne!(head, other_head);
    refused(&sim, Some(&format!("Bearer {other_head}.{signature}")), "InvalidAuthenticationToken", "invalid").await;
}
