//! What can go wrong with a pass.

use views::ViewError;

use crate::status::Fenced;
use crate::trim::TrimError;

/// Why a pass did not come to its end.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PassError {
    /// It was told to stop.
    #[error("it was aborted")]
    Aborted,
    /// The log is another one now, or was rolled back: start over.
    #[error("the log was replaced or rolled back while it was read: start over")]
    LogChanged,
    /// The log dropped its beginning meanwhile: start over.
    #[error("the log dropped its first messages while it was read: start over")]
    Trimmed,
    /// The log cannot be read.
    #[error("the log cannot be read: {0}")]
    Log(String),
    /// The log cannot be asked, or the views.
    #[error(transparent)]
    Trim(#[from] TrimError),
    /// The views are of another log than the one that is there.
    #[error("the views are not of this log: {0}")]
    Fenced(Fenced),
    /// Somebody else dropped from the log what the views hold.
    #[error(
        "somebody dropped the messages before {first} from the log, and the views still hold what they said: nothing of \
         that is forgotten by itself; `forebay rebuild` makes views of what the log holds and keeps the old ones for a day"
    )]
    Lost {
        /// Where the log begins now.
        first: u64,
    },
    /// Files cannot be read or written.
    #[error(transparent)]
    Views(#[from] ViewError),
    /// The views are of another version of the fold, so that comparing says nothing.
    #[error(
        "version {views} of the fold made the views, and this is version {ours}: make new ones with `forebay rebuild`"
    )]
    OtherFold {
        /// That of the views.
        views: u32,
        /// Ours.
        ours: u32,
    },
    /// A bug.
    #[error("it panicked: {0}")]
    Panicked(String),
}
