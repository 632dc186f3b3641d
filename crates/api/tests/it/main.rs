//! The API over HTTP, with a real nats-server behind it.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test says in its name what it shows, and panics where that fails"
)]

mod auth;
mod backup;
mod conformance;
mod connections;
mod consistency;
mod evidence;
mod flower;
mod harness;
mod health;
mod hostile;
mod ingest;
mod jobs;
mod listed;
mod maintenance;
mod metrics;
mod page;
mod queues;
mod signs;
mod sources;
mod spec;
mod stream;
mod workers;
