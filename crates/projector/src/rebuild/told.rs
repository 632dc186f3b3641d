//! A rebuild as it is asked for and told.

use proto_events::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a rebuild does, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RebuildState {
    /// The log is read and folded.
    Running,
    /// The new generation follows the log to its end.
    CatchingUp,
    /// It is compared with the one that serves; or it waits for a person, when `reason` says so.
    Verifying,
    /// It serves.
    Completed,
    /// It does not, and never will.
    Failed,
    /// Somebody stopped it.
    Aborted,
}

impl RebuildState {
    pub(crate) fn is_under_way(self) -> bool {
        matches!(self, Self::Running | Self::CatchingUp | Self::Verifying)
    }
}

/// What the new generation is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The whole log, folded afresh.
    Log,
    /// The generation that served before: this undoes a rebuild.
    Previous,
}

/// A rebuild, as it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RebuildStatus {
    /// Its id.
    pub id: Uuid,
    /// What it does.
    pub state: RebuildState,
    /// Events done: each is half done when it is read.
    pub events_done: u64,
    /// Events in all, estimated until all are read.
    pub events_total: u64,
    /// Events a second, so far.
    pub events_per_second: f64,
    /// Seconds until the log is folded; null while that cannot be told.
    pub eta_seconds: Option<f64>,
    /// Why it ended so, or what it waits for.
    pub reason: Option<String>,
    /// Jobs of the new generation.
    pub jobs: u64,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// Whether the generation that served before had the same records at the same message; null until that is known,
    /// and where they are of different logs.
    pub same_as_before: Option<bool>,
    /// Jobs in which they differed, the first hundred.
    pub differing: Vec<Uuid>,
}

/// Why a rebuild is not begun, or not found, or not to be promoted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// There is no generation to go back to.
    #[error("there are no earlier views to go back to: they are kept for a day after they were replaced")]
    NothingBefore,
    /// The generation before cannot be gone on from.
    #[error(
        "version {found} of the fold made the views before, and this is version {ours}: to go back to them, start the \
         Forebay that made them, which finds them by itself"
    )]
    OtherFold {
        /// The version that made it.
        found: u32,
        /// Ours.
        ours: u32,
    },
    /// One at a time.
    #[error("a rebuild is under way already: wait for it, or abort it")]
    UnderWay,
    /// There is none of that id.
    #[error("there is no rebuild of that id")]
    NotFound,
    /// It does not wait for anybody.
    #[error("the rebuild does not wait to be promoted")]
    NotWaiting,
    /// The disk is too small.
    #[error("a rebuild needs about {need} bytes of disk for a while, and {free} are free: free some space")]
    Disk {
        /// Bytes that it may take.
        need: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// The log or the disk does not answer.
    #[error("{0}")]
    Unavailable(String),
}
