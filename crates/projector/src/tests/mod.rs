//! Tests with a real nats-server.

mod crash;
mod fence;
mod follow;
mod frames;
mod live;
mod rebuild;
mod scrub;
mod support;
mod trim;
mod upgrade;
