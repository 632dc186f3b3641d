//! What the tests share.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use event_log::EventLog;
use event_log::testing::TestServer;
use proto_events::{Event, Framework, Job, JobState, Timestamp};
use uuid::Uuid;
use views::{Digest, Opened, Options, Query, Reader, Signs};

use crate::{Handle, Phase, start};

/// Far longer than anything here takes; only a failure waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const CONNECTION: Uuid = Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0000);

pub(super) async fn connect(server: &TestServer) -> EventLog {
    EventLog::open(server.config()).await.unwrap()
}

pub(super) fn open_views(dir: &Path) -> Opened {
    let options = Options {
        fold_version: projection::FOLD_VERSION,
        cache_bytes: 1 << 20,
        list_bytes: 64 << 20,
        totals_by_host: false,
    };
    views::open(dir, &options).unwrap()
}

/// The same where a thread that has nothing more to do may still have them open for a moment.
pub(super) async fn reopen_views(dir: &Path) -> Opened {
    let options = Options {
        fold_version: projection::FOLD_VERSION,
        cache_bytes: 1 << 20,
        list_bytes: 64 << 20,
        totals_by_host: false,
    };
    let mut opened = None;
    until("the lock", async || {
        opened = views::open(dir, &options).ok();
        opened.is_some()
    })
    .await;
    opened.expect("it was opened")
}

/// A projector on the views in this directory.
pub(super) fn project(log: &EventLog, dir: &Path) -> (Handle, Reader) {
    let Opened { writer, reader, .. } = open_views(dir);
    (start(log.clone(), writer, &reader), reader)
}

pub(super) fn event(job: &str, state: JobState, second: i64) -> Event {
    let mut job = Job::new(job, state);
    job.name = Some("app.send".to_owned());
    Event::job(Timestamp(second * 1_000_000), Framework::Celery, job)
}

pub(super) fn id(job: &str) -> Uuid {
    proto_events::job_id(CONNECTION, job)
}

pub(super) async fn publish(log: &EventLog, events: &[Event]) -> u64 {
    publish_bytes(log, proto_events::encode(events)).await
}

pub(super) async fn publish_bytes(log: &EventLog, bytes: Vec<u8>) -> u64 {
    log.append(CONNECTION, Bytes::from(bytes)).await.unwrap().sequence
}

/// Messages of a few events each about some 2,000 jobs, the same each time; many on their way at once.
pub(super) async fn flood(log: &EventLog, messages: std::ops::Range<u64>) {
    let mut acks = Vec::new();
    for number in messages {
        let events: Vec<Event> = (0..=number % 7)
            .map(|n| {
                let mixed = (number * 10 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let state = JobState::ALL[(mixed >> 50) as usize % JobState::ALL.len()];
                event(&format!("job-{}", (mixed >> 20) % 2_000), state, (mixed >> 33) as i64 % 1_000)
            })
            .collect();
        let payload = Bytes::from(proto_events::encode(&events));
        acks.push(log.append_pipelined(CONNECTION, payload).await.unwrap());
        if acks.len() == 200 {
            for ack in acks.drain(..) {
                ack.await.unwrap();
            }
        }
    }
    for ack in acks {
        ack.await.unwrap();
    }
}

/// Asks again until it holds.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let work = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited too long: {what}"));
}

pub(super) async fn until_phase(handle: &Handle, wanted: &Phase) {
    until(&format!("{wanted:?}"), async || handle.status().phase == *wanted).await;
}

/// What views hold that followed the log without interruption.
pub(super) async fn uninterrupted(log: &EventLog) -> (Vec<projection::Record>, Digest) {
    let dir = tempfile::tempdir().unwrap();
    let (handle, reader) = project(log, dir.path());
    assert!(handle.wait_applied(log.info().await.unwrap().last_sequence, PATIENCE).await);
    handle.stop().await.unwrap();
    (all(&reader), reader.digest())
}

pub(super) fn all(reader: &Reader) -> Vec<projection::Record> {
    reader.list(&Query { limit: usize::MAX, ..Query::default() }, &Signs::default()).unwrap().jobs
}
