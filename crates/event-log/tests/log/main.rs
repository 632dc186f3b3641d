//! The log against real nats-servers: kills, losses and foreign hands included.

mod append;
mod batcher;
mod embedded;
mod external;
mod fence;
mod kv;
mod reader;
mod support;
