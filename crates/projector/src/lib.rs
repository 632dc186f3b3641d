//! The loop of Forebay: it follows the log from the checkpoint, folds the events job by job, and puts the records into
//! the views, where readers see them at once.
//!
//! # Layout
//! - [`start`] and [`Handle`]: start it, watch it, stop it ([`handle`])
//! - [`Rebuilds`]: a new generation from the whole log, beside the one that serves ([`rebuild`], [`pass`])
//! - [`Upgrade`]: views of another version of the fold, and how far their successors are ([`upgrade`])
//! - [`prepare`]: a generation for the next start, made beside the process that serves ([`mod@prepare`])
//! - [`Verification`]: the views compared with a fresh replay ([`verify`])
//! - [`Scrub`]: the same now and then, unnoticed ([`scrub`], [`findings`])
//! - [`Status`]: how far it is and what is the matter ([`status`])
//! - [`Handle::trim`]: log and views forget their beginning ([`trim`]); what the log says of that ([`cut`]);
//!   what it says of a part of it, read again ([`part`])
//! - [`Retention`]: when it is made to, by age and by room ([`retention`])
//! - [`Frames`]: what happened just now, for those who watch ([`frames`])
//! - [`Live`]: workers and queues as they are now, which is no fold of the log ([`live`])
//! - [`follow`]: the asynchronous half, which reads the log and guards its identity
//! - [`apply`]: the blocking half on a thread of its own, which folds and writes
//!
//! # Invariants
//! - A message is applied whole and in the order of the log, and only to views of that very log.
//! - Nothing that cannot be read stops the loop; anything that would make the views wrong stops it for good, loudly.

mod apply;
mod cut;
mod findings;
mod follow;
mod frames;
mod handle;
mod live;
mod part;
mod pass;
mod poison;
mod prepare;
mod rebuild;
mod retention;
mod scrub;
mod status;
#[cfg(test)]
mod tests;
mod trim;
mod upgrade;
mod verify;

pub use frames::{FRAMES_KEPT, Frames, Happening, JobChange, Overtaken, Piece, QueueCount, WorkerSeen};
pub use handle::{Handle, start, start_frozen, start_idle};
pub use live::{IsBehind, Listed, Live, LiveChange, LiveQueue, LiveSettings, LiveState, LiveWorker, OnChange};
pub use pass::PassError;
pub use prepare::{Prepared, Preparing, prepare};
pub use rebuild::{From, RebuildError, RebuildState, RebuildStatus, Rebuilds};
pub use retention::{Cause, DiskStatus, LastTrim, Most, Places, Policy, Retention, RetentionState, RetentionStatus};
pub use scrub::{Scrub, ScrubResult, ScrubState, ScrubStatus};
pub use status::{FatalReason, Fenced, Phase, Status};
pub use trim::{TrimError, Trimmed};
pub use upgrade::Upgrade;
pub use verify::{
    Difference, FieldDifference, Verdict, Verification, VerificationState, VerificationStatus, Verifications,
};
