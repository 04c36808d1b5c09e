//! Why the host refuses, in the words of the Blob service ("Blob service error codes" and "Common REST API error codes", learn.microsoft.com).

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    message: String,
    /// Further elements of the body.
    details: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
}

const AUTHENTICATION: &str = "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly \
                              including the signature.";
const CONDITION: &str = "The condition specified using HTTP conditional header(s) is not met.";

impl Refusal {
    pub(super) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), details: Vec::new(), headers: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    pub(super) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn authentication(detail: impl Into<String>) -> Self {
        Self::new(403, "AuthenticationFailed", AUTHENTICATION).with("AuthenticationErrorDetail", detail)
    }

    /// No SAS at all, or not all of it.
    pub(super) fn no_signature(what: &str) -> Self {
        Self::authentication(what)
    }

    pub(super) fn signature() -> Self {
        Self::authentication("Signature did not match.")
    }

    /// The stored access policy that a SAS names is gone: how Azure revokes.
    pub(super) fn unknown_identifier() -> Self {
        Self::authentication("SAS identifier cannot be found for specified signed identifier")
    }

    pub(super) fn expired(until: Timestamp, now: Timestamp) -> Self {
        Self::authentication(format!("Signed expiry time [{}] must be after current time [{}]", date(until), date(now)))
    }

    /// The SAS is good, but not for this.
    pub(super) fn permission() -> Self {
        let message = "This request is not authorized to perform this operation using this permission.";
        Self::new(403, "AuthorizationPermissionMismatch", message)
    }

    pub(super) fn header(name: &str, value: &str) -> Self {
        Self::new(400, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format.")
            .with("HeaderName", name)
            .with("HeaderValue", value)
    }

    pub(super) fn missing_header(name: &str) -> Self {
        Self::new(400, "MissingRequiredHeader", "An HTTP header that's mandatory for this request is not specified.")
            .with("HeaderName", name)
    }

    pub(super) fn query(name: &str, value: &str, reason: &str) -> Self {
        let message = "Value for one of the query parameters specified in the request URI is invalid.";
        Self::new(400, "InvalidQueryParameterValue", message)
            .with("QueryParameterName", name)
            .with("QueryParameterValue", value)
            .with("Reason", reason)
    }

    pub(super) fn conditions_not_supported() -> Self {
        Self::new(400, "ConditionHeadersNotSupported", "Condition headers are not supported.")
    }

    pub(super) fn condition_not_met() -> Self {
        Self::new(412, "ConditionNotMet", CONDITION)
    }

    pub(super) fn not_modified() -> Self {
        Self::new(304, "ConditionNotMet", CONDITION)
    }

    pub(super) fn sequence_not_met() -> Self {
        Self::new(412, "SequenceNumberConditionNotMet", "The sequence number condition specified was not met.")
    }

    pub(super) fn page_range() -> Self {
        Self::new(416, "InvalidPageRange", "The page range specified is invalid.")
    }

    pub(super) fn range(size: u64) -> Self {
        Self::new(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
            .with_header("content-range", format!("bytes */{size}"))
    }

    pub(super) fn too_large(limit: u64) -> Self {
        Self::new(413, "RequestBodyTooLarge", "The request body is too large and exceeds the maximum permissible limit.")
            .with("MaxLimit", limit.to_string())
    }

    pub(super) fn no_length() -> Self {
        Self::new(411, "MissingContentLengthHeader", "The Content-Length header was not specified.")
    }

    pub(super) fn mismatch(what: &'static str, sent: &str, computed: &str) -> Self {
        let (code, user, server) = match what {
            "MD5" => ("Md5Mismatch", "UserSpecifiedMd5", "ServerCalculatedMd5"),
            _ => ("Crc64Mismatch", "UserSpecifiedCrc64", "ServerCalculatedCrc64"),
        };
        let message = format!("The {what} value specified in the request did not match with the {what} value calculated by the server.");
        Self::new(400, code, message).with(user, sent).with(server, computed)
    }

    pub(super) fn both_checksums() -> Self {
        Self::new(400, "BothCrc64AndMd5HeaderPresent", "Both x-ms-content-crc64 header and Content-MD5 header are present.")
    }

    pub(super) fn timed_out() -> Self {
        Self::new(500, "OperationTimedOut", "Operation could not be completed within the specified time.")
    }

    pub(super) fn busy() -> Self {
        Self::new(503, "ServerBusy", "Ingress is over the account limit.").with_header("retry-after", "1")
    }

    pub(super) fn internal(error: &std::io::Error) -> Self {
        Self::new(500, "InternalError", format!("The server encountered an internal error. ({error})"))
    }

    pub(super) fn copy_source(status: u16, code: &str) -> Self {
        let message = format!("Could not verify the copy source within the specified time. The source answered {status} {code}.");
        // Both headers since 2024-02-04 ("Put Page From URL").
        Self::new(status, "CannotVerifyCopySource", message)
            .with_header("x-ms-copy-source-status-code", status.to_string())
            .with_header("x-ms-copy-source-error-code", code)
    }

    /// The answer; a HEAD's has no body.
    pub(super) fn response(&self, request_id: &str, now: Timestamp, head: bool) -> Response {
        let mut body = format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{}</Code><Message>{}\nRequestId:{request_id}\nTime:{now}</Message>",
            escape(&self.code),
            escape(&self.message)
        );
        for (name, value) in &self.details {
            body.push_str(&format!("<{name}>{}</{name}>", escape(value)));
        }
        body.push_str("</Error>");
        let silent = head || self.status == 304;
        let mut response = Response::new(if silent { Body::empty() } else { Body::from(body) });
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if !silent {
            headers.insert("content-type", HeaderValue::from_static("application/xml"));
        }
        let named = self.headers.iter().map(|(name, value)| (*name, value.as_str())).chain([("x-ms-error-code", self.code.as_str())]);
        for (name, value) in named {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// As HTTP writes times.
pub(super) fn date(time: Timestamp) -> String {
    // Only years after 9999 have no such form.
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).unwrap_or_default()
}
