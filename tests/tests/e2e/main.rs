//! The main job, end to end: the real binary, a real nats-server, a real Redis, real Celery workers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backup;
mod compare;
mod crashes;
mod day;
mod demo;
mod described;
mod documented;
mod lost;
mod map;
mod matrix;
mod reconcile;
mod retention;
mod sdk;
mod silence;
mod stream;
mod upgrade;
