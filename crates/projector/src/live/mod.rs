//! Workers and queues as they are now: a live view, no fold of the log, and not in checkpoint, digest or verification.
//!
//! It is fed from two sides: by what workers and queues say of their present state, which the log's server keeps beside
//! the log ([`event_log::Statuses`]); and by the events about workers and sources in the log, as the projector applies
//! them. It begins anew with each start of the process, from what the server kept.
//!
//! # Layout
//! - [`Live`]: what readers ask, and the task that follows the statuses
//! - `registry`: all of it, pure; `worker`, `runs`, `queue`: one of them
//! - `witness`: what is found out here is told to the log

mod queue;
mod registry;
mod runs;
#[cfg(test)]
mod tests;
mod witness;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::{EventLog, LogMessage, StatusChange};
use parking_lot::Mutex;
use projection::fleet::Fleet;
use proto_events::{Event, EventType, Framework, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::frames::{Happening, QueueCount, WorkerSeen};
use crate::handle::Handle;
use crate::status::{self, Phase};
use registry::Registry;
use witness::Finding;

/// How often it is looked who fell silent.
const TICK: Duration = Duration::from_secs(1);
/// For so long a worker that is not there is remembered, where nothing else is said; the server keeps no more.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of the free-form values of one worker or queue, as JSON; of more there is only a mark.
const MAP_BYTES: usize = 8 * 1_024;
/// What is applied so late still counts as known.
const UP_TO_DATE_SECONDS: f64 = 2.0;

/// The state of a worker, as documented; ordered by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LiveState {
    /// It runs something.
    Busy,
    /// It runs nothing.
    Idle,
    /// It took its leave, or was silent for too long.
    Offline,
    /// It is there, and did not say what it does.
    Online,
}

impl LiveState {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Online, Self::Busy, Self::Idle, Self::Offline];

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Busy => "busy",
            Self::Idle => "idle",
            Self::Offline => "offline",
        }
    }
}

/// A worker as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveWorker {
    /// See [`proto_events::worker_id`].
    pub id: Uuid,
    /// Whose it is.
    pub connection: Uuid,
    /// The framework's name of it.
    pub external_id: String,
    /// Its framework.
    pub framework: Framework,
    /// Its host name.
    pub hostname: String,
    /// The process that spoke last.
    pub pid: Option<i64>,
    /// How it is.
    pub state: LiveState,
    /// When it was first heard of, as far as is remembered.
    pub first_seen: Timestamp,
    /// When its last heartbeat was stored.
    pub last_heartbeat: Option<Timestamp>,
    /// When it last said that it came.
    pub last_online: Option<Timestamp>,
    /// When it last said that it goes.
    pub last_offline: Option<Timestamp>,
    /// When the process that there is now began, where it took the place of another one.
    pub restarted_at: Option<Timestamp>,
    /// Seconds between its heartbeats, as announced.
    pub heartbeat_freq: Option<f64>,
    /// Jobs that it runs.
    pub active_jobs: Option<u64>,
    /// Jobs that it has run since it came.
    pub processed_total: Option<u64>,
    /// Jobs that it can run at once.
    pub concurrency: Option<u64>,
    /// Software and load, as announced.
    pub metadata: Arc<Map<String, Value>>,
    /// Whatever else it said.
    pub extensions: Arc<Map<String, Value>>,
}

/// A queue as it was last described.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveQueue {
    /// See [`proto_events::queue_id`].
    pub id: Uuid,
    /// Whose it is.
    pub connection: Uuid,
    /// Its name.
    pub name: String,
    /// Its framework.
    pub framework: Framework,
    /// Jobs waiting; `None` where nobody said so in the last five minutes.
    pub depth: Option<u64>,
    /// Workers that consume it, likewise.
    pub consumers: Option<u64>,
    /// When it was described.
    pub depth_at: Timestamp,
    /// When it was first heard of, as far as is remembered.
    pub first_seen: Timestamp,
    /// Whatever else was said.
    pub extensions: Arc<Map<String, Value>>,
}

/// What there is, in no particular order.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<T> {
    /// All that are remembered.
    pub rows: Vec<T>,
    /// Whether there were more, which had no room: at most 2,000 workers and 5,000 queues are remembered, and those who
    /// were heard longest ago give way.
    pub truncated: bool,
}

/// What changed just now.
#[derive(Clone, Debug, PartialEq)]
pub enum LiveChange {
    /// A heartbeat came; at most one a second for each worker.
    WorkerHeartbeat {
        /// Whose it is.
        connection: Uuid,
        /// The worker's id.
        id: Uuid,
        /// Its host name.
        hostname: String,
        /// How it is.
        state: LiveState,
        /// Jobs that it runs.
        active_jobs: Option<u64>,
    },
    /// A worker came or went.
    WorkerState {
        /// Whose it is.
        connection: Uuid,
        /// The worker's id.
        id: Uuid,
        /// Its host name.
        hostname: String,
        /// How it is.
        state: LiveState,
        /// Jobs that it runs.
        active_jobs: Option<u64>,
    },
    /// A queue was described.
    Queue {
        /// Whose it is.
        connection: Uuid,
        /// Its name.
        name: String,
        /// Jobs waiting.
        depth: Option<u64>,
        /// Workers that consume it.
        consumers: Option<u64>,
    },
}

impl From<LiveChange> for Happening {
    fn from(change: LiveChange) -> Self {
        let worker = |connection, id, hostname: String, state: LiveState, active_jobs: Option<u64>| WorkerSeen {
            connection,
            id,
            hostname: hostname.into(),
            state: state.as_str(),
            active_jobs: active_jobs.unwrap_or_default(),
        };
        match change {
            LiveChange::WorkerHeartbeat { connection, id, hostname, state, active_jobs } => {
                Self::WorkerHeartbeat(worker(connection, id, hostname, state, active_jobs))
            }
            LiveChange::WorkerState { connection, id, hostname, state, active_jobs } => {
                Self::WorkerState(worker(connection, id, hostname, state, active_jobs))
            }
            LiveChange::Queue { connection, name, depth, consumers } => {
                Self::Queue(QueueCount { connection, name: name.into(), depth, consumers })
            }
        }
    }
}

/// Told of each change, in their order. It must return at once and never panic: the projector waits for it. It may ask
/// [`Live`] for what there is.
pub type OnChange = Arc<dyn Fn(LiveChange) + Send + Sync>;

/// Asked once a second.
pub type IsBehind = Arc<dyn Fn() -> bool + Send + Sync>;

/// How the live view is kept.
#[derive(Clone, Default)]
pub struct LiveSettings {
    /// For so long a worker that is not there is remembered, and a queue that nobody describes. `None` is a day, which is
    /// the most there is: the server keeps no more.
    pub forget_after: Option<Duration>,
    /// Who is told of changes.
    pub on_change: Option<OnChange>,
    /// Whether a source of ours cannot keep up just now, and may have dropped what workers said.
    pub is_behind: Option<IsBehind>,
}

/// Workers and queues as they are now.
pub struct Live {
    state: Mutex<State>,
    /// Held from a change until it is told, so that changes are told in their order; always locked first.
    tell: Mutex<Option<OnChange>>,
}

struct State {
    registry: Registry,
    clock: Clock,
}

/// The clock of the server that stores what is said: it may differ from that of this machine.
struct Clock {
    base: Timestamp,
    at: Instant,
}

impl Clock {
    fn set(&mut self, base: Timestamp) {
        (self.base, self.at) = (base, Instant::now());
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.base.micros() + self.at.elapsed().as_micros() as i64)
    }

    /// Nothing is stored in the future: where it seems so, our clock has stood still with the machine.
    fn saw(&mut self, stored: Timestamp) -> Timestamp {
        if stored > self.now() {
            self.set(stored);
        }
        self.now()
    }
}

/// An event of the log that concerns the live view.
pub(crate) struct Heard {
    connection: Uuid,
    stored: Timestamp,
    event: Event,
}

impl Heard {
    /// The event, if it is about a worker or a source; what an import brought in tells of other times.
    pub(crate) fn of(message: &LogMessage, event: Event) -> Option<Self> {
        let concerns = matches!(event.kind, EventType::WorkerStateChange | EventType::SourceStateChange);
        let (connection, stored) = (message.connection, message.stored);
        (concerns && !message.imported).then_some(Self { connection, stored, event })
    }
}

impl Live {
    pub(crate) fn new() -> Arc<Self> {
        let clock = Clock { base: status::now(), at: Instant::now() };
        let registry = Registry::new(micros(FORGET_AFTER));
        Arc::new(Self { state: Mutex::new(State { registry, clock }), tell: Mutex::new(None) })
    }

    /// Follows what workers and queues say, until the log is closed. To be called once, within a tokio runtime.
    pub fn start(self: &Arc<Self>, log: &EventLog, settings: LiveSettings) {
        let forget_after = settings.forget_after.unwrap_or(FORGET_AFTER).min(FORGET_AFTER);
        self.state.lock().registry.set_forget_after(micros(forget_after));
        *self.tell.lock() = settings.on_change;
        let (live, log) = (Arc::clone(self), log.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = live.follow(&log) => {}
                () = live.watch(settings.is_behind) => {}
            }
        });
    }

    /// Remembers who is gone for so long from now on; a day at most.
    pub fn forget_after(&self, time: Duration) {
        self.state.lock().registry.set_forget_after(micros(time.min(FORGET_AFTER)));
    }

    /// Tells that there is a source of this name which will say in the log when it is connected. Until then, the silence
    /// of this connection's workers proves nothing. To be called before the source is started.
    pub fn expect_source(&self, connection: Uuid, name: &str) {
        let mut state = self.state.lock();
        let now = state.clock.now();
        state.registry.expect_source(connection, name, now);
    }

    /// Tells that a source is gone for good; its last words do not count any more.
    pub fn forget_source(&self, connection: Uuid, name: &str) {
        self.state.lock().registry.forget_source(connection, name);
    }

    /// All workers.
    pub fn workers(&self) -> Listed<LiveWorker> {
        let state = self.state.lock();
        state.registry.workers(state.clock.now())
    }

    /// All queues that were described.
    pub fn queues(&self) -> Listed<LiveQueue> {
        let state = self.state.lock();
        state.registry.queues(state.clock.now())
    }

    fn findings(&self, fleet: &Fleet, silence: bool) -> Vec<Finding> {
        let state = self.state.lock();
        state.registry.findings(fleet, state.clock.now(), silence)
    }

    /// Takes in events of the log, in its order.
    pub(crate) fn heard(&self, events: Vec<Heard>) {
        for Heard { connection, stored, event } in events {
            self.change(Some(stored), |registry, now| registry.event(connection, stored, event, now));
        }
    }

    async fn follow(&self, log: &EventLog) {
        let mut statuses = log.statuses();
        while let Some(change) = statuses.next().await {
            match change {
                StatusChange::Begun { at } => {
                    let mut state = self.state.lock();
                    state.clock.set(at);
                    state.registry.begun(at);
                }
                StatusChange::Interrupted => {
                    let mut state = self.state.lock();
                    let now = state.clock.now();
                    state.registry.interrupted(now);
                }
                StatusChange::Said(status) => {
                    self.change(Some(status.stored), |registry, now| registry.status(&status, now));
                }
            }
        }
    }

    /// Silence makes no sound: it is looked for.
    async fn watch(&self, is_behind: Option<IsBehind>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if is_behind.as_ref().is_some_and(|is_behind| is_behind()) {
                let mut state = self.state.lock();
                let now = state.clock.now();
                state.registry.is_behind(now);
            }
            self.change(None, Registry::tick);
        }
    }

    fn change(&self, stored: Option<Timestamp>, change: impl FnOnce(&mut Registry, Timestamp) -> Vec<LiveChange>) {
        let tell = self.tell.lock();
        let changes = {
            let State { registry, clock } = &mut *self.state.lock();
            let now = match stored {
                Some(stored) => clock.saw(stored),
                None => clock.now(),
            };
            change(registry, now)
        };
        if let Some(tell) = &*tell {
            for change in changes {
                tell(change);
            }
        }
    }
}

impl Handle {
    /// What was found out about workers and is not in the log yet.
    fn findings(&self) -> Vec<Finding> {
        let status = self.status();
        // What is not applied yet may tell that a source is away.
        let is_up_to_date = status.phase == Phase::Following && status.lag_seconds < UP_TO_DATE_SECONDS;
        self.reader.fleet(|fleet| self.live().findings(fleet, is_up_to_date))
    }

    /// Tells the log what is found out about workers, until the projector is stopped. To be called once, within a tokio runtime.
    pub(crate) fn testify(&self, log: &EventLog) {
        let (handle, log) = (self.clone(), log.clone());
        tokio::spawn(witness::testify(handle, log));
    }
}

fn micros(time: Duration) -> i64 {
    time.as_micros() as i64
}

/// Free-form values within their limit.
fn bounded(map: Map<String, Value>) -> Arc<Map<String, Value>> {
    if proto_events::wire::encoded_len(&map) <= MAP_BYTES {
        return Arc::new(map);
    }
    Arc::new(Map::from_iter([("cut".to_owned(), Value::Bool(true))]))
}
