//! Which version of the API is spoken.
//!
//! A server lists what it offers in `vimServiceVersions.xml`; a request names one in its `SOAPAction`. What is newer than the version named is
//! hidden by the server, so an answer never holds what this client has not heard of by name.

use std::{cmp::Ordering, fmt};

use crate::{error::Error, xml::Element};

/// A version of the API: `8.0.3.0`.
#[derive(Debug, Clone)]
pub struct ApiVersion {
    text: String,
    parts: Vec<u32>,
}

impl ApiVersion {
    /// The newest one that this client was written for.
    pub const NEWEST: &'static str = "8.0.3.0";
    /// The oldest one that has what replication needs (`CreateSnapshotEx_Task`).
    pub const OLDEST: &'static str = "6.5";

    /// The version that a text says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let parts = text.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>()?;
        Some(Self { text: text.to_owned(), parts })
    }

    /// What the header `SOAPAction` has to be.
    #[must_use]
    pub fn action(&self) -> String {
        format!("\"urn:vim25/{}\"", self.text)
    }

    /// The oldest one that will do: what is spoken before a server has said what it offers.
    #[must_use]
    pub fn oldest() -> Self {
        Self { text: Self::OLDEST.to_owned(), parts: vec![6, 5] }
    }
}

// 6.5 and 6.5.0 are one version.
impl Ord for ApiVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let parts = self.parts.len().max(other.parts.len());
        let part = |of: &[u32], at: usize| of.get(at).copied().unwrap_or(0);
        (0..parts).map(|at| part(&self.parts, at).cmp(&part(&other.parts, at))).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for ApiVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ApiVersion {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ApiVersion {}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The version to speak, from a server's `vimServiceVersions.xml`: the newest that both know.
///
/// # Errors
/// [`Error::Version`] where there is none, [`Error::Xml`].
pub fn negotiate(document: &str) -> Result<ApiVersion, Error> {
    let method = "vimServiceVersions.xml";
    let root = Element::parse(document).map_err(|why| Error::Xml { method: method.into(), why })?;
    let vim = root.all("namespace").find(|ns| ns.text_of("name").is_some_and(|name| name.trim() == "urn:vim25"));
    let vim = vim.ok_or_else(|| Error::answer(method, "it does not name urn:vim25: is this a vCenter's address?"))?;
    let prior = vim.child("priorVersions").into_iter().flat_map(|prior| prior.all("version"));
    let offered: Vec<ApiVersion> = vim.all("version").chain(prior).filter_map(|version| ApiVersion::parse(&version.text)).collect();
    let (oldest, newest) = (ApiVersion::oldest(), ApiVersion::parse(ApiVersion::NEWEST));
    let known = offered.iter().filter(|version| **version >= oldest && newest.as_ref().is_none_or(|newest| *version <= newest));
    known.max().cloned().ok_or_else(|| Error::Version { offered: offered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(version: &str, prior: &[&str]) -> String {
        let prior: String = prior.iter().map(|version| format!("<version>{version}</version>")).collect();
        format!(
            r#"<?xml version="1.0" encoding="UTF-8" ?><namespaces version="1.0"><namespace><name>urn:internalvim25</name><version>1.0</version></namespace><namespace><name>urn:vim25</name><version>{version}</version><priorVersions>{prior}</priorVersions></namespace></namespaces>"#
        )
    }

    #[test]
    fn the_newest_that_both_know_is_spoken() {
        let speak = |version, prior: &[&str]| negotiate(&offer(version, prior)).map(|version| version.to_string());
        assert_eq!(speak("6.5", &["6.0", "5.5"]).unwrap(), "6.5");
        assert_eq!(speak("7.0.3.2", &["7.0.3.0", "6.7.3"]).unwrap(), "7.0.3.2");
        // A newer server: what it was before.
        assert_eq!(speak("9.1.0.0", &["9.0.0.0", "8.0.3.0", "8.0.2.0"]).unwrap(), "8.0.3.0");
        assert_eq!(speak("10.0.0.0", &["9.0.0.0", "8.0.1.0", "8.0.0.10"]).unwrap(), "8.0.1.0");
        let refused = speak("6.0", &["5.5"]).unwrap_err();
        assert_eq!(refused.to_string(), "this vCenter offers the API versions 6.0, 5.5; Hawser needs one from 6.5 on");
        assert!(matches!(negotiate("<a/>"), Err(Error::Answer { .. })));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let v = |text| ApiVersion::parse(text).unwrap();
        assert!(v("10.0") > v("9.9") && v("6.5") == v("6.5.0.0") && v("6.7.3") > v("6.7.2.9"));
        assert!(ApiVersion::parse("8.0-U1").is_none());
        assert_eq!(v("8.0.3.0").action(), "\"urn:vim25/8.0.3.0\"");
    }
}
