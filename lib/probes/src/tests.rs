use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Short, so that tests are.
const SHORT: Limits = Limits { connections: 2, head: Duration::from_millis(300), whole: Duration::from_millis(900) };

#[derive(Default)]
struct Process(AtomicBool);

impl Probed for Process {
    fn ready(&self) -> Result<String, String> {
        if self.0.load(Ordering::Relaxed) { Ok("ok\n".to_owned()) } else { Err("log store: no route\n".to_owned()) }
    }

    fn figures(&self) -> Vec<u8> {
        b"hawser_figure 1\n".to_vec()
    }
}

async fn server(limits: Limits) -> (SocketAddr, Arc<Process>) {
    let (server, process) = (Server::bind("127.0.0.1:0".parse().unwrap(), limits).await.unwrap(), Arc::<Process>::default());
    let address = server.address();
    tokio::spawn(server.serve(process.clone()));
    (address, process)
}

async fn connect(at: SocketAddr) -> TcpStream {
    TcpStream::connect(at).await.unwrap()
}

/// All that the server says until it closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // One that was cut may be reset.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.expect("it is closed");
    String::from_utf8(answer).unwrap()
}

async fn ask(at: SocketAddr, request: &str) -> String {
    let mut stream = connect(at).await;
    stream.write_all(format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    rest(stream).await
}

#[tokio::test]
async fn a_process_is_alive_at_once_and_ready_when_it_says_so() {
    let (at, process) = server(LIMITS).await;
    let answer = ask(at, "GET /healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    let answer = ask(at, "GET /readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nlog store: no route\n"), "{answer}");
    process.0.store(true, Ordering::Relaxed);
    assert!(ask(at, "GET /readyz?verbose").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn figures_are_told_as_prometheus_reads_them() {
    let (at, _) = server(LIMITS).await;
    let answer = ask(at, "GET /metrics").await;
    let head = "content-type: text/plain; version=0.0.4\r\n";
    assert!(
        answer.contains(head) && answer.contains("\r\nconnection: close\r\n") && answer.ends_with("\r\n\r\nhawser_figure 1\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn what_is_not_served_is_refused() {
    let (at, _) = server(LIMITS).await;
    assert!(ask(at, "GET /secrets").await.starts_with("HTTP/1.1 404 "));
    let answer = ask(at, "POST /healthz").await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.ends_with("\r\n\r\nGET only\n"), "{answer}");
    assert!(ask(at, "GET").await.starts_with("HTTP/1.1 400 "));
    assert!(ask(at, &format!("GET /{}", "a".repeat(2 * HEAD))).await.starts_with("HTTP/1.1 4"));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_and_keeps_nobody() {
    let (at, _) = server(Limits { connections: 8, ..SHORT }).await;
    let (began, silent) = (Instant::now(), connect(at).await);
    assert!(ask(at, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(began.elapsed() < SHORT.head, "{:?}", began.elapsed());
    assert!(!rest(silent).await.contains(" 200 "));
    assert!((SHORT.head..SHORT.whole).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_that_speaks_slowly_is_cut() {
    let (at, _) = server(SHORT).await;
    let (began, mut slow) = (Instant::now(), connect(at).await);
    for byte in b"GET /healthz HTTP/1.1\r\nhost: x\r\n".iter().cycle() {
        if slow.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(began.elapsed() < SHORT.whole * 5, "it is still listened to");
    }
}

/// Its answer is larger than what lies between the two.
#[tokio::test]
async fn a_client_that_takes_no_answer_is_cut() {
    struct Large;
    impl Probed for Large {
        fn ready(&self) -> Result<String, String> {
            Ok(String::new())
        }
        fn figures(&self) -> Vec<u8> {
            vec![b'#'; 64 << 20]
        }
    }
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), Limits { connections: 1, ..SHORT }).await.unwrap();
    let at = server.address();
    tokio::spawn(server.serve(Arc::new(Large)));
    let mut deaf = connect(at).await;
    deaf.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let began = Instant::now();
    assert!(ask(at, "GET /healthz").await.starts_with("HTTP/1.1 200 "), "the only place is free again");
    assert!(began.elapsed() < SHORT.whole * 5, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_beyond_the_limit_waits_until_another_has_gone() {
    let (at, _) = server(SHORT).await;
    let (began, others) = (Instant::now(), [connect(at).await, connect(at).await]);
    // They are taken before it comes.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(ask(at, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(began.elapsed() >= SHORT.head, "it was answered beside {} others", others.len());
    drop(others);
    let began = Instant::now();
    assert!(ask(at, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(began.elapsed() < SHORT.head, "all places are free again");
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error() {
    let (at, _) = server(LIMITS).await;
    assert!(Server::bind(at, LIMITS).await.is_err());
}
