//! A log that forgets its beginning: views that followed it, views made anew from it, and those of a process that was
//! killed in between are the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use event_log::testing::TestServer;
use event_log::{EventLog, Imported};
use projection::Row;
use proto_events::{Event, EventType, Framework, Job, JobState, Timestamp, Trim};
use uuid::Uuid;
use views::{Brief, Digest, Generations, Opened, Reader};

use super::crash::kill_again_and_again;
use super::support::{CONNECTION, PATIENCE, connect, event, flood, id, open_views, publish, until, until_phase};
use crate::{From, Handle, PassError, Phase, RebuildState, RebuildStatus, Rebuilds, Verdict, Verification, start};

struct Live {
    handle: Handle,
    reader: Reader,
    generations: Generations,
    rebuilds: Rebuilds,
}

impl Live {
    async fn start(log: &EventLog, dir: &std::path::Path) -> Self {
        let Opened { writer, reader, generations, .. } = open_views(dir);
        let handle = start(log.clone(), writer, &reader);
        until_phase(&handle, &Phase::Following).await;
        let rebuilds = Rebuilds::new(log.clone(), handle.clone(), reader.clone(), generations.clone());
        Self { handle, reader, generations, rebuilds }
    }

    /// Waits until all that is in the log is applied.
    async fn catch_up(&self, log: &EventLog) {
        assert!(self.handle.wait_applied(log.info().await.unwrap().last_sequence, PATIENCE).await);
    }

    async fn trim(&self, log: &EventLog, before: u64) -> crate::Trimmed {
        self.handle.trim(log, CONNECTION, before).await.unwrap()
    }

    async fn compare(&self, log: &EventLog) -> Result<Verdict, PassError> {
        Verification::beside(&self.handle).run(log, self.reader.clone(), &self.generations).await
    }

    async fn verify(&self, log: &EventLog) {
        let verdict = self.compare(log).await.unwrap();
        assert!(verdict.equal, "{verdict:?}");
    }

    /// The digest, with nothing forgotten left on disk.
    async fn digest(&self) -> Digest {
        self.handle.hold(0).await.unwrap().resume();
        assert!(self.reader.checkpoint().unwrap().settled);
        self.reader.digest()
    }

    async fn rebuild(&self) -> RebuildStatus {
        let begun = self.rebuilds.begin(From::Log, Timestamp(0)).await.unwrap();
        self.rebuilt(begun.id).await
    }

    async fn rebuilt(&self, id: Uuid) -> RebuildStatus {
        use RebuildState::{Aborted, Completed, Failed};
        let status = || self.rebuilds.status(id).unwrap();
        until("the rebuild ends", async || matches!(status().state, Completed | Failed | Aborted)).await;
        status()
    }

    /// Fails unless views made anew are the same down to the evidence.
    async fn assert_rebuilt_alike(&self, log: &EventLog) {
        self.catch_up(log).await;
        let before = all_of(&self.reader);
        let done = self.rebuild().await;
        assert_eq!((done.state, done.same_as_before), (RebuildState::Completed, Some(true)), "{done:?}");
        assert_alike(&all_of(&self.reader), &before);
    }

    async fn stop(self) {
        self.handle.stop().await.unwrap();
    }
}

/// Everything that views hold: rows with their evidence, and the recent executions of every name.
type All = (BTreeMap<Uuid, Arc<Row>>, BTreeMap<String, Vec<Brief>>);

fn all_of(reader: &Reader) -> All {
    let rows: BTreeMap<Uuid, Arc<Row>> =
        reader.jobs().unwrap().into_iter().map(|(id, _)| (id, reader.row(id).unwrap().unwrap())).collect();
    let names: BTreeMap<String, Vec<Brief>> = rows
        .values()
        .map(|row| row.record.name.clone())
        .map(|name| {
            (name.clone(), reader.recent(CONNECTION, &name, 64, Uuid::nil()).unwrap().iter().cloned().collect())
        })
        .collect();
    assert!(rows.values().all(|row| reader.goes_by(row)), "the list goes by the rows");
    assert!(reader.sums_agree(Timestamp(0)).unwrap(), "the sums are those of the jobs");
    (rows, names)
}

fn assert_alike(left: &All, right: &All) {
    for (id, row) in &left.0 {
        assert_eq!(Some(row), right.0.get(id), "{}", row.record.external_id);
    }
    assert_eq!(left.0.len(), right.0.len());
    assert!(left.1 == right.1, "other recent executions");
}

fn named(job: &str, name: &str, second: i64, long: usize) -> Event {
    let mut job = Job::new(job, JobState::Active);
    job.name = Some(name.to_owned());
    job.args = (long > 0).then(|| "x".repeat(long).into());
    Event::job(Timestamp(second * 1_000_000), Framework::Celery, job)
}

/// Something of everything on one side of a cut.
async fn one_side(log: &EventLog, side: i64) {
    let filler = |number: i64| event("filler", JobState::Active, side * 100 + number);
    // The same events again, in messages that are not the same.
    publish(log, &[event("twice", JobState::Queued, 1), filler(1)]).await;
    for copy in 0..=side {
        publish(log, &[event("often", JobState::Queued, 1), event("often", JobState::Active, 2), filler(2 + copy)])
            .await;
    }
    // The event with the long text is the last one by its own time, and came first.
    publish(log, &[named("long", "app.long", 10 - side, 4_000), filler(5)]).await;
    for start in (0..700).step_by(100) {
        let many = (start..start + 100).map(|second| named("many", "app.many", side * 700 + second, 0));
        publish(log, &many.collect::<Vec<_>>()).await;
    }
    publish(log, &[event("both", JobState::Active, side)]).await;
    publish(log, &[event(if side == 0 { "early" } else { "late" }, JobState::Completed, 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_that_followed_a_trimmed_log_are_those_made_anew_from_it() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let live = Live::start(&log, dir.path()).await;
    flood(&log, 0..400).await;
    one_side(&log, 0).await;
    let cut = log.info().await.unwrap().last_sequence + 1;
    one_side(&log, 1).await;
    flood(&log, 400..600).await;
    live.catch_up(&log).await;
    live.verify(&log).await;

    let trimmed = live.trim(&log, cut).await;
    assert_eq!(trimmed.before, cut);
    assert!(trimmed.jobs_dropped > 100 && trimmed.jobs_cut > 100 && trimmed.bytes_freed > 0, "{trimmed:?}");
    assert_eq!((log.info().await.unwrap().first_sequence, live.handle.status().floor), (cut, cut));
    assert!(live.reader.job(id("early")).unwrap().is_none());
    for (job, truncated) in [("both", true), ("twice", true), ("often", true), ("many", true), ("late", false)] {
        assert_eq!(live.reader.job(id(job)).unwrap().unwrap().truncated, truncated, "{job}");
    }
    assert_eq!(live.reader.row(id("many")).unwrap().unwrap().evidence.len(), 700);
    live.verify(&log).await;
    live.assert_rebuilt_alike(&log).await;

    // What is gone comes back as something new; what is cut again agrees again; no cut takes more than there is.
    publish(&log, &[event("early", JobState::Active, 9)]).await;
    live.catch_up(&log).await;
    assert!(!live.reader.job(id("early")).unwrap().unwrap().truncated);
    for before in [cut + 30, cut - 5, cut + 100, cut + 200] {
        flood(&log, before..before + 40).await;
        live.catch_up(&log).await;
        live.trim(&log, before).await;
        live.verify(&log).await;
    }
    live.assert_rebuilt_alike(&log).await;
    live.trim(&log, u64::MAX).await;
    assert_eq!((live.reader.jobs().unwrap().len(), log.info().await.unwrap().messages), (0, 1));
    flood(&log, 9_000..9_050).await;
    live.assert_rebuilt_alike(&log).await;
    live.verify(&log).await;
    let (all, digest) = (all_of(&live.reader), live.digest().await);
    live.stop().await;
    let again = open_views(dir.path());
    assert_alike(&all_of(&again.reader), &all);
    assert_eq!(again.reader.digest(), digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_jobs_than_one_event_can_name_are_named_by_several() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let live = Live::start(&log, dir.path()).await;
    let jobs: Vec<String> = (0..3_100).map(|job| format!("job-{job}")).collect();
    for (second, state) in [(1, JobState::Queued), (2, JobState::Active)] {
        for some in jobs.chunks(400) {
            publish(&log, &some.iter().map(|job| event(job, state, second)).collect::<Vec<_>>()).await;
        }
    }
    live.catch_up(&log).await;
    let last = log.info().await.unwrap().last_sequence;
    let trimmed = live.trim(&log, last / 2 + 1).await;
    assert_eq!((trimmed.jobs_cut, trimmed.jobs_dropped), (3_100, 0));
    assert_eq!(log.info().await.unwrap().last_sequence, last + 2);
    assert!(all_of(&live.reader).0.values().all(|row| row.record.truncated && row.evidence.len() == 1));
    live.verify(&log).await;
    live.assert_rebuilt_alike(&log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_drops_from_the_log_is_told_and_forgotten_only_when_asked_for() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let live = Live::start(&log, dir.path()).await;
    flood(&log, 0..600).await;
    live.catch_up(&log).await;
    let before = all_of(&live.reader).0;
    log.purge_before(300).await.unwrap();
    let refused = live.compare(&log).await;
    assert!(matches!(refused, Err(PassError::Lost { first: 300 })), "{refused:?}");
    assert_eq!((live.handle.status().lost, live.handle.status().floor), (Some(300), 0));
    assert_eq!(all_of(&live.reader).0, before, "nothing is forgotten by looking");
    let done = live.rebuild().await;
    assert_eq!(done.same_as_before, Some(false), "{done:?}");
    assert!(!done.differing.is_empty() && done.jobs < before.len() as u64, "{done:?}");
    assert_eq!((live.handle.status().lost, live.handle.status().floor), (None, 300));
    live.verify(&log).await;
    live.assert_rebuilt_alike(&log).await;
    // While nobody follows, too, and more than was applied.
    live.stop().await;
    flood(&log, 600..900).await;
    log.purge_before(700).await.unwrap();
    let live = Live::start(&log, dir.path()).await;
    live.catch_up(&log).await;
    assert_eq!(live.handle.status().trimmed, Some(700));
    let refused = live.compare(&log).await;
    assert!(matches!(refused, Err(PassError::Lost { first: 700 })), "{refused:?}");
    assert_eq!(live.rebuild().await.same_as_before, Some(false));
    assert_eq!((live.handle.status().trimmed, live.handle.status().floor), (None, 700));
    live.verify(&log).await;
    // A trim that goes further forgets that as well.
    log.purge_before(750).await.unwrap();
    live.trim(&log, 800).await;
    assert_eq!((live.handle.status().lost, live.handle.status().floor), (None, 800));
    live.verify(&log).await;
    live.assert_rebuilt_alike(&log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trim_that_was_told_and_not_done_is_finished() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let live = Live::start(&log, dir.path()).await;
    flood(&log, 0..300).await;
    live.catch_up(&log).await;
    let cut = live.reader.straddling(201).unwrap();
    // As if the process had died right after it told the log; nobody named the jobs that are cut.
    let trim = |before| Event {
        trim: Some(Box::new(Trim { before: Some(before), jobs: Vec::new() })),
        ..Event::bare(EventType::LogTrim, Timestamp(1), Framework::Celery)
    };
    publish(&log, &[trim(200)]).await;
    // Nobody forgets what is still to come, and an event in the same message comes after the trim.
    publish(&log, &[event("job-1", JobState::Active, 5), trim(10_000), trim(201)]).await;
    live.catch_up(&log).await;
    live.verify(&log).await;
    assert_eq!((log.info().await.unwrap().first_sequence, live.handle.status().floor), (1, 201));
    live.assert_rebuilt_alike(&log).await;
    // Those that lost a part are named by whoever finishes it, before what they lost is dropped; also by another life
    // that finds it so, whatever else it trims.
    let say_so = |live: &Live| cut.iter().filter(|job| live.reader.job(**job).unwrap().unwrap().truncated).count();
    assert!(cut.len() > 50 && say_so(&live) == 0, "{cut:?}");
    live.stop().await;
    let live = Live::start(&log, dir.path()).await;
    let trimmed = live.trim(&log, 100).await;
    assert_eq!((trimmed.before, trimmed.jobs_dropped, log.info().await.unwrap().first_sequence), (201, 0, 201));
    assert_eq!(say_so(&live), cut.len());
    live.assert_rebuilt_alike(&log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_and_trims_at_the_same_time_agree() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let live = Live::start(&log, dir.path()).await;
    flood(&log, 0..3_000).await;
    for round in 1..=4 {
        let begun = live.rebuilds.begin(From::Log, Timestamp(0)).await.unwrap();
        flood(&log, round * 3_000..round * 3_000 + 300).await;
        live.catch_up(&log).await;
        let trimmed = live.trim(&log, round * 700).await;
        assert!(trimmed.jobs_cut > 0, "{trimmed:?}");
        let done = live.rebuilt(begun.id).await;
        assert_eq!((done.state, done.same_as_before), (RebuildState::Completed, Some(true)), "{done:?}");
        live.verify(&log).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trimmed_log_that_is_imported_elsewhere_gives_the_same_records() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    let live = Live::start(&log, dir.path()).await;
    flood(&log, 0..300).await;
    one_side(&log, 0).await;
    let cut = log.info().await.unwrap().last_sequence + 1;
    one_side(&log, 1).await;
    flood(&log, 300..500).await;
    live.catch_up(&log).await;
    live.trim(&log, 100).await;
    live.trim(&log, cut).await;
    flood(&log, 500..600).await;
    live.catch_up(&log).await;

    let (other_server, other_dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let other = connect(&other_server).await;
    let info = log.info().await.unwrap();
    for sequence in live.handle.status().floor..=info.last_sequence {
        let message = log.message(sequence).await.unwrap().unwrap();
        let (connection, published, payload) = (message.connection, message.published, message.payload);
        let imported = Imported { connection, published, payload, log: info.created, sequence };
        other.append_imported(&imported).await.unwrap();
    }
    let elsewhere = Live::start(&other, other_dir.path()).await;
    elsewhere.catch_up(&other).await;
    assert_eq!(elsewhere.digest().await, live.digest().await);
    assert!(elsewhere.reader.job(id("both")).unwrap().unwrap().truncated);
    // Positions of the other log mean nothing here.
    assert_eq!(elsewhere.handle.status().floor, 0);
    elsewhere.assert_rebuilt_alike(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_in_the_midst_of_trims_views_and_log_agree() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let log = connect(&server).await;
    kill_again_and_again(&log, &server, dir.path(), true).await;
    let live = Live::start(&log, dir.path()).await;
    live.catch_up(&log).await;
    live.verify(&log).await;
    assert!(live.handle.status().floor > 1_000, "{:?}", live.handle.status());
    // What was told and not done is done.
    live.trim(&log, 0).await;
    assert_eq!(log.info().await.unwrap().first_sequence, live.handle.status().floor);
    live.assert_rebuilt_alike(&log).await;
    live.verify(&log).await;
}
