//! The set as a document: a JSON array of `[start, length]` pairs, in sectors.
//!
//! Only the canonical form is read. A pair that is empty, out of order, or overlaps or touches the one before it was not written by this
//! crate, so the document is damaged, and to repair it by guess would hide that.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ExtentSet, MAX_SECTORS, Span};

impl Serialize for ExtentSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.spans.len()))?;
        for span in &self.spans {
            list.serialize_element(&(span.start, span.end - span.start))?;
        }
        list.end()
    }
}

impl<'de> Deserialize<'de> for ExtentSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Pairs)
    }
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = ExtentSet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of [start, length] pairs of sectors, ascending, neither overlapping nor touching")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ExtentSet, A::Error> {
        // A declared length is not believed: the vector grows with what really came.
        let mut spans: Vec<Span> = Vec::new();
        while let Some((start, length)) = list.next_element::<(u64, u64)>()? {
            let at = spans.len();
            if length == 0 {
                return Err(A::Error::custom(format_args!("extent {at} (at sector {start}) has no length")));
            }
            let Some(end) = start.checked_add(length).filter(|end| *end <= MAX_SECTORS) else {
                return Err(A::Error::custom(format_args!("extent {at} ({length} sectors at {start}) reaches past any disk's end")));
            };
            if let Some(before) = spans.last() {
                let why = if start < before.start {
                    "is out of order behind"
                } else if start < before.end {
                    "overlaps"
                } else {
                    "touches"
                };
                if start <= before.end {
                    return Err(A::Error::custom(format_args!("extent {at} ({start}..{end}) {why} the one before it ({before:?})")));
                }
            }
            spans.push(Span { start, end });
        }
        Ok(ExtentSet { spans })
    }
}
