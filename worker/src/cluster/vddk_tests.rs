//! The child's life, with nbdkit's own plugins and with scripts in nbdkit's place. VMware's plugin itself is tested in `e2e`.

use blocklog::clock::SystemClock;

use super::*;

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

fn password() -> Secret {
    Secret::new("p:ss SECRET%")
}

fn nbdkit() -> PathBuf {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap()).map(|folder| folder.join("nbdkit")).find(|path| path.exists());
    found.expect("nbdkit is missing: apt-get install nbdkit")
}

fn start(program: &Path, plugin: &[&str]) -> Nbdkit {
    let plugin: Vec<OsString> = plugin.iter().map(OsString::from).collect();
    Nbdkit::start(program, &plugin, Path::new("/nonexistent/lib64"), &password(), clock()).unwrap()
}

async fn open(program: &Path, plugin: &[&str]) -> Result<VddkSource, SourceError> {
    VddkSource::over(start(program, plugin)).await
}

/// Something that is called like nbdkit.
fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("nbdkit");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn alive(pid: Pid) -> bool {
    // A zombie has no arguments any more.
    std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).is_ok_and(|arguments| !arguments.is_empty())
}

async fn gone(pid: Pid, folder: &Path) {
    let clock = clock();
    for _ in 0..400 {
        if !alive(pid) && !folder.exists() {
            return;
        }
        clock.sleep(Duration::from_millis(25)).await;
    }
    panic!("nbdkit {pid:?} or {} is still there", folder.display());
}

#[tokio::test]
async fn a_disk_is_read_and_its_process_goes_with_it() {
    let source = open(&nbdkit(), &["--filter=cacheextents", "pattern", "size=1M"]).await.unwrap();
    assert_eq!(source.size(), 1 << 20);
    // The plugin's bytes are their own offset, in big-endian words of 8.
    assert_eq!(source.read(512, 512).await.unwrap()[..8], 512_u64.to_be_bytes());
    assert!(source.zeroes(0..1 << 20).await.is_some());
    let (pid, folder) = (source.session.0.pid.unwrap(), source.session.0.folder.clone());
    let arguments = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap();
    let shown = String::from_utf8_lossy(&arguments).into_owned() + &String::from_utf8_lossy(&environment);
    assert!(shown.contains("--exit-with-parent") && shown.contains("LD_LIBRARY_PATH=/nonexistent/lib64"), "{shown}");
    assert!(!shown.contains("SECRET"), "{shown}");
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let session = source.session();
    drop(source);
    // The end has begun, or has not; it is waited for in both cases.
    session.end().await;
    assert!(!alive(pid) && !folder.exists());
    let source = open(&nbdkit(), &["memory", "1M"]).await.unwrap();
    let (pid, folder) = (source.session.0.pid.unwrap(), source.session.0.folder.clone());
    drop(source);
    gone(pid, &folder).await;
}

#[tokio::test]
async fn close_returns_when_it_has_ended_and_reads_fail_from_then_on() {
    let source = open(&nbdkit(), &["memory", "1M"]).await.unwrap();
    let (pid, folder) = (source.session.0.pid.unwrap(), source.session.0.folder.clone());
    source.session().end().await;
    assert!(!alive(pid) && !folder.exists());
    assert!(matches!(source.read(0, 512).await, Err(SourceError::Unreachable { .. })));
    source.session().end().await;
}

#[tokio::test]
async fn the_password_comes_by_the_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    let got = folder.path().join("got");
    // It proves what it has read, and that nothing else is to be had from its stdin.
    let program = script(
        folder.path(),
        &format!("head -n1 <&3 >{got}; cat >>{got}; echo 'nbdkit: error: done with p:ss SECRET%' >&2", got = got.display()),
    );
    let error = open(&program, &["vddk"]).await.err().unwrap();
    assert_eq!(std::fs::read_to_string(&got).unwrap(), "p:ss SECRET%\n");
    assert!(error.to_string().contains("done with <password>"), "{error}");
    assert!(!format!("{error:?}").contains("SECRET"), "{error:?}");
}

#[tokio::test]
async fn a_server_that_does_not_end_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let program = script(folder.path(), "trap '' TERM; echo 'nbdkit: error: deaf' >&2; while :; do sleep 0.1; done");
    let process = start(&program, &["vddk"]);
    let clock = clock();
    while process.last_error().is_none() {
        clock.sleep(LOOK).await;
    }
    let (pid, own) = (process.pid.unwrap(), process.folder.clone());
    let begun = clock.monotonic();
    process.end().await;
    assert!(!alive(pid) && !own.exists());
    let took = clock.monotonic() - begun;
    assert!((END..END + Duration::from_secs(5)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_server_that_dies_is_told_by_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let program = script(folder.path(), "echo 'nbdkit: debug: hello' >&2; echo 'nbdkit: error: vddk: no such thing' >&2; exit 1");
    assert_eq!(open(&program, &["vddk"]).await.err(), Some(SourceError::unreachable("vddk: no such thing")));
    let error = open(Path::new("/nonexistent/nbdkit"), &["vddk"]).await.err().unwrap();
    assert!(matches!(&error, SourceError::Refused { reason: Reason::DiskLibraryMissing, .. }), "{error:?}");
}

/// Each try is a login at vCenter.
#[tokio::test]
async fn a_refused_disk_is_asked_for_once_however_late_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let count = folder.path().join("count");
    // The client hears of the refusal; the words come later.
    let late = "while read -r line; do case $line in *error:*) sleep 0.4 ;; esac; echo \"$line\"; done";
    let program = script(folder.path(), &format!("exec 3>&2; {{ nbdkit \"$@\" 2>&1 >&4 | {late} >&3; }} 4>&1"));
    // Not among the arguments, which its log repeats.
    let words = folder.path().join("words");
    std::fs::write(&words, "EACCES VDDK: incorrect user name or password\n").unwrap();
    let open_script = format!("open=echo once >>{}; cat {} >&2; exit 1", count.display(), words.display());
    let error = open(&program, &["eval", "get_size=echo 1M", "pread=exit 1", &open_script]).await.err().unwrap();
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "once\n", "{error}");
    assert!(matches!(&error, SourceError::Refused { reason: Reason::WrongCredentials, .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_dies_under_a_reader_is_told() {
    let source = open(&nbdkit(), &["memory", "1M"]).await.unwrap();
    kill_process(source.session.0.pid.unwrap(), Signal::KILL).unwrap();
    let error = source.read(0, 512).await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_read_error_carries_the_words_of_the_log() {
    let source = open(&nbdkit(), &["sh", "-"]).await;
    // A plugin whose script comes by stdin finds none: what it says is what is told.
    assert!(source.err().unwrap().to_string().len() > 10);
    let source = open(&nbdkit(), &["eval", "get_size=echo 1M", "pread=echo EIO the connection was lost >&2; exit 1"]).await.unwrap();
    let error = source.read(0, 512).await.unwrap_err();
    assert!(matches!(&error, SourceError::Read { message, .. } if message.contains("the connection was lost")), "{error:?}");
}

#[test]
fn what_vmwares_words_mean() {
    let log = |lines: &[&str]| understand(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), "it ended");
    let open = |text: &str| format!("nbdkit: vddk[1]: error: VixDiskLib_Open: [ds] web/web.vmdk: {text}");
    let refused = |error: SourceError, reason: Reason| {
        assert!(matches!(&error, SourceError::Refused { reason: found, .. } if *found == reason), "{reason}: {error:?}");
    };
    refused(
        log(&["VixDiskLibVim: Failed to verify SSL certificate: actual thumbprint=A", &open("Unknown error")]),
        Reason::UntrustedCertificate,
    );
    refused(
        log(&[
            "VixDiskLibVim: Login failure: incorrect user name or password",
            &open("Insufficient permissions in the host operating system"),
        ]),
        Reason::WrongCredentials,
    );
    refused(log(&[&open("Insufficient permissions in the host operating system")]), Reason::PrivilegesMissing);
    refused(log(&[&open("You do not have access rights to this file")]), Reason::PrivilegesMissing);
    refused(log(&[&open("The host is not licensed for this feature")]), Reason::SourceRefused);
    refused(
        log(&["nbdkit: error: libvixDiskLib.so.8: cannot open shared object file: No such file or directory"]),
        Reason::DiskLibraryMissing,
    );
    for text in ["The server refused connection", "The file is already in use"] {
        assert!(matches!(log(&[&open(text)]), SourceError::Busy(why) if why.contains(text)), "{text}");
    }
    for text in [
        "The snapshot does not exist",
        "The virtual machine cannot be found",
        "A file was not found",
        "Unknown error",
        "Cannot connect to the host",
    ] {
        let error = log(&[&open(text)]);
        assert!(matches!(&error, SourceError::Unreachable { message: why, .. } if why.contains(text)), "{error:?}");
    }
    assert_eq!(log(&["nbdkit: debug: hello"]), SourceError::unreachable("it ended"));
}

#[test]
fn a_read_that_the_host_has_no_memory_for_is_told_apart() {
    let failed = || SourceError::Read { offset: 512, length: 1024, message: "Input/output error".into() };
    for said in [
        "VixDiskLib_Read: Memory allocation failed. Out of memory",
        "received NFC error 5 from server: Failed to allocate the requested bytes",
    ] {
        let expected = SourceError::Exhausted { offset: 512, length: 1024, message: format!("Input/output error: {said}") };
        assert_eq!(explained(failed(), said), expected);
    }
    assert!(matches!(explained(failed(), "the connection was lost"), SourceError::Read { message, .. } if message.ends_with("was lost")));
    // What broke off was broken off, whatever else the log has said before.
    assert!(matches!(explained(SourceError::unreachable("broken"), "NFC error 5"), SourceError::Unreachable { .. }));
}

#[test]
fn the_arguments_are_the_plugins() {
    let settings = Settings { nbdkit: "nbdkit".into(), libdir: "/opt/vmware-vix-disklib".into() };
    let at = DiskAt {
        server: "vcenter.example.com".into(),
        port: Some(8443),
        user: "hawser@vsphere.local".into(),
        password: password(),
        thumbprint: "AB:CD".into(),
        vm: "vm-62".into(),
        snapshot: "snapshot-74".into(),
        file: "[ds 1] web/web-000001.vmdk".into(),
    };
    assert_eq!(
        plugin(&settings, &at),
        [
            "-D",
            "vddk.datapath=0",
            "--filter=cacheextents",
            "vddk",
            "libdir=/opt/vmware-vix-disklib",
            "server=vcenter.example.com",
            "user=hawser@vsphere.local",
            "password=-3",
            "thumbprint=AB:CD",
            "vm=moref=vm-62",
            "snapshot=snapshot-74",
            "transports=file:nbdssl:nbd",
            "file=[ds 1] web/web-000001.vmdk",
            "port=8443",
        ]
    );
    assert!(!format!("{at:?}").contains("SECRET"));
}
