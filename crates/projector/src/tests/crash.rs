//! A process that follows a flood is killed, again and again.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use event_log::testing::TestServer;
use event_log::{EventLog, ServerConfig};

use super::support::{CONNECTION, PATIENCE, all, connect, flood, project, uninterrupted, until};

const VIEWS: &str = "FOREBAY_TEST_CRASH_VIEWS";
const URL: &str = "FOREBAY_TEST_CRASH_URL";
const TRIM: &str = "FOREBAY_TEST_CRASH_TRIM";
const MESSAGES: u64 = 12_000;

/// Not a test of its own: what the killed process does. It tells how far it is.
#[tokio::test(flavor = "multi_thread")]
async fn projector_process() {
    let (Some(views), Ok(url)) = (std::env::var_os(VIEWS).map(PathBuf::from), std::env::var(URL)) else { return };
    let config =
        ServerConfig::External { url, user: None, password: None, token: None, creds: None, ca: None, replicas: 1 };
    let log = EventLog::open(config).await.unwrap();
    let (handle, reader) = project(&log, &views);
    // The test harness has begun a line of its own.
    println!("\nfrom {}", reader.applied());
    let from = reader.applied();
    until("a checkpoint", async || reader.checkpoint().is_some_and(|checkpoint| checkpoint.sequence > from)).await;
    println!("checkpoint");
    if std::env::var_os(TRIM).is_some() {
        let (log, handle) = (log.clone(), handle.clone());
        tokio::spawn(async move {
            loop {
                let before = handle.status().applied.saturating_sub(700);
                handle.trim(&log, CONNECTION, before).await.unwrap();
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
    }
    assert!(!handle.wait_applied(u64::MAX, PATIENCE).await, "nobody killed this process");
}

fn spawn(views: &Path, server: &TestServer, trim: bool) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .envs(trim.then_some((TRIM, "1")))
        .args(["tests::crash::projector_process", "--exact", "--nocapture"])
        .env(VIEWS, views)
        .env(URL, format!("nats://{}", server.address()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A flood that a process follows and, if it is to, trims, while it is killed and started again.
pub(super) async fn kill_again_and_again(log: &EventLog, server: &TestServer, views: &Path, trim: bool) {
    let flooding = tokio::spawn({
        let log = log.clone();
        async move {
            for start in (0..MESSAGES).step_by(40) {
                flood(&log, start..start + 40).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    let mut resumed = Vec::new();
    while !flooding.is_finished() {
        let mut child = spawn(views, server, trim);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let from = lines.find_map(|line| line.strip_prefix("from ")?.parse::<u64>().ok()).unwrap();
        assert!(lines.any(|line| line == "checkpoint"));
        // Long enough for sled to write its buffers, every 500 ms; then it dies at a moment that nobody chose.
        tokio::time::sleep(Duration::from_millis(600 + 37 * resumed.len() as u64)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        resumed.push(from);
    }
    flooding.await.unwrap();
    println!("resumed from {resumed:?}");
    assert!(
        resumed.len() > 2 && resumed.is_sorted() && resumed.last() > resumed.first(),
        "each went on where the last was: {resumed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_in_a_flood_it_resumes_as_if_nothing_had_happened() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    kill_again_and_again(&log, &server, dir.path(), false).await;

    let (handle, reader) = project(&log, dir.path());
    assert!(handle.wait_applied(MESSAGES, PATIENCE).await);
    until("the checkpoint", async || reader.checkpoint().is_some_and(|checkpoint| checkpoint.sequence == MESSAGES))
        .await;
    handle.stop().await.unwrap();
    assert_eq!((all(&reader), reader.digest()), uninterrupted(&log).await);
}
