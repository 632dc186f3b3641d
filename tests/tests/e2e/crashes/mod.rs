//! What became of the promises after a crash.
//!
//! # Layout
//! - [`ledger`]: what was written, what was acknowledged of it, and so what must be read
//! - [`failpoints`]: the process dies at every named step in turn
//! - [`trims`]: the same for the steps of a trim
//! - [`outages`]: everything around a source goes away in turn
//! - [`spool`]: it dies while its log is away
//! - [`faults`]: it, its log and its disk suffer at random moments, round after round, while others write and read
//! - [`world`], [`people`]: what suffers, and who writes and reads

mod failpoints;
mod faults;
mod ledger;
mod outages;
mod people;
mod spool;
mod trims;
mod world;

pub(crate) use world::{copy, verify, wait_until_whole};
