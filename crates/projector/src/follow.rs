//! The asynchronous half: it reads the log, hands batches to the half that applies them, and makes sure at the start
//! and after every interruption that the log is still the one that the views were made from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use event_log::{EventLog, Fence, Known, LogError, LogInfo, LogMessage, ReadError};
use proto_events::Timestamp;
use tokio::sync::mpsc;
use views::Checkpoint;

use crate::handle::Shared;
use crate::status::{Fenced, Phase};

/// How often the end of the log is asked for, which tells how far behind the views are: their age is known this exactly.
const POLL: Duration = Duration::from_millis(250);
/// How often it is made sure that the log is still the one of views to which nothing is applied.
const GUARD: Duration = Duration::from_secs(1);
/// Between two questions that the log did not answer.
const RETRY: Duration = Duration::from_millis(200);

/// Messages to apply.
pub(crate) struct Batch {
    /// When the log that they are from was created.
    pub(crate) created: Timestamp,
    /// In the order of the log, never none.
    pub(crate) messages: Vec<LogMessage>,
}

pub(crate) struct Follower {
    log: EventLog,
    shared: Arc<Shared>,
    checkpoint: Option<Checkpoint>,
}

impl Follower {
    pub(crate) fn new(log: EventLog, shared: Arc<Shared>, checkpoint: Option<Checkpoint>) -> Self {
        Self { log, shared, checkpoint }
    }

    /// Runs until it is told to stop or the log turns out to be another one. Dropping the sender is what ends the
    /// other half.
    pub(crate) async fn run(self, batches: mpsc::Sender<Batch>) {
        let mut stop = self.shared.stop.subscribe();
        let result = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Ok(()),
            result = self.follow(batches) => result,
            () = self.poll() => Ok(()),
        };
        if let Err(fenced) = result {
            tracing::error!(reason = %fenced, "events are no longer applied: the views answer as they are");
            self.shared.progress.send_modify(|progress| progress.enter(Phase::Fenced(fenced)));
        }
    }

    /// Applies nothing, but tells how far the log is, and whether it is still the one of the views, until it is told to
    /// stop.
    pub(crate) async fn watch(self) {
        let mut stop = self.shared.stop.subscribe();
        let result = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Ok(()),
            result = self.stand_guard() => result,
            () = self.poll() => Ok(()),
        };
        if let Err(fenced) = result {
            tracing::error!(reason = %fenced, "the log is not that of the views, which answer as they are");
            self.shared.progress.send_modify(|progress| progress.enter(Phase::Fenced(fenced)));
        }
        self.shared.ended.send_replace(true);
    }

    async fn stand_guard(&self) -> Result<(), Fenced> {
        let known = self.begin().await?;
        loop {
            tokio::time::sleep(GUARD).await;
            if let Some(fence) = answer(self.log.fence(&known).await).await? {
                Fenced::of(fence)?;
            }
        }
    }

    async fn follow(&self, batches: mpsc::Sender<Batch>) -> Result<(), Fenced> {
        let mut known = self.begin().await?;
        tracing::info!(after = known.sequence, "following the log");
        let mut reader = self.log.reader(known.sequence);
        loop {
            match reader.next().await {
                Ok(batch) => {
                    #[cfg(test)]
                    assert!(
                        batch.messages.iter().all(|it| &*it.payload != b"as if reading had a bug"),
                        "a bug in reading"
                    );
                    if let Some(last) = batch.messages.last() {
                        known = Known { sequence: last.sequence, fingerprint: last.fingerprint(), ..known };
                    }
                    let batch = Batch { created: known.created, messages: batch.messages };
                    if batches.send(batch).await.is_err() {
                        return Ok(());
                    }
                }
                Err(ReadError::Reconnected { cause }) => {
                    tracing::info!(%cause, after = known.sequence, "reading the log goes on");
                    self.check(&known).await?;
                }
                Err(ReadError::Missing) => return Err(Fenced::Missing),
                // Closed, or something later that we do not know: the end of reading in any case.
                Err(_) => return Ok(()),
            }
        }
    }

    /// Where to read from, once it is certain that this is the log of the views.
    async fn begin(&self) -> Result<Known, Fenced> {
        let (asked, info) = loop {
            let asked = Instant::now();
            if let Some(info) = answer(self.log.info().await).await? {
                break (asked, info);
            }
        };
        let nothing = Known { created: info.created, sequence: 0, fingerprint: [0; 16] };
        let known = self.checkpoint.as_ref().map_or(nothing, known);
        self.check(&known).await?;
        let target = last(&info);
        self.shared.progress.send_modify(|progress| {
            progress.target = Some(target);
            progress.created = Some(known.created);
            progress.saw_end_at(asked, target);
            progress.catch_up();
        });
        Ok(known)
    }

    async fn check(&self, known: &Known) -> Result<(), Fenced> {
        let fence = loop {
            if let Some(fence) = answer(self.log.fence(known).await).await? {
                break fence;
            }
        };
        // Where the log begins right after what is known, nothing was missed.
        if let Some(first) = Fenced::of(fence)?.filter(|first| *first > known.sequence + 1) {
            let after = known.sequence;
            tracing::warn!(after, first, "the log dropped messages before they were applied: the views lack them");
            self.shared.progress.send_modify(|progress| progress.trimmed = Some(first));
        }
        Ok(())
    }

    /// Asks for the end of the log, now and then and whenever somebody wants to know.
    async fn poll(&self) {
        loop {
            // Either way it is time.
            let _ = tokio::time::timeout(POLL, self.shared.ask.notified()).await;
            let asked = Instant::now();
            let before = self.shared.progress.borrow().applied;
            let Ok(info) = self.log.info().await else { continue };
            self.shared.progress.send_modify(|progress| {
                // Of another log, or one that lost its end, nothing may be believed; the reader is about to find out.
                if progress.created == Some(info.created) && info.last_sequence >= before {
                    progress.saw_end_at(asked, last(&info));
                } else {
                    progress.saw_end(last(&info));
                }
            });
        }
    }
}

impl Fenced {
    /// Whether the log is another one; if not, where it begins if it no longer holds what is known.
    pub(crate) fn of(fence: Fence) -> Result<Option<u64>, Self> {
        match fence {
            Fence::Same => Ok(None),
            Fence::Recreated => Err(Self::Recreated),
            Fence::RolledBack { last } => Err(Self::RolledBack { last }),
            Fence::Trimmed { first } => Ok(Some(first)),
        }
    }
}

/// What a checkpoint knows of the log that it is of.
pub(crate) fn known(checkpoint: &Checkpoint) -> Known {
    let Checkpoint { created, sequence, fingerprint, .. } = *checkpoint;
    Known { created, sequence, fingerprint }
}

/// The answer of the log; `None`, after a pause, when it has to be asked again.
async fn answer<T>(result: Result<T, LogError>) -> Result<Option<T>, Fenced> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(LogError::Missing) => Err(Fenced::Missing),
        Err(error) => {
            tracing::debug!(%error, "the log does not answer yet");
            tokio::time::sleep(RETRY).await;
            Ok(None)
        }
    }
}

/// The last message there is to read.
fn last(info: &LogInfo) -> u64 {
    if info.messages == 0 { 0 } else { info.last_sequence }
}
