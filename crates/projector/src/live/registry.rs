//! The registry: pure, with the time passed in. All times are those of the server that stores what is said.

use std::collections::{HashMap, HashSet};

use event_log::Status;
use projection::fleet::Fleet;
use proto_events::{Event, EventType, Framework, Queue, SourceState, Timestamp, WorkerState, limits};
use uuid::Uuid;

use super::witness::{self, Finding};
use super::worker::{Deaf, Sign};
use super::{Listed, LiveChange, LiveQueue, LiveState, LiveWorker, queue, worker};

/// Workers and queues that are shown. Anybody who may send can make names up.
const WORKERS: usize = 2_000;
const QUEUES: usize = 5_000;
/// Sources that are remembered; there is one for each broker.
const SOURCES: usize = 1_000;

const SECOND: i64 = 1_000_000;
/// A source takes up to ten seconds to find out that its broker is gone without a word, and only then says so. Until it
/// could have, nobody's silence proves anything.
const NOTICE: i64 = 12 * SECOND;
/// The clocks of two machines may differ so much before one of them has asked the other.
const SKEW: i64 = 60 * SECOND;
/// What is older is no news, and what comes so soon after something belongs to it.
const NEWS: i64 = 6 * SECOND;
/// Where all places are taken by who is there, the next look is after this.
const LOOK: i64 = SECOND;

type Name = (Uuid, String);

/// A source of ours, as the log tells of it.
#[derive(Debug)]
struct Source {
    is_connected: bool,
    since: Timestamp,
}

/// A place is taken from the one that was heard least lately, if it may go.
#[derive(Debug, Default)]
struct Room {
    /// When somebody was last left out or put out.
    crowded: Option<Timestamp>,
    /// Until then nobody may go.
    full_until: Option<Timestamp>,
}

impl Room {
    /// Makes room in a full map for what was stored then; `false` where there is none.
    fn make<T>(
        &mut self,
        map: &mut HashMap<Name, T>,
        most: usize,
        now: Timestamp,
        stored: Timestamp,
        may_go: impl Fn(&T) -> bool,
        last: impl Fn(&T) -> Timestamp,
    ) -> bool {
        if map.len() < most {
            return true;
        }
        self.crowded = Some(now);
        if self.full_until.is_some_and(|until| now < until) {
            return false;
        }
        let oldest = map.iter().filter(|(_, known)| may_go(known)).min_by_key(|(_, known)| last(known));
        let Some((name, _)) = oldest.filter(|(_, known)| last(known) < stored) else {
            self.full_until = Some(Timestamp(now.micros() + LOOK));
            return false;
        };
        let name = name.clone();
        map.remove(&name);
        true
    }

    fn is_crowded(&self, now: Timestamp, within: i64) -> bool {
        self.crowded.is_some_and(|at| now.micros() - at.micros() <= within)
    }
}

/// What is known of all workers and queues.
#[derive(Debug)]
pub(super) struct Registry {
    workers: HashMap<Name, worker::Known>,
    queues: HashMap<Name, queue::Known>,
    sources: HashMap<Name, Source>,
    /// Sources that are gone for good, and whose last words may still come.
    gone_sources: HashSet<Name>,
    /// For so long a worker that is not there, or a queue that nobody describes, is remembered.
    forget_after: i64,
    /// Since when the statuses are followed; `None` while they are not.
    hearing: Option<Timestamp>,
    /// The last interruption.
    deaf: Option<Deaf>,
    /// Until then a source of ours was behind, and may have dropped what workers said.
    behind: Option<Timestamp>,
    worker_room: Room,
    queue_room: Room,
}

impl Registry {
    pub(super) fn new(forget_after: i64) -> Self {
        Self {
            workers: HashMap::new(),
            queues: HashMap::new(),
            sources: HashMap::new(),
            gone_sources: HashSet::new(),
            forget_after,
            hearing: None,
            deaf: None,
            behind: None,
            worker_room: Room::default(),
            queue_room: Room::default(),
        }
    }

    pub(super) fn set_forget_after(&mut self, forget_after: i64) {
        self.forget_after = forget_after;
    }

    /// The statuses are followed from now on.
    pub(super) fn begun(&mut self, now: Timestamp) {
        self.hearing = Some(now);
        if let Some(deaf) = &mut self.deaf {
            deaf.to.get_or_insert(now);
        }
    }

    /// The statuses are not followed any more.
    pub(super) fn interrupted(&mut self, now: Timestamp) {
        if self.hearing.take().is_some() {
            // Interruptions in quick succession are one: in between nobody had the time to be heard.
            let is_same = |deaf: &Deaf| deaf.to.is_some_and(|to| now.micros() - to.micros() <= NEWS);
            let from = self.deaf.filter(is_same).map_or(now, |deaf| deaf.from);
            self.deaf = Some(Deaf { from, to: None });
        }
    }

    /// What workers say may not be heard in time just now.
    pub(super) fn is_behind(&mut self, now: Timestamp) {
        self.behind = Some(now);
    }

    /// There is a source that is to be heard of. Until it says that it is connected, it is not; what it said in an
    /// earlier life does not count.
    pub(super) fn expect_source(&mut self, connection: Uuid, name: &str, now: Timestamp) {
        let source = Source { is_connected: false, since: Timestamp(now.micros() - SKEW) };
        self.gone_sources.remove(&(connection, name.to_owned()));
        self.sources.entry((connection, name.to_owned())).or_insert(source);
    }

    /// There is no such source any more: that it is not heard does not make its connection's workers unheard.
    pub(super) fn forget_source(&mut self, connection: Uuid, name: &str) {
        let name = (connection, name.to_owned());
        self.sources.remove(&name);
        if self.gone_sources.len() < SOURCES {
            self.gone_sources.insert(name);
        }
    }

    /// Takes in what a worker or a queue says of its present state.
    pub(super) fn status(&mut self, status: &Status, now: Timestamp) -> Vec<LiveChange> {
        if status.connection.is_nil() {
            return Vec::new();
        }
        let events = proto_events::decode(&status.payload).unwrap_or_default();
        // One thing, one event; what else there may be is of no sender of ours.
        let Some(Ok(event)) = events.into_iter().next() else { return Vec::new() };
        self.event(status.connection, status.stored, event, now)
    }

    /// Takes in an event, from wherever it comes.
    pub(super) fn event(
        &mut self,
        connection: Uuid,
        stored: Timestamp,
        mut event: Event,
        now: Timestamp,
    ) -> Vec<LiveChange> {
        if now.micros() - stored.micros() > self.forget_after {
            return Vec::new();
        }
        limits::enforce(&mut event);
        match (event.kind, &event.worker, &event.queue, &event.source) {
            (EventType::WorkerStateChange, Some(_), ..) => self.worker(connection, stored, &event, now),
            (EventType::QueueSnapshot, _, Some(queue), _) => {
                self.queue(connection, stored, queue, event.framework, now).into_iter().collect()
            }
            (EventType::SourceStateChange, .., Some(source)) => {
                self.source(connection, &source.name, source.state, stored);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn worker(&mut self, connection: Uuid, stored: Timestamp, event: &Event, now: Timestamp) -> Vec<LiveChange> {
        let Some(worker) = event.worker.as_deref().filter(|worker| worker.state != WorkerState::Silent) else {
            return Vec::new();
        };
        let clock = event.producer.as_ref().and_then(|producer| producer.clock);
        let said = event.timestamp.min(stored);
        let sign = Sign { worker, framework: event.framework, said, stored, clock };
        let name = (connection, worker.external_id.clone());
        let deaf = self.deaf;
        let is_offline = |known: &worker::Known| known.state(now, deaf) == LiveState::Offline;
        let known = if let Some(known) = self.workers.get_mut(&name) {
            known
        } else {
            let last = worker::Known::last_sign;
            if !self.worker_room.make(&mut self.workers, WORKERS, now, stored, is_offline, last) {
                return Vec::new();
            }
            self.workers.entry(name.clone()).or_insert_with(|| worker::Known::new(connection, &sign))
        };
        let is_heartbeat = known.take(&sign);
        let mut changes = Vec::new();
        changes.extend(flipped(&name, known, now, deaf));
        if is_heartbeat && !is_offline(known) && known.may_tell(now) {
            let (hostname, active_jobs) = (known.hostname().to_owned(), known.active_jobs());
            let (id, state) = (known.id(), known.state(now, deaf));
            changes.push(LiveChange::WorkerHeartbeat { connection, id, hostname, state, active_jobs });
        }
        changes
    }

    fn queue(
        &mut self,
        connection: Uuid,
        stored: Timestamp,
        queue: &Queue,
        framework: Framework,
        now: Timestamp,
    ) -> Option<LiveChange> {
        let name = (connection, queue.name.clone());
        if let Some(known) = self.queues.get_mut(&name) {
            if !known.take(queue, framework, stored) {
                return None;
            }
        } else {
            let last = queue::Known::described;
            if !self.queue_room.make(&mut self.queues, QUEUES, now, stored, |_| true, last) {
                return None;
            }
            self.queues.insert(name, queue::Known::new(connection, queue, framework, stored));
        }
        let Queue { name, depth, consumers, .. } = queue;
        let change = LiveChange::Queue { connection, name: name.clone(), depth: *depth, consumers: *consumers };
        (now.micros() - stored.micros() <= NEWS).then_some(change)
    }

    fn source(&mut self, connection: Uuid, name: &str, state: SourceState, stored: Timestamp) {
        let name = (connection, name.to_owned());
        // Another node may have one of the same name, and says so by being connected.
        if state == SourceState::Connected {
            self.gone_sources.remove(&name);
        }
        if self.gone_sources.contains(&name) {
            return;
        }
        let news = Source { is_connected: state == SourceState::Connected, since: stored };
        let is_newer = match self.sources.get(&name) {
            Some(known) => known.since <= stored,
            None => self.sources.len() < SOURCES,
        };
        if is_newer {
            self.sources.insert(name, news);
        }
    }

    /// Time has passed: who fell silent is told, and who was gone for long is forgotten.
    pub(super) fn tick(&mut self, now: Timestamp) -> Vec<LiveChange> {
        let (deaf, forget_after) = (self.deaf, self.forget_after);
        let is_old = |last: Timestamp| now.micros() - last.micros() > forget_after;
        let mut changes = Vec::new();
        self.workers.retain(|name, known| {
            changes.extend(flipped(name, known, now, deaf));
            known.told_online || !is_old(known.last_sign())
        });
        self.queues.retain(|_, known| !is_old(known.described()));
        changes
    }

    pub(super) fn workers(&self, now: Timestamp) -> Listed<LiveWorker> {
        let is_old = |known: &worker::Known| now.micros() - known.last_sign().micros() > self.forget_after;
        let known = self.workers.iter();
        let rows = known.map(|((connection, name), known)| (known, known.row(*connection, name, now, self.deaf)));
        let rows = rows.filter(|(known, row)| row.state != LiveState::Offline || !is_old(known));
        let rows = rows.map(|(_, row)| row).collect();
        Listed { rows, truncated: self.worker_room.is_crowded(now, self.forget_after) }
    }

    pub(super) fn queues(&self, now: Timestamp) -> Listed<LiveQueue> {
        let known = self.queues.iter();
        let rows = known.map(|((connection, name), known)| known.row(*connection, name, now)).collect();
        Listed { rows, truncated: self.queue_room.is_crowded(now, self.forget_after) }
    }

    /// What was found out about workers here and is not in the log, as events for it. Silence counts only where `silence`
    /// says so.
    pub(super) fn findings(&self, fleet: &Fleet, now: Timestamp, silence: bool) -> Vec<Finding> {
        let hearing = self.hearing_since();
        let mut findings = Vec::new();
        for (name, known) in &self.workers {
            let listening = hearing(name.0).filter(|_| silence);
            let listening = listening.filter(|since| known.is_to_beat() && known.fell_silent(now, *since, NOTICE));
            witness::of_worker(name, known, fleet.gone(name.0, &name.1), listening, now, &mut findings);
        }
        // Of those who are not here nothing was heard since the start. There may be more of them than there is room for.
        if !self.worker_room.is_crowded(now, self.forget_after) {
            let absent = fleet.present().filter(|worker| {
                let since = hearing(worker.connection).filter(|_| silence && worker.freq.is_some());
                let more = worker::patience(worker.freq) + NOTICE;
                let is_silent = since.is_some_and(|since| now.micros() - since.micros() > more);
                is_silent && !self.workers.contains_key(&(worker.connection, worker.worker.to_owned()))
            });
            findings.extend(absent.map(|worker| witness::of_absent(&worker, hearing(worker.connection), now)));
        }
        findings
    }

    /// Since when all that a connection's workers say would be heard; `None` where it may not be, and where no source of
    /// ours listens: who reports by itself may be cut off from us alone.
    fn hearing_since(&self) -> impl Fn(Uuid) -> Option<Timestamp> {
        let mut sources: HashMap<Uuid, Option<Timestamp>> = HashMap::new();
        for ((connection, _), source) in &self.sources {
            let since = sources.entry(*connection).or_insert(Some(source.since));
            *since = since.filter(|_| source.is_connected).map(|since| since.max(source.since));
        }
        let (hearing, behind) = (self.hearing, self.behind);
        move |connection| {
            let of_sources = sources.get(&connection).copied().flatten();
            Some(hearing?.max(of_sources?).max(behind.unwrap_or_default()))
        }
    }
}

/// The change between online and offline that the listeners have not been told of.
fn flipped(name: &Name, known: &mut worker::Known, now: Timestamp, deaf: Option<Deaf>) -> Option<LiveChange> {
    let state = known.state(now, deaf);
    let is_online = state != LiveState::Offline;
    if is_online == known.told_online {
        return None;
    }
    known.told_online = is_online;
    let (hostname, active_jobs) = (known.hostname().to_owned(), known.active_jobs());
    let (connection, id) = (name.0, known.id());
    Some(LiveChange::WorkerState { connection, id, hostname, state, active_jobs })
}
