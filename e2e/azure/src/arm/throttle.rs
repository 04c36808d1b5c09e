//! Throttles: token buckets, with Azure's numbers times the configured factor.
//!
//! Sources: learn.microsoft.com, "Understand how Azure Resource Manager throttles requests" (reads 250 and 25 a second, writes and
//! deletes 200 and 10 a second, for each subscription and principal), and "Compute throttling limits" (Put, Update and Delete VM: 12 and
//! 4 a minute for each VM; Get VM: 36 and 12; an operation's status: 45 and 15 a minute).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::error::ArmError;

/// One kind of bucket.
#[derive(Debug, Clone, Copy)]
struct Limit {
    burst: f64,
    per_second: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// All buckets.
#[derive(Debug)]
pub struct Throttles {
    scale: f64,
    buckets: BTreeMap<String, Bucket>,
}

/// What a call draws from beside the subscription's bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// Only the subscription's.
    None,
    /// Creating, changing, deleting, starting or stopping this VM.
    ChangeVm(String),
    /// Reading this VM.
    GetVm(String),
    /// The status of an operation on this resource.
    Status(String),
}

impl Throttles {
    /// Full buckets; `scale` 0 switches throttles off.
    #[must_use]
    pub fn new(scale: f64) -> Self {
        Self { scale, buckets: BTreeMap::new() }
    }

    /// Another factor; the buckets are full again.
    pub fn set_scale(&mut self, scale: f64) {
        *self = Self::new(scale);
    }

    /// Takes a token for this call; the answer's `x-ms-ratelimit-remaining-subscription-*` header.
    ///
    /// # Errors
    /// 429 with `Retry-After` when a bucket is empty.
    pub fn take(&mut self, method: &str, principal: &str, resource: &Resource, now: Timestamp) -> Result<(&'static str, String), ArmError> {
        let (kind, header, limit) = match method {
            "GET" | "HEAD" => ("reads", "x-ms-ratelimit-remaining-subscription-reads", Limit { burst: 250.0, per_second: 25.0 }),
            "DELETE" => ("deletes", "x-ms-ratelimit-remaining-subscription-deletes", Limit { burst: 200.0, per_second: 10.0 }),
            _ => ("writes", "x-ms-ratelimit-remaining-subscription-writes", Limit { burst: 200.0, per_second: 10.0 }),
        };
        if self.scale <= 0.0 {
            return Ok((header, "11999".to_owned()));
        }
        let left = self.draw(&format!("{kind} {principal}"), limit, now).map_err(|wait| {
            let message = format!(
                "Number of '{kind}' requests for this subscription and actor '{principal}' exceeded. Please try again after '{wait}' seconds after \
                 additional tokens are available. Refer to https://aka.ms/arm-throttling for additional information."
            );
            ArmError::new(429, "SubscriptionRequestsThrottled", message).retry_after(wait)
        })?;
        let minute = |burst: f64, refill: f64| Limit { burst, per_second: refill / 60.0 };
        let (key, limit) = match resource {
            Resource::None => return Ok((header, left.to_string())),
            Resource::ChangeVm(id) => (format!("change {id}"), minute(12.0, 4.0)),
            Resource::GetVm(id) => (format!("get {id}"), minute(36.0, 12.0)),
            Resource::Status(id) => (format!("status {id}"), minute(45.0, 15.0)),
        };
        self.draw(&key, limit, now).map_err(|wait| {
            let message = "The server rejected the request because too many requests have been received for this subscription.";
            let mut error = ArmError::new(429, "OperationNotAllowed", message).retry_after(wait);
            error.details.push(serde_json::json!({ "code": "TooManyRequests", "target": key.split(' ').next(), "message": message }));
            error
        })?;
        Ok((header, left.to_string()))
    }

    /// What is left, or how many seconds until there is a token.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
    fn draw(&mut self, key: &str, limit: Limit, now: Timestamp) -> Result<u64, u64> {
        // A bucket holds one token at least: with a small factor calls are slow, not impossible.
        let burst = (limit.burst * self.scale).max(1.0);
        let refill = limit.per_second * self.scale;
        let bucket = self.buckets.entry(key.to_owned()).or_insert(Bucket { tokens: burst, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed * refill).min(burst);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return Err((((1.0 - bucket.tokens) / refill).ceil() as u64).max(1));
        }
        bucket.tokens -= 1.0;
        Ok(bucket.tokens as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thirteenth_change_of_a_vm_waits_a_quarter_of_a_minute() {
        let mut throttles = Throttles::new(1.0);
        let now = Timestamp::UNIX_EPOCH;
        let vm = Resource::ChangeVm("a".into());
        for _ in 0..12 {
            throttles.take("PUT", "p", &vm, now).unwrap();
        }
        let refused = throttles.take("PUT", "p", &vm, now).unwrap_err();
        assert_eq!((refused.status, refused.retry_after), (429, Some(15)));
        throttles.take("PUT", "p", &Resource::ChangeVm("b".into()), now).unwrap();
        throttles.take("PUT", "p", &vm, now + jiff::SignedDuration::from_secs(15)).unwrap();
    }

    #[test]
    fn writes_and_reads_have_their_own_buckets() {
        let mut throttles = Throttles::new(1.0);
        let now = Timestamp::UNIX_EPOCH;
        for _ in 0..200 {
            throttles.take("POST", "p", &Resource::None, now).unwrap();
        }
        assert_eq!(throttles.take("PUT", "p", &Resource::None, now).unwrap_err().code, "SubscriptionRequestsThrottled");
        assert_eq!(throttles.take("GET", "p", &Resource::None, now).unwrap().1, "249");
        throttles.take("PUT", "other", &Resource::None, now).unwrap();
    }
}
