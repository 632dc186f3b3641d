//! Celery's event stream: kombu envelopes, and raw events into the event contract.
//!
//! Timestamps are UTC epoch seconds whatever `utcoffset` says, so that field is dropped. `args`, `kwargs` and `result`
//! are Python's display texts, cut by the worker: texts, never data.

mod envelope;
mod normalise;

pub use envelope::{EnvelopeError, unwrap_envelope};
pub use normalise::{Message, Normaliser, Refused};
