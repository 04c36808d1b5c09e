//! The methods of the API that are used, each with its parameters in the WSDL's order.
//!
//! A function that makes the [`Call`](crate::session::Call) (what the golden messages are made from), and one of the client that makes it and
//! reads the answer.

pub mod properties;
pub mod rights;
pub mod search;
pub mod service;
pub mod vm;

use crate::{error::Error, moref::MoRef, xml::Element};

/// The `returnval` of an answer that has to have one.
fn value<'a>(method: &str, answer: &'a Element) -> Result<&'a Element, Error> {
    answer.child("returnval").ok_or_else(|| Error::answer(method, "it holds no returnval"))
}

/// The reference that an answer has to hold.
fn reference(method: &str, answer: &Element) -> Result<MoRef, Error> {
    MoRef::read(value(method, answer)?).ok_or_else(|| Error::answer(method, "its returnval is no reference"))
}
