//! What a request to a disk asks for: the few operations that a managed disk knows, with the Blob service's rules for their headers
//! ("Put Page", "Put Page From URL", "Get Page Ranges", "Get Blob", "Get Blob Properties", learn.microsoft.com).

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Method};

use super::disk::SequenceAction;
use super::refusal::Refusal;
use super::switches::{Operation, Switches};

/// The most that one Put Page carries.
pub(super) const LARGEST_PUT: u64 = 4 << 20;

/// Sectors: what offsets and lengths of writes are multiples of.
const PAGE: u64 = 512;

/// An operation that the host carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    /// Put Page, update: offset, length and the checksums sent.
    Put(u64, u64, Checksums),
    /// Put Page, clear: offset and length.
    Clear(u64, u64),
    /// Put Page From URL: offset, and where from.
    FromUrl(u64, Copied),
    /// Get Page Ranges: start and end (exclusive), the marker, how many.
    Ranges(u64, u64, u64, usize),
    /// Get Blob: offset and length, whether a range was asked for, and the checksum wanted.
    Get(u64, u64, bool, Option<Wanted>),
    /// Get Blob Properties.
    Head,
    /// Set Blob Properties: the sequence number.
    Sequence(SequenceAction),
}

/// Checksums that came with a body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Checksums {
    pub(super) md5: Option<String>,
    pub(super) crc64: Option<String>,
}

/// Which checksum the answer shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Md5,
    Crc64,
}

/// The source of Put Page From URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) url: String,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) checksums: Checksums,
    pub(super) authorization: Option<String>,
}

impl Call {
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::Put(..) => Operation::PutPage,
            Self::Clear(..) => Operation::ClearPages,
            Self::FromUrl(..) => Operation::PutPageFromUrl,
            Self::Ranges(..) => Operation::GetPageRanges,
            Self::Get(..) => Operation::GetBlob,
            Self::Head => Operation::GetBlobProperties,
            Self::Sequence(_) => Operation::SetBlobProperties,
        }
    }

    pub(super) fn writes(&self) -> bool {
        matches!(self, Self::Put(..) | Self::Clear(..) | Self::FromUrl(..) | Self::Sequence(_))
    }
}

/// CRC-64/NVME, little-endian, in base64: `x-ms-content-crc64`.
pub(super) fn crc64(data: &[u8]) -> String {
    let mut digest = crc64fast_nvme::Digest::new();
    digest.write(data);
    STANDARD.encode(digest.sum64().to_le_bytes())
}

/// `Content-MD5`.
pub(super) fn md5(data: &[u8]) -> String {
    use md5::Digest;
    STANDARD.encode(md5::Md5::digest(data))
}

impl Checksums {
    fn read(headers: &HeaderMap, md5: &str, crc64: &str) -> Result<Self, Refusal> {
        let sent = Self { md5: text(headers, md5), crc64: text(headers, crc64) };
        if sent.md5.is_some() && sent.crc64.is_some() {
            return Err(Refusal::both_checksums());
        }
        for (name, value, length) in [(md5, &sent.md5, 16), (crc64, &sent.crc64, 8)] {
            if let Some(value) = value
                && !STANDARD.decode(value).is_ok_and(|bytes| bytes.len() == length)
            {
                let code = if length == 16 { "InvalidMd5" } else { "InvalidHeaderValue" };
                let message = format!("The value of {name} is not the base64 of {length} bytes.");
                return Err(Refusal::new(400, code, message));
            }
        }
        Ok(sent)
    }

    /// Whether `data` is what was sent.
    pub(super) fn verify(&self, data: &[u8]) -> Result<(), Refusal> {
        for (what, sent, computed) in [("MD5", &self.md5, md5 as fn(&[u8]) -> String), ("CRC64", &self.crc64, crc64)] {
            if let Some(sent) = sent {
                let computed = computed(data);
                if *sent != computed {
                    return Err(Refusal::mismatch(what, sent, &computed));
                }
            }
        }
        Ok(())
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// `bytes=first-last` as offset and end (exclusive), the end where it is given.
fn range(name: &str, value: &str) -> Result<(u64, Option<u64>), Refusal> {
    let wrong = || Refusal::header(name, value);
    let (first, last) = value.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(wrong)?;
    let first: u64 = first.parse().map_err(|_| wrong())?;
    if last.is_empty() {
        return Ok((first, None));
    }
    let last: u64 = last.parse().map_err(|_| wrong())?;
    let end = last.checked_add(1).filter(|end| *end > first).ok_or_else(wrong)?;
    Ok((first, Some(end)))
}

/// `x-ms-range` goes before `Range`.
fn asked(headers: &HeaderMap) -> Result<Option<(u64, Option<u64>)>, Refusal> {
    for name in ["x-ms-range", "range"] {
        if let Some(value) = text(headers, name) {
            return range(name, &value).map(Some);
        }
    }
    Ok(None)
}

/// The range of a write: whole pages inside of the blob.
fn pages(headers: &HeaderMap, size: u64) -> Result<(u64, u64), Refusal> {
    let (start, end) = asked(headers)?.ok_or_else(|| Refusal::missing_header("Range"))?;
    let end = end.ok_or_else(Refusal::page_range)?;
    if !start.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) || end > size {
        return Err(Refusal::page_range());
    }
    Ok((start, end - start))
}

fn content_length(headers: &HeaderMap) -> Result<u64, Refusal> {
    let value = text(headers, "content-length").ok_or_else(Refusal::no_length)?;
    value.parse().map_err(|_| Refusal::header("Content-Length", &value))
}

/// What was asked for, by the name that Azure gives it: for counts, of what is refused, too.
pub(super) fn name(method: &Method, query: &HashMap<String, String>, headers: &HeaderMap) -> &'static str {
    let has = |name: &str| headers.contains_key(name);
    if query.contains_key("restype") {
        return "ContainerCall";
    }
    match (method.as_str(), query.get("comp").map(String::as_str)) {
        ("PUT", Some("page")) if has("x-ms-copy-source") => "PutPageFromUrl",
        ("PUT", Some("page")) if text(headers, "x-ms-page-write").is_some_and(|write| write.eq_ignore_ascii_case("clear")) => "ClearPages",
        ("PUT", Some("page")) => "PutPage",
        ("PUT", Some("properties")) => "SetBlobProperties",
        ("PUT", Some("metadata")) => "SetBlobMetadata",
        ("PUT", Some("lease")) => "LeaseBlob",
        ("PUT", Some("snapshot")) => "SnapshotBlob",
        ("PUT", Some("incrementalcopy")) => "IncrementalCopyBlob",
        ("PUT", None) if has("x-ms-copy-source") => "CopyBlob",
        ("PUT", None) => "PutBlob",
        ("GET", Some("pagelist")) => "GetPageRanges",
        ("GET", None) => "GetBlob",
        ("HEAD", None) => "GetBlobProperties",
        ("DELETE", None) => "DeleteBlob",
        _ => "Other",
    }
}

/// Reads a request to a blob of `size` bytes.
pub(super) fn parse(
    method: &Method,
    query: &HashMap<String, String>,
    headers: &HeaderMap,
    size: u64,
    switches: &Switches,
) -> Result<Call, Refusal> {
    for other in ["snapshot", "versionid", "prevsnapshot"] {
        if let Some(value) = query.get(other) {
            return Err(Refusal::query(other, value, "This host serves the disk as it is, not versions or differences of it."));
        }
    }
    if headers.contains_key("x-ms-previous-snapshot-url") {
        return Err(Refusal::header("x-ms-previous-snapshot-url", "differences are not served by this host"));
    }
    let kind = name(method, query, headers);
    if headers.contains_key("x-ms-lease-id") && kind != "LeaseBlob" {
        // There never is a lease on a disk.
        return Err(Refusal::new(412, "LeaseNotPresentWithBlobOperation", "There is currently no lease on the blob."));
    }
    match kind {
        "PutPage" | "ClearPages" => put(headers, size, kind),
        "PutPageFromUrl" => from_url(headers, size),
        "SetBlobProperties" => sequence(headers, switches),
        "GetPageRanges" => page_ranges(query, headers, size),
        "GetBlob" => get(headers, size, switches),
        "GetBlobProperties" => Ok(Call::Head),
        _ => Err(Refusal::permission()),
    }
}

fn put(headers: &HeaderMap, size: u64, kind: &str) -> Result<Call, Refusal> {
    let write = text(headers, "x-ms-page-write").ok_or_else(|| Refusal::missing_header("x-ms-page-write"))?;
    if !write.eq_ignore_ascii_case("update") && !write.eq_ignore_ascii_case("clear") {
        return Err(Refusal::header("x-ms-page-write", &write));
    }
    let (offset, length) = pages(headers, size)?;
    let sent = content_length(headers)?;
    if kind == "ClearPages" {
        // A clear may be as long as the blob.
        return if sent == 0 { Ok(Call::Clear(offset, length)) } else { Err(Refusal::header("Content-Length", &sent.to_string())) };
    }
    if length > LARGEST_PUT || sent > LARGEST_PUT {
        return Err(Refusal::too_large(LARGEST_PUT));
    }
    if sent != length {
        return Err(Refusal::page_range());
    }
    Ok(Call::Put(offset, length, Checksums::read(headers, "content-md5", "x-ms-content-crc64")?))
}

fn from_url(headers: &HeaderMap, size: u64) -> Result<Call, Refusal> {
    if let Some(name) = headers.keys().find(|name| name.as_str().starts_with("x-ms-source-if-")) {
        // Unconditional sources are all that a sandbox needs: what is not looked at is not let through.
        let value = text(headers, name.as_str()).unwrap_or_default();
        return Err(Refusal::header(name.as_str(), &value));
    }
    let write = text(headers, "x-ms-page-write").ok_or_else(|| Refusal::missing_header("x-ms-page-write"))?;
    if !write.eq_ignore_ascii_case("update") {
        return Err(Refusal::header("x-ms-page-write", &write));
    }
    let (offset, length) = pages(headers, size)?;
    if content_length(headers)? != 0 {
        return Err(Refusal::header("Content-Length", "must be 0"));
    }
    if length > LARGEST_PUT {
        return Err(Refusal::too_large(LARGEST_PUT));
    }
    let sent = text(headers, "x-ms-source-range").ok_or_else(|| Refusal::missing_header("x-ms-source-range"))?;
    let (from, end) = range("x-ms-source-range", &sent)?;
    if end.map(|end| end - from) != Some(length) {
        return Err(Refusal::header("x-ms-source-range", &sent));
    }
    let url = text(headers, "x-ms-copy-source").ok_or_else(|| Refusal::missing_header("x-ms-copy-source"))?;
    Ok(Call::FromUrl(
        offset,
        Copied {
            url,
            offset: from,
            length,
            checksums: Checksums::read(headers, "x-ms-source-content-md5", "x-ms-source-content-crc64")?,
            authorization: text(headers, "x-ms-copy-source-authorization"),
        },
    ))
}

fn sequence(headers: &HeaderMap, switches: &Switches) -> Result<Call, Refusal> {
    // A disk's size is ARM's, and so are its other properties.
    if switches.sequence_numbers != super::Conditional::Honoured || headers.contains_key("x-ms-blob-content-length") {
        return Err(Refusal::permission());
    }
    let action = text(headers, "x-ms-sequence-number-action").ok_or_else(Refusal::permission)?;
    let number = || {
        let value = text(headers, "x-ms-blob-sequence-number").ok_or_else(|| Refusal::missing_header("x-ms-blob-sequence-number"))?;
        let number = value.parse::<u64>().ok().filter(|number| i64::try_from(*number).is_ok());
        number.ok_or_else(|| Refusal::header("x-ms-blob-sequence-number", &value))
    };
    match action.to_ascii_lowercase().as_str() {
        "max" => Ok(Call::Sequence(SequenceAction::Max(number()?))),
        "update" => Ok(Call::Sequence(SequenceAction::Update(number()?))),
        "increment" => Ok(Call::Sequence(SequenceAction::Increment)),
        _ => Err(Refusal::header("x-ms-sequence-number-action", &action)),
    }
}

fn page_ranges(query: &HashMap<String, String>, headers: &HeaderMap, size: u64) -> Result<Call, Refusal> {
    let (start, end) = match asked(headers)? {
        None => (0, size),
        Some((start, _)) if start >= size => return Err(Refusal::range(size)),
        Some((start, end)) => (start - start % PAGE, end.unwrap_or(size).next_multiple_of(PAGE).min(size)),
    };
    let number = |name: &'static str, default: u64| {
        let Some(value) = query.get(name).filter(|value| !value.is_empty()) else { return Ok(default) };
        value.parse::<u64>().map_err(|_| Refusal::query(name, value, "It is no number."))
    };
    let most = number("maxresults", 10_000)?;
    if most == 0 {
        return Err(Refusal::query("maxresults", "0", "It has to be 1 or more."));
    }
    Ok(Call::Ranges(start, end, number("marker", start)?, usize::try_from(most.min(10_000)).unwrap_or(10_000)))
}

fn get(headers: &HeaderMap, size: u64, switches: &Switches) -> Result<Call, Refusal> {
    let asked = asked(headers)?;
    let (start, end) = asked.map_or((0, size), |(start, end)| (start, end.unwrap_or(size).min(size)));
    if start >= size {
        return Err(Refusal::range(size));
    }
    let length = end - start;
    if length > switches.largest_read {
        let most = switches.largest_read;
        let message = format!("One Get Blob reads at most {most} bytes of a disk here; {length} were asked for: ask for ranges.");
        return Err(Refusal::new(416, "InvalidRange", message));
    }
    let wants = |name: &str| text(headers, name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let wanted = match (wants("x-ms-range-get-content-md5"), wants("x-ms-range-get-content-crc64")) {
        (false, false) => None,
        (true, false) => Some(Wanted::Md5),
        (false, true) => Some(Wanted::Crc64),
        (true, true) => return Err(Refusal::both_checksums()),
    };
    if wanted.is_some() && (asked.is_none() || length > LARGEST_PUT) {
        return Err(Refusal::header("x-ms-range", "a checksum is computed for a range of at most 4 MiB"));
    }
    Ok(Call::Get(start, length, asked.is_some(), wanted))
}
