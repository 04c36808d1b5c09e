//! A small tree of XML elements, by namespace.
//!
//! Prefixes mean nothing in it: vCenter writes `xsi:type`, its simulator `_XMLSchema-instance:type`, and both are the same attribute. What a
//! server may send is bounded by depth and size (the size is bounded where it is received), and a document type is refused: it has no use
//! here but for attacks by entities.

use std::borrow::Cow;

use quick_xml::{
    XmlVersion,
    escape::resolve_predefined_entity,
    events::{BytesRef, BytesStart, Event},
    name::{Namespace, ResolveResult},
    reader::NsReader,
};

/// The namespace of SOAP 1.1's envelope.
pub const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
/// The namespace of `type` attributes.
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// The namespace of the vSphere API.
pub const VIM: &str = "urn:vim25";

/// Deeper than a chain of 32 snapshots or of 32 backing files in an update ever gets.
const MAX_DEPTH: usize = 256;

/// What was read is no XML, or none that is taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// It breaks XML's rules.
    #[error("not well-formed XML: {0}")]
    Malformed(String),
    /// It has a document type.
    #[error("it has a document type, which no vSphere answer has")]
    DocumentType,
    /// It refers to an entity that XML does not define.
    #[error("it refers to the unknown entity &{0};")]
    Entity(String),
    /// Its elements lie too deep in one another.
    #[error("its elements are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// It ended too early, or holds nothing.
    #[error("it ends before its root element does")]
    Unfinished,
}

/// The namespaces that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ns {
    /// None.
    None,
    /// [`SOAP`].
    Soap,
    /// [`VIM`].
    Vim,
    /// [`XSI`].
    Xsi,
    /// Any other.
    Other,
}

impl Ns {
    fn of(found: &ResolveResult<'_>) -> Result<Self, XmlError> {
        match found {
            ResolveResult::Unbound => Ok(Self::None),
            ResolveResult::Bound(Namespace(uri)) if *uri == VIM.as_bytes() => Ok(Self::Vim),
            ResolveResult::Bound(Namespace(uri)) if *uri == XSI.as_bytes() => Ok(Self::Xsi),
            ResolveResult::Bound(Namespace(uri)) if *uri == SOAP.as_bytes() => Ok(Self::Soap),
            ResolveResult::Bound(_) => Ok(Self::Other),
            ResolveResult::Unknown(prefix) => {
                Err(XmlError::Malformed(format!("the prefix {} is not declared", String::from_utf8_lossy(prefix))))
            }
        }
    }
}

/// An element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its namespace.
    pub ns: Ns,
    /// Its name, without a prefix.
    pub name: String,
    /// Its attributes in order, without declarations of namespaces.
    attributes: Vec<(Ns, String, String)>,
    /// Its elements in order.
    pub children: Vec<Self>,
    /// Its text. Of an element with elements in it: empty (the API mixes nothing).
    pub text: String,
}

impl Element {
    /// Reads a document.
    ///
    /// # Errors
    /// [`XmlError`].
    pub fn parse(document: &str) -> Result<Self, XmlError> {
        let mut reader = NsReader::from_str(document);
        let config = reader.config_mut();
        config.expand_empty_elements = true;
        let mut open: Vec<Self> = Vec::new();
        let mut root = None;
        loop {
            let event = reader.read_event().map_err(malformed)?;
            match event {
                Event::Start(start) => {
                    if root.is_some() {
                        return Err(XmlError::Malformed("it has more than one root element".into()));
                    }
                    if open.len() >= MAX_DEPTH {
                        return Err(XmlError::TooDeep);
                    }
                    open.push(element(&reader, &start)?);
                }
                Event::End(_) => {
                    let mut done = open.pop().ok_or(XmlError::Unfinished)?;
                    if !done.children.is_empty() {
                        done.text = String::new();
                    }
                    match open.last_mut() {
                        Some(parent) => parent.children.push(done),
                        None => root = Some(done),
                    }
                }
                Event::Text(text) => add(&mut open, &text.xml10_content().map_err(malformed)?)?,
                Event::CData(text) => add(&mut open, &text.xml10_content().map_err(malformed)?)?,
                Event::GeneralRef(reference) => add(&mut open, &resolve(&reference)?)?,
                Event::DocType(_) => return Err(XmlError::DocumentType),
                // expand_empty_elements makes a start and an end of it.
                Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        if !open.is_empty() {
            return Err(XmlError::Unfinished);
        }
        root.ok_or(XmlError::Unfinished)
    }

    /// An attribute by its namespace and name.
    #[must_use]
    pub fn attribute(&self, ns: Ns, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(space, key, _)| *space == ns && key == name).map(|(_, _, value)| value.as_str())
    }

    /// The name of the type that `xsi:type` says the element is of, without a prefix: all of the API's types are in one namespace.
    #[must_use]
    pub fn xsi_type(&self) -> Option<&str> {
        self.attribute(Ns::Xsi, "type").map(|name| name.rsplit_once(':').map_or(name, |(_, local)| local).trim())
    }

    /// The first element of that name in it.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All elements of that name in it.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The element that a path of names leads to.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// The text of the first element of that name in it.
    #[must_use]
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }
}

fn malformed(error: impl std::fmt::Display) -> XmlError {
    XmlError::Malformed(error.to_string())
}

fn element(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<Element, XmlError> {
    let resolver = reader.resolver();
    let (space, local) = resolver.resolve_element(start.name());
    let mut attributes = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(malformed)?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let (space, local) = resolver.resolve_attribute(attribute.key);
        let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(malformed)?;
        attributes.push((Ns::of(&space)?, utf8(local.as_ref())?.to_owned(), value.into_owned()));
    }
    Ok(Element { ns: Ns::of(&space)?, name: utf8(local.as_ref())?.to_owned(), attributes, children: Vec::new(), text: String::new() })
}

fn utf8(bytes: &[u8]) -> Result<&str, XmlError> {
    std::str::from_utf8(bytes).map_err(malformed)
}

fn add(open: &mut [Element], text: &str) -> Result<(), XmlError> {
    match open.last_mut() {
        // The white space between elements is not kept.
        Some(element) if element.children.is_empty() => element.text.push_str(text),
        Some(_) => {}
        None if text.trim().trim_start_matches('\u{feff}').is_empty() => {}
        None => return Err(XmlError::Malformed("it has text outside of its root element".into())),
    }
    Ok(())
}

fn resolve(reference: &BytesRef<'_>) -> Result<Cow<'static, str>, XmlError> {
    if let Some(character) = reference.resolve_char_ref().map_err(malformed)? {
        return Ok(Cow::Owned(character.to_string()));
    }
    let name = reference.decode().map_err(malformed)?;
    resolve_predefined_entity(&name).map(Cow::Borrowed).ok_or_else(|| XmlError::Entity(name.chars().take(40).collect()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn types_are_found_by_namespace_whatever_the_prefix() {
        for document in [
            r#"<a xmlns="urn:vim25" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="FileFault"/>"#,
            r#"<a xmlns="urn:vim25" xmlns:_XMLSchema-instance="http://www.w3.org/2001/XMLSchema-instance" _XMLSchema-instance:type="FileFault"/>"#,
            r#"<v:a xmlns:v="urn:vim25" xmlns:x="http://www.w3.org/2001/XMLSchema-instance" x:type="v:FileFault"/>"#,
        ] {
            let root = Element::parse(document).unwrap();
            assert_eq!((root.xsi_type(), root.ns, root.name.as_str()), (Some("FileFault"), Ns::Vim, "a"), "{document}");
        }
        // An attribute that is only called so is none.
        let root = Element::parse(r#"<a xmlns:xsi="urn:other" xsi:type="FileFault" type="VirtualMachine"/>"#).unwrap();
        assert_eq!((root.xsi_type(), root.attribute(Ns::None, "type")), (None, Some("VirtualMachine")));
    }

    #[test]
    fn text_is_unescaped() {
        let root = Element::parse("<a>x &lt;&amp;&#233; <![CDATA[<b>]]></a>").unwrap();
        assert_eq!(root.text, "x <&é <b>");
        let root = Element::parse("<a>\n  <b>1</b>\n  <b>2</b>\n</a>\n").unwrap();
        assert_eq!((root.text.as_str(), root.all("b").map(|b| b.text.as_str()).collect::<Vec<_>>()), ("", vec!["1", "2"]));
    }

    #[test]
    fn what_is_not_taken() {
        assert!(matches!(Element::parse(""), Err(XmlError::Unfinished)));
        assert!(matches!(Element::parse("<a><b></b>"), Err(XmlError::Unfinished)));
        assert!(matches!(Element::parse("<a></b>"), Err(XmlError::Malformed(_))));
        assert!(matches!(Element::parse("<a/><b/>"), Err(XmlError::Malformed(_))));
        assert!(matches!(Element::parse("<x:a/>"), Err(XmlError::Malformed(_))));
        assert!(matches!(Element::parse("hello"), Err(XmlError::Malformed(_))));
        assert!(matches!(Element::parse("<a>&nbsp;</a>"), Err(XmlError::Entity(_))));
        assert!(matches!(Element::parse("<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>"), Err(XmlError::DocumentType)));
        assert!(matches!(Element::parse(&"<a>".repeat(100_000)), Err(XmlError::TooDeep)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        /// A bad byte gives an error, never a panic: whatever comes, and what is nearly right.
        #[test]
        fn nothing_panics(any in ".{0,200}", at in 0usize..400, with in any::<char>()) {
            let _ = Element::parse(&any);
            let mut nearly: Vec<char> = r#"<?xml version="1.0"?><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><a xmlns="urn:vim25" b="c&amp;">&#x41;<![CDATA[x]]></a></e:Body></e:Envelope>"#.chars().collect();
            let at = at % nearly.len();
            nearly[at] = with;
            let _ = Element::parse(&nearly.into_iter().collect::<String>());
        }
    }
}
