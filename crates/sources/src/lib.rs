//! Foreign formats into the event contract: Celery's event stream, and the HTTP batches of the SDK.
//!
//! # Layout
//! - [`celery`]: kombu envelopes and Celery's raw events, pure
//! - [`sdk`]: the body of `POST /api/ingest`, pure
//! - [`lines`]: one line of JSON in any of these shapes, for reading recordings
//! - [`backend`]: asking Celery's result backend for ends that no event told
//! - [`parse_source`]: what the operator writes to name a broker
//! - [`SourceConfig::spawn`] starts a source of any kind, [`SourceHandle`] watches and stops it, [`SourceStatus`] is what it
//!   tells of itself
//! - [`redis`], [`amqp`]: listening to Celery's events on a kind of broker, into the log
//! - `hearing`: what is done with a message of any broker; `enabling`: which workers are asked for their events
//! - `heartbeats`: the latest of each worker; `depths`: of each queue; both beside the log
//! - [`Redaction`]: what is kept out of the log
//! - [`Fleet`]: all sources of a server, those that were added while it ran included ([`fleet`])
//!
//! What a sender says and we do not understand is kept in `extensions`; what cannot be an event at all is refused with
//! a reason. Nothing here panics whatever it is given.

pub mod amqp;
pub mod backend;
pub mod celery;
mod depths;
mod enabling;
pub mod fleet;
mod frameworks;
mod hearing;
mod heartbeats;
mod json;
pub mod lines;
mod redact;
pub mod redis;
pub mod sdk;
mod source;
mod spec;
mod status;

pub use fleet::{Fleet, FleetError, Habits, ListedSource, Origin};
pub use redact::{Pattern, PatternError, REDACTED, Redaction};
pub use source::{SourceConfig, SourceHandle, was_away};
pub use spec::{BackendSpec, BrokerUrl, SourceSpec, SpecError, parse_source, parse_sources};
pub use status::{SourceState, SourceStatus, SpoolStatus};
