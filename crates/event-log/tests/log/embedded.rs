//! The server that lives and dies with us; the example is the process that embeds it where one must be killed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use event_log::testing::nats_server;
use event_log::{EventLog, OpenError, ServerConfig};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{CONNECTION, example, fill, payload, read_to, until, within};

fn config(dir: &Path) -> ServerConfig {
    with_binary(dir, &nats_server())
}

pub(crate) fn with_binary(dir: &Path, binary: &Path) -> ServerConfig {
    let (dir, binary) = (dir.join("nats"), Some(binary.to_owned()));
    ServerConfig::Embedded { dir, binary, fsync_always: false, helper: example() }
}

async fn refusal(config: ServerConfig) -> OpenError {
    within("the refusal", EventLog::open(config)).await.err().expect("it must not open")
}

/// The process ids of the servers that run on this directory.
fn servers(dir: &Path) -> Vec<i32> {
    let config = dir.join("nats/nats-server.conf").into_os_string().into_encoded_bytes();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let runs = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // The helper has the configuration in its command line too, but is not a server yet.
        line.split(|byte| *byte == 0).any(|arg| arg == config) && !line.windows(11).any(|part| part == b"nats-helper")
    };
    pids.filter(runs).collect()
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// A process that embeds a server and appends what it is told.
struct Parent {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Parent {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(example())
            .arg(dir.join("nats"))
            .env("FOREBAY_NATS_SERVER", nats_server())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut parent = Self { child, stdin, stdout };
        let ready = parent.line();
        assert!(ready.starts_with("ready nats://127.0.0.1:"), "{ready:?}");
        parent
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    fn append(&mut self, text: &str) -> String {
        writeln!(self.stdin.as_mut().unwrap(), "{text}").unwrap();
        self.line()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_clean_stop_and_start() {
    let dir = tempfile::tempdir().unwrap();
    let log = EventLog::open(config(dir.path())).await.unwrap();
    fill(&log, 1..=100).await;
    let created = log.info().await.unwrap().created;
    assert_eq!(servers(dir.path()).len(), 1);
    log.close().await;
    assert!(servers(dir.path()).is_empty(), "a closed log leaves no server behind");
    let log = EventLog::open(config(dir.path())).await.unwrap();
    assert_eq!(log.info().await.unwrap().created, created);
    assert_eq!(read_to(&mut log.reader(0), 100).await.sequences().len(), 100);
    // Without `close`, when nobody holds the log any more.
    drop(log);
    until("the server to be gone", async || servers(dir.path()).is_empty()).await;
}

#[tokio::test]
async fn nobody_else_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let log = EventLog::open(config(dir.path())).await.unwrap();
    let file = dir.path().join("nats/nats-server.conf");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(dir.path().join("nats")).unwrap().permissions().mode() & 0o777, 0o700);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("host: \"127.0.0.1\"") && !text.contains("http"), "loopback only, no monitoring");
    let external = |user: Option<&str>, password: Option<&str>| ServerConfig::External {
        url: log.url().to_owned(),
        user: user.map(str::to_owned),
        password: password.map(str::to_owned),
        token: None,
        creds: None,
        ca: None,
        replicas: 1,
    };
    for config in [external(None, None), external(Some("forebay"), Some("guess"))] {
        let error = refusal(config).await;
        assert!(matches!(error, OpenError::Refused { .. }), "{error}");
    }
    log.close().await;
    let again = EventLog::open(config(dir.path())).await.unwrap();
    let password = |text: &str| text.lines().find(|line| line.starts_with("authorization")).unwrap().to_owned();
    assert_ne!(password(&fs::read_to_string(&file).unwrap()), password(&text), "credentials are new at each start");
    again.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_started_again_and_its_readers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = EventLog::open(config(dir.path())).await.unwrap();
    let mut reader = log.reader(0);
    for round in 1..=3 {
        fill(&log, round * 10..=round * 10 + 4).await;
        assert_eq!(read_to(&mut reader, round * 5).await.sequences().len(), 5);
        let [pid] = servers(dir.path())[..] else { panic!("one server") };
        kill(pid);
        until("another server", async || servers(dir.path()).first().is_some_and(|other| *other != pid)).await;
        let stored = within("the append", async {
            loop {
                if let Ok(stored) = log.append(CONNECTION, payload(round * 10 + 4)).await {
                    return stored;
                }
            }
        })
        .await;
        assert_eq!(stored.sequence, round * 5, "what was acknowledged is still there, and known");
    }
    log.close().await;
}

#[tokio::test]
async fn the_server_is_gone_when_its_parent_is_killed_and_the_next_start_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3_u64 {
        let mut parent = Parent::start(dir.path());
        for number in 0..20 {
            let stored = parent.append(&format!("round {round} number {number}"));
            assert_eq!(stored, format!("stored {}\n", (round - 1) * 20 + number + 1));
        }
        let [server] = servers(dir.path())[..] else { panic!("one server") };
        let inherited = fs::read_link(format!("/proc/{server}/fd/0")).unwrap();
        assert_eq!(inherited, dir.path().join("nats/LOCK"), "the lock is held for as long as the server lives");
        // Dropping kills it, and nothing is given a chance to clean up. The next start may come at once.
        drop(parent);
    }
    until("the server to be gone", async || servers(dir.path()).is_empty()).await;
    let log = EventLog::open(config(dir.path())).await.unwrap();
    assert_eq!(read_to(&mut log.reader(0), 60).await.messages[59].payload, "round 3 number 19");
    log.close().await;
}

#[tokio::test]
async fn a_process_that_ends_without_closing_takes_its_server_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut parent = Parent::start(dir.path());
    // Its standard input ends, so it closes and exits.
    parent.stdin = None;
    let status = parent.child.wait().unwrap();
    assert!(status.success());
    assert!(servers(dir.path()).is_empty());
    let parent = Parent::start(dir.path());
    kill_process(Pid::from_child(&parent.child), Signal::TERM).unwrap();
    until("the server to be gone", async || servers(dir.path()).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_two_servers_on_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let log = EventLog::open(config(dir.path())).await.unwrap();
    let error = refusal(config(dir.path())).await;
    assert!(matches!(error, OpenError::DirectoryInUse { .. }), "{error}");
    assert!(log.connected() && servers(dir.path()).len() == 1, "the first one is unharmed");
    // One that waits gets the directory as soon as it is free.
    let waiting = tokio::spawn(EventLog::open(config(dir.path())));
    until("the second to wait for the lock", async || waiters(dir.path()) == 1).await;
    log.close().await;
    let log = within("the second start", waiting).await.unwrap().unwrap();
    assert_eq!(servers(dir.path()).len(), 1);
    log.close().await;
}

/// How many open files this process has of the lock beyond the one that holds it.
fn waiters(dir: &Path) -> usize {
    let lock = dir.join("nats/LOCK");
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == lock)).count() - 1
}

fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    // Written by another process: while we had it open for writing, a fork of another test could keep it so, and a
    // file that is open for writing cannot be run.
    let write = "printf '#!/bin/sh\n%s\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
    assert!(Command::new("sh").arg("-c").arg(write).arg(&path).arg(text).status().unwrap().success());
    path
}

#[tokio::test]
async fn a_server_that_will_not_do_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let old = script(dir.path(), "old", "echo 'nats-server: v2.9.10'");
    let odd = script(dir.path(), "odd", "echo hello");
    let dies = script(
        dir.path(),
        "dies",
        "[ \"$1\" = --version ] && echo 'nats-server: v2.15.1' || { echo '[FTL] no room' >&2; exit 1; }",
    );
    let cases = [(old, "2.9.10"), (odd, "hello"), (dies, "no room"), (dir.path().join("missing"), "No such file")];
    for (binary, expected) in cases {
        let error = refusal(with_binary(dir.path(), &binary)).await.to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    let old = refusal(with_binary(dir.path(), &dir.path().join("old"))).await.to_string();
    assert!(old.contains("2.10.25") && old.contains("make build"), "it says what to do: {old}");
}

#[tokio::test]
async fn a_failed_start_leaves_the_directory_free() {
    let dir = tempfile::tempdir().unwrap();
    let dies = script(dir.path(), "dies", "[ \"$1\" = --version ] && echo 'nats-server: v2.15.1'; exit 1");
    refusal(with_binary(dir.path(), &dies)).await;
    EventLog::open(config(dir.path())).await.unwrap().close().await;
}

#[test]
fn the_helper_serves_nobody_but_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let proof = dir.path().join("ran");
    let server = script(dir.path(), "server", &format!("touch {}", proof.display()));
    let run = |args: &[&str]| Command::new(example()).arg("nats-helper").args(args).output().unwrap();
    let (server, own) = (server.to_str().unwrap(), std::process::id().to_string());
    let refused = run(&["1", server, "config"]);
    assert!(!refused.status.success() && !proof.exists(), "its parent is not process 1");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("parent is gone"));
    assert!(!run(&["nonsense"]).status.success());
    assert!(run(&[&own, server, "config"]).status.success() && proof.exists());
}
