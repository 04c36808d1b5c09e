//! Writing a request.
//!
//! The elements of a request are a sequence in the WSDL: a real vCenter refuses them in another order (its simulator does not). So each method
//! writes its own, in order, and a test holds every one of them against an excerpt of the WSDL's sequences.

use zeroize::Zeroizing;

use crate::{moref::MoRef, xml};

/// The body of a request while it is written. It may hold a password, so it wipes itself.
pub struct Writer {
    out: Zeroizing<String>,
}

impl Writer {
    /// A request of `method` on an object.
    #[must_use]
    pub fn request(method: &str, this: &MoRef, children: impl FnOnce(&mut Self)) -> Zeroizing<String> {
        // Large enough that nothing in it is moved (and left behind) when a password is written.
        let mut writer = Self { out: Zeroizing::new(String::with_capacity(4096)) };
        writer.out.push_str(concat!(r#"<?xml version="1.0" encoding="UTF-8"?>"#, "\n", r#"<soapenv:Envelope xmlns:soapenv=""#));
        writer.out.push_str(xml::SOAP);
        writer.out.push_str(r#"" xmlns:xsi=""#);
        writer.out.push_str(xml::XSI);
        writer.out.push_str(r#""><soapenv:Body>"#);
        writer.out.push('<');
        writer.out.push_str(method);
        writer.out.push_str(r#" xmlns=""#);
        writer.out.push_str(xml::VIM);
        writer.out.push_str(r#"">"#);
        writer.reference("_this", this);
        children(&mut writer);
        writer.close(method);
        writer.out.push_str("</soapenv:Body></soapenv:Envelope>");
        writer.out
    }

    /// `<name>value</name>`
    pub fn text(&mut self, name: &str, value: &str) {
        self.open(name, None);
        self.escaped(value);
        self.close(name);
    }

    /// As [`Self::text`], where there is a value.
    pub fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// A number.
    pub fn number(&mut self, name: &str, value: i64) {
        self.text(name, &value.to_string());
    }

    /// A truth.
    pub fn flag(&mut self, name: &str, value: bool) {
        self.text(name, if value { "true" } else { "false" });
    }

    /// A reference to a managed object.
    pub fn reference(&mut self, name: &str, to: &MoRef) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push_str(r#" type=""#);
        self.escaped(to.kind());
        self.out.push_str(r#"">"#);
        self.escaped(to.id());
        self.close(name);
    }

    /// A data object; `kind` where the declared type is a base of several.
    pub fn object(&mut self, name: &str, kind: Option<&str>, children: impl FnOnce(&mut Self)) {
        self.open(name, kind);
        children(self);
        self.close(name);
    }

    fn open(&mut self, name: &str, kind: Option<&str>) {
        self.out.push('<');
        self.out.push_str(name);
        if let Some(kind) = kind {
            self.out.push_str(r#" xsi:type=""#);
            self.out.push_str(kind);
            self.out.push('"');
        }
        self.out.push('>');
    }

    fn close(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '&' => self.out.push_str("&amp;"),
                '"' => self.out.push_str("&quot;"),
                '\'' => self.out.push_str("&apos;"),
                // A bare one would come out of the parser as a line feed.
                '\r' => self.out.push_str("&#13;"),
                // XML 1.0 has no way to say these at all.
                '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => self.out.push('\u{fffd}'),
                c => self.out.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::xml::Element;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(text in any::<String>()) {
            let request = Writer::request("A", &MoRef::new("T", "t-1"), |w| w.text("b", &text));
            let root = Element::parse(&request).unwrap();
            let read = &root.at(&["Body", "A", "b"]).unwrap().text;
            let sayable: String = text.chars().map(|c| match c {
                '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => c,
                _ => '\u{fffd}',
            }).collect();
            prop_assert_eq!(read, &sayable);
        }
    }
}
