//! The durable log of Forebay, on NATS `JetStream`: the truth that every view is a fold of.
//!
//! # Layout
//! - [`EventLog`]: opened once, cloned freely; appends, point reads, facts about the log ([`log`])
//! - [`Batcher`]: many events of a broker into few messages, never dropped while the log is away ([`batcher`])
//! - [`Outlet`]: where sources write, log or [`Spool`]: what the log does not take now, on disk ([`outlet`], [`spool`])
//! - [`Reader`]: the messages in order from a position, for ever ([`reader`])
//! - [`Known`], [`Fence`]: whether the log is still the one that was read before ([`fence`])
//! - [`Statuses`]: the present state of workers and queues, followed for ever ([`status`])
//! - [`Kv`]: the bucket of connections and settings ([`kv`])
//! - [`AuditRecord`]: what people changed ([`audit`])
//! - [`Imported`]: messages of another log, which keep the time at which they were published there ([`imported`])
//! - [`run_nats_helper`] and [`ServerConfig::Embedded`]: the nats-server that lives and dies with us ([`embedded`])
//!
//! # Invariants
//! - What was acknowledged is in the log; what was not may be, and may be sent again.
//! - A reader delivers each position at most once, in order, and never one at or below where it was told to start.
//! - A log that was deleted, restored or rewound is never followed in silence: every interruption of a reader is
//!   reported, and the fence tells which log it is now.

pub mod audit;
pub mod batcher;
mod config;
mod connect;
pub mod embedded;
pub mod error;
pub mod fence;
pub mod imported;
pub mod kv;
pub mod log;
pub mod message;
pub mod outlet;
pub mod reader;
pub mod spool;
pub mod status;
mod streams;
#[cfg(feature = "testing")]
pub mod testing;
mod trimming;
mod version;

pub use audit::AuditRecord;
pub use batcher::{Batcher, BatcherStats, Receipts};
pub use config::ServerConfig;
pub use embedded::run_nats_helper;
pub use error::{Anomaly, AppendError, KvError, LogError, OpenError, ReadError};
pub use fence::{Fence, Known};
pub use imported::Imported;
pub use kv::{Kv, KvChange, KvEntry, KvWatch};
pub use log::{Appended, EventLog, LogInfo};
pub use message::LogMessage;
pub use outlet::Outlet;
pub use reader::{ReadBatch, Reader};
pub use spool::{Spool, SpoolDepth, SpoolError};
pub use status::{Status, StatusChange, Statuses};
