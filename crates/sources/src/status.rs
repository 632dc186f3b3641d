//! What a source tells of itself.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use event_log::SpoolDepth;
use parking_lot::Mutex;
use proto_events::Timestamp;
use serde::Serialize;

/// How a source is.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// The source's name.
    pub name: String,
    /// What it listens to, `celery-redis` or `celery-rabbitmq`.
    pub kind: &'static str,
    /// Where, without the password.
    pub url_masked: String,
    /// Whether it hears its broker.
    pub state: SourceState,
    /// Since when.
    pub since: Timestamp,
    /// When an event last came.
    pub last_event_at: Option<Timestamp>,
    /// Events heard, about tasks and workers.
    pub events: u64,
    /// Those of them that are about workers.
    pub worker_events: u64,
    /// Messages heard; each carries one event or an array of them.
    pub batches: u64,
    /// Messages and events that could not be read.
    pub decode_errors: u64,
    /// Why the last of them could not.
    pub last_decode_error: Option<String>,
    /// Messages dropped because neither the log nor the spool took them for longer than the queue could hold.
    pub dropped: u64,
    /// How often it had to connect again.
    pub reconnects: u64,
    /// Seconds in which it did not hear its broker; Redis keeps nothing for those who are away, RabbitMQ does.
    #[serde(rename = "missedSeconds")]
    pub missed: f64,
    /// Bytes that wait in memory to be decoded, or for the log to take them.
    pub queue_bytes: u64,
    /// What of its connection waits on disk until the log takes it; null where it needs no spool or there is none.
    pub spool: Option<SpoolStatus>,
    /// What to do when workers are heard, but no events of tasks, or when the depth of queues may not be read.
    pub hint: Option<String>,
    /// Why it is not connected.
    pub reason: Option<String>,
}

/// What waits on disk until the log takes it.
#[derive(Clone, Copy, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SpoolStatus {
    /// Events.
    pub events: u64,
    /// What they take of the spool, in bytes.
    pub bytes: u64,
    /// When the oldest of them was written.
    pub oldest_at: Option<Timestamp>,
    /// Events of tasks that were dropped because the spool was full, or that the log will never take; restarts count on.
    pub dropped_task_events: u64,
    /// Events of workers, likewise.
    pub dropped_worker_events: u64,
}

impl From<SpoolDepth> for SpoolStatus {
    fn from(depth: SpoolDepth) -> Self {
        Self {
            events: depth.events(),
            bytes: depth.bytes,
            oldest_at: depth.oldest,
            dropped_task_events: depth.dropped_tasks,
            dropped_worker_events: depth.dropped_others,
        }
    }
}

/// Whether a source hears its broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "SourceLink"))]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// The first attempt is under way.
    Connecting,
    /// It listens.
    Connected,
    /// It does not, and tries again.
    Down,
    /// The broker does not let us in; somebody must change something. It tries again, less often.
    Refused,
}

/// The figures behind the status, written by the threads that do the work.
#[derive(Debug)]
pub(crate) struct Figures {
    link: Mutex<Link>,
    last_event_at: AtomicI64,
    pub(crate) events: AtomicU64,
    pub(crate) worker_events: AtomicU64,
    pub(crate) batches: AtomicU64,
    decode_errors: AtomicU64,
    last_decode_error: Mutex<Option<String>>,
    pub(crate) hint: Mutex<Option<String>>,
    pub(crate) depth_hint: Mutex<Option<String>>,
    pub(crate) control_hint: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Link {
    state: SourceState,
    since: Timestamp,
    /// Since when nothing is heard; `None` while connected.
    deaf: Option<Instant>,
    missed: f64,
    connects: u64,
    reason: Option<String>,
}

impl Figures {
    pub(crate) fn new() -> Self {
        Self {
            link: Mutex::new(Link {
                state: SourceState::Connecting,
                since: now(),
                deaf: Some(Instant::now()),
                missed: 0.0,
                connects: 0,
                reason: None,
            }),
            last_event_at: AtomicI64::new(i64::MIN),
            events: AtomicU64::new(0),
            worker_events: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            decode_errors: AtomicU64::new(0),
            last_decode_error: Mutex::new(None),
            hint: Mutex::new(None),
            depth_hint: Mutex::new(None),
            control_hint: Mutex::new(None),
        }
    }

    pub(crate) fn connected(&self) {
        let mut link = self.link.lock();
        link.state = SourceState::Connected;
        link.since = now();
        link.missed += link.deaf.take().map_or(0.0, |since| since.elapsed().as_secs_f64());
        link.connects += 1;
        link.reason = None;
    }

    /// Notes that nothing is heard since then. Tells whether it was connected, and whether the reason is a new one.
    pub(crate) fn lost(&self, since: Instant, refused: bool, reason: &str) -> Lost {
        let mut link = self.link.lock();
        let was_connected = link.state == SourceState::Connected;
        let state = if refused { SourceState::Refused } else { SourceState::Down };
        if state != link.state {
            link.state = state;
            link.since = now();
        }
        link.deaf.get_or_insert(since);
        let news = link.reason.as_deref() != Some(reason);
        if news {
            link.reason = Some(reason.to_owned());
        }
        Lost { was_connected, news }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.link.lock().state == SourceState::Connected
    }

    pub(crate) fn heard(&self) {
        self.last_event_at.store(now().micros(), Ordering::Relaxed);
    }

    pub(crate) fn unreadable(&self, count: u64, reason: String) {
        self.decode_errors.fetch_add(count, Ordering::Relaxed);
        *self.last_decode_error.lock() = Some(reason);
    }

    fn hint(&self) -> Option<String> {
        let hints = [&self.hint, &self.depth_hint, &self.control_hint];
        let hints: Vec<String> = hints.iter().filter_map(|hint| hint.lock().clone()).collect();
        (!hints.is_empty()).then(|| hints.join("; "))
    }

    pub(crate) fn status(&self, identity: &Identity<'_>) -> SourceStatus {
        let link = self.link.lock();
        let last_event_at = self.last_event_at.load(Ordering::Relaxed);
        SourceStatus {
            name: identity.name.to_owned(),
            kind: identity.kind,
            url_masked: identity.url_masked.to_owned(),
            state: link.state,
            since: link.since,
            last_event_at: (last_event_at != i64::MIN).then_some(Timestamp(last_event_at)),
            events: self.events.load(Ordering::Relaxed),
            worker_events: self.worker_events.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
            decode_errors: self.decode_errors.load(Ordering::Relaxed),
            last_decode_error: self.last_decode_error.lock().clone(),
            dropped: identity.dropped,
            reconnects: link.connects.saturating_sub(1),
            missed: link.missed + link.deaf.map_or(0.0, |since| since.elapsed().as_secs_f64()),
            queue_bytes: identity.queue_bytes,
            spool: None,
            hint: self.hint(),
            reason: link.reason.clone(),
        }
    }
}

/// What became known when a link was lost.
pub(crate) struct Lost {
    pub(crate) was_connected: bool,
    pub(crate) news: bool,
}

/// What a status needs beside the figures.
pub(crate) struct Identity<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: &'static str,
    pub(crate) url_masked: &'a str,
    pub(crate) dropped: u64,
    pub(crate) queue_bytes: u64,
}

pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
