//! Letting the log forget its beginning: the log itself is told first, so that all who read it agree, and only what no
//! view needs any more is dropped.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use event_log::{AppendError, EventLog, LogError, LogInfo, LogMessage};
use failpoints::{Point, hit};
use proto_events::{Event, EventType, Framework, Position, Timestamp, Trim, limits};
use uuid::Uuid;
use views::{Reader, ViewError};

use crate::cut::Done;
use crate::handle::Handle;
use crate::part::Part;
use crate::poison::fact;

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
    /// The views cannot be read.
    #[error(transparent)]
    Views(#[from] ViewError),
    /// A bug.
    #[error("the views could not be asked what a trim would do: {0}")]
    Panicked(String),
}

impl Handle {
    /// Lets the log and the views forget all messages before this one, of those that are applied. Told on the subject of
    /// this connection. Waits while the views are compared with the log or made anew from it.
    ///
    /// The order is what makes it safe: the log is told, the views forget and have it on disk, each job that lost a part
    /// is named, then the log drops the messages. After a crash in between it is finished by the next call.
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
        let is_new = before > floor.max(1);
        let told = if is_new { self.tell(log, connection, before).await? } else { Some(Done::default()) };
        let before = before.max(floor);
        // What was told in an earlier life, or by another node, may have come to its end before all jobs were named.
        let were_named = info.first_sequence >= floor || self.shared.named.load(Ordering::Relaxed) >= floor;
        if told.is_none() || !were_named {
            self.name_forgotten(log, connection, &info, before).await?;
        }
        self.shared.named.fetch_max(before, Ordering::Relaxed);
        hit(Point::PurgeBefore);
        let purged = log.purge_before(before).await?;
        hit(Point::PurgeAfter);
        let (left, done) = (log.info().await?.bytes, told.unwrap_or_default());
        tracing::info!(before, messages = purged, jobs = done.dropped, cut = done.cut, "the log is trimmed");
        Ok(Trimmed {
            before,
            jobs_dropped: done.dropped,
            jobs_cut: done.cut,
            bytes_freed: if purged == 0 { 0 } else { info.bytes.saturating_sub(left) },
        })
    }

    /// Where the log begins, if somebody else dropped from it what the views hold and did not tell. The status says so
    /// until they forget it, or others serve: the views may be the last copy, so this is for a person to decide.
    pub(crate) async fn lost(&self, info: &LogInfo) -> Result<Option<u64>, TrimError> {
        let first = info.first_sequence;
        let is_untold = {
            let progress = self.shared.progress.borrow();
            // What was told of is forgotten once that is applied.
            let is_applied = info.messages == 0 || progress.applied >= info.last_sequence;
            let is_followed = progress.created == Some(info.created) && progress.phase.is_following();
            is_followed && is_applied && first > progress.floor.max(1)
        };
        let reader = self.reader.clone();
        if !is_untold || !blocking(move || reader.holds_before(first)).await?? {
            return Ok(None);
        }
        self.shared.progress.send_modify(|progress| {
            if progress.floor < first && progress.lost.replace(first) != Some(first) {
                tracing::error!(first, "somebody dropped messages from the log which the views hold");
            }
        });
        Ok(Some(first))
    }

    /// Writes into the log that it forgets what stands before this message, and waits until the views have done so.
    /// `None` where it is not known what they did, and so neither whether each job that lost a part is named.
    async fn tell(&self, log: &EventLog, connection: Uuid, before: u64) -> Result<Option<Done>, TrimError> {
        let reader = self.reader.clone();
        let mut jobs = blocking(move || {
            let jobs = reader.straddling(before);
            hit(Point::TrimFound);
            jobs
        })
        .await??;
        // The last of the events cuts, with a part of the names.
        let last = jobs.split_off(jobs.len().saturating_sub(1) / limits::TRIM_JOBS * limits::TRIM_JOBS);
        self.name(log, connection, jobs).await?;
        let told = append(log, connection, Trim { before: Some(before), jobs: last }).await?;
        hit(Point::TrimTold);
        let Some(done) = self.done(told).await? else { return Ok(None) };
        if !done.unnamed.is_empty() {
            // These came to have events on both sides while the cut was being told.
            hit(Point::TrimUnnamed);
            self.name_and_wait(log, connection, done.unnamed.clone()).await?;
        }
        Ok(Some(done))
    }

    /// Names the jobs that lost a part of which no message tells, since whoever told of the trim ended before that was
    /// done. They are there, and the log still holds what it said of them before; so this comes before that is dropped.
    async fn name_forgotten(
        &self,
        log: &EventLog,
        connection: Uuid,
        info: &LogInfo,
        before: u64,
    ) -> Result<(), TrimError> {
        let mut part = Part::new(log, info.created, info.first_sequence, before.saturating_sub(1));
        let mut unnamed = HashSet::new();
        while let Some(messages) = part.next().await.map_err(|_| TrimError::NotFollowing)? {
            let reader = self.reader.clone();
            unnamed = blocking(move || add_unnamed(unnamed, &messages, &reader)).await??;
        }
        tracing::info!(before, jobs = unnamed.len(), "a trim that was begun is finished");
        self.name_and_wait(log, connection, unnamed.into_iter().collect()).await
    }

    /// Writes into the log that these jobs lost a part, and waits until the views say so.
    async fn name_and_wait(&self, log: &EventLog, connection: Uuid, jobs: Vec<Uuid>) -> Result<(), TrimError> {
        if let Some(last) = self.name(log, connection, jobs).await? {
            self.done(last).await?;
        }
        Ok(())
    }

    /// Writes into the log that these jobs lose a part; gives the last message.
    async fn name(&self, log: &EventLog, connection: Uuid, jobs: Vec<Uuid>) -> Result<Option<u64>, TrimError> {
        let mut last = None;
        for jobs in jobs.chunks(limits::TRIM_JOBS) {
            last = Some(append(log, connection, Trim { before: None, jobs: jobs.to_vec() }).await?);
            hit(Point::TrimNamed);
        }
        Ok(last)
    }

    /// Waits until the views have done, lastingly, what this message tells; gives what that was, if it can be told.
    async fn done(&self, at: u64) -> Result<Option<Done>, TrimError> {
        let (mut progress, mut ended) = (self.shared.progress.subscribe(), self.shared.ended.subscribe());
        let done = progress.wait_for(|progress| progress.done.at >= at || !progress.phase.is_following());
        let done = tokio::select! {
            biased;
            done = done => done.map_or_else(|_| Done::default(), |progress| progress.done.clone()),
            _ = ended.wait_for(|ended| *ended) => Done::default(),
        };
        match done.at {
            // Another node told of a trim in the meantime, and only what came of the last one is known.
            other if other > at => Ok(None),
            same if same == at => Ok(Some(done)),
            _ => Err(TrimError::NotFollowing),
        }
    }
}

/// Adds the jobs of these messages that are there and do not say that the log has forgotten a part of them.
fn add_unnamed(
    mut unnamed: HashSet<Uuid>,
    messages: &[LogMessage],
    reader: &Reader,
) -> Result<HashSet<Uuid>, ViewError> {
    for message in messages {
        for event in proto_events::decode(&message.payload).unwrap_or_default().into_iter().flatten() {
            let Some(job) = event.job.as_deref() else { continue };
            let id = proto_events::job_id(message.connection, &job.external_id);
            // What cannot be used was never known of the job.
            let is_known = matches!(fact(message.connection, Position::new(message.sequence, 0), &event), Ok(Some(_)));
            if is_known && !unnamed.contains(&id) && reader.row(id)?.is_some_and(|row| !row.evidence.is_trimmed()) {
                unnamed.insert(id);
            }
        }
    }
    Ok(unnamed)
}

/// Does this where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, TrimError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| TrimError::Panicked(error.to_string()))
}

async fn append(log: &EventLog, connection: Uuid, trim: Trim) -> Result<u64, TrimError> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp(since_epoch.as_micros() as i64);
    let event = Event { trim: Some(Box::new(trim)), ..Event::bare(EventType::LogTrim, now, Framework::Celery) };
    Ok(log.append(connection, proto_events::encode(&[event]).into()).await?.sequence)
}
