//! Servers' words without what is another each time: ids of requests, times, names of back ends.
//!
//! A message that differs with each request is a change for whoever compares: it is written, and what is written wakes whoever watches. So people
//! are shown what stays (the code and the sentences), and the log has the rest, which only the server's operator can look up.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// A point in time, as servers write it: ISO 8601, HTTP's, and .NET's with slashes.
const TIME: &str = concat!(
    r"(?:\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?: ?(?:Z|UTC|GMT)\b| ?[+-]\d{2}:?\d{2}\b)?",
    r"|\b(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? )?\d{1,2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d{4} ",
    r"\d{2}:\d{2}:\d{2}(?: (?:GMT|UTC|[+-]\d{4})\b)?",
    r"|\b\d{8}T\d{6}Z\b",
    r"|\b\d{1,2}/\d{1,2}/\d{4},? \d{1,2}:\d{2}(?::\d{2})?(?: [AP]M\b)?(?: \+\d{2}:\d{2})?)",
);

/// What stands before the id of a request, of whatever name. What an error is about has other names: tenants, applications, objects, disks.
const IDS: &str = r"(?:x-ms-)?(?:(?:client|service|arm|request)[ _-]?)?(?:trace|correlation|request|activity|tracking|op|operation|transaction|log)[ _-]?(?:request[ _-]?)?id";

/// What stands before the name of the machine that has answered.
const MACHINES: &str = r"(?:(?:server|machine|node|role)[ _-]?(?:name|instance|id)|back[ -]?end(?:[ _-]?(?:name|instance|id))?)";

#[expect(clippy::unwrap_used, reason = "constants, and each of them is used in a test")]
static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let of = |pattern: String| Regex::new(&pattern).unwrap();
    let value = r#"["']?\s*(?:is\s+|of\s+|[:=#]\s*)?["'\[(]?([0-9A-Za-z][0-9A-Za-z._:+/-]*[0-9A-Za-z]|[0-9A-Za-z])["'\])]?"#;
    Patterns {
        stamps: of(format!(r#"[,;(\[]*\s*["']?\b(?:Time|Timestamp|timestamp|TimeStamp)["']?\s*[:=]\s*["'\[]?{TIME}["'\])]?"#)),
        times: of(TIME.to_owned()),
        ids: of(format!(r#"(?i)[,;(\[]*\s*["']?\b{IDS}{value}"#)),
        machines: of(format!(
            // In brackets a machine is no subject of the sentence.
            r#"(?i)(?:[,;(\[]*\s*["']?\b{MACHINES}["']?\s*[:=]\s*["'\[]?|[(\[]\s*(?:server|machine|node|role)\s*[:=]\s*)([0-9A-Za-z][0-9A-Za-z._:-]*)["'\])]?"#
        )),
        disk_hosts: of(r"\b[\w-]+(?:\.[\w-]+)*\.blob\.storage\.azure\.net\b".to_owned()),
        tasks: of(r"\btask-\d+\b".to_owned()),
        sessions: of(r"\bsession\[[0-9a-fA-F-]+\][0-9a-fA-F-]*".to_owned()),
        // A code of Windows has eight digits, and is what a person looks up.
        addresses: of(r"\b0x[0-9a-fA-F]{9,}\b".to_owned()),
    }
});

struct Patterns {
    stamps: Regex,
    times: Regex,
    ids: Regex,
    machines: Regex,
    disk_hosts: Regex,
    tasks: Regex,
    sessions: Regex,
    addresses: Regex,
}

/// The same words for two answers that differ in nothing but ids of requests, times and names of back ends; codes and sentences stay, in one line.
#[must_use]
pub fn constant(text: &str) -> String {
    let patterns = &*PATTERNS;
    // A word that only happens to follow is no id: those have digits.
    let labelled = |found: &Captures<'_>| {
        let varies = found.get(1).is_some_and(|value| value.as_str().bytes().any(|byte| byte.is_ascii_digit()));
        if varies { String::new() } else { found[0].to_owned() }
    };
    let text = in_line(text);
    let text = patterns.stamps.replace_all(&text, "");
    let text = patterns.times.replace_all(&text, "<time>");
    let text = patterns.ids.replace_all(&text, labelled);
    let text = patterns.machines.replace_all(&text, labelled);
    let text = patterns.disk_hosts.replace_all(&text, "<host>");
    let text = patterns.tasks.replace_all(&text, "<task>");
    let text = patterns.sessions.replace_all(&text, "<session>");
    let text = patterns.addresses.replace_all(&text, "<address>");
    in_line(&text).trim_end_matches([' ', ',', ';', ':', '(']).to_owned()
}

/// The constant part of what a server has said; where that is not all, the log has all of it. `text` must hold no secret.
#[must_use]
pub fn noted(server: &'static str, text: &str) -> String {
    let stays = constant(text);
    if stays != in_line(text) {
        tracing::info!(server, text, "in the server's own words");
    }
    stays
}

fn in_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_and_subjects_of_a_sentence_stay() {
        for text in [
            "'VssSyncStart' operation failed: IDispatch error #8451 (0x80042303)",
            "the virtual machine: web01 is locked",
            "cannot connect to server: esx07.example.com: refused",
        ] {
            assert_eq!(constant(text), text);
        }
    }

    const APPLICATION: &str = "Application with identifier '33333333-3333-4333-8333-333333333333' was not found in the directory \
                               '11111111-1111-4111-8111-111111111111'.";

    /// What another answer to the same question would have otherwise.
    #[derive(Debug, Clone)]
    struct Varying {
        ids: [uuid::Uuid; 2],
        second: i64,
        machine: u32,
    }

    fn varying() -> impl Strategy<Value = Varying> {
        (any::<[u128; 2]>(), 1_000_000_000i64..2_000_000_000, any::<u32>()).prop_map(|(ids, second, machine)| Varying {
            ids: ids.map(uuid::Uuid::from_u128),
            second,
            machine,
        })
    }

    /// As the servers write them: what stays, and the whole.
    fn answers(of: &Varying) -> Vec<(String, String)> {
        let Varying { ids: [one, other], second, machine } = of;
        let at = jiff::Timestamp::from_second(*second).unwrap();
        let spaced = at.strftime("%Y-%m-%d %H:%M:%SZ");
        let http = at.strftime("%a, %d %b %Y %H:%M:%S GMT");
        let slashes = at.strftime("%-m/%-d/%Y %-I:%M:%S %p");
        let of = |stays: &str, whole: String| (stays.to_owned(), whole);
        vec![
            of(
                &format!("AADSTS700016: {APPLICATION}"),
                format!("AADSTS700016: {APPLICATION} Trace ID: {one} Correlation ID: {other} Timestamp: {spaced}"),
            ),
            of(
                "AADSTS700024: Client assertion is not within its valid time range. Current time: <time>, expiry time of assertion <time>.",
                format!(
                    "AADSTS700024: Client assertion is not within its valid time range. Current time: {at}, expiry time of assertion {at}. \
                     Trace ID: {one}\r\nCorrelation ID: {other}\r\nTimestamp: {spaced}"
                ),
            ),
            of(
                "Server failed to authenticate the request. Signed expiry time [<time>] must be after current time [<time>]",
                format!(
                    "Server failed to authenticate the request.\nRequestId:{one}\nTime:{at} Signed expiry time [{http}] must be after current \
                     time [{http}]"
                ),
            ),
            of("The server is busy.", format!("The server is busy.\nRequestId:{one}\nTime:{}", at.strftime("%Y-%m-%dT%H:%M:%S.1234567Z"))),
            of(
                "InternalServerError: Encountered internal server error. Diagnostic information: timestamp '<time>', subscription id \
                 '22222222-2222-4222-8222-222222222222'.",
                format!(
                    "InternalServerError: Encountered internal server error. Diagnostic information: timestamp '{}', subscription id \
                     '22222222-2222-4222-8222-222222222222', tracking id '{one}', request correlation id '{other}'.",
                    at.strftime("%Y%m%dT%H%M%SZ")
                ),
            ),
            of(
                "The service is unavailable now. Please retry, and give support the",
                format!(
                    "The service is unavailable now. Please retry, and give support the correlation id '{one}' (Server: BN{machine}PEPF)"
                ),
            ),
            of("The token was issued on <time> and was revoked.", format!("The token was issued on {slashes} and was revoked.")),
            of(
                "no connection to <host>: connection refused",
                format!("no connection to md-hdd-{machine:08x}.z{}.blob.storage.azure.net: connection refused", machine % 50),
            ),
            of(
                "TaskInProgress: Another task is already in progress. [task: <task>]",
                format!("TaskInProgress: Another task is already in progress. [task: task-{machine}] [opID={}]", one.simple()),
            ),
            of(
                "SystemError: A general system error occurred: vpxd is not ready",
                format!("SystemError: A general system error occurred: vpxd is not ready (opId: 5f-{machine}-01)"),
            ),
            of(
                "NotAuthenticated: The session <session> is not authenticated at <address>",
                format!("NotAuthenticated: The session session[{one}]{other} is not authenticated at 0x00007f{machine:08x}"),
            ),
        ]
    }

    proptest! {
        #[test]
        fn what_differs_only_in_ids_times_and_hosts_is_one_text(one in varying(), other in varying()) {
            for ((stays, first), (_, second)) in answers(&one).into_iter().zip(answers(&other)) {
                prop_assert_eq!(constant(&first), constant(&second));
                prop_assert_eq!(constant(&first), stays);
            }
        }

        #[test]
        fn a_constant_text_stays_as_it_is(of in varying(), any in ".{0,200}") {
            for (_, whole) in answers(&of) {
                let once = constant(&whole);
                prop_assert_eq!(constant(&once), once);
            }
            // Whatever a server sends: no panic, and never longer than a placeholder for each of its words.
            prop_assert!(constant(&any).len() <= any.len() + 10 * any.len());
        }
    }

    #[test]
    fn what_an_error_is_about_stays() {
        for text in [
            "The client 'a1' with object id '44444444-4444-4444-8444-444444444444' does not have authorization to perform action \
             'Microsoft.Compute/disks/write' over scope '/subscriptions/22222222-2222-4222-8222-222222222222/resourceGroups/hawser'.",
            "HTTP 503 ServerBusy",
            "NoPermission: Permission to perform this operation was denied. [privilegeId: VirtualMachine.State.CreateSnapshot] [object: vm-62]",
            "no connection to vcenter.example.com: Connection refused (os error 111)",
            "the request was refused; a request identifier helps nobody",
            "",
        ] {
            assert_eq!(constant(text), text);
        }
    }
}
