//! The disks as their users see them: one suite for every kind, and what each kind has beside it. Azurite (`make azurite`) plays the host of
//! page blobs and of managed disks; what it does not do, and every header that counts, is looked at by a server of ours.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

mod conformance;
mod disk_sas;
mod page_blob;
mod requests;
mod support;
