//! A generation made anew from the log equals the one that followed it, takes its place unseen, and rights what is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_log::testing::TestServer;
use projection::Row;
use proto_events::{JobState, Timestamp};

use super::support::{
    all, connect, event, flood, id, open_views, publish, reopen_views, uninterrupted, until, until_phase,
};
use crate::handle::{start, start_with};
use crate::status::Fenced;
use crate::{From, Handle, Phase, RebuildError, RebuildState, RebuildStatus, Rebuilds, Verification};

async fn ended(rebuilds: &Rebuilds, begun: &RebuildStatus) -> RebuildStatus {
    use RebuildState::{Aborted, Completed, Failed};
    until("the rebuild ends", async || {
        matches!(rebuilds.status(begun.id).unwrap().state, Completed | Failed | Aborted)
    })
    .await;
    rebuilds.status(begun.id).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuilt_under_load_it_is_the_same_and_nobody_sees_the_switch() {
    let server = TestServer::start();
    let log = connect(&server).await;
    flood(&log, 0..3_000).await;
    let dir = tempfile::tempdir().unwrap();
    let opened = open_views(dir.path());
    let (reader, generations) = (opened.reader.clone(), opened.generations.clone());
    let live = start(log.clone(), opened.writer, &opened.reader);
    until_phase(&live, &Phase::Following).await;
    let rebuilds = Rebuilds::new(log.clone(), live.clone(), reader.clone(), generations.clone());

    // A reader looks at one job all the while: it is never gone and never older than before.
    publish(&log, &[event("watched", JobState::Queued, 1)]).await;
    until("the watched job", async || reader.job(id("watched")).unwrap().is_some()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (watcher, stopped) = (reader.clone(), Arc::clone(&stop));
    let watching = std::thread::spawn(move || {
        let (mut applied, mut looks) = (0, 0_u64);
        while !stopped.load(Ordering::Relaxed) {
            let now = watcher.applied();
            assert!(now >= applied, "back in time: {now} after {applied}");
            assert!(watcher.job(id("watched")).unwrap().is_some());
            (applied, looks) = (now, looks + 1);
        }
        looks
    });

    let begun = rebuilds.begin(From::Log, Timestamp(0)).await.unwrap();
    assert_eq!(rebuilds.begin(From::Log, Timestamp(0)).await.unwrap_err(), RebuildError::UnderWay);
    flood(&log, 3_000..6_000).await;
    let done = ended(&rebuilds, &begun).await;
    assert_eq!((done.state, done.same_as_before), (RebuildState::Completed, Some(true)), "{done:?}");
    assert!(done.jobs > 1_000 && done.events_done == done.events_total, "{done:?}");
    stop.store(true, Ordering::Relaxed);
    assert!(watching.join().unwrap() > 0);

    // The generation before is kept, can serve again, and goes when it is told to.
    let back = ended(&rebuilds, &rebuilds.begin(From::Previous, Timestamp(0)).await.unwrap()).await;
    assert_eq!((back.state, back.same_as_before), (RebuildState::Completed, None), "{back:?}");
    assert!(rebuilds.discard_previous().unwrap());
    assert!(!rebuilds.discard_previous().unwrap());
    assert_eq!(rebuilds.begin(From::Previous, Timestamp(0)).await.unwrap_err(), RebuildError::NothingBefore);

    // It goes on following, restarts, and is what an uninterrupted projector makes.
    flood(&log, 6_000..6_500).await;
    let last = log.info().await.unwrap().last_sequence;
    assert!(live.wait_applied(last, super::support::PATIENCE).await);
    let verdict = Verification::default().run(&log, reader.clone(), &generations).await.unwrap();
    assert!(verdict.equal && verdict.sequence == last && verdict.jobs > 1_000, "{verdict:?}");
    live.stop().await.unwrap();
    drop((rebuilds, live, reader, generations, opened.reader, opened.generations));
    let again = open_views(dir.path());
    let (records, digest) = uninterrupted(&log).await;
    assert_eq!(again.reader.digest(), digest);
    assert!(all(&again.reader) == records);
}

#[tokio::test(flavor = "multi_thread")]
async fn views_that_differ_from_the_log_are_found_out_and_replaced() {
    let server = TestServer::start();
    let log = connect(&server).await;
    flood(&log, 0..300).await;
    publish(&log, &[event("wrong", JobState::Queued, 1)]).await;
    let dir = tempfile::tempdir().unwrap();
    let opened = open_views(dir.path());
    let (reader, generations) = (opened.reader.clone(), opened.generations.clone());
    // A fold with a fault in it: one job shows another queue.
    let live = start_with(log.clone(), opened.writer, &opened.reader, |known, connection, external_id, events| {
        let events = events.iter().map(|event| (event.position, &event.event));
        let mut row = Row::apply(known, connection, external_id, events)?;
        if external_id == "wrong" {
            row.record.queue = Some("nowhere".to_owned());
        }
        Some(row)
    });
    until_phase(&live, &Phase::Following).await;
    let verdict = Verification::default().run(&log, reader.clone(), &generations).await.unwrap();
    assert_eq!((verdict.equal, verdict.differing), (false, 1));
    let difference = &verdict.differences[0];
    assert_eq!((difference.external_id.as_str(), difference.fields.len()), ("wrong", 1));
    assert_eq!((difference.fields[0].field.as_str(), &difference.fields[0].views), ("queue", &"nowhere".into()));

    let rebuilds = Rebuilds::new(log.clone(), live.clone(), reader.clone(), generations);
    let done = ended(&rebuilds, &rebuilds.begin(From::Log, Timestamp(0)).await.unwrap()).await;
    assert_eq!((done.state, done.same_as_before), (RebuildState::Completed, Some(false)), "{done:?}");
    assert_eq!(done.differing, [id("wrong")]);
    assert_eq!(reader.job(id("wrong")).unwrap().unwrap().queue, None);
    live.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn views_of_a_log_that_is_gone_are_replaced_by_hand_only() {
    let server = TestServer::start();
    let log = connect(&server).await;
    publish(&log, &[event("old", JobState::Queued, 1)]).await;
    let dir = tempfile::tempdir().unwrap();
    let opened = open_views(dir.path());
    let live = start(log.clone(), opened.writer, &opened.reader);
    until_phase(&live, &Phase::Following).await;
    live.stop().await.unwrap();
    drop((opened.reader, opened.generations, live));

    let other = TestServer::start();
    let log = connect(&other).await;
    publish(&log, &[event("new", JobState::Queued, 1)]).await;
    let opened = open_views(dir.path());
    let reader = opened.reader.clone();
    let live = start(log.clone(), opened.writer, &opened.reader);
    until_phase(&live, &Phase::Fenced(Fenced::Recreated)).await;
    let rebuilds = Rebuilds::new(log.clone(), live.clone(), reader.clone(), opened.generations);
    let begun = rebuilds.begin(From::Log, Timestamp(0)).await.unwrap();
    until("it waits", async || rebuilds.status(begun.id).unwrap().reason.is_some()).await;
    assert_eq!(rebuilds.status(begun.id).unwrap().state, RebuildState::Verifying);
    assert!(reader.job(id("old")).unwrap().is_some(), "the old views still answer");

    assert_eq!(rebuilds.promote(begun.id).await.unwrap().state, RebuildState::Completed);
    assert!(reader.job(id("old")).unwrap().is_none());
    assert!(reader.job(id("new")).unwrap().is_some());
    let next = publish(&log, &[event("new", JobState::Active, 2)]).await;
    assert!(live.wait_applied(next, super::support::PATIENCE).await, "it follows the new log");
    assert_eq!(rebuilds.promote(begun.id).await.unwrap_err(), RebuildError::NotWaiting);
    live.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_rebuild_leaves_nothing_behind() {
    let server = TestServer::start();
    let log = connect(&server).await;
    flood(&log, 0..2_000).await;
    let dir = tempfile::tempdir().unwrap();
    let opened = open_views(dir.path());
    let live = start(log.clone(), opened.writer, &opened.reader);
    until_phase(&live, &Phase::Following).await;
    let rebuilds = Rebuilds::new(log.clone(), live.clone(), opened.reader.clone(), opened.generations.clone());
    let begun = rebuilds.begin(From::Log, Timestamp(0)).await.unwrap();
    let aborted = rebuilds.abort(begun.id).await.unwrap();
    assert_eq!(aborted.state, RebuildState::Aborted, "{aborted:?}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "CURRENT, LOCK, rebuilds.json and one generation: {left:?}");
    let done = ended(&rebuilds, &rebuilds.begin(From::Log, Timestamp(0)).await.unwrap()).await;
    assert_eq!(done.state, RebuildState::Completed, "{done:?}");
    live.stop().await.unwrap();
}

/// Serves in a process that ends, as far as threads and files can tell, while a rebuild is under way.
fn interrupted(log_server: &TestServer, dir: &std::path::Path) -> (Vec<RebuildStatus>, uuid::Uuid) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = connect(log_server).await;
        let opened = open_views(dir);
        let live = start(log.clone(), opened.writer, &opened.reader);
        until_phase(&live, &Phase::Following).await;
        let rebuilds = Rebuilds::new(log, live.clone(), opened.reader, opened.generations);
        let done = ended(&rebuilds, &rebuilds.begin(From::Log, Timestamp(1)).await.unwrap()).await;
        let aborted = rebuilds.begin(From::Log, Timestamp(2)).await.unwrap();
        let aborted = rebuilds.abort(aborted.id).await.unwrap();
        assert_eq!(aborted.state, RebuildState::Aborted);
        // The loop stands still, so the rebuild cannot end.
        let _held = live.hold(0).await.ok().unwrap();
        let begun = rebuilds.begin(From::Log, Timestamp(3)).await.unwrap();
        until("it compares", async || rebuilds.status(begun.id).unwrap().state == RebuildState::Verifying).await;
        (vec![aborted, done], begun.id)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_the_servers_end_interrupts_is_begun_again_under_its_id() {
    let server = TestServer::start();
    let log = connect(&server).await;
    flood(&log, 0..1_000).await;
    let dir = tempfile::tempdir().unwrap();
    let (before, id) = std::thread::scope(|scope| scope.spawn(|| interrupted(&server, dir.path())).join().unwrap());
    let opened = reopen_views(dir.path()).await;
    let live = start(log.clone(), opened.writer, &opened.reader);
    let again =
        |live: &Handle| Rebuilds::new(log.clone(), live.clone(), opened.reader.clone(), opened.generations.clone());
    let told = |rebuilds: &Rebuilds| {
        let all = rebuilds.all().into_iter().filter(|status| status.id != id);
        all.map(|status| format!("{status:?}")).collect::<Vec<_>>()
    };
    let expected: Vec<_> = before.iter().map(|status| format!("{status:?}")).collect();
    let rebuilds = again(&live);
    assert_eq!(told(&rebuilds), expected, "how others ended is remembered");
    rebuilds.resume();
    let status = rebuilds.status(id).unwrap();
    assert_eq!(status.reason.as_deref(), Some("begun again after the server ended"), "{status:?}");
    assert_eq!(rebuilds.begin(From::Log, Timestamp(4)).await.unwrap_err(), RebuildError::UnderWay);
    let done = ended(&rebuilds, &status).await;
    assert_eq!((done.state, done.same_as_before, done.started_at), (RebuildState::Completed, Some(true), Timestamp(3)));
    assert_eq!(told(&rebuilds), expected, "what was aborted is not begun again");
    // One that was interrupted after its views came to serve is not made twice.
    let note = dir.path().join("rebuilds.json");
    until("it is written down", async || std::fs::read_to_string(&note).unwrap().matches("\"completed\"").count() == 2)
        .await;
    let serving = opened.generations.serving().unwrap();
    let text = std::fs::read_to_string(&note).unwrap();
    let at = text.rfind("\"completed\"").unwrap();
    std::fs::write(&note, text[..at].to_owned() + "\"verifying\"" + &text[at + 11..]).unwrap();
    let rebuilds = again(&live);
    assert_eq!(rebuilds.status(id).unwrap().state, RebuildState::Aborted, "without a server nobody goes on with it");
    rebuilds.resume();
    assert_eq!(rebuilds.status(id).unwrap().state, RebuildState::Completed);
    assert_eq!(opened.generations.serving().unwrap(), serving);
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names.filter(|name| name.starts_with("gen-")).collect();
    assert_eq!(left.len(), 2, "the one that serves and the one before: {left:?}");
    live.stop().await.unwrap();
}
