//! The event contract of Forebay: what a message on the log may hold, and nothing about how it got there.
//!
//! # Layout
//! - [`Event`] and its payloads: one fact about a job, a worker, a queue, a source or the log itself
//!   ([`event`])
//! - [`Timestamp`]: UTC microseconds, RFC 3339 on the wire ([`time`])
//! - [`job_id`], [`worker_id`], [`queue_id`], [`EventId`]: identities as pure functions of content ([`identity`])
//! - [`encode`], [`decode`]: one event or an array of events per message, each decoded on its own ([`wire`]), older versions included ([`upcast`])
//! - [`limits`]: how long a text may be, and how a longer one is cut
//!
//! No I/O, no clock, no randomness: everything here is a function of its arguments.

pub mod about;
pub mod event;
pub mod identity;
pub mod limits;
#[cfg(feature = "schema")]
pub mod schema;
pub mod time;
mod upcast;
pub mod wire;

pub use about::{Queue, Source, SourceState, Trim, Worker, WorkerState};
pub use event::{CeleryFacts, CeleryKind, Event, EventType, Framework, Job, JobState, Origin, Producer};
pub use identity::{EventId, Position, job_id, queue_id, worker_id};
pub use time::Timestamp;
pub use wire::{DecodeError, VERSION, decode, encode};
