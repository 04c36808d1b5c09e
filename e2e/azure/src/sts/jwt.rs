//! JSON Web Tokens of the one algorithm that Entra signs with and takes from others: RS256.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// Why a token cannot be read or believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three parts of base64url, two of them JSON objects.
    #[error("it is not a signed JSON Web Token")]
    Malformed,
    /// Signed in another way.
    #[error("'{0}' is not a supported signature algorithm")]
    Algorithm(String),
    /// No key of that id.
    #[error("the key '{0}' was not found")]
    NoKey(String),
    /// The signature is not the key's.
    #[error("the signature does not fit")]
    Signature,
}

/// A token taken apart; nothing in it is to be believed before its signature was verified.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    pub(super) header: Map<String, Value>,
    pub(super) claims: Map<String, Value>,
    signature: Vec<u8>,
}

pub(super) fn parse(token: &str) -> Result<Parsed, JwtError> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else { return Err(JwtError::Malformed) };
    let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Malformed);
    let object = |part: &str| serde_json::from_slice(&bytes(part)?).map_err(|_| JwtError::Malformed);
    Ok(Parsed { header: object(header)?, claims: object(claims)?, signature: bytes(signature)? })
}

fn signed_part(token: &str) -> &str {
    token.rsplit_once('.').map_or("", |(signed, _)| signed)
}

fn algorithm(parsed: &Parsed) -> Result<(), JwtError> {
    match parsed.header.get("alg").and_then(Value::as_str) {
        Some("RS256") => Ok(()),
        other => Err(JwtError::Algorithm(other.unwrap_or("none").to_owned())),
    }
}

/// Signs claims.
pub(super) fn sign(key: &KeyPair, key_id: &str, claims: &Value) -> Result<String, JwtError> {
    let header = json!({ "typ": "JWT", "alg": "RS256", "x5t": key_id, "kid": key_id });
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).map_err(|_| JwtError::Signature)?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Whether this key signed it.
pub(super) fn verify_own(key: &KeyPair, token: &str, parsed: &Parsed) -> Result<(), JwtError> {
    algorithm(parsed)?;
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
    public.verify(signed_part(token).as_bytes(), &parsed.signature).map_err(|_| JwtError::Signature)
}

/// The public half, as a JWKS document.
pub(super) fn jwks(key: &KeyPair, key_id: &str) -> Value {
    let public = key.public_key();
    let (n, e) = (public.modulus().big_endian_without_leading_zero(), public.exponent().big_endian_without_leading_zero());
    json!({ "keys": [{
        "kty": "RSA", "use": "sig", "alg": "RS256", "kid": key_id, "x5t": key_id,
        "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e),
    }] })
}

/// Whether one of these keys signed it: the one that the token names, or any where it names none.
pub(super) fn verify(keys: &Value, token: &str, parsed: &Parsed) -> Result<(), JwtError> {
    algorithm(parsed)?;
    let named = parsed.header.get("kid").and_then(Value::as_str);
    let text = |key: &Value, name: &str| key.get(name).and_then(Value::as_str).map(str::to_owned);
    let keys = keys.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut candidates = keys
        .iter()
        .filter(|key| text(key, "kty").as_deref() == Some("RSA") && (named.is_none() || text(key, "kid").as_deref() == named))
        .filter_map(|key| {
            let part = |name: &str| URL_SAFE_NO_PAD.decode(text(key, name)?).ok();
            Some(RsaPublicKeyComponents { n: part("n")?, e: part("e")? })
        })
        .peekable();
    if candidates.peek().is_none() {
        return Err(JwtError::NoKey(named.unwrap_or_default().to_owned()));
    }
    let signed = signed_part(token).as_bytes();
    let good = candidates.any(|key| key.verify(&RSA_PKCS1_2048_8192_SHA256, signed, &parsed.signature).is_ok());
    if good { Ok(()) } else { Err(JwtError::Signature) }
}
