//! What the end-to-end tests and the benchmarks share: the real binary, real servers, real workers.
//!
//! # Layout
//! - [`Forebay`]: the binary under test with a data directory of its own, and [`Api`], its client
//! - [`Redis`], [`RabbitMq`]: a broker on a free port
//! - [`Shop`]: Celery workers of the app in `apps/shop.py`, and what Celery itself says became of the jobs
//! - [`Flood`]: many jobs' events in Celery's wire format
//! - [`Nginx`]: a reverse proxy in front of the binary
//! - [`Flower`]: what Forebay is compared with
//! - [`Webhook`]: a receiver of notices, which checks their signatures
//! - [`Receiver`]: a receiver of OpenTelemetry
//! - [`Process`]: a program that is killed when dropped and whose output is shown when the test fails
//! - [`wait_for`]: a condition with a deadline; nothing here sleeps for a fixed time
//!
//! Everything panics where a test should fail.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod flood;
mod flower;
mod forebay;
mod nginx;
mod otlp;
mod process;
mod rabbitmq;
mod redis;
mod shop;
mod wait;
mod webhook;

pub use api::{Answer, Api};
pub use flood::{Flood, FloodJob};
pub use flower::Flower;
pub use forebay::{Forebay, Options, forebay_binary};
pub use nginx::Nginx;
pub use otlp::{Receiver, Sent};
pub use process::{Process, descriptors, memory, tool};
pub use rabbitmq::RabbitMq;
pub use redis::{Publisher, Redis};
pub use shop::{Run, Shop, Truth, python};
pub use wait::{wait_for, wait_or_show};
pub use webhook::{Received, WEBHOOK_SECRET, Webhook};

use std::str::FromStr;

use uuid::Uuid;

/// The connection of the documented example, which the tests use as the default one.
pub const CONNECTION: Uuid = Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0000);
/// Its API key.
pub const API_KEY: &str = "sk_test_0123456789abcdef";
/// The dashboard's password.
pub const PASSWORD: &str = "correct horse battery staple";

/// The number in a variable such as `SOAK_MINUTES`, which makes a test longer or shorter than it usually is.
pub fn setting<T: FromStr>(name: &str, usual: T) -> T {
    let read = |text: String| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text}"));
    std::env::var(name).map_or(usual, read)
}

/// Forebay's id of a job of the default connection, computed here so that the tests do not believe the binary.
pub fn job_id(external_id: &str) -> String {
    Uuid::new_v5(&CONNECTION, external_id.as_bytes()).to_string()
}
