//! The log against real nats-servers: kills, losses and foreign hands included.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod append;
mod batcher;
mod embedded;
mod external;
mod fence;
mod full;
mod kv;
mod reader;
mod spool;
mod status;
mod support;
mod trimming;
