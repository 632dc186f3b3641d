//! Letting the log forget its beginning: the log itself is told first, so that all who read it agree, and only what no
//! view needs any more is dropped.

use std::time::{SystemTime, UNIX_EPOCH};

use event_log::{AppendError, EventLog, LogError};
use proto_events::{Event, EventType, Framework, Timestamp, Trim, limits};
use uuid::Uuid;

use crate::cut::Done;
use crate::handle::Handle;

/// What came of a trim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// The messages before this one are gone.
    pub before: u64,
    /// Jobs that are gone with them.
    pub jobs_dropped: u64,
    /// Jobs that lost a part of what was known of them, and say so.
    pub jobs_cut: u64,
    /// Bytes of the log that are free, about: others may write meanwhile.
    pub bytes_freed: u64,
}

/// Why nothing, or not all, was trimmed. It can be tried again, as it is tried the first time.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TrimError {
    /// The views do not follow this log.
    #[error("the views do not follow the log, so nothing of it is dropped: see the health of the server")]
    NotFollowing,
    /// The log does not take the event that tells of the trim.
    #[error("the log does not take word of the trim: {0}")]
    Append(#[from] AppendError),
    /// The log does not answer, or does not drop anything.
    #[error("the log was not trimmed: {0}")]
    Log(#[from] LogError),
    /// A bug.
    #[error("the views could not be asked what a trim would do: {0}")]
    Panicked(String),
}

impl Handle {
    /// Lets the log and the views forget all messages before this one, of those that are applied. Told on the subject of
    /// this connection. Waits while the views are compared with the log or made anew from it.
    ///
    /// The order is what makes it safe: the log is told, the views forget and have it on disk, then the log drops the
    /// messages. After a crash in between it is finished by the next call.
    pub async fn trim(&self, log: &EventLog, connection: Uuid, before: u64) -> Result<Trimmed, TrimError> {
        let _alone = self.shared.trimming.write().await;
        let info = log.info().await?;
        let (applied, floor) = {
            let progress = self.shared.progress.borrow();
            if progress.created != Some(info.created) || !progress.phase.is_following() {
                return Err(TrimError::NotFollowing);
            }
            (progress.applied, progress.floor)
        };
        let before = before.min(applied + 1);
        let done = if before > floor.max(1) { self.tell(log, connection, before).await? } else { Done::default() };
        let before = before.max(floor);
        let purged = log.purge_before(before).await?;
        let left = log.info().await?.bytes;
        tracing::info!(before, messages = purged, jobs = done.dropped, cut = done.cut, "the log is trimmed");
        Ok(Trimmed {
            before,
            jobs_dropped: done.dropped,
            jobs_cut: done.cut,
            bytes_freed: if purged == 0 { 0 } else { info.bytes.saturating_sub(left) },
        })
    }

    /// Lets the views forget what somebody else dropped from the log, who may not have told.
    pub(crate) async fn heed(&self, log: &EventLog) -> Result<(), TrimError> {
        let first = log.info().await?.first_sequence;
        let is_followed = self.status().phase.is_following();
        // Where there is no job, there is nothing to forget.
        if let Some(connection) =
            self.reader.any_connection().filter(|_| is_followed && first > self.reader.floor().max(1))
        {
            self.trim(log, connection, first).await?;
        }
        Ok(())
    }

    /// Writes into the log that it forgets what stands before this message, and waits until the views have done so.
    async fn tell(&self, log: &EventLog, connection: Uuid, before: u64) -> Result<Done, TrimError> {
        let reader = self.reader.clone();
        let straddling = tokio::task::spawn_blocking(move || reader.straddling(before)).await;
        let mut jobs = straddling.map_err(|error| TrimError::Panicked(error.to_string()))?;
        // The last of the events cuts, with a part of the names.
        let last = jobs.split_off(jobs.len().saturating_sub(1) / limits::TRIM_JOBS * limits::TRIM_JOBS);
        self.name(log, connection, jobs).await?;
        let told = append(log, connection, Trim { before: Some(before), jobs: last }).await?;
        let done = self.done(told).await?;
        // These came to have events on both sides while the cut was being told.
        if let Some(last) = self.name(log, connection, done.unnamed.clone()).await? {
            self.done(last).await?;
        }
        Ok(done)
    }

    /// Writes into the log that these jobs lose a part; gives the last message.
    async fn name(&self, log: &EventLog, connection: Uuid, jobs: Vec<Uuid>) -> Result<Option<u64>, TrimError> {
        let mut last = None;
        for jobs in jobs.chunks(limits::TRIM_JOBS) {
            last = Some(append(log, connection, Trim { before: None, jobs: jobs.to_vec() }).await?);
        }
        Ok(last)
    }

    /// Waits until the views have done, lastingly, what this message tells; gives what that was.
    async fn done(&self, at: u64) -> Result<Done, TrimError> {
        let (mut progress, mut ended) = (self.shared.progress.subscribe(), self.shared.ended.subscribe());
        let done = progress.wait_for(|progress| progress.done.at >= at || !progress.phase.is_following());
        let done = tokio::select! {
            biased;
            done = done => done.map_or_else(|_| Done::default(), |progress| progress.done.clone()),
            _ = ended.wait_for(|ended| *ended) => Done::default(),
        };
        match done.at {
            // Of one that another node told in the meantime, it is that node's to say which jobs it cut.
            other if other > at => Ok(Done { at, ..Done::default() }),
            same if same == at => Ok(done),
            _ => Err(TrimError::NotFollowing),
        }
    }
}

async fn append(log: &EventLog, connection: Uuid, trim: Trim) -> Result<u64, TrimError> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp(since_epoch.as_micros() as i64);
    let event = Event { trim: Some(Box::new(trim)), ..Event::bare(EventType::LogTrim, now, Framework::Celery) };
    Ok(log.append(connection, proto_events::encode(&[event]).into()).await?.sequence)
}
