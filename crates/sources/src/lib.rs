//! Foreign formats into the event contract: Celery's event stream, and the HTTP batches of the SDK.
//!
//! # Layout
//! - [`celery`]: kombu envelopes and Celery's raw events, pure
//! - [`sdk`]: the body of `POST /api/ingest`, pure
//! - [`lines`]: one line of JSON in any of these shapes, for reading recordings
//! - [`backend`]: asking Celery's result backend for ends that no event told
//! - [`redis`]: listening to Celery's events on Redis, into the log
//! - [`parse_source`]: what the operator writes to name a broker; [`SourceStatus`]: what a source tells of itself
//!
//! What a sender says and we do not understand is kept in `extensions`; what cannot be an event at all is refused with
//! a reason. Nothing here panics whatever it is given.

pub mod backend;
pub mod celery;
mod frameworks;
mod json;
pub mod lines;
pub mod redis;
pub mod sdk;
mod spec;
mod status;

pub use spec::{BrokerUrl, SourceSpec, SpecError, parse_source, parse_sources};
pub use status::{SourceState, SourceStatus};
