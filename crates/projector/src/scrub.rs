//! Scrubbing: a running server compares its views with a fresh replay now and then, so slowly that nobody notices.
//!
//! It gives way to whoever wants the log or the views for himself, and begins again later. Differences are told only when
//! a second pass finds the same jobs.

use std::sync::Arc;
use std::time::Duration;

use event_log::EventLog;
use parking_lot::Mutex;
use proto_events::Timestamp;
use serde::Serialize;
use uuid::Uuid;
use views::{Generations, Reader};

use crate::handle::Handle;
use crate::pass::PassError;
use crate::rebuild::Rebuilds;
use crate::status::{Phase, now};
use crate::verify::{Verdict, Verification, Verifications};

/// It rests so many times as long as it works: a twentieth of one processor at first. Each time that it had to give way
/// it rests half as long the next time, so that it comes to an end where something always comes in between.
const RESTS: u32 = 19;
const FEWEST_RESTS: u32 = 1;
/// After the start, when there is other work to do.
const FIRST: Duration = Duration::from_secs(10 * 60);
/// After it gave way.
const AGAIN: Duration = Duration::from_secs(60);
/// After it failed.
const FAILED: Duration = Duration::from_secs(60 * 60);
/// Between two looks at whether something is in its way.
const LOOK: Duration = Duration::from_millis(250);

/// What scrubbing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ScrubState {
    /// It was not asked for.
    Off,
    /// The next one is not due, or something is in its way.
    Waiting,
    /// The log is read and compared.
    Running,
}

/// What the last comparison said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ScrubResult {
    /// The views are those of a fresh replay.
    Equal,
    /// They are not.
    Differs,
}

/// Scrubbing, as it is told. All but the state is null until the views that serve were compared once.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ScrubStatus {
    /// What it does.
    pub state: ScrubState,
    /// When the last comparison ended, by a scrub or by somebody who asked for one.
    pub last_at: Option<Timestamp>,
    /// What it said.
    pub last_result: Option<ScrubResult>,
    /// The verification that lists what differs.
    pub id: Option<Uuid>,
    /// The message of the log up to which both were compared.
    pub sequence: Option<u64>,
    /// Jobs in the log up to there.
    pub jobs: Option<u64>,
    /// How many jobs differ.
    pub differing: Option<u64>,
    /// Why the last try came to no result.
    pub reason: Option<String>,
}

/// The scrubbing of one server's views. Cheap to clone.
#[derive(Clone)]
pub struct Scrub {
    log: EventLog,
    live: Handle,
    views: Reader,
    generations: Generations,
    rebuilds: Rebuilds,
    verifications: Verifications,
    told: Arc<Mutex<(ScrubState, Option<String>)>>,
}

/// How one try ended.
enum Ended {
    Compared(Verdict),
    GaveWay,
    Failed(String),
}

/// Stops a verification whose future is dropped: its threads would go on.
struct Stopped<'a>(&'a Verification);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Scrub {
    /// Of the views that this reader reads and this projector keeps up to date.
    pub fn new(
        log: EventLog,
        live: Handle,
        views: Reader,
        generations: Generations,
        rebuilds: Rebuilds,
        verifications: Verifications,
    ) -> Self {
        let told = Arc::new(Mutex::new((ScrubState::Off, None)));
        Self { log, live, views, generations, rebuilds, verifications, told }
    }

    /// How it is.
    pub fn status(&self) -> ScrubStatus {
        let (state, reason) = self.told.lock().clone();
        let found = self.verifications.findings().get();
        let verdict = found.as_ref().map(|found| &found.verdict);
        ScrubStatus {
            state,
            last_at: found.as_ref().map(|found| found.at),
            last_result: verdict.map(|verdict| if verdict.equal { ScrubResult::Equal } else { ScrubResult::Differs }),
            id: found.as_ref().map(|found| found.id),
            sequence: verdict.map(|verdict| verdict.sequence),
            jobs: verdict.map(|verdict| verdict.jobs),
            differing: verdict.map(|verdict| verdict.differing),
            reason,
        }
    }

    /// Compares again and again, at most once in this time, for as long as this is awaited.
    pub async fn run(&self, every: Duration) {
        self.run_resting(every, RESTS).await;
    }

    /// At first it rests so many times as long as it works.
    pub(crate) async fn run_resting(&self, every: Duration, most_rests: u32) {
        self.tell(ScrubState::Waiting, None);
        let mut rests = most_rests;
        let mut pause = self.until_due(every).max(FIRST.min(every));
        loop {
            tokio::time::sleep(pause).await;
            while self.is_in_the_way() {
                tokio::time::sleep(LOOK).await;
            }
            self.tell(ScrubState::Running, None);
            let ended = self.compare(rests).await;
            let reason;
            (pause, rests, reason) = match ended {
                Ended::Compared(verdict) => {
                    self.found(&verdict);
                    (every, most_rests, None)
                }
                Ended::GaveWay => (AGAIN.min(every), (rests / 2).max(FEWEST_RESTS), None),
                Ended::Failed(reason) => {
                    tracing::warn!(reason, "the views could not be compared with a fresh replay");
                    (FAILED.min(every), rests, Some(reason))
                }
            };
            self.tell(ScrubState::Waiting, reason);
        }
    }

    /// Says that nothing is compared any more, after what compares was stopped.
    pub fn rest(&self) {
        self.tell(ScrubState::Off, None);
    }

    fn tell(&self, state: ScrubState, reason: Option<String>) {
        let mut told = self.told.lock();
        // That it tries again does not undo why the last try failed.
        let reason = if state == ScrubState::Running { told.1.take() } else { reason };
        *told = (state, reason);
    }

    /// How long after the last comparison, which may have been before the start.
    fn until_due(&self, every: Duration) -> Duration {
        let Some(found) = self.verifications.findings().get() else { return Duration::ZERO };
        let age = now().micros().saturating_sub(found.at.micros());
        every.saturating_sub(Duration::from_micros(age.max(0) as u64))
    }

    fn found(&self, verdict: &Verdict) {
        let id = Uuid::new_v4();
        self.verifications.findings().put(id, verdict);
        let Verdict { sequence, jobs, differing, .. } = verdict;
        if verdict.equal {
            tracing::info!(sequence, jobs, "scrubbed: the views equal a fresh replay");
        } else {
            let first: Vec<_> = verdict.differences.iter().take(10).map(|difference| difference.id).collect();
            tracing::error!(
                sequence, jobs, differing, verification = %id, ?first,
                "scrubbed: the views differ from a fresh replay of the log; `forebay rebuild` puts them right"
            );
        }
    }

    /// Whether somebody needs the log or the views for himself, or there is nothing to compare with.
    fn is_in_the_way(&self) -> bool {
        self.live.status().phase != Phase::Following
            || self.live.is_trimming()
            || self.rebuilds.is_under_way()
            || self.verifications.is_under_way()
    }

    async fn compare(&self, rests: u32) -> Ended {
        let verdict = match self.pass(rests).await {
            Ended::Compared(verdict) if !verdict.equal => verdict,
            ended => return ended,
        };
        tracing::warn!(differing = verdict.differing, "scrubbing found differences and makes sure of them");
        match self.pass(rests).await {
            Ended::Compared(second) => Ended::Compared(second.confirming(&verdict)),
            ended => ended,
        }
    }

    /// Compares once.
    async fn pass(&self, rests: u32) -> Ended {
        if let Err(reason) = self.has_room().await {
            return Ended::Failed(reason);
        }
        // It holds up nobody who wants to trim: then it gives way.
        if let Err(error) = self.live.is_of(&self.log).await {
            return Ended::Failed(error.to_string());
        }
        let verification = Verification::slow(rests);
        let _stopped = Stopped(&verification);
        let gives_way = async {
            while !self.is_in_the_way() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            () = gives_way => Ended::GaveWay,
            result = verification.run(&self.log, self.views.clone(), &self.generations) => match result {
                Ok(verdict) => Ended::Compared(verdict),
                Err(PassError::LogChanged | PassError::Trimmed) => Ended::GaveWay,
                Err(error) => Ended::Failed(error.to_string()),
            },
        }
    }

    /// What the log says goes through temporary files.
    async fn has_room(&self) -> Result<(), String> {
        let info = self.log.info().await.map_err(|error| error.to_string())?;
        let (need, free) = self.generations.room(info.bytes).map_err(|error| error.to_string())?;
        if free < need {
            return Err(format!("it needs about {need} bytes of disk for a while, and {free} are free"));
        }
        Ok(())
    }
}
