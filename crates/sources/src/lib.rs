//! Foreign formats into the event contract: Celery's event stream, and the HTTP batches of the SDK.
//!
//! # Layout
//! - [`celery`]: kombu envelopes and Celery's raw events, pure
//! - [`sdk`]: the body of `POST /api/ingest`, pure
//! - [`lines`]: one line of JSON in any of these shapes, for reading recordings
//!
//! What a sender says and we do not understand is kept in `extensions`; what cannot be an event at all is refused with
//! a reason. Nothing here panics whatever it is given.

pub mod celery;
mod json;
pub mod lines;
pub mod sdk;
