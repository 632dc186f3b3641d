//! Dropping the beginning of the log, and finding where that beginning ends.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{PurgeErrorKind, RawMessageErrorKind};
use proto_events::Timestamp;

use crate::error::LogError;
use crate::log::EventLog;
use crate::message;

/// Any subject: the stream takes no others than ours.
const ANY: &str = ">";

impl EventLog {
    /// Drops all messages below this position and returns how many there were. What comes next still gets the position
    /// after the last one, even when nothing is left. A reader that is past the cut notices nothing; one that is not
    /// yet there is told of a [`Hole`](crate::Anomaly::Hole) once and goes on behind it.
    pub async fn purge_before(&self, sequence: u64) -> Result<u64, LogError> {
        let info = self.info().await?;
        // Beyond its end a purge would move the end too.
        let sequence = sequence.min(info.last_sequence + 1);
        if sequence <= info.first_sequence {
            return Ok(0);
        }
        match Box::pin(self.jobs().purge().sequence(sequence).into_future()).await {
            Ok(purged) => Ok(purged.purged),
            Err(error) => Err(match error.kind() {
                PurgeErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    LogError::Missing
                }
                PurgeErrorKind::JetStream(error) if self.purge_denied().await => {
                    LogError::TrimRefused { reason: error.to_string() }
                }
                _ => LogError::Unavailable { reason: error.to_string() },
            }),
        }
    }

    /// The first position that the log took at this time or later; `None` when there is none yet. Of messages whose
    /// times stand out of order, because the servers' clocks disagreed, it is one of those near by.
    pub async fn first_at(&self, time: Timestamp) -> Result<Option<u64>, LogError> {
        let info = self.info().await?;
        let (mut low, mut end, mut found) = (info.first_sequence, info.last_sequence + 1, None);
        // All below `low` is older; from `end` on nothing is looked for, since `found` is the first there.
        while low < end {
            let middle = low + (end - low) / 2;
            match self.next_stored(middle).await? {
                Some((sequence, stored)) if stored < time => low = sequence + 1,
                Some((sequence, _)) => (end, found) = (middle, Some(sequence)),
                None => end = middle,
            }
        }
        Ok(found)
    }

    /// The first message at this position or after it, and when the log took it, as the leader of the stream has it.
    pub async fn next_stored(&self, sequence: u64) -> Result<Option<(u64, Timestamp)>, LogError> {
        match Box::pin(self.jobs().get_first_raw_message_by_subject(ANY, sequence)).await {
            Ok(found) => Ok(Some((found.sequence, message::timestamp(found.time.unix_timestamp_nanos())))),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Err(LogError::Missing)
                }
                _ => Err(LogError::Unavailable { reason: error.to_string() }),
            },
        }
    }

    /// Whether the stream itself forbids to drop anything. A failed purge has one code, whatever its cause.
    async fn purge_denied(&self) -> bool {
        Box::pin(self.jobs().get_info()).await.is_ok_and(|info| info.config.deny_purge || info.config.sealed)
    }
}
