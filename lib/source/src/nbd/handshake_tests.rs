//! The negotiation against servers old, poor and hostile.

use std::time::Duration;

use tokio::io::{AsyncWriteExt, duplex};
use tokio::time::timeout;

use super::client::NbdSource;
use super::scripted_server_tests::{Server, info_blocks, info_export, target};
use super::target::{NbdTarget, TlsConfig};
use super::wire::server::{data, greeting, option_reply, simple};
use super::wire::{
    FIXED_NEWSTYLE, FLAG_DONE, GREETING, NO_ZEROES, OLDSTYLE, OPT_EXPORT_NAME, OPT_GO, OPT_SET_META_CONTEXT, OPT_STARTTLS,
    OPT_STRUCTURED_REPLY, REP_ACK, REP_ERR_SHUTDOWN, REP_ERR_UNSUP, REP_ERROR_BIT, REP_INFO, REP_META_CONTEXT,
};
use crate::{DiskSource, SourceError};

/// An option, and the whole answer to it; or the type of a reply, and its data.
type Answer = (u32, Vec<u8>);

const POLICY: u32 = REP_ERROR_BIT | 2;
const TLS_REQUIRED: u32 = REP_ERROR_BIT | 5;
const UNKNOWN: u32 = REP_ERROR_BIT | 6;

/// The client's outcome, against a server that greets with `flags`, answers an option by `answers` and any other one by UNSUP, and hangs up
/// once the client has gone.
async fn negotiate(flags: u16, target: &NbdTarget, answers: &[Answer]) -> Result<NbdSource, SourceError> {
    let (ours, theirs) = duplex(1 << 20);
    let mut server = Server(theirs);
    let script = async {
        server.put(greeting(flags)).await;
        server.take::<4>().await;
        loop {
            let (option, _) = server.option().await;
            let known = answers.iter().find(|a| a.0 == option).map(|a| a.1.clone());
            server.put(known.unwrap_or_else(|| option_reply(option, REP_ERR_UNSUP, &[]))).await;
        }
    };
    let client = timeout(Duration::from_secs(10), NbdSource::over(Box::new(ours), target));
    tokio::select! {
        outcome = client => outcome.expect("the negotiation has no end"),
        () = script => unreachable!(),
    }
}

fn go(parts: &[Answer]) -> Answer {
    (OPT_GO, parts.iter().flat_map(|(kind, data)| option_reply(OPT_GO, *kind, data)).collect())
}

fn meta(parts: &[Answer]) -> Answer {
    (OPT_SET_META_CONTEXT, parts.iter().flat_map(|(kind, data)| option_reply(OPT_SET_META_CONTEXT, *kind, data)).collect())
}

fn structured() -> Answer {
    (OPT_STRUCTURED_REPLY, option_reply(OPT_STRUCTURED_REPLY, REP_ACK, &[]))
}

fn export() -> Answer {
    (REP_INFO, info_export(1 << 20))
}

fn ack() -> Answer {
    (REP_ACK, Vec::new())
}

#[tokio::test]
async fn what_breaks_the_negotiation_is_a_fault_of_the_protocol() {
    let context = |id: u32, name: &str| (REP_META_CONTEXT, [&id.to_be_bytes()[..], name.as_bytes()].concat());
    let oversize = {
        let mut reply = option_reply(OPT_GO, REP_INFO, &[]);
        reply[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        reply
    };
    let mut other_magic = option_reply(OPT_GO, REP_ACK, &[]);
    other_magic[0] = 1;
    let cases: Vec<(Vec<Answer>, &str)> = vec![
        (vec![(OPT_STRUCTURED_REPLY, option_reply(OPT_GO, REP_ACK, &[]))], "it answered option 7 when asked for 8"),
        (vec![(OPT_STRUCTURED_REPLY, option_reply(OPT_STRUCTURED_REPLY, 3, &[]))], "answered STRUCTURED_REPLY with 0x3"),
        (vec![(OPT_GO, other_magic)], "reply starts wrong"),
        (vec![(OPT_GO, oversize)], "announced 4294967295 bytes"),
        (vec![go(&[ack()])], "without its size"),
        (vec![go(&[(REP_INFO, vec![])])], "without a type"),
        (vec![go(&[(REP_INFO, vec![0, 0, 1])])], "the export's information has the wrong length"),
        (vec![go(&[(REP_INFO, vec![0, 3, 1])])], "the block sizes have the wrong length"),
        (vec![go(&[export(), (REP_INFO, info_blocks(3, 4096)), ack()])], "block sizes are 3 to 4096"),
        (vec![go(&[export(), (REP_INFO, info_blocks(0, 4096)), ack()])], "block sizes are 0 to 4096"),
        (vec![go(&[export(), (REP_INFO, info_blocks(131_072, 1 << 20)), ack()])], "block sizes are 131072"),
        (vec![go(&[export(), (REP_INFO, info_blocks(4096, 2048)), ack()])], "block sizes are 4096 to 2048"),
        (vec![go(&[export(), (REP_INFO, info_blocks(1, 511)), ack()])], "block sizes are 1 to 511"),
        (vec![go(&[(4, vec![])])], "it answered GO with 0x4"),
        (vec![go(&vec![export(); 100])], "more than 64 replies to GO"),
        (vec![structured(), meta(&[context(1, "base:other"), ack()])], "context that nobody asked for"),
        (vec![structured(), meta(&[context(1, "base:allocation"), context(2, "base:allocation"), ack()])], "context that nobody asked for"),
        (vec![structured(), meta(&[(REP_META_CONTEXT, vec![0; 3])])], "context that nobody asked for"),
        (vec![structured(), meta(&[(3, vec![])])], "it answered SET_META_CONTEXT with 0x3"),
    ];
    for (answers, reason) in cases {
        let error = negotiate(FIXED_NEWSTYLE, &target(""), &answers).await.unwrap_err();
        assert!(matches!(&error, SourceError::Protocol(why) if why.contains(reason)), "{error} is not {reason:?}");
    }
}

#[tokio::test]
async fn what_is_no_server_is_told_by_its_greeting() {
    let cases = [
        (b"SSH-2.0-OpenSSH_9".to_vec(), "not an NBD server"),
        ([GREETING.to_be_bytes(), OLDSTYLE.to_be_bytes()].concat(), "the old negotiation"),
        ([GREETING.to_be_bytes(), [7; 8]].concat(), "its greeting is unknown"),
    ];
    for (bytes, reason) in cases {
        let (ours, theirs) = duplex(100);
        let mut server = Server(theirs);
        server.put(bytes).await;
        let error = NbdSource::over(Box::new(ours), &target("")).await.unwrap_err();
        assert!(matches!(&error, SourceError::Protocol(why) if why.contains(reason)), "{error} is not {reason:?}");
    }
    let (ours, mut theirs) = duplex(100);
    theirs.write_all(&GREETING.to_be_bytes()).await.unwrap();
    drop(theirs);
    let error = NbdSource::over(Box::new(ours), &target("")).await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn refusals_are_told_with_the_servers_words() {
    let cases = [
        (go(&[(UNKNOWN, b"disk 7?".to_vec())]), "the export \"x\": no such export (disk 7?)"),
        (go(&[(POLICY, vec![])]), "the export \"x\": a policy forbids it"),
        (go(&[(TLS_REQUIRED, vec![])]), "the export \"x\": TLS is required"),
    ];
    for (answer, message) in cases {
        let error = negotiate(FIXED_NEWSTYLE, &target("x"), &[answer]).await.unwrap_err();
        assert_eq!(error, SourceError::refused(message.to_owned()));
    }
    let error = negotiate(FIXED_NEWSTYLE, &target("x"), &[go(&[(REP_ERR_SHUTDOWN, vec![])])]).await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    let error = negotiate(FIXED_NEWSTYLE, &target(&"x".repeat(4097)), &[]).await.unwrap_err();
    assert!(matches!(&error, SourceError::Refused { message: why, .. } if why.contains("4097 bytes")), "{error}");
}

/// Nothing goes in the clear once TLS was asked for: no export's name, no request.
#[tokio::test]
async fn tls_that_was_asked_for_is_never_gone_without() {
    let ca = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let tls = NbdTarget { tls: Some(TlsConfig { ca_file: ca_file.clone(), server_name: "host".into() }), ..target("x") };
    for kind in [REP_ERR_UNSUP, POLICY] {
        let (ours, theirs) = duplex(4096);
        let mut server = Server(theirs);
        let (outcome, ()) = tokio::join!(NbdSource::over(Box::new(ours), &tls), async {
            server.put(greeting(FIXED_NEWSTYLE)).await;
            server.take::<4>().await;
            assert_eq!(server.option().await.0, OPT_STARTTLS);
            server.put(option_reply(OPT_STARTTLS, kind, &[])).await;
            assert!(server.hung_up().await, "the client went on");
        });
        let error = outcome.unwrap_err();
        assert!(matches!(&error, SourceError::Refused { message: why, .. } if why.contains("the server has none")), "{error}");
    }
    // A server of before options could be refused.
    let error = negotiate(0, &tls, &[]).await.unwrap_err();
    assert!(matches!(&error, SourceError::Refused { message: why, .. } if why.contains("too old")), "{error}");
    // Words in the clear behind the acknowledgement are no part of the encrypted stream.
    let injected = [option_reply(OPT_STARTTLS, REP_ACK, &[]), option_reply(OPT_STRUCTURED_REPLY, REP_ACK, &[])].concat();
    let error = negotiate(FIXED_NEWSTYLE, &tls, &[(OPT_STARTTLS, injected)]).await.unwrap_err();
    assert!(matches!(&error, SourceError::Refused { message: why, .. } if why.contains("TLS handshake")), "{error}");
    // Files that hold no authority.
    std::fs::write(&ca_file, "nothing").unwrap();
    for file in [ca_file, folder.path().join("absent")] {
        let tls = NbdTarget { tls: Some(TlsConfig { ca_file: file.clone(), server_name: "host".into() }), ..target("x") };
        let error = negotiate(FIXED_NEWSTYLE, &tls, &[]).await.unwrap_err();
        assert!(matches!(&error, SourceError::Refused { message: why, .. } if why.contains(file.to_str().unwrap())), "{error}");
    }
}

/// A server with neither chunks nor GO, before and after the negotiation could drop its 124 zeroes.
#[tokio::test]
async fn an_old_server_is_read_with_simple_replies() {
    for flags in [0, FIXED_NEWSTYLE, NO_ZEROES, FIXED_NEWSTYLE | NO_ZEROES] {
        let (ours, theirs) = duplex(4096);
        let mut server = Server(theirs);
        let target = target("disk");
        let (outcome, ()) = tokio::join!(NbdSource::over(Box::new(ours), &target), async {
            server.put(greeting(flags)).await;
            assert_eq!(server.take::<4>().await, u32::from(flags).to_be_bytes());
            loop {
                match server.option().await {
                    (OPT_EXPORT_NAME, name) => break assert_eq!(name, b"disk"),
                    (option, _) => {
                        assert_ne!(flags & FIXED_NEWSTYLE, 0, "option {option} to a server that knows only one");
                        server.put(option_reply(option, REP_ERR_UNSUP, &[])).await;
                    }
                }
            }
            server.put([&(1_u64 << 20).to_be_bytes()[..], &[0, 1]].concat()).await;
            if flags & NO_ZEROES == 0 {
                server.put([0; 124]).await;
            }
        });
        let source = outcome.unwrap();
        assert_eq!(source.size(), 1 << 20);
        assert_eq!(source.zeroes(0..1 << 20).await, None);
        let (bytes, ()) = tokio::join!(source.read(512, 512), async {
            let request = server.take::<28>().await;
            let cookie = u64::from_be_bytes(request[8..16].try_into().unwrap());
            server.put([simple(0, cookie), vec![7; 512]].concat()).await;
        });
        assert_eq!(bytes.unwrap(), [7; 512]);
        let (bytes, ()) = tokio::join!(source.read(512, 512), async {
            let request = server.take::<28>().await;
            server.put(simple(5, u64::from_be_bytes(request[8..16].try_into().unwrap()))).await;
        });
        assert!(matches!(bytes, Err(SourceError::Read { .. })));
        let (bytes, ()) = tokio::join!(source.read(512, 512), async {
            let request = server.take::<28>().await;
            server.put(data(FLAG_DONE, u64::from_be_bytes(request[8..16].try_into().unwrap()), 512, &[7; 512])).await;
        });
        assert!(matches!(&bytes, Err(SourceError::Protocol(why)) if why.contains("not agreed on")), "{bytes:?}");
    }
}

#[tokio::test]
async fn an_old_server_refuses_by_hanging_up() {
    let (ours, theirs) = duplex(4096);
    let mut server = Server(theirs);
    let target = target("disk");
    let (outcome, ()) = tokio::join!(NbdSource::over(Box::new(ours), &target), async {
        server.put(greeting(0)).await;
        server.take::<4>().await;
        server.option().await;
        drop(server);
    });
    let error = outcome.unwrap_err();
    assert!(matches!(&error, SourceError::Refused { message: why, .. } if why.contains("hung up when asked for it")), "{error}");
}

#[tokio::test]
async fn metadata_that_is_refused_is_gone_without() {
    for refusal in [meta(&[(REP_ERR_UNSUP, vec![])]), meta(&[ack()])] {
        let source = negotiate(FIXED_NEWSTYLE, &target(""), &[structured(), refusal, go(&[export(), ack()])]).await.unwrap();
        assert_eq!(source.zeroes(0..1 << 20).await, None);
    }
}
