//! A log that became another one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use event_log::EventLog;
use event_log::testing::TestServer;
use proto_events::JobState;

use super::support::{PATIENCE, all, connect, event, flood, project, publish, until, until_phase};
use crate::{Fenced, Handle, Phase};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The log loses all after message 50, and takes other events instead.
async fn roll_back(server: &mut TestServer, log: &EventLog) {
    server.stop();
    fs::remove_dir_all(server.store()).unwrap();
    copy(&server.dir().join("copy"), &server.store());
    server.restart();
    until("the server", async || log.connected() && log.info().await.is_ok()).await;
    flood(log, 1_000..1_080).await;
}

/// A log of 100 messages that are in the views, with a copy of it at 50.
async fn begin(server: &mut TestServer, views: &Path) -> (EventLog, Handle, views::Reader) {
    let log = connect(server).await;
    flood(&log, 0..50).await;
    server.stop();
    copy(&server.store(), &server.dir().join("copy"));
    server.restart();
    until("the server", async || log.connected() && log.info().await.is_ok()).await;
    flood(&log, 50..100).await;
    let (handle, reader) = project(&log, views);
    assert!(handle.wait_applied(100, PATIENCE).await);
    (log, handle, reader)
}

async fn purge_before(log: &EventLog, sequence: u64) {
    log.jobs_stream().purge().sequence(sequence).await.unwrap();
}

async fn assert_fenced(handle: &Handle, reader: &views::Reader, fenced: Fenced, before: &[projection::Record]) {
    until_phase(handle, &Phase::Fenced(fenced)).await;
    assert!(!handle.wait_applied(101, PATIENCE).await, "no one waits for what never comes");
    assert_eq!(reader.applied(), 100);
    assert_eq!(all(reader), before);
    handle.stop().await.unwrap();
    assert_eq!(handle.status().phase, Phase::Fenced(fenced));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_applied_from_a_log_that_was_rolled_back() {
    let (mut server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let (log, handle, reader) = begin(&mut server, dir.path()).await;
    let before = all(&reader);
    // While it is followed, ...
    roll_back(&mut server, &log).await;
    until("the fence", async || matches!(handle.status().phase, Phase::Fenced(Fenced::RolledBack { .. }))).await;
    assert_eq!(all(&reader), before);
    handle.stop().await.unwrap();
    drop((handle, reader));
    // ... and at the next start, though there are as many messages again.
    let (handle, reader) = project(&log, dir.path());
    assert_fenced(&handle, &reader, Fenced::RolledBack { last: 99 }, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_applied_from_a_log_that_was_made_anew() {
    let (mut server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let (log, handle, reader) = begin(&mut server, dir.path()).await;
    let before = all(&reader);
    handle.stop().await.unwrap();
    drop((handle, reader, log));
    server.stop();
    fs::remove_dir_all(server.store()).unwrap();
    server.restart();
    let log = connect(&server).await;
    flood(&log, 0..150).await;
    let (handle, reader) = project(&log, dir.path());
    assert_fenced(&handle, &reader, Fenced::Recreated, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_deleted_while_it_is_followed_is_told() {
    let (mut server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let (log, handle, reader) = begin(&mut server, dir.path()).await;
    let before = all(&reader);
    log.jetstream().delete_stream("FOREBAY_JOBS").await.unwrap();
    assert_fenced(&handle, &reader, Fenced::Missing, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_dropped_is_missed_openly() {
    let (mut server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let (log, handle, reader) = begin(&mut server, dir.path()).await;
    handle.stop().await.unwrap();
    drop((handle, reader));
    flood(&log, 100..200).await;
    // All that is known is gone, and nothing else: nothing is missing.
    purge_before(&log, 101).await;
    let (handle, reader) = project(&log, dir.path());
    assert!(handle.wait_applied(200, PATIENCE).await);
    assert_eq!(handle.status().trimmed, None);
    handle.stop().await.unwrap();
    drop((handle, reader));
    // Now messages are gone that never were applied.
    flood(&log, 200..300).await;
    purge_before(&log, 251).await;
    let (handle, reader) = project(&log, dir.path());
    assert!(handle.wait_applied(300, PATIENCE).await);
    assert_eq!((handle.status().trimmed, handle.status().phase), (Some(251), Phase::Following));
    handle.stop().await.unwrap();
    drop((handle, reader));
    // An empty log is no reason to wait for what it held.
    purge_before(&log, 301).await;
    for fresh in [false, true] {
        let fresh_dir = tempfile::tempdir().unwrap();
        let (handle, reader) = project(&log, if fresh { fresh_dir.path() } else { dir.path() });
        until_phase(&handle, &Phase::Following).await;
        assert_eq!(handle.status().lag_events, 0);
        let sequence = publish(&log, &[event("new", JobState::Active, i64::from(fresh))]).await;
        assert!(handle.wait_applied(sequence, Duration::from_secs(20)).await);
        assert_eq!(reader.applied(), sequence);
        handle.stop().await.unwrap();
        drop((handle, reader));
        purge_before(&log, sequence + 1).await;
    }
}
