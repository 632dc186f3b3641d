//! A generation of our version of the fold, made while a process with another version serves: the restart with ours then
//! finds it and answers at once.

use std::sync::Arc;
use std::time::Duration;

use event_log::EventLog;
use views::{Candidate, Preparation, Writer};

use crate::handle::start;
use crate::pass::{PassError, Watch, scatter};
use crate::rebuild::write_all;
use crate::status::Phase;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(20);
/// How long the log may be away before this is given up: with the process that serves, its log goes for good.
const AWAY: Duration = Duration::from_secs(20);

/// How far it is, and the way to stop it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Preparing {
    watch: Arc<Watch>,
}

impl Preparing {
    /// Events done and events in all, the latter estimated at first. Each is half done when it is read.
    pub fn progress(&self) -> (u64, u64) {
        self.watch.events()
    }
}

/// What was prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// All of the log up to this message is in it.
    pub sequence: u64,
    /// Its jobs.
    pub jobs: u64,
    /// Whether only the rest was added to what had been prepared before.
    pub continued: bool,
}

/// Makes the generation and brings it up to the end of the log; one that was prepared before only lacks the rest. What
/// the log takes after that is applied by the process that takes it into use.
pub async fn prepare(log: &EventLog, preparation: Preparation, preparing: &Preparing) -> Result<Prepared, PassError> {
    let preparation = Arc::new(preparation);
    tokio::select! {
        prepared = run(log, &preparation, preparing) => prepared,
        () = lost(log) => {
            // Threads that fold are told to end.
            preparing.watch.stop();
            Err(PassError::Log("its server does not answer any more".to_owned()))
        }
    }
}

async fn run(log: &EventLog, preparation: &Arc<Preparation>, preparing: &Preparing) -> Result<Prepared, PassError> {
    let existing = {
        let preparation = Arc::clone(preparation);
        blocking(move || Ok(preparation.existing()?)).await?
    };
    if let Some((writer, candidate)) = existing {
        match catch_up(log, writer, &candidate).await {
            Ok(sequence) => return Ok(prepared(&candidate, sequence, true)),
            // It is of a log that is gone, so it is made anew.
            Err(PassError::LogChanged) => {}
            Err(error) => return Err(error),
        }
    }
    let (writer, candidate) = build(log, preparation, preparing).await?;
    let sequence = catch_up(log, writer, &candidate).await?;
    Ok(prepared(&candidate, sequence, false))
}

fn prepared(candidate: &Candidate, sequence: u64, continued: bool) -> Prepared {
    let jobs = candidate.reader().counts(None).total();
    Prepared { sequence, jobs, continued }
}

async fn build(
    log: &EventLog,
    preparation: &Arc<Preparation>,
    preparing: &Preparing,
) -> Result<(Writer, Candidate), PassError> {
    let info = log.info().await.map_err(|error| PassError::Log(error.to_string()))?;
    let target = if info.messages == 0 { 0 } else { info.last_sequence };
    let watch = Arc::clone(&preparing.watch);
    let scattered = loop {
        match scatter(log, target, preparation.path(), &watch).await {
            // The process that serves may trim it at any time.
            Err(PassError::Trimmed) => {}
            result => break result?,
        }
    };
    let preparation = Arc::clone(preparation);
    blocking(move || {
        let (made, _) = write_all(preparation.build()?, &scattered, &watch)?;
        Ok(preparation.open(&made)?)
    })
    .await
}

/// Applies what the log holds now, and gives the last message of it.
async fn catch_up(log: &EventLog, writer: Writer, candidate: &Candidate) -> Result<u64, PassError> {
    let projector = start(log.clone(), writer, &candidate.reader());
    let ended = loop {
        match projector.status().phase {
            Phase::Following => break Ok(()),
            Phase::CatchingUp | Phase::Upgrading { .. } => tokio::time::sleep(LOOK).await,
            Phase::Fenced(_) => break Err(PassError::LogChanged),
            Phase::Failed(reason) => break Err(PassError::Panicked(reason.to_string())),
        }
    };
    let stopped = projector.stop().await;
    ended?;
    stopped.map_err(|reason| PassError::Panicked(reason.to_string()))?;
    Ok(projector.status().applied)
}

/// Ends when the log has been away for too long.
async fn lost(log: &EventLog) {
    let mut away = Duration::ZERO;
    while away < AWAY {
        tokio::time::sleep(LOOK).await;
        away = if log.connected() { Duration::ZERO } else { away + LOOK };
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PassError> + Send + 'static,
) -> Result<T, PassError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| PassError::Panicked(error.to_string()))?
}
