//! Views that are compared with the log in the background.

use std::time::Duration;

use event_log::EventLog;
use event_log::testing::TestServer;
use projection::Row;
use proto_events::JobState;
use tokio::task::JoinHandle;
use views::Opened;

use super::support::{connect, event, flood, id, open_views, publish, reopen_views, until, until_phase};
use crate::handle::start_with;
use crate::{From, Handle, Phase, RebuildState, Rebuilds, Scrub, ScrubResult, ScrubState, Verifications, start};

/// So often that a test need not wait.
const EVERY: Duration = Duration::from_millis(20);

struct Scrubbed {
    rebuilds: Rebuilds,
    verifications: Verifications,
    scrub: Scrub,
    task: JoinHandle<()>,
}

impl Drop for Scrubbed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn scrubbed(log: &EventLog, live: &Handle, opened: (views::Reader, views::Generations), every: Duration) -> Scrubbed {
    let (reader, generations) = opened;
    let rebuilds = Rebuilds::new(log.clone(), live.clone(), reader.clone(), generations.clone());
    let verifications = Verifications::new(log.clone(), live.clone(), reader.clone(), generations.clone());
    let scrub = Scrub::new(log.clone(), live.clone(), reader, generations, rebuilds.clone(), verifications.clone());
    assert_eq!(scrub.status().state, ScrubState::Off);
    let running = scrub.clone();
    let task = tokio::spawn(async move { running.run_resting(every, 1).await });
    Scrubbed { rebuilds, verifications, scrub, task }
}

fn parts(opened: &Opened) -> (views::Reader, views::Generations) {
    (opened.reader.clone(), opened.generations.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_finds_what_differs_and_says_so_until_it_is_put_right() {
    let server = TestServer::start();
    let log = connect(&server).await;
    flood(&log, 0..300).await;
    publish(&log, &[event("wrong", JobState::Queued, 1)]).await;
    let dir = tempfile::tempdir().unwrap();
    let opened = open_views(dir.path());
    let parts_of = parts(&opened);
    // A fold with a fault in it: one job shows another queue.
    let live = start_with(log.clone(), opened.writer, &opened.reader, |known, connection, external_id, events| {
        let events = events.iter().map(|event| (event.position, &event.event));
        let mut row = Row::apply(known, connection, external_id, events)?;
        if external_id == "wrong" {
            row.record.queue = Some("nowhere".to_owned());
        }
        Some(row)
    });
    let it = scrubbed(&log, &live, parts_of, EVERY);
    until("a result", async || it.scrub.status().last_result.is_some()).await;
    let status = it.scrub.status();
    assert_eq!((status.last_result, status.differing), (Some(ScrubResult::Differs), Some(1)), "{status:?}");
    let verdict = it.verifications.status(status.id.unwrap()).unwrap().verdict.unwrap();
    assert_eq!(verdict.differences[0].id, id("wrong"));
    drop(it);
    live.stop().await.unwrap();
    drop((live, opened.reader, opened.generations));

    // A restart puts nothing right: it is known still, long before the next scrub.
    let opened = reopen_views(dir.path()).await;
    let parts_of = parts(&opened);
    let live = start(log.clone(), opened.writer, &opened.reader);
    let it = scrubbed(&log, &live, parts_of.clone(), Duration::from_secs(3_600));
    assert_eq!((it.scrub.status().last_result, it.scrub.status().last_at), (status.last_result, status.last_at));
    until_phase(&live, &Phase::Following).await;
    let begun = it.rebuilds.begin(From::Log, proto_events::Timestamp(0)).await.unwrap();
    until("the end", async || it.rebuilds.status(begun.id).unwrap().state == RebuildState::Completed).await;
    assert_eq!(it.scrub.status().last_result, None, "what was wrong with other views");
    drop(it);
    let it = scrubbed(&log, &live, parts_of, EVERY);
    until("a result", async || it.scrub.status().last_result == Some(ScrubResult::Equal)).await;
    drop(it);
    live.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_gives_way_and_raises_no_alarm_over_rows_that_change() {
    let server = TestServer::start();
    let log = connect(&server).await;
    flood(&log, 0..300).await;
    let dir = tempfile::tempdir().unwrap();
    let opened = open_views(dir.path());
    let parts_of = parts(&opened);
    let live = start(log.clone(), opened.writer, &opened.reader);
    until_phase(&live, &Phase::Following).await;
    let it = scrubbed(&log, &live, parts_of, EVERY);
    let (mut last, mut compared, mut next) = (None, 0, 300);
    until("three scrubs", async || {
        // Rows change all the while.
        flood(&log, next..next + 2).await;
        next += 2;
        let status = it.scrub.status();
        assert_ne!(status.last_result, Some(ScrubResult::Differs), "{status:?}");
        compared += u32::from(status.last_at != last);
        last = status.last_at;
        compared == 3
    })
    .await;
    until("a scrub under way", async || it.scrub.status().state == ScrubState::Running).await;
    // Held, so that the rebuild lasts.
    let held = live.hold(0).await.ok().unwrap();
    let begun = it.rebuilds.begin(From::Log, proto_events::Timestamp(0)).await.unwrap();
    let state = || it.rebuilds.status(begun.id).unwrap().state;
    until("both", async || state() == RebuildState::Verifying && it.scrub.status().state == ScrubState::Waiting).await;
    // Long enough for a scrub to begin.
    let asked = it.verifications.begin();
    until("the verdict", async || {
        assert_eq!((state(), it.scrub.status().state), (RebuildState::Verifying, ScrubState::Waiting));
        it.verifications.status(asked.id).unwrap().verdict.is_some()
    })
    .await;
    held.resume();
    until("the end", async || state() == RebuildState::Completed).await;
    until("the next scrub", async || it.scrub.status().last_result == Some(ScrubResult::Equal)).await;
    drop(it);
    live.stop().await.unwrap();
}
