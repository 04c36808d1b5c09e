//! What vCenter says when it does not do what it was asked.

use std::fmt;

use blocklog::constant::constant;

use crate::xml::{Element, Ns};

/// A fault of the API, as the answer to a call or as the error of a task.
///
/// It is known by its type: the text is in the language of the session and often empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fault {
    /// The type: `FileFault`. Empty where the server sent none (it did not understand the request).
    pub kind: String,
    /// What it says to people; may be empty.
    pub text: String,
    /// The keys of its messages: `vim.hostd.vmsvc.cbt.noTrack`.
    pub keys: Vec<String>,
    /// The messages that go with the keys.
    pub messages: Vec<String>,
    /// Its own fields of plain values, such as `file` or `privilegeId`.
    pub fields: Vec<(String, String)>,
    /// What caused it.
    pub cause: Option<Box<Self>>,
}

/// A hostile or broken answer must not make the error of a whole document.
const MAX_TEXT: usize = 2000;

impl Fault {
    /// One of a type, for those who make faults up (tests).
    #[must_use]
    pub fn of(kind: &str) -> Self {
        Self { kind: kind.into(), ..Self::default() }
    }

    /// The same with a message's key and text.
    #[must_use]
    pub fn with_message(mut self, key: &str, message: &str) -> Self {
        self.keys.push(key.into());
        self.messages.push(message.into());
        self
    }

    /// The same with a field.
    #[must_use]
    pub fn with_field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// True where it is of that very type.
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        self.kind == kind
    }

    /// A field of plain value.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// True where any of its texts holds the word (whatever its case), causes included.
    #[must_use]
    pub fn mentions(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        let texts = std::iter::once(&self.text).chain(&self.messages).chain(&self.keys).chain(self.fields.iter().map(|(_, value)| value));
        texts.into_iter().any(|text| text.to_lowercase().contains(&word)) || self.cause.as_ref().is_some_and(|cause| cause.mentions(&word))
    }

    /// True where one of its messages has this key, causes included. Where the host gives no keys, its text may hold them.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        let own = if self.keys.is_empty() { self.mentions(key) } else { self.keys.iter().any(|k| k == key) };
        own || self.cause.as_ref().is_some_and(|cause| cause.has_key(key))
    }

    /// From SOAP's `Fault` element.
    #[must_use]
    pub fn from_soap(element: &Element) -> Self {
        let text = element.text_of("faultstring").unwrap_or_default();
        match element.child("detail").and_then(|detail| detail.children.first()) {
            Some(detail) => {
                let kind = detail.xsi_type().unwrap_or_else(|| detail.name.strip_suffix("Fault").unwrap_or(&detail.name));
                Self::read(detail, kind, text)
            }
            None => Self { text: cut(text), ..Self::default() },
        }
    }

    /// From a `LocalizedMethodFault`, as tasks have them.
    #[must_use]
    pub fn from_localized(element: &Element) -> Self {
        let text = element.text_of("localizedMessage").unwrap_or_default();
        match element.child("fault") {
            Some(fault) => Self::read(fault, fault.xsi_type().unwrap_or("MethodFault"), text),
            None => Self { kind: "MethodFault".into(), text: cut(text), ..Self::default() },
        }
    }

    fn read(element: &Element, kind: &str, text: &str) -> Self {
        let mut fault = Self { kind: cut(kind), text: cut(text), ..Self::default() };
        for child in &element.children {
            match child.name.as_str() {
                "faultCause" if fault.cause.is_none() => fault.cause = Some(Box::new(Self::from_localized(child))),
                "faultMessage" => {
                    fault.keys.push(cut(child.text_of("key").unwrap_or_default()));
                    fault.messages.push(cut(child.text_of("message").unwrap_or_default()));
                }
                name if child.children.is_empty() && fault.fields.len() < 64 => {
                    if let Some(kind) = child.attribute(Ns::None, "type") {
                        fault.fields.push((format!("{name}.type"), cut(kind)));
                    }
                    fault.fields.push((name.to_owned(), cut(&child.text)));
                }
                _ => {}
            }
        }
        fault
    }
}

/// For people: without the ids of tasks and sessions, which are others each time. The collector, and whoever else logs a fault, has it all in its `Debug`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind.is_empty() { "SOAP fault" } else { &self.kind };
        f.write_str(kind)?;
        let text = constant(&self.text);
        if !text.is_empty() {
            write!(f, ": {text}")?;
        }
        for message in self.messages.iter().map(|message| constant(message)).filter(|message| !message.is_empty() && *message != text) {
            write!(f, " ({message})")?;
        }
        for (name, value) in self.fields.iter().filter(|(_, value)| !value.is_empty()) {
            write!(f, " [{name}: {}]", constant(value))?;
        }
        if let Some(cause) = &self.cause {
            write!(f, ", caused by {cause}")?;
        }
        Ok(())
    }
}

fn cut(text: &str) -> String {
    text.trim().chars().take(MAX_TEXT).collect()
}

/// True for SOAP's own fault element.
#[must_use]
pub fn is_fault(element: &Element) -> bool {
    element.ns == Ns::Soap && element.name == "Fault"
}
