//! Resource Manager's errors: `{"error":{"code","message","target","details"}}`.

use serde_json::{Value, json};

/// A refusal, with the status and code that Azure answers with.
#[derive(Debug, Clone)]
pub struct ArmError(Box<Refusal>);

/// What [`ArmError`] leads to.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// As `OperationNotAllowed`.
    pub code: String,
    /// For people.
    pub message: String,
    /// What it is about, where Azure says so.
    pub target: Option<String>,
    /// Errors within.
    pub details: Vec<Value>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// `WWW-Authenticate`.
    pub challenge: Option<String>,
}

impl std::ops::Deref for ArmError {
    type Target = Refusal;

    fn deref(&self) -> &Refusal {
        &self.0
    }
}

impl std::ops::DerefMut for ArmError {
    fn deref_mut(&mut self) -> &mut Refusal {
        &mut self.0
    }
}

impl ArmError {
    /// A refusal.
    #[must_use]
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Refusal {
            status,
            code: code.to_owned(),
            message: message.into(),
            target: None,
            details: Vec::new(),
            retry_after: None,
            challenge: None,
        }))
    }

    /// Names what it is about.
    #[must_use]
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Says when to come again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// 409 OperationNotAllowed.
    #[must_use]
    pub fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(409, "OperationNotAllowed", message)
    }

    /// 400 InvalidParameter, about a property.
    #[must_use]
    pub fn invalid(target: &str, message: impl Into<String>) -> Self {
        Self::new(400, "InvalidParameter", message).target(target)
    }

    /// 400 for what Azure can do and this simulator cannot: better than to take it and not do it.
    #[must_use]
    pub fn unsupported(what: &str) -> Self {
        Self::new(
            400,
            "NotSupportedBySimulator",
            format!("This simulator does not know '{what}'; Azure does. Leave it out, or teach the simulator."),
        )
    }

    /// 409 Conflict: another operation holds the resource (the text is Azure's).
    #[must_use]
    pub fn busy() -> Self {
        Self::new(
            409,
            "Conflict",
            "The request failed due to conflict with a concurrent request. To resolve it, please refer to https://aka.ms/activitylog to get more \
             details on the conflicting requests.",
        )
    }

    /// 404 ResourceNotFound.
    #[must_use]
    pub fn not_found(kind: &str, name: &str, group: &str) -> Self {
        Self::new(
            404,
            "ResourceNotFound",
            format!(
                "The Resource '{kind}/{name}' under resource group '{group}' was not found. For more details please go to \
                 https://aka.ms/ARMResourceNotFoundFix"
            ),
        )
    }

    /// The inner object, as it stands in an operation's status too.
    #[must_use]
    pub fn inner(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(target) = &self.target {
            error["target"] = json!(target);
        }
        if !self.details.is_empty() {
            error["details"] = json!(self.details);
        }
        error
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({ "error": self.inner() })
    }
}
