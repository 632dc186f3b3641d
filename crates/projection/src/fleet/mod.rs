//! What the log says of workers and of the sources that hear them: which processes there were, which are gone, and when
//! nobody listened.
//!
//! It is the set of the last facts of each worker and each source by their place in the log, bounded as such: whatever
//! the order in which facts are added, and however often, the same log gives the same set, and forgetting the beginning
//! of the log leaves what a shorter log would have given.
//!
//! # Layout
//! - [`FleetFact`]: what one event says
//! - [`Fleet`]: the facts, bounded
//! - [`Gone`], [`Lost`]: which processes are gone (`gone`)
//! - [`Gap`]: when a source did not listen (`gaps`)

mod gaps;
mod gone;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proto_events::{Event, EventType, Position, SourceState, Timestamp, WorkerState, limits};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use gaps::Gap;
pub use gone::{Gone, Lost, Proof};

/// Facts that are kept of one worker or source. A worker that comes and goes all the time loses its older processes.
const FACTS: usize = 32;
/// Workers and sources that are known; anybody who may send can make names up. Those give way of which the log said
/// nothing for longest.
const MEMBERS: usize = 20_000;
/// Characters of a reason.
const REASON: usize = 300;

/// What `worker.state_change` of state `silent` says of it, in its extensions: the last sign of life, by the worker's
/// clock.
pub const HEARD_AT: &str = "heardAt";
/// Likewise: since when all that the worker said would have been heard.
pub const LISTENING_SINCE: &str = "listeningSince";
/// Likewise: whether that process is known to beat while it runs something. One that runs its jobs where it beats, as
/// Celery's solo pool does, is silent for as long as a job takes.
pub const BEATS_WHILE_BUSY: &str = "beatsWhileBusy";

/// What one event of the log says of a worker or a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetFact {
    /// Whose it is.
    pub connection: Uuid,
    /// The worker's or the source's name.
    pub name: Box<str>,
    /// Where it stands.
    pub position: Position,
    /// When it was, by the clock of whoever said so; never later than it was published.
    pub at: Timestamp,
    /// What it says.
    pub what: What,
}

/// What can be said of a worker or a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// A worker showed life, or took its leave.
    Spoke {
        /// What it said.
        word: Word,
        /// Its process.
        pid: Option<i64>,
        /// The logical clock of that.
        clock: Option<i64>,
        /// Jobs that it has run since it came.
        processed: Option<u64>,
        /// Seconds between its heartbeats.
        freq: Option<f64>,
    },
    /// A worker was not heard although it would have been.
    Silent {
        /// The process that was heard last.
        pid: Option<i64>,
        /// When that was, by its own clock.
        heard: Timestamp,
        /// Since when it would have been heard.
        listening: Option<Timestamp>,
        /// Whether it beats while it runs something.
        beats_while_busy: bool,
    },
    /// A source began or ceased to hear its broker.
    Source {
        /// Whether it does.
        connected: bool,
        /// Why.
        reason: Option<Box<str>>,
    },
}

/// What a worker says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// It came.
    Online,
    /// It is there.
    Alive,
    /// It goes, which alone proves nothing: Celery says so whenever it loses its broker.
    Offline,
}

impl FleetFact {
    /// What the event at this place says; `None` where it is about something else.
    pub fn of(connection: Uuid, position: Position, published: Timestamp, event: &Event) -> Option<Self> {
        let (name, what) = match (event.kind, event.worker.as_deref(), event.source.as_deref()) {
            (EventType::WorkerStateChange, Some(worker), _) => {
                let extension = |key: &str| worker.extensions.get(key);
                let time = |key: &str| extension(key).and_then(Value::as_str).and_then(Timestamp::parse);
                let spoke = |word| What::Spoke {
                    word,
                    pid: worker.pid,
                    clock: event.producer.as_ref().and_then(|producer| producer.clock),
                    processed: worker.processed_total,
                    freq: worker.heartbeat_freq.filter(|freq| freq.is_finite() && *freq > 0.0),
                };
                let what = match worker.state {
                    WorkerState::Online => spoke(Word::Online),
                    WorkerState::Heartbeat | WorkerState::Busy | WorkerState::Idle => spoke(Word::Alive),
                    WorkerState::Offline => spoke(Word::Offline),
                    WorkerState::Silent => What::Silent {
                        pid: worker.pid,
                        heard: time(HEARD_AT)?,
                        listening: time(LISTENING_SINCE),
                        beats_while_busy: extension(BEATS_WHILE_BUSY).and_then(Value::as_bool).unwrap_or(false),
                    },
                };
                (&worker.external_id, what)
            }
            (EventType::SourceStateChange, _, Some(source)) => {
                let reason = source.reason.clone().map(|mut reason| {
                    limits::cut(&mut reason, REASON);
                    reason.into()
                });
                (&source.name, What::Source { connected: source.state == SourceState::Connected, reason })
            }
            _ => return None,
        };
        let mut name = name.clone();
        limits::cut(&mut name, limits::WORKER_ID);
        Some(Self { connection, name: name.into(), position, at: event.timestamp.min(published), what })
    }

    fn is_of_source(&self) -> bool {
        matches!(self.what, What::Source { .. })
    }
}

/// A worker that is there, for all that the log says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Present<'a> {
    /// Whose it is.
    pub connection: Uuid,
    /// Its name.
    pub worker: &'a str,
    /// When it said so, by its own clock.
    pub at: Timestamp,
    /// The process that did.
    pub pid: Option<i64>,
    /// Seconds between its heartbeats, where it announced any.
    pub freq: Option<f64>,
}

type Key = (Uuid, Box<str>);

/// All that is known of workers and sources.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    workers: Members,
    sources: Members,
}

/// Those of one kind.
#[derive(Clone, Debug, Default)]
struct Members {
    known: HashMap<Key, Member>,
    /// By the place of the last fact of each.
    by_last: BTreeSet<(Position, Key)>,
}

/// One of them.
#[derive(Clone, Debug, Default)]
struct Member {
    facts: BTreeMap<Position, FleetFact>,
    gone: Option<Gone>,
}

impl Fleet {
    /// Adds a fact. Gives the places of those that are not kept any more, the new one perhaps among them.
    pub fn add(&mut self, fact: FleetFact) -> Vec<Position> {
        if fact.is_of_source() { self.sources.add(fact) } else { self.workers.add(fact) }
    }

    /// Adds all that the other one knows.
    pub fn absorb(&mut self, other: Self) {
        for fact in other.into_facts() {
            self.add(fact);
        }
    }

    /// Forgets what the log said before this message. Gives the places of what is forgotten.
    pub fn forget(&mut self, sequence: u64) -> Vec<Position> {
        let mut left = Self::default();
        let mut forgotten = Vec::new();
        for fact in std::mem::take(self).into_facts() {
            if fact.position.sequence < sequence {
                forgotten.push(fact.position);
            } else {
                left.add(fact);
            }
        }
        *self = left;
        forgotten
    }

    /// All facts, in no order.
    pub fn facts(&self) -> impl Iterator<Item = &FleetFact> {
        let members = self.workers.known.values().chain(self.sources.known.values());
        members.flat_map(|member| member.facts.values())
    }

    fn into_facts(self) -> impl Iterator<Item = FleetFact> {
        let members = self.workers.known.into_values().chain(self.sources.known.into_values());
        members.flat_map(|member| member.facts.into_values())
    }

    /// Whether it knows nothing.
    pub fn is_empty(&self) -> bool {
        self.workers.known.is_empty() && self.sources.known.is_empty()
    }

    /// What is gone of a worker; `None` where nothing is.
    pub fn gone(&self, connection: Uuid, worker: &str) -> Option<&Gone> {
        self.workers.get(connection, worker)?.gone.as_ref()
    }

    /// All workers of which a process is gone, by connection and name.
    pub fn all_gone(&self) -> impl Iterator<Item = ((Uuid, &str), &Gone)> {
        self.workers.known.iter().filter_map(|(key, member)| Some(((key.0, &*key.1), member.gone.as_ref()?)))
    }

    /// The workers whose last word was that they are there, and of whose silence nothing is known.
    pub fn present(&self) -> impl Iterator<Item = Present<'_>> {
        self.workers.known.iter().filter_map(|(key, member)| {
            let spoken = member.facts.values().filter(|fact| matches!(fact.what, What::Spoke { .. }));
            let last = spoken.max_by_key(|fact| (fact.at, fact.position))?;
            let What::Spoke { word: Word::Online | Word::Alive, pid, freq, .. } = last.what else { return None };
            let is_silent = member.gone.as_ref().is_some_and(|gone| gone.silence().is_some());
            (!is_silent).then_some(Present { connection: key.0, worker: &key.1, at: last.at, pid, freq })
        })
    }

    /// When each source did not listen, the latest last: connection and name, with its gaps.
    pub fn gaps(&self) -> impl Iterator<Item = ((Uuid, &str), Vec<Gap>)> {
        self.sources.known.iter().map(|(key, member)| ((key.0, &*key.1), gaps::of(member.facts.values())))
    }
}

impl Members {
    fn get(&self, connection: Uuid, name: &str) -> Option<&Member> {
        self.known.get(&(connection, Box::from(name)))
    }

    fn add(&mut self, fact: FleetFact) -> Vec<Position> {
        let key = (fact.connection, fact.name.clone());
        let member = self.known.entry(key.clone()).or_default();
        let before = member.last();
        let mut left_out = Vec::new();
        member.facts.insert(fact.position, fact);
        if member.facts.len() > FACTS {
            left_out.extend(member.facts.pop_first().map(|(position, _)| position));
        }
        member.gone = gone::of(member.facts.values());
        let last = member.last();
        if before != last {
            if let Some(before) = before {
                self.by_last.remove(&(before, key.clone()));
            }
            self.by_last.extend(last.map(|last| (last, key)));
        }
        if self.known.len() > MEMBERS
            && let Some((_, key)) = self.by_last.pop_first()
            && let Some(member) = self.known.remove(&key)
        {
            left_out.extend(member.facts.into_keys());
        }
        left_out
    }
}

impl Member {
    fn last(&self) -> Option<Position> {
        self.facts.last_key_value().map(|(position, _)| *position)
    }
}
