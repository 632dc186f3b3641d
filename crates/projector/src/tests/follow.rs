//! Following a log that stays the same.

use std::time::Duration;

use event_log::testing::TestServer;
use proto_events::{JobState, Position, Timestamp};
use uuid::Uuid;

use super::support::{
    CONNECTION, PATIENCE, all, connect, event, flood, id, open_views, project, publish, publish_bytes, uninterrupted,
    until, until_phase,
};
use crate::handle::start_with;
use crate::{FatalReason, From, Phase, RebuildState, Rebuilds};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_seen_and_written_by_itself() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let (handle, reader) = project(&log, dir.path());
    until_phase(&handle, &Phase::Following).await;
    for second in 0..40 {
        let sequence = publish(&log, &[event("one", JobState::Queued, 1_000 - second)]).await;
        assert!(handle.wait_applied(sequence, PATIENCE).await);
        let record = reader.job(id("one")).unwrap().unwrap();
        assert_eq!(record.created_at.micros(), (1_000 - second) * 1_000_000);
    }
    let status = handle.status();
    assert_eq!((status.applied, status.log_last, status.lag_events, status.target), (40, 40, 0, 0));
    assert!(status.lag_seconds.abs() < f64::EPSILON);
    // Nobody flushes: it does so by itself.
    until("the checkpoint", async || reader.checkpoint().is_some_and(|checkpoint| checkpoint.sequence == 40)).await;
    handle.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_from_the_checkpoint_and_follows_only_when_it_has_caught_up() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    publish_bytes(&log, b"not an event".to_vec()).await;
    flood(&log, 0..500).await;
    let (handle, reader) = project(&log, dir.path());
    assert!(handle.wait_applied(501, PATIENCE).await);
    assert_eq!(handle.status().quarantined, 1);
    publish(&log, &[event("last", JobState::Active, 5)]).await;
    assert!(handle.wait_applied(502, PATIENCE).await);
    // What was applied a moment ago is written on stopping.
    handle.stop().await.unwrap();
    assert_eq!(reader.checkpoint().unwrap().sequence, 502);
    assert!(!handle.wait_applied(503, Duration::from_millis(1)).await);
    drop((handle, reader));

    flood(&log, 500..4_000).await;
    let (handle, reader) = project(&log, dir.path());
    assert_eq!((reader.applied(), handle.status().phase), (502, Phase::CatchingUp));
    until("following", async || {
        let status = handle.status();
        assert!(status.phase == Phase::CatchingUp || status.applied >= 4_002, "{status:?}");
        status.phase == Phase::Following
    })
    .await;
    let status = handle.status();
    assert_eq!((status.target, status.applied, status.lag_events), (4_002, 4_002, 0));
    // The first message was not read again.
    assert_eq!(status.quarantined, 0);
    handle.stop().await.unwrap();
    assert_eq!((all(&reader), reader.digest()), uninterrupted(&log).await);
    // A fingerprint of each thousand.
    let landmarks = reader.landmarks().unwrap();
    assert_eq!(landmarks.iter().map(|landmark| landmark.sequence).collect::<Vec<_>>(), [1_000, 2_000, 3_000, 4_000]);
    for landmark in landmarks {
        assert_eq!(log.message(landmark.sequence).await.unwrap().unwrap().fingerprint(), landmark.fingerprint);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_noted_and_stops_nothing() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let good = |job| String::from_utf8(proto_events::encode(&[event(job, JobState::Active, 1)])).unwrap();
    let newer = good("newer").replacen("\"v\":1", "\"v\":9", 1);
    let nobody = log.append(Uuid::nil(), good("nobody").into()).await.unwrap().sequence;
    publish_bytes(&log, b"\xff\xfe".to_vec()).await;
    publish_bytes(&log, Vec::new()).await;
    publish_bytes(&log, format!("[{},{{\"v\":1}},{newer},{}]", good("before"), good("after")).into_bytes()).await;
    publish_bytes(&log, "[".repeat(100_000).into_bytes()).await;
    let last = publish_bytes(&log, good("last").into_bytes()).await;
    let (handle, reader) = project(&log, dir.path());
    assert!(handle.wait_applied(last, PATIENCE).await);
    for job in ["before", "after", "last"] {
        assert!(reader.job(id(job)).unwrap().is_some(), "{job}");
    }
    assert_eq!(all(&reader).len(), 3);
    let positions: Vec<_> = reader.quarantined().into_iter().map(|event| event.position).collect();
    let expected = [(nobody, 0), (2, 0), (3, 0), (4, 1), (4, 2), (5, 0)];
    assert_eq!(positions, expected.map(|(sequence, index)| Position::new(sequence, index)));
    assert_eq!(handle.status().quarantined, 6);
    assert_eq!(handle.status().phase, Phase::Following);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_makes_the_fold_fail_is_quarantined_alone_and_for_good() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let opened = open_views(dir.path());
    let reader = opened.reader.clone();
    let handle = start_with(log.clone(), opened.writer, &opened.reader, |known, connection, external_id, events| {
        let is_bad = |event: &crate::apply::JobEvent| event.event.timestamp == Timestamp(13_000_000);
        assert!(!events.iter().any(is_bad), "a bug in the fold");
        let events = events.iter().map(|event| (event.position, &event.event));
        projection::Row::apply(known, connection, external_id, events)
    });
    // The bad event stands between two good ones of its job, in one message, and beside another job.
    let message = [
        event("job", JobState::Queued, 12),
        event("job", JobState::Active, 13),
        event("job", JobState::Completed, 14),
        event("neighbour", JobState::Active, 12),
    ];
    let sequence = publish(&log, &message).await;
    assert!(handle.wait_applied(sequence, PATIENCE).await);
    let states = |job| -> Vec<JobState> {
        reader.job(id(job)).unwrap().unwrap().state_history.iter().map(|entry| entry.state).collect()
    };
    assert_eq!(states("job"), [JobState::Queued, JobState::Completed]);
    assert_eq!(states("neighbour"), [JobState::Active]);
    let quarantined = reader.quarantined();
    assert_eq!(quarantined.len(), 1);
    assert_eq!((quarantined[0].position, quarantined[0].external_id.as_deref()), (Position::new(1, 1), Some("job")));
    assert!(quarantined[0].cause.contains("a bug in the fold"), "{}", quarantined[0].cause);
    assert_eq!(handle.status().phase, Phase::Following);
    handle.stop().await.unwrap();
    drop((handle, reader, opened.reader, opened.generations));
    let again = open_views(dir.path());
    assert_eq!(again.reader.quarantined(), quarantined);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_quarantined_is_tried_again_when_the_views_are_made_anew() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let opened = open_views(dir.path());
    // An older Forebay, which does not know what to do with one event.
    let handle = start_with(log.clone(), opened.writer, &opened.reader, |known, connection, external_id, events| {
        assert!(!events.iter().any(|event| event.event.timestamp == Timestamp(13_000_000)), "never heard of it");
        let events = events.iter().map(|event| (event.position, &event.event));
        projection::Row::apply(known, connection, external_id, events)
    });
    publish(&log, &[event("job", JobState::Queued, 12), event("job", JobState::Active, 13)]).await;
    let newer = String::from_utf8(proto_events::encode(&[event("job", JobState::Completed, 14)])).unwrap();
    let last = publish_bytes(&log, newer.replacen("\"v\":1", "\"v\":9", 1).into_bytes()).await;
    assert!(handle.wait_applied(last, PATIENCE).await);
    assert_eq!((opened.reader.quarantine_len(), state(&opened.reader)), (2, JobState::Queued));
    handle.stop().await.unwrap();
    drop((handle, opened.reader, opened.generations));

    // This one does, once its views are made from the log, be it by hand or because its fold has another version.
    let opened = open_views(dir.path());
    let handle = crate::start(log.clone(), opened.writer, &opened.reader);
    until_phase(&handle, &Phase::Following).await;
    assert_eq!((opened.reader.quarantine_len(), state(&opened.reader)), (2, JobState::Queued), "not by itself");
    let reader = opened.reader.clone();
    let rebuilds = Rebuilds::new(log.clone(), handle.clone(), reader.clone(), opened.generations);
    let begun = rebuilds.begin(From::Log, Timestamp(0)).await.unwrap();
    until("the rebuild", async || rebuilds.status(begun.id).unwrap().state == RebuildState::Completed).await;
    assert_eq!(state(&reader), JobState::Active);
    // What is still too new is still known.
    let quarantined = reader.quarantined();
    assert_eq!((quarantined.len(), quarantined[0].position), (1, Position::new(last, 0)));
    assert!(quarantined[0].cause.contains("version 9"), "{}", quarantined[0].cause);
    handle.stop().await.unwrap();
}

fn state(reader: &views::Reader) -> JobState {
    reader.job(id("job")).unwrap().unwrap().state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_loop_is_fatal_and_loud() {
    for (poison, said) in
        [("as if the loop had a bug", "a bug in the loop"), ("as if reading had a bug", "a bug in reading")]
    {
        let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
        let log = connect(&server).await;
        let (handle, reader) = project(&log, dir.path());
        let good = publish(&log, &[event("good", JobState::Active, 1)]).await;
        assert!(handle.wait_applied(good, PATIENCE).await);
        let bad = publish_bytes(&log, poison.into()).await;
        let reason = tokio::time::timeout(PATIENCE, handle.failed()).await.unwrap();
        assert!(matches!(&reason, FatalReason::Panicked(cause) if cause.contains(said)), "{reason}");
        assert_eq!(handle.status().phase, Phase::Failed(reason.clone()));
        // Nobody waits in vain, and what was read can still be read.
        assert!(!handle.wait_applied(bad, PATIENCE).await);
        assert_eq!(handle.stop().await, Err(reason));
        assert!(reader.job(id("good")).unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_went_away_and_came_back_is_followed_again() {
    let (mut server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let (handle, reader) = project(&log, dir.path());
    flood(&log, 0..100).await;
    assert!(handle.wait_applied(100, PATIENCE).await);
    for round in 1..=2 {
        server.restart();
        until("the server", async || log.append(CONNECTION, format!("{round}").into()).await.is_ok()).await;
        flood(&log, round * 100..round * 100 + 100).await;
        let last = log.info().await.unwrap().last_sequence;
        assert!(handle.wait_applied(last, PATIENCE).await);
        assert_eq!(handle.status().phase, Phase::Following);
    }
    handle.stop().await.unwrap();
    assert_eq!((all(&reader), reader.digest()), uninterrupted(&log).await);
}
