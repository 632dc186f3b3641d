//! The loop of Forebay: it follows the log from the checkpoint, folds the events job by job, and puts the records into
//! the views, where readers see them at once.
//!
//! # Layout
//! - [`start`] and [`Handle`]: start it, watch it, stop it ([`handle`])
//! - [`Rebuilds`]: a new generation from the whole log, beside the one that serves ([`rebuild`], [`pass`])
//! - [`Verification`]: the views compared with a fresh replay ([`verify`])
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
mod pass;
mod poison;
mod rebuild;
mod status;
#[cfg(test)]
mod tests;
mod verify;

pub use handle::{Handle, start};
pub use pass::PassError;
pub use rebuild::{From, RebuildError, RebuildState, RebuildStatus, Rebuilds};
pub use status::{FatalReason, Fenced, Phase, Status};
pub use verify::{
    Difference, FieldDifference, Verdict, Verification, VerificationState, VerificationStatus, Verifications,
};
