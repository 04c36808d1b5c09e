//! Where an NBD export is: its address, its name, and whom to trust.

use std::path::{Path, PathBuf};

use super::wire::MAX_STRING;

/// The port that IANA gave to NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// An export of an NBD server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdTarget {
    /// The server.
    pub address: NbdAddress,
    /// The export's name, up to 4096 bytes; empty for the server's default.
    pub export: String,
    /// Encrypt, and trust only this. `None`: in the clear.
    pub tls: Option<TlsConfig>,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NbdAddress {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A host (name or address, without brackets) and a port.
    Tcp(String, u16),
}

impl std::fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// A file with the certificates (PEM) of the authorities that may have signed the server's. The system's own are not trusted.
    pub ca_file: PathBuf,
    /// The name or IP address that the server's certificate must hold.
    pub server_name: String,
}

/// Why a URI is not an NBD target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NbdUriError {
    /// Not `nbd`, `nbds`, `nbd+unix` or `nbds+unix`.
    #[error("{0:?} is not an NBD URI: it starts with none of nbd://, nbds://, nbd+unix://, nbds+unix://")]
    Scheme(String),
    /// A host is missing, or one is there that can't be used.
    #[error("the host {0:?} can't be used")]
    Host(String),
    /// Not 1 to 65535.
    #[error("{0:?} is not a port")]
    Port(String),
    /// Percent-encoding that is broken or not UTF-8.
    #[error("{0:?} is not percent-encoded UTF-8")]
    Encoding(String),
    /// A parameter that isn't known, that is there twice, or that has no meaning with this scheme.
    #[error("the parameter {0:?} can't be used here")]
    Parameter(String),
    /// `nbd+unix` without `socket=`.
    #[error("a URI of a unix socket names it in socket=")]
    NoSocket,
    /// TLS without a certificate authority.
    #[error("TLS needs a certificate authority: tls-certificates= names a folder with ca-cert.pem, or give a file beside the URI")]
    NoAuthority,
    /// A certificate authority for a connection that would not be encrypted.
    #[error("a certificate authority is given, but {0:?} is not encrypted; use nbds")]
    NotEncrypted(String),
    /// The export's name has more than 4096 bytes.
    #[error("the export's name has {0} bytes; the protocol allows 4096")]
    LongName(usize),
}

impl NbdTarget {
    /// Reads a URI in the form of the NBD project's `doc/uri.md`:
    /// `nbd://host[:port][/export]`, `nbd+unix:///[export]?socket=path`, and `nbds`, `nbds+unix` for TLS.
    ///
    /// Parameters are libnbd's: `socket`, `tls-certificates` (a folder that holds `ca-cert.pem`) and `tls-hostname` (the name in the server's
    /// certificate; otherwise it is the host, or `localhost` for a socket). Others, a user name and a fragment are refused, lest something
    /// that was asked for is left out in silence.
    ///
    /// # Errors
    /// [`NbdUriError`] names the part that can't be used.
    pub fn parse(uri: &str) -> Result<Self, NbdUriError> {
        Self::parse_with_ca(uri, None)
    }

    /// As [`NbdTarget::parse`], with a file of certificate authorities that takes the place of `tls-certificates`.
    ///
    /// # Errors
    /// As [`NbdTarget::parse`], and where an authority is given for a URI without TLS.
    pub fn parse_with_ca(uri: &str, ca_file: Option<&Path>) -> Result<Self, NbdUriError> {
        let not_nbd = || NbdUriError::Scheme(uri.to_owned());
        let (scheme, rest) = uri.split_once("://").ok_or_else(not_nbd)?;
        let (encrypted, unix) = match scheme.to_ascii_lowercase().as_str() {
            "nbd" => (false, false),
            "nbds" => (true, false),
            "nbd+unix" => (false, true),
            "nbds+unix" => (true, true),
            _ => return Err(not_nbd()),
        };
        if let Some((_, fragment)) = rest.split_once('#') {
            return Err(NbdUriError::Parameter(format!("#{fragment}")));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decode(path)?;
        if export.len() > MAX_STRING {
            return Err(NbdUriError::LongName(export.len()));
        }

        let (mut socket, mut certificates, mut hostname) = (None, None, None);
        for pair in query.split(['&', ';']).filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match key {
                "socket" if unix => &mut socket,
                "tls-certificates" if encrypted && ca_file.is_none() => &mut certificates,
                "tls-hostname" if encrypted => &mut hostname,
                _ => return Err(NbdUriError::Parameter(key.to_owned())),
            };
            if value.is_empty() || slot.replace(decode(value)?).is_some() {
                return Err(NbdUriError::Parameter(key.to_owned()));
            }
        }

        let address = match (unix, socket) {
            (true, _) if !authority.is_empty() => return Err(NbdUriError::Host(authority.to_owned())),
            (true, None) => return Err(NbdUriError::NoSocket),
            (true, Some(path)) => NbdAddress::Unix(path.into()),
            (false, _) => host_and_port(authority)?,
        };
        let tls = if encrypted {
            let ca_file = ca_file.map(Path::to_path_buf).or_else(|| certificates.map(|folder| Path::new(&folder).join("ca-cert.pem")));
            let server_name = hostname.unwrap_or_else(|| match &address {
                NbdAddress::Unix(_) => "localhost".to_owned(),
                NbdAddress::Tcp(host, _) => host.clone(),
            });
            Some(TlsConfig { ca_file: ca_file.ok_or(NbdUriError::NoAuthority)?, server_name })
        } else if ca_file.is_some() {
            return Err(NbdUriError::NotEncrypted(uri.to_owned()));
        } else {
            None
        };
        Ok(Self { address, export, tls })
    }
}

fn host_and_port(authority: &str) -> Result<NbdAddress, NbdUriError> {
    let wrong = || NbdUriError::Host(authority.to_owned());
    let (host, port) = match authority.strip_prefix('[') {
        // An IPv6 address stands in brackets, as its colons would be taken for the port's.
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            let address = host.split_once('%').map_or(host, |(address, _zone)| address);
            address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            match (rest.strip_prefix(':'), rest) {
                (None, "") => (host.to_owned(), None),
                (Some(port), _) => (host.to_owned(), Some(port)),
                (None, _) => return Err(wrong()),
            }
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (decode(host)?, Some(port)),
            None => (decode(authority)?, None),
        },
    };
    if host.is_empty() || host.contains(['@', '/']) {
        return Err(wrong());
    }
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
            text.parse().ok().filter(|p| *p > 0).ok_or_else(|| NbdUriError::Port(text.to_owned()))?
        }
        Some(text) => return Err(NbdUriError::Port(text.to_owned())),
    };
    Ok(NbdAddress::Tcp(host, port))
}

fn decode(text: &str) -> Result<String, NbdUriError> {
    let wrong = || NbdUriError::Encoding(text.to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(wrong()) };
        bytes.push((high * 16 + low) as u8);
    }
    // A path or name with a zero byte can't be passed on.
    String::from_utf8(bytes).ok().filter(|s| !s.contains('\0')).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, export: &str) -> NbdTarget {
        NbdTarget { address: NbdAddress::Tcp(host.into(), port), export: export.into(), tls: None }
    }

    #[test]
    fn the_forms_of_the_specification() {
        let unix = |export: &str| NbdTarget { address: NbdAddress::Unix("/run/a b.sock".into()), export: export.into(), tls: None };
        let cases = [
            ("nbd://example.com", tcp("example.com", 10809, "")),
            ("NBD://example.com/", tcp("example.com", 10809, "")),
            ("nbd://example.com:1234/disk", tcp("example.com", 1234, "disk")),
            ("nbd://example.com:/a/b%20%c3%a9", tcp("example.com", 10809, "a/b \u{e9}")),
            ("nbd://example.com//a", tcp("example.com", 10809, "/a")),
            ("nbd://[2001:db8::1]:7/x", tcp("2001:db8::1", 7, "x")),
            ("nbd://[::1]", tcp("::1", 10809, "")),
            ("nbd+unix:///?socket=/run/a%20b.sock", unix("")),
            ("nbd+unix:///name?socket=/run/a b.sock", unix("name")),
            ("nbd+unix://?socket=/run/a b.sock", unix("")),
        ];
        for (uri, target) in cases {
            assert_eq!(NbdTarget::parse(uri), Ok(target), "{uri}");
        }
    }

    #[test]
    fn tls_needs_an_authority_and_a_name() {
        let tls = |uri: &str, ca: Option<&str>| NbdTarget::parse_with_ca(uri, ca.map(Path::new)).map(|t| t.tls);
        let trust = |ca: &str, name: &str| Ok(Some(TlsConfig { ca_file: ca.into(), server_name: name.into() }));
        assert_eq!(tls("nbds://h/x?tls-certificates=/pki", None), trust("/pki/ca-cert.pem", "h"));
        assert_eq!(tls("nbds://h/x?tls-certificates=/pki&tls-hostname=n", None), trust("/pki/ca-cert.pem", "n"));
        assert_eq!(tls("nbds+unix:///x?socket=/s", Some("/ca.pem")), trust("/ca.pem", "localhost"));
        assert_eq!(tls("nbds://h", None), Err(NbdUriError::NoAuthority));
        assert_eq!(tls("nbd://h", Some("/ca.pem")), Err(NbdUriError::NotEncrypted("nbd://h".into())));
        assert_eq!(tls("nbds://h?tls-certificates=/pki", Some("/ca")), Err(NbdUriError::Parameter("tls-certificates".into())));
        assert_eq!(tls("nbd://h?tls-certificates=/pki", None), Err(NbdUriError::Parameter("tls-certificates".into())));
    }

    #[test]
    fn what_is_not_a_target_is_refused_with_the_part() {
        let parameter = |p: &str| NbdUriError::Parameter(p.into());
        let host = |h: &str| NbdUriError::Host(h.into());
        let long = format!("nbd://h/{}", "x".repeat(4097));
        let cases = [
            ("http://h", NbdUriError::Scheme("http://h".into())),
            ("disk.img", NbdUriError::Scheme("disk.img".into())),
            ("nbd:///x", host("")),
            ("nbd://user@h/x", host("user@h")),
            ("nbd://[::1", host("[::1")),
            ("nbd://[h]", host("[h]")),
            ("nbd://[::1]x", host("[::1]x")),
            ("nbd://h:0", NbdUriError::Port("0".into())),
            ("nbd://h:65536", NbdUriError::Port("65536".into())),
            ("nbd://h:+80", NbdUriError::Port("+80".into())),
            ("nbd://h/%2", NbdUriError::Encoding("%2".into())),
            ("nbd://h/%ff", NbdUriError::Encoding("%ff".into())),
            ("nbd://h/%00", NbdUriError::Encoding("%00".into())),
            ("nbd://h/x?socket=/s", parameter("socket")),
            ("nbd://h/x?colour=red", parameter("colour")),
            ("nbd://h/x#y", parameter("#y")),
            ("nbd+unix:///x", NbdUriError::NoSocket),
            ("nbd+unix:///x?socket=", parameter("socket")),
            ("nbd+unix:///x?socket=/a&socket=/b", parameter("socket")),
            ("nbd+unix://h/x?socket=/s", host("h")),
            (&long, NbdUriError::LongName(4097)),
        ];
        for (uri, error) in cases {
            assert_eq!(NbdTarget::parse(uri), Err(error), "{uri}");
        }
    }

    #[test]
    fn an_address_reads_as_people_write_it() {
        assert_eq!(tcp("::1", 7, "").address.to_string(), "[::1]:7");
        assert_eq!(tcp("h", 7, "").address.to_string(), "h:7");
        assert_eq!(NbdAddress::Unix("/s".into()).to_string(), "/s");
    }
}
