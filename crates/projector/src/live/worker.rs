//! One worker: what it said last, and what follows from that at a given time.

use std::sync::Arc;

use proto_events::{Framework, Timestamp, Worker, WorkerState, worker_id};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::runs::{Run, Runs, Word};
use super::{LiveState, LiveWorker, bounded};

const SECOND: i64 = 1_000_000;
/// A worker that is silent for longer is offline, whatever it announced.
const SILENCE: i64 = 6 * SECOND;
/// Or for so many of the intervals that it announced, where that is longer.
const MISSED_BEATS: f64 = 3.0;
/// An announced interval is believed up to this one.
const LONGEST_BEAT: f64 = 3_600.0;
/// Frames about heartbeats of one worker come no more often than this.
const FRAMES: i64 = SECOND;

/// One sign of a worker: an event about it, and when the server stored it.
pub(super) struct Sign<'a> {
    pub(super) worker: &'a Worker,
    pub(super) framework: Framework,
    /// When it was, by the worker's own clock; never later than stored, since nobody speaks from the future.
    pub(super) said: Timestamp,
    pub(super) stored: Timestamp,
    /// The Lamport clock of the process, where it has one.
    pub(super) clock: Option<i64>,
}

/// A stretch of time in which nothing could be heard of anybody.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deaf {
    pub(super) from: Timestamp,
    /// `None` while it lasts.
    pub(super) to: Option<Timestamp>,
}

/// What is known of one worker.
#[derive(Debug)]
pub(super) struct Known {
    id: Uuid,
    framework: Framework,
    hostname: String,
    pid: Option<i64>,
    first_seen: Timestamp,
    last_heartbeat: Option<Timestamp>,
    last_online: Option<Timestamp>,
    last_offline: Option<Timestamp>,
    heartbeat_freq: Option<f64>,
    active_jobs: Option<u64>,
    is_busy: Option<bool>,
    processed_total: Option<u64>,
    concurrency: Option<u64>,
    metadata: Arc<Map<String, Value>>,
    extensions: Arc<Map<String, Value>>,
    /// When the last sign of life, and the last sign at all, was stored.
    heard: Option<Timestamp>,
    last_sign: Timestamp,
    /// When it last showed life, and when it last took its leave, by its own clock: heartbeats reach us later than the
    /// other events, so that the order of storing proves nothing.
    alive: Option<Timestamp>,
    left: Option<Timestamp>,
    /// Up to when its own words are taken in: what comes late changes no field that a later word set.
    said: Option<Timestamp>,
    runs: Runs,
    /// Whether the process that there is now has beaten while it ran something.
    beats_while_busy: bool,
    /// What the listeners were told last.
    pub(super) told_online: bool,
    told_heartbeat: Option<Timestamp>,
}

impl Known {
    pub(super) fn new(connection: Uuid, sign: &Sign<'_>) -> Self {
        Self {
            id: worker_id(connection, &sign.worker.external_id),
            framework: sign.framework,
            hostname: sign.worker.hostname.clone(),
            pid: None,
            first_seen: sign.stored,
            last_heartbeat: None,
            last_online: None,
            last_offline: None,
            heartbeat_freq: None,
            active_jobs: None,
            is_busy: None,
            processed_total: None,
            concurrency: None,
            metadata: Arc::default(),
            extensions: Arc::default(),
            heard: None,
            last_sign: sign.stored,
            alive: None,
            left: None,
            said: None,
            runs: Runs::default(),
            beats_while_busy: false,
            told_online: false,
            told_heartbeat: None,
        }
    }

    /// Takes a sign in, which may come late or again. Tells whether it is a heartbeat that was not known yet.
    pub(super) fn take(&mut self, sign: &Sign<'_>) -> bool {
        let Sign { worker, said, stored, .. } = *sign;
        self.first_seen = self.first_seen.min(stored);
        self.last_sign = self.last_sign.max(stored);
        let mut is_news = false;
        match worker.state {
            WorkerState::Offline => {
                self.left = self.left.max(Some(said));
                self.last_offline = self.last_offline.max(Some(stored));
            }
            state => {
                self.heard = self.heard.max(Some(stored));
                self.alive = self.alive.max(Some(said));
                if state == WorkerState::Online {
                    self.last_online = self.last_online.max(Some(stored));
                } else {
                    is_news = self.last_heartbeat < Some(stored);
                    self.last_heartbeat = self.last_heartbeat.max(Some(stored));
                }
            }
        }
        if let Some(pid) = worker.pid {
            let word = Word { at: said, processed: worker.processed_total, clock: sign.clock };
            if self.runs.note(pid, word) {
                self.beats_while_busy = false;
            }
        }
        // Celery announces what it runs with each heartbeat.
        if worker.state == WorkerState::Heartbeat && worker.active_jobs.is_some_and(|active| active > 0) {
            self.beats_while_busy = true;
        }
        if self.said <= Some(said) {
            self.said = Some(said);
            self.take_fields(sign);
        }
        is_news
    }

    /// What it did not say stays as it was, but for what belonged to another process.
    fn take_fields(&mut self, sign: &Sign<'_>) {
        let Sign { worker, framework, .. } = *sign;
        if worker.pid.is_some() && worker.pid != self.pid {
            self.pid = worker.pid;
            (self.active_jobs, self.is_busy, self.processed_total, self.concurrency) = (None, None, None, None);
        }
        self.framework = framework;
        self.hostname.clone_from(&worker.hostname);
        match (worker.active_jobs, worker.state) {
            (Some(active), _) => (self.active_jobs, self.is_busy) = (Some(active), Some(active > 0)),
            (None, WorkerState::Busy) => (self.active_jobs, self.is_busy) = (None, Some(true)),
            (None, WorkerState::Idle) => (self.active_jobs, self.is_busy) = (None, Some(false)),
            (None, _) => {}
        }
        self.processed_total = worker.processed_total.or(self.processed_total);
        self.concurrency = worker.concurrency.or(self.concurrency);
        let freq = worker.heartbeat_freq.filter(|freq| freq.is_finite() && *freq > 0.0);
        self.heartbeat_freq = freq.or(self.heartbeat_freq);
        merge(&mut self.metadata, &worker.metadata);
        merge(&mut self.extensions, &worker.extensions);
    }

    pub(super) fn state(&self, now: Timestamp, deaf: Option<Deaf>) -> LiveState {
        if self.has_left() || self.silence(now, deaf) > self.patience() {
            return LiveState::Offline;
        }
        match self.is_busy {
            Some(true) => LiveState::Busy,
            Some(false) => LiveState::Idle,
            None => LiveState::Online,
        }
    }

    /// Whether its last word was a leave.
    fn has_left(&self) -> bool {
        self.left.is_some() && self.left >= self.alive
    }

    /// For how long it was not heard while it could have been.
    fn silence(&self, now: Timestamp, deaf: Option<Deaf>) -> i64 {
        let Some(heard) = self.heard else { return i64::MAX };
        let deaf = deaf.map_or(0, |deaf| {
            let (from, to) = (deaf.from.max(heard), deaf.to.unwrap_or(now).min(now));
            (to.micros() - from.micros()).max(0)
        });
        now.micros() - heard.micros() - deaf
    }

    /// How long it may be silent.
    fn patience(&self) -> i64 {
        patience(self.heartbeat_freq)
    }

    /// When the process that there is now began, where one before it has ended.
    pub(super) fn restarted_at(&self) -> Option<Timestamp> {
        self.runs.last_began()
    }

    /// Whether it fell silent without a leave, for longer than its patience and this much, counted from `since` on.
    pub(super) fn fell_silent(&self, now: Timestamp, since: Timestamp, more: i64) -> bool {
        let silent_since = self.heard.unwrap_or(since).max(since);
        !self.has_left() && now.micros() - silent_since.micros() > self.patience() + more
    }

    /// Whether its silence would prove anything: it beats, or said that it would.
    pub(super) fn is_to_beat(&self) -> bool {
        self.last_heartbeat.is_some() || self.heartbeat_freq.is_some()
    }

    /// When it last showed life, by its own clock.
    pub(super) fn alive(&self) -> Option<Timestamp> {
        self.alive
    }

    pub(super) fn pid(&self) -> Option<i64> {
        self.pid
    }

    pub(super) fn framework(&self) -> Framework {
        self.framework
    }

    /// Whether it is known to beat while it runs something.
    pub(super) fn beats_while_busy(&self) -> bool {
        self.beats_while_busy
    }

    /// The processes that there were under its name.
    pub(super) fn runs(&self) -> &Runs {
        &self.runs
    }

    /// The process that spoke last.
    pub(super) fn last_run(&self) -> Option<Run> {
        self.runs.last()
    }

    /// When it gave its last sign, of whatever kind.
    pub(super) fn last_sign(&self) -> Timestamp {
        self.last_sign
    }

    /// Whether a frame about its heartbeat is due.
    pub(super) fn may_tell(&mut self, now: Timestamp) -> bool {
        let is_due = self.told_heartbeat.is_none_or(|told| now.micros() - told.micros() >= FRAMES);
        if is_due {
            self.told_heartbeat = Some(now);
        }
        is_due
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    pub(super) fn active_jobs(&self) -> Option<u64> {
        self.active_jobs
    }

    pub(super) fn hostname(&self) -> &str {
        &self.hostname
    }

    pub(super) fn row(&self, connection: Uuid, external_id: &str, now: Timestamp, deaf: Option<Deaf>) -> LiveWorker {
        LiveWorker {
            id: self.id,
            connection,
            external_id: external_id.to_owned(),
            framework: self.framework,
            hostname: self.hostname.clone(),
            pid: self.pid,
            state: self.state(now, deaf),
            first_seen: self.first_seen,
            last_heartbeat: self.last_heartbeat,
            last_online: self.last_online,
            last_offline: self.last_offline,
            restarted_at: self.restarted_at(),
            heartbeat_freq: self.heartbeat_freq,
            active_jobs: self.active_jobs,
            processed_total: self.processed_total,
            concurrency: self.concurrency,
            metadata: Arc::clone(&self.metadata),
            extensions: Arc::clone(&self.extensions),
        }
    }
}

/// How long a worker may be silent that announced so many seconds between its heartbeats.
pub(super) fn patience(freq: Option<f64>) -> i64 {
    let beats = freq.unwrap_or(0.0).min(LONGEST_BEAT) * MISSED_BEATS;
    SILENCE.max((beats * 1e6) as i64)
}

/// Most heartbeats say the same as the one before.
fn merge(known: &mut Arc<Map<String, Value>>, said: &Map<String, Value>) {
    if said.iter().any(|(key, value)| known.get(key) != Some(value)) {
        let mut merged = Map::clone(known);
        merged.extend(said.iter().map(|(key, value)| (key.clone(), value.clone())));
        *known = bounded(merged);
    }
}
