//! Tests with a real nats-server.

mod crash;
mod fence;
mod follow;
mod live;
mod rebuild;
mod scrub;
mod support;
mod trim;
mod upgrade;
