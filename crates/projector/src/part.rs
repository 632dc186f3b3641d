//! Reading a part of the log again, from one message to another.

use std::time::Duration;

use event_log::{EventLog, LogError, LogMessage, ReadError, Reader};
use proto_events::Timestamp;

/// Between two questions that the log did not answer.
const RETRY: Duration = Duration::from_millis(200);
/// How long nothing may come of the log before it is asked whether there is anything.
const LOOK: Duration = Duration::from_secs(5);

/// A part of the log.
pub(crate) struct Part {
    log: EventLog,
    created: Timestamp,
    reader: Reader,
    to: u64,
}

/// The log is another one by now, or nobody reads it any more.
pub(crate) struct OtherLog;

impl Part {
    /// All from one message to another, of the log that was created then.
    pub(crate) fn new(log: &EventLog, created: Timestamp, from: u64, to: u64) -> Self {
        Self { log: log.clone(), created, reader: log.reader(from.saturating_sub(1)), to }
    }

    /// The next messages; none when all are read, those apart that the log has dropped meanwhile.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<LogMessage>>, OtherLog> {
        while self.reader.position() < self.to {
            match tokio::time::timeout(LOOK, self.reader.next()).await {
                Ok(Ok(batch)) => {
                    let mut messages = batch.messages;
                    messages.truncate(messages.partition_point(|message| message.sequence <= self.to));
                    return Ok(Some(messages));
                }
                Ok(Err(ReadError::Reconnected { .. })) | Err(_) => match self.log.info().await {
                    Ok(info) if info.created != self.created || info.last_sequence < self.to => return Err(OtherLog),
                    // All that could have been read is gone.
                    Ok(info) if info.first_sequence > self.to => return Ok(None),
                    Err(LogError::Missing) => return Err(OtherLog),
                    Ok(_) | Err(_) => tokio::time::sleep(RETRY).await,
                },
                Ok(Err(_)) => return Err(OtherLog),
            }
        }
        Ok(None)
    }
}
