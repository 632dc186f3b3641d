//! What those who watch are told, and what they are not.

use std::sync::Arc;

use event_log::testing::TestServer;
use proto_events::{JobState, Timestamp};
use views::{Found, Opened, Options};

use super::support::{
    CONNECTION, PATIENCE, connect, event, flood, id, open_views, project, publish, until, until_phase,
};
use crate::handle::start_frozen;
use crate::{Frames, From, Handle, Happening, JobChange, Phase, RebuildState, Rebuilds, start};

/// All frames from this one on.
fn since(frames: &Frames, number: u64) -> Vec<Happening> {
    let pieces = frames.read(number).unwrap();
    pieces.iter().flat_map(|piece| piece.happenings()).cloned().collect()
}

fn change(job: &str, state: JobState, previous: Option<JobState>, second: i64) -> Happening {
    let (connection, name, at) = (CONNECTION, Arc::from("app.send"), Timestamp(second * 1_000_000));
    Happening::Job(JobChange { connection, id: id(job), name, queue: None, state, previous, at })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_held_at_the_start_is_no_news_nor_is_a_rebuild_or_a_trim() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    flood(&log, 0..500).await;
    let old = publish(&log, &[event("old", JobState::Queued, 1)]).await;
    let Opened { writer, reader, generations, .. } = open_views(dir.path());
    let handle = start(log.clone(), writer, &reader);
    assert!(handle.wait_applied(old, PATIENCE).await);
    until_phase(&handle, &Phase::Following).await;
    assert_eq!(handle.frames().end(), 1);
    let told = async |events: &[proto_events::Event]| {
        let next = handle.frames().end();
        let sequence = publish(&log, events).await;
        tokio::time::timeout(PATIENCE, handle.frames().reached(next)).await.unwrap();
        // Whoever is told can read it.
        assert!(reader.applied() >= sequence);
        assert!(handle.wait_applied(sequence, PATIENCE).await);
        since(handle.frames(), next)
    };
    assert_eq!(
        told(&[event("old", JobState::Active, 2)]).await,
        [change("old", JobState::Active, Some(JobState::Queued), 2)]
    );

    let rebuilds = Rebuilds::new(log.clone(), handle.clone(), reader.clone(), generations);
    let begun = rebuilds.begin(From::Log, Timestamp(0)).await.unwrap();
    until("the rebuild", async || rebuilds.status(begun.id).unwrap().state == RebuildState::Completed).await;
    let trimmed = handle.trim(&log, CONNECTION, old + 1).await.unwrap();
    assert!(trimmed.jobs_dropped > 0 && trimmed.jobs_cut > 0, "{trimmed:?}");
    assert_eq!(handle.frames().end(), 2);
    // The job has lost its first event, and what comes is told all the same.
    assert_eq!(
        told(&[event("new", JobState::Queued, 4), event("old", JobState::Completed, 3)]).await,
        [change("old", JobState::Completed, Some(JobState::Active), 3), change("new", JobState::Queued, None, 4)]
    );
    handle.stop().await.unwrap();
    drop((handle, rebuilds, reader));

    // Frames of another process have another epoch.
    let second = tempfile::tempdir().unwrap();
    let (first, _) = project(&log, second.path());
    let other = tempfile::tempdir().unwrap();
    let (again, _) = project(&log, other.path());
    assert_ne!(first.frames().epoch(), again.frames().epoch());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_is_told_when_other_views_come_to_follow_the_log() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let other_fold = Options {
        fold_version: projection::FOLD_VERSION + 100,
        cache_bytes: 1 << 20,
        list_bytes: 64 << 20,
        totals_by_host: false,
    };
    let this_fold = Options { fold_version: projection::FOLD_VERSION, ..other_fold };
    publish(&log, &[event("old", JobState::Queued, 1)]).await;
    let Opened { writer, reader, .. } = views::open(dir.path(), &other_fold).unwrap();
    let first = start(log.clone(), writer, &reader);
    until_phase(&first, &Phase::Following).await;
    first.stop().await.unwrap();
    drop((first, reader));

    // Somebody watches views that nothing is applied to.
    publish(&log, &[event("old", JobState::Active, 2)]).await;
    let Found::OtherFold(frozen) = views::open_or_freeze(dir.path(), &this_fold, |_| false).unwrap() else {
        panic!("they are of this version");
    };
    let handle: Handle = start_frozen(log.clone(), &frozen.reader);
    let begin = handle.frames().end();
    let rebuilds = Rebuilds::new(log.clone(), handle.clone(), frozen.reader.clone(), frozen.generations.clone());
    tokio::time::timeout(PATIENCE, rebuilds.upgrade_by_itself()).await.unwrap();
    until_phase(&handle, &Phase::Following).await;
    let last = publish(&log, &[event("old", JobState::Completed, 3)]).await;
    assert!(handle.wait_applied(last, PATIENCE).await);
    let expected = [Happening::Replaced, change("old", JobState::Completed, Some(JobState::Active), 3)];
    assert_eq!(since(handle.frames(), begin), expected);
    handle.stop().await.unwrap();
}
