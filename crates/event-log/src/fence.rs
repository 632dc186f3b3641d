//! Whether the log is still the one that was read before.

use proto_events::Timestamp;

use crate::error::LogError;
use crate::log::EventLog;

/// What a reader remembers of the log: enough to recognise it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// When the stream was created.
    pub created: Timestamp,
    /// The last position that was applied; 0 for none.
    pub sequence: u64,
    /// [`LogMessage::fingerprint`](crate::LogMessage::fingerprint) of the message there.
    pub fingerprint: [u8; 16],
}

/// What has become of the log. Only after `Same` may a reader go on from the known position.
///
/// This needs asking because nothing else tells: from a position beyond the end, servers before 2.11 deliver new
/// events under positions that were used before, and later ones skip them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// It holds what was applied, at the same place.
    Same,
    /// It is another log: deleted and made anew.
    Recreated,
    /// It lost its end, and maybe took other events since: restored from an older copy, or damaged.
    RolledBack {
        /// Up to where it may still agree with what was applied; what comes after certainly differs.
        last: u64,
    },
    /// It no longer holds the known position: its beginning was dropped beyond it.
    Trimmed {
        /// The first position that it holds, or will hold.
        first: u64,
    },
}

pub(crate) async fn check(log: &EventLog, known: &Known) -> Result<Fence, LogError> {
    let info = log.info().await?;
    if info.created != known.created {
        return Ok(Fence::Recreated);
    }
    if known.sequence == 0 {
        return Ok(Fence::Same);
    }
    if info.last_sequence < known.sequence {
        return Ok(Fence::RolledBack { last: info.last_sequence });
    }
    if info.first_sequence > known.sequence {
        return Ok(Fence::Trimmed { first: info.first_sequence });
    }
    match log.certain_message(known.sequence).await? {
        Some(message) if message.fingerprint() == known.fingerprint => Ok(Fence::Same),
        Some(_) => Ok(Fence::RolledBack { last: known.sequence - 1 }),
        None => match log.info().await?.first_sequence {
            // It was trimmed between the two questions.
            first if first > known.sequence => Ok(Fence::Trimmed { first }),
            // Nothing may be deleted from within, so this is damage.
            _ => Ok(Fence::RolledBack { last: known.sequence - 1 }),
        },
    }
}
