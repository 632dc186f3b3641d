//! The loop of Forebay: it follows the log from the checkpoint, folds the events job by job, and puts the records into
//! the views, where readers see them at once.
//!
//! # Layout
//! - [`start`] and [`Handle`]: start it, watch it, stop it ([`handle`])
//! - [`Status`]: how far it is and what is the matter ([`status`])
//! - [`follow`]: the asynchronous half, which reads the log and guards its identity
//! - [`apply`]: the blocking half on a thread of its own, which folds and writes
//!
//! # Invariants
//! - A message is applied whole and in the order of the log, and only to views of that very log.
//! - Nothing that cannot be read stops the loop; anything that would make the views wrong stops it for good, loudly.

mod apply;
mod follow;
mod handle;
mod status;
#[cfg(test)]
mod tests;

pub use handle::{Handle, start};
pub use status::{FatalReason, Fenced, Phase, Quarantined, Status};
