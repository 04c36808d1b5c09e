//! Reading values out of elements, with errors that name the place.

use jiff::Timestamp;
use uuid::Uuid;

use crate::{error::Error, moref::MoRef, xml::Element};

/// An element of an answer, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a> {
    method: &'a str,
    element: &'a Element,
}

impl<'a> Read<'a> {
    /// Reads an element of the answer to `method`.
    #[must_use]
    pub fn of(method: &'a str, element: &'a Element) -> Self {
        Self { method, element }
    }

    /// The element.
    #[must_use]
    pub fn element(&self) -> &'a Element {
        self.element
    }

    fn wrong(&self, name: &str, why: &str) -> Error {
        Error::answer(
            self.method,
            format!("{} {why}", if name.is_empty() { self.element.name.clone() } else { format!("{}.{name}", self.element.name) }),
        )
    }

    /// The object in it of that name.
    ///
    /// # Errors
    /// [`Error::Answer`] where there is none.
    pub fn object(&self, name: &str) -> Result<Self, Error> {
        self.optional_object(name).ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// The object in it of that name, if there is one.
    #[must_use]
    pub fn optional_object(&self, name: &str) -> Option<Self> {
        self.element.child(name).map(|element| Self { method: self.method, element })
    }

    /// All objects in it of that name.
    pub fn objects(&self, name: &'a str) -> impl Iterator<Item = Self> + use<'a> {
        let method = self.method;
        self.element.all(name).map(move |element| Self { method, element })
    }

    /// Its own text.
    #[must_use]
    pub fn own_text(&self) -> &'a str {
        self.element.text.trim()
    }

    /// A text.
    ///
    /// # Errors
    /// [`Error::Answer`] where there is none.
    pub fn text(&self, name: &str) -> Result<&'a str, Error> {
        self.optional_text(name).ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// A text, if there is one.
    #[must_use]
    pub fn optional_text(&self, name: &str) -> Option<&'a str> {
        self.element.text_of(name).map(str::trim)
    }

    /// A number.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn i64(&self, name: &str) -> Result<i64, Error> {
        self.text(name)?.parse().map_err(|_| self.wrong(name, "is no number"))
    }

    /// A number, if there is one.
    ///
    /// # Errors
    /// [`Error::Answer`] where what is there is none.
    pub fn optional_i64(&self, name: &str) -> Result<Option<i64>, Error> {
        self.optional_text(name).map(|text| text.parse().map_err(|_| self.wrong(name, "is no number"))).transpose()
    }

    /// A number that is not negative.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn u64(&self, name: &str) -> Result<u64, Error> {
        u64::try_from(self.i64(name)?).map_err(|_| self.wrong(name, "is negative"))
    }

    /// A device's key. A disk that is being added has a negative one for a moment.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn key(&self, name: &str) -> Result<u32, Error> {
        u32::try_from(self.i64(name)?).map_err(|_| self.wrong(name, "is no key of a device"))
    }

    /// A truth, if there is one.
    ///
    /// # Errors
    /// [`Error::Answer`] where what is there is none.
    pub fn optional_flag(&self, name: &str) -> Result<Option<bool>, Error> {
        match self.optional_text(name) {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(_) => Err(self.wrong(name, "is neither true nor false")),
        }
    }

    /// Its own text as a truth.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn own_flag(&self) -> Result<bool, Error> {
        match self.own_text() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(self.wrong("", "is neither true nor false")),
        }
    }

    /// A reference.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn reference(&self, name: &str) -> Result<MoRef, Error> {
        self.element.child(name).and_then(MoRef::read).ok_or_else(|| self.wrong(name, "is no reference"))
    }

    /// A time.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn time(&self, name: &str) -> Result<Timestamp, Error> {
        self.text(name)?.parse().map_err(|_| self.wrong(name, "is no time"))
    }

    /// Its own text as a time.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn own_time(&self) -> Result<Timestamp, Error> {
        self.own_text().parse().map_err(|_| self.wrong("", "is no time"))
    }

    /// A UUID, if there is one.
    ///
    /// # Errors
    /// [`Error::Answer`] where what is there is none.
    pub fn optional_uuid(&self, name: &str) -> Result<Option<Uuid>, Error> {
        let text = self.optional_text(name).filter(|text| !text.is_empty());
        text.map(|text| Uuid::parse_str(text).map_err(|_| self.wrong(name, "is no UUID"))).transpose()
    }

    /// Its own text as a UUID.
    ///
    /// # Errors
    /// [`Error::Answer`].
    pub fn own_uuid(&self) -> Result<Uuid, Error> {
        Uuid::parse_str(self.own_text()).map_err(|_| self.wrong("", "is no UUID"))
    }
}
