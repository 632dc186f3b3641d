//! Views of another version of the fold: nothing is applied to them, and others take their place only if they are of the
//! same log.

use std::path::Path;

use event_log::testing::TestServer;
use projection::FOLD_VERSION;
use proto_events::{JobState, Timestamp};
use views::{Found, Frozen, Opened, Options, Preparation};

use super::support::{PATIENCE, connect, event, flood, id, open_views, publish, uninterrupted, until, until_phase};
use crate::handle::start_frozen;
use crate::status::Fenced;
use crate::{From, PassError, Phase, Preparing, RebuildState, Rebuilds, Verification, prepare, start};

const OLD: Options =
    Options { fold_version: FOLD_VERSION + 100, cache_bytes: 1 << 20, list_bytes: 64 << 20, totals_by_host: false };
const NEW: Options = Options { fold_version: FOLD_VERSION, ..OLD };

/// Fills the directory with views of the old version.
async fn old_views(dir: &Path, log: &event_log::EventLog) {
    let Opened { writer, reader, .. } = views::open(dir, &OLD).unwrap();
    let live = start(log.clone(), writer, &reader);
    until_phase(&live, &Phase::Following).await;
    live.stop().await.unwrap();
}

fn frozen(dir: &Path) -> Frozen {
    match views::open_or_freeze(dir, &NEW, |_| false).unwrap() {
        Found::OtherFold(frozen) => frozen,
        Found::Ours(opened) => panic!("{:?}", opened.outcome),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_views_change_in_nothing_until_equal_ones_of_this_version_take_over() {
    let server = TestServer::start();
    let log = connect(&server).await;
    publish(&log, &[event("old", JobState::Queued, 1)]).await;
    let dir = tempfile::tempdir().unwrap();
    old_views(dir.path(), &log).await;
    let last = publish(&log, &[event("old", JobState::Active, 2)]).await;
    // Prepared beside it up to here; the rest is for whoever takes over.
    let preparation = Preparation::begin(dir.path(), &NEW).unwrap().unwrap();
    let prepared = prepare(&log, preparation, &Preparing::default()).await.unwrap();
    assert_eq!((prepared.sequence, prepared.jobs, prepared.continued), (last, 1, false));
    flood(&log, 0..500).await;

    let Frozen { reader, generations, .. } = frozen(dir.path());
    let live = start_frozen(log.clone(), &reader);
    let upgrading = Phase::Upgrading { from: OLD.fold_version };
    let end = log.info().await.unwrap().last_sequence;
    until("it knows how far the log is", async || live.status().log_last == end).await;
    assert_eq!((live.status().phase, live.status().applied), (upgrading, 1));
    assert_eq!(reader.job(id("old")).unwrap().unwrap().state, JobState::Queued);
    let compared = Verification::default().run(&log, reader.clone(), &generations).await;
    assert!(matches!(compared, Err(PassError::OtherFold { .. })), "{compared:?}");

    let rebuilds = Rebuilds::new(log.clone(), live.clone(), reader.clone(), generations.clone());
    tokio::time::timeout(PATIENCE, rebuilds.upgrade_by_itself()).await.unwrap();
    assert!(rebuilds.upgrade().is_none());
    assert!(live.wait_applied(end, PATIENCE).await);
    assert_eq!((reader.fold_version(), rebuilds.all()[0].state), (FOLD_VERSION, RebuildState::Completed));
    // It went on from what was prepared, and is what views that followed the log are.
    assert_eq!(rebuilds.all()[0].events_total, 0, "{:?}", rebuilds.all());
    let next = publish(&log, &[event("old", JobState::Completed, 3)]).await;
    assert!(live.wait_applied(next, PATIENCE).await);
    live.stop().await.unwrap();
    let (records, digest) = uninterrupted(&log).await;
    assert_eq!(reader.digest(), digest);
    assert!(super::support::all(&reader) == records);
    drop((reader, generations, rebuilds, live));
    assert_eq!(open_views(dir.path()).outcome, views::Outcome::Existing);
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_views_of_a_log_that_is_gone_are_replaced_by_hand_only() {
    let (first, second) = (TestServer::start(), TestServer::start());
    let log = connect(&first).await;
    publish(&log, &[event("old", JobState::Queued, 1)]).await;
    let dir = tempfile::tempdir().unwrap();
    old_views(dir.path(), &log).await;
    // What was prepared is of that log, too, and of no use with another one.
    prepare(&log, Preparation::begin(dir.path(), &NEW).unwrap().unwrap(), &Preparing::default()).await.unwrap();

    let log = connect(&second).await;
    publish(&log, &[event("new", JobState::Queued, 1)]).await;
    let Frozen { reader, generations, .. } = frozen(dir.path());
    let live = start_frozen(log.clone(), &reader);
    let rebuilds = Rebuilds::new(log.clone(), live.clone(), reader.clone(), generations);
    let begun = rebuilds.begin(From::Log, Timestamp(0)).await.unwrap();
    until("it waits", async || rebuilds.status(begun.id).unwrap().reason.is_some()).await;
    let waiting = rebuilds.status(begun.id).unwrap();
    assert_eq!(waiting.state, RebuildState::Verifying, "{waiting:?}");
    assert!(waiting.reason.unwrap().contains("waits to be promoted by hand"));
    until_phase(&live, &Phase::Fenced(Fenced::Recreated)).await;
    assert!(reader.job(id("old")).unwrap().is_some() && reader.job(id("new")).unwrap().is_none());
    assert_eq!(rebuilds.promote(begun.id).await.unwrap().state, RebuildState::Completed);
    assert!(reader.job(id("old")).unwrap().is_none() && reader.job(id("new")).unwrap().is_some());
    live.stop().await.unwrap();
}
