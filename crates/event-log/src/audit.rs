//! What people changed: a stream of its own, beside the events of jobs. No view is made of it.

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use proto_events::Timestamp;

use crate::error::{AppendError, LogError};
use crate::log::{EventLog, TIMEOUT, append_error, unavailable};
use crate::message;
use crate::streams::{AUDIT, AUDIT_SUBJECT};

/// One change, as it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Where it stands among the others.
    pub sequence: u64,
    /// When the server stored it.
    pub stored: Timestamp,
    /// What was told.
    pub payload: Bytes,
}

impl EventLog {
    /// Stores a change, and waits until it is stored, at most five seconds.
    pub async fn append_audit(&self, payload: Bytes) -> Result<u64, AppendError> {
        let publish = async {
            self.link().wait_connected().await;
            let ack = self.context().publish(AUDIT_SUBJECT, payload).await.map_err(|error| append_error(&error))?;
            ack.await.map_err(|error| append_error(&error))
        };
        let stored = tokio::time::timeout(TIMEOUT, publish).await;
        stored.unwrap_or_else(|_| Err(unavailable("no acknowledgement in time"))).map(|ack| ack.sequence)
    }

    /// The latest changes before this position, the newest first.
    pub async fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditRecord>, LogError> {
        let stream = self.context().get_stream(AUDIT).await.map_err(|error| match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                LogError::Missing
            }
            _ => LogError::Unavailable { reason: error.to_string() },
        })?;
        let state = &stream.cached_info().state;
        let end = before.unwrap_or(u64::MAX).min(state.last_sequence + 1);
        let mut records = Vec::new();
        for sequence in (state.first_sequence.max(1)..end).rev().take(limit) {
            match stream.direct_get(sequence).await {
                Ok(message) => records.push(AuditRecord {
                    sequence,
                    stored: message::timestamp(message.time.unix_timestamp_nanos()),
                    payload: message.payload,
                }),
                // The oldest go while we read.
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => break,
                Err(error) => return Err(LogError::Unavailable { reason: error.to_string() }),
            }
        }
        Ok(records)
    }
}
