//! Tests with a real nats-server.

mod crash;
mod fence;
mod follow;
mod rebuild;
mod support;
