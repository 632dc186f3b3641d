//! What is found out about workers beside the log, told to the log: that one is silent, that one is heard again, that
//! another process has taken a place. Heartbeats do not stand in the log, and a replay must find what was found here.
//!
//! Each look compares what is known here with what the log says, so that what could not be written, or was written
//! before a crash, is neither missing nor there for ever.

use std::collections::HashMap;
use std::time::Duration;

use event_log::EventLog;
use projection::fleet::{BEATS_WHILE_BUSY, Gone, HEARD_AT, LISTENING_SINCE, Present};
use proto_events::{Event, EventType, Framework, Producer, Timestamp, Worker, WorkerState};
use serde_json::{Map, Value};
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::runs::{Run, Word};
use super::worker::Known;
use crate::handle::Handle;
use crate::status::Phase;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// What could be told again and again is told so often at most: two who share a name, and each denies the other's end.
const AGAIN: Duration = Duration::from_secs(10);
/// Events written at one look.
const MOST: usize = 500;

/// Something that the log does not say yet.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) connection: Uuid,
    pub(super) event: Event,
}

/// What is known of a worker and not said by the log. It is silent where it is told since when we listen.
pub(super) fn of_worker(
    (connection, name): &(Uuid, String),
    known: &Known,
    gone: Option<&Gone>,
    silent: Option<Timestamp>,
    now: Timestamp,
    findings: &mut Vec<Finding>,
) {
    let mut tell = |event: Event| findings.push(Finding { connection: *connection, event });
    let alive = |run: Run, word: Word| {
        let worker =
            Worker { pid: Some(run.pid), processed_total: word.processed, ..nothing(name, WorkerState::Heartbeat) };
        let producer = Producer { hostname: name.clone(), pid: Some(run.pid), clock: word.clock };
        event(known.framework(), word.at, worker, Some(producer))
    };
    let silence = gone.and_then(Gone::silence);
    match (silent, known.alive(), silence) {
        (Some(listening), Some(heard), None) => {
            tell(silent_event(name, known.framework(), known.pid(), heard, listening, known.beats_while_busy(), now));
        }
        // Whether it is silent again is not asked: it was heard.
        (_, Some(heard), Some(silence)) if heard > silence.heard() => {
            tell(known.last_run().map_or_else(
                || event(known.framework(), heard, nothing(name, WorkerState::Heartbeat), None),
                |run| alive(run, run.last),
            ));
        }
        _ => {}
    }
    let in_log = gone.and_then(Gone::replaced);
    match (known.runs().replaced(), in_log) {
        (Some((before, youngest)), in_log) if in_log < Some(youngest.first.at) => {
            tell(alive(before, before.last));
            tell(alive(youngest, youngest.first));
        }
        (None, Some(replaced)) => {
            if let Some(run) = known.runs().spoke_across(replaced) {
                tell(alive(run, run.last));
            }
        }
        _ => {}
    }
}

/// A worker that is there, for all that the log says, and that was not heard since we listen.
pub(super) fn of_absent(worker: &Present<'_>, listening: Option<Timestamp>, now: Timestamp) -> Finding {
    let (name, listening) = (worker.worker, listening.unwrap_or(now));
    let event = silent_event(name, Framework::Celery, worker.pid, worker.at, listening, false, now);
    Finding { connection: worker.connection, event }
}

fn silent_event(
    name: &str,
    framework: Framework,
    pid: Option<i64>,
    heard: Timestamp,
    listening: Timestamp,
    beats_while_busy: bool,
    now: Timestamp,
) -> Event {
    let extensions = Map::from_iter([
        (HEARD_AT.to_owned(), Value::from(heard.to_micros_text())),
        (LISTENING_SINCE.to_owned(), Value::from(listening.to_micros_text())),
        (BEATS_WHILE_BUSY.to_owned(), Value::from(beats_while_busy)),
    ]);
    event(framework, now, Worker { pid, extensions, ..nothing(name, WorkerState::Silent) }, None)
}

fn event(framework: Framework, at: Timestamp, worker: Worker, producer: Option<Producer>) -> Event {
    let event = Event::bare(EventType::WorkerStateChange, at, framework);
    Event { producer, worker: Some(Box::new(worker)), ..event }
}

fn nothing(name: &str, state: WorkerState) -> Worker {
    Worker {
        external_id: name.to_owned(),
        hostname: name.to_owned(),
        state,
        pid: None,
        active_jobs: None,
        concurrency: None,
        processed_total: None,
        heartbeat_freq: None,
        metadata: Map::new(),
        extensions: Map::new(),
    }
}

/// Tells the log, until the projector is stopped.
pub(super) async fn testify(handle: Handle, log: EventLog) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: HashMap<(Uuid, String), (Event, Instant)> = HashMap::new();
    let mut last = 0;
    loop {
        looks.tick().await;
        if handle.is_stopping() {
            return;
        }
        let status = handle.status();
        // What was told and is not applied yet would be told again.
        if status.phase != Phase::Following || status.applied < last {
            continue;
        }
        told.retain(|_, (_, at)| at.elapsed() < AGAIN);
        for Finding { connection, event } in handle.findings().into_iter().take(MOST) {
            let name = event.worker.as_ref().map(|worker| worker.external_id.clone()).unwrap_or_default();
            let key =
                (connection, format!("{name} {:?}", event.worker.as_ref().map(|worker| (worker.state, worker.pid))));
            if told.contains_key(&key) {
                continue;
            }
            let payload = proto_events::encode(std::slice::from_ref(&event)).into();
            match log.append(connection, payload).await {
                Ok(appended) => last = last.max(appended.sequence),
                Err(error) => {
                    tracing::debug!(%error, "what became of a worker is not told to the log yet");
                    break;
                }
            }
            told.insert(key, (event, Instant::now()));
        }
    }
}
