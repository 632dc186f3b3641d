//! Celery's result backend on Redis: asked how those jobs ended of which no event told the end.
//!
//! # Layout
//! - [`Backend::spawn`] starts to ask, [`BackendHandle`] watches and stops it
//! - [`answer`]: what is stored for a task, into the event contract, pure
//! - `display`: a stored value as Celery's events would show it
//! - `ask`: the questions, with commands that only read
//! - [`BackendStatus`]: what it tells of itself
//!
//! # Invariants
//! - Nothing is ever written to the backend: `MGET` and, for another database than 0, `SELECT` are all that is sent.
//! - It asks at a bounded pace, whatever the number of jobs: [`PAGE`] keys of each kind a second at most, and keeps
//!   nothing of a job but the last answers that it passed on.
//! - What it is told goes into the log as an event, so that a replay needs no backend.

pub mod answer;
mod ask;
mod display;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use event_log::{Batcher, EventLog};
use proto_events::{JobState, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::redact::Redaction;
use crate::redis::RedisUrl;
use crate::status::now;
use answer::{Answer, Unreadable};
use ask::Asker;
pub use status::BackendStatus;
use status::Figures;

/// Jobs that are asked for at once.
pub const PAGE: usize = 100;
/// Between two questions.
const PACE: Duration = Duration::from_secs(1);
/// Answers that are remembered, so that none is passed on again before the views show it.
const REMEMBERED: usize = 10_000;
/// How long the backend may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be asked.
#[derive(Clone, Debug)]
pub struct BackendConfig {
    /// Its name: that of the connection.
    pub name: String,
    /// Where it is; database and `global_keyprefix` as for a broker.
    pub url: RedisUrl,
    /// Whose jobs these are.
    pub connection: Uuid,
    /// What is kept out of the log.
    pub redaction: Redaction,
    /// For how long a job may be without news before it is asked for.
    pub after: Duration,
}

/// A job of which no event has told the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unended {
    /// The task id.
    pub external_id: String,
    /// Its state now.
    pub state: JobState,
    /// The try that waits or runs.
    pub attempt: u32,
    /// When that began to run, where it did.
    pub started_at: Option<Timestamp>,
    /// Since when nothing new is known of it; for a job that waits for its time, that time.
    pub since: Timestamp,
}

/// Which jobs are looked through: those that run and those that wait each in their own walk, so that a long queue does
/// not hold up the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// Those that run, or are about to be tried again.
    Running,
    /// Those that wait.
    Waiting,
}

/// A part of a walk.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// The jobs, at most [`PAGE`].
    pub jobs: Vec<Unended>,
    /// Whether the walk is at its end, and begins anew with the next call.
    pub is_last: bool,
}

/// Goes on with a walk through the jobs without an end. May block. `None` while that cannot be told: the views are behind
/// the log.
pub type Walks = Box<dyn FnMut(Walk) -> Option<Part> + Send>;

/// Celery's result backend on one Redis.
#[derive(Debug)]
pub struct Backend;

impl Backend {
    /// Starts to ask; from now on it keeps itself going. Must be called within a tokio runtime.
    pub fn spawn(config: BackendConfig, log: &EventLog, walks: Walks) -> BackendHandle {
        let figures = Arc::new(Figures::default());
        let asking = Asking {
            batcher: log.batcher(config.connection),
            asker: Some(Asker::new(config.url.clone(), PATIENCE)),
            walks: Some(walks),
            told: std::collections::VecDeque::new(),
            rest: [0; 2],
            figures: Arc::clone(&figures),
            config: config.clone(),
        };
        BackendHandle { name: config.name, url: config.url, figures, task: tokio::spawn(asking.run()) }
    }
}

/// A running backend. It stops when this is dropped.
pub struct BackendHandle {
    name: String,
    url: RedisUrl,
    figures: Arc<Figures>,
    task: JoinHandle<()>,
}

impl BackendHandle {
    /// How it is.
    pub fn status(&self) -> BackendStatus {
        let failed = self.task.is_finished();
        self.figures.status(&self.name, self.url.masked(), failed)
    }
}

impl Drop for BackendHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for BackendHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendHandle").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}

struct Asking {
    config: BackendConfig,
    batcher: Batcher,
    /// These two are away while they block.
    asker: Option<Asker>,
    walks: Option<Walks>,
    /// What was passed on last: job and answer.
    told: std::collections::VecDeque<[u8; 16]>,
    /// Rounds until each walk begins anew.
    rest: [u32; 2],
    figures: Arc<Figures>,
}

impl Asking {
    /// For ever.
    async fn run(mut self) {
        let mut rounds = tokio::time::interval(PACE);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            for (place, walk) in [Walk::Running, Walk::Waiting].into_iter().enumerate() {
                if self.rest[place] > 0 {
                    self.rest[place] -= 1;
                    continue;
                }
                let Some(is_last) = self.step(walk).await else { return };
                if is_last {
                    self.rest[place] = u32::try_from(self.config.after.as_secs() / 4).unwrap_or(u32::MAX).min(60);
                }
            }
        }
    }

    /// A step of a walk; tells whether it was the last. `None` where the blocking half has failed for good.
    async fn step(&mut self, walk: Walk) -> Option<bool> {
        let (mut walks, after) = (self.walks.take()?, self.config.after);
        let (part, walks) = self.blocking(move || (walks(walk), walks)).await?;
        self.walks = Some(walks);
        let Part { mut jobs, is_last } = part.unwrap_or(Part { jobs: Vec::new(), is_last: true });
        let due = now().micros().saturating_sub(i64::try_from(after.as_micros()).unwrap_or(i64::MAX));
        jobs.retain(|job| job.since.micros() <= due);
        // Without any job, too, it is seen whether the backend is there.
        let mut answers = self.ask(&mut jobs).await?;
        while answers && !jobs.is_empty() {
            answers = self.ask(&mut jobs).await?;
        }
        self.batcher.flush().await;
        // One that does not answer is left alone for a while.
        Some(is_last || !answers)
    }

    /// Asks for the first of these jobs, and passes on what is stored of them, before more is fetched: results may be
    /// large. Tells whether there was an answer. `None` where the blocking half has failed for good.
    async fn ask(&mut self, jobs: &mut Vec<Unended>) -> Option<bool> {
        let mut asker = self.asker.take()?;
        let jobs: Vec<Unended> = jobs.drain(..asker.at_once().min(jobs.len())).collect();
        let blocking = move || {
            let answers = asker.answers(&jobs);
            (asker, jobs, answers)
        };
        let (asker, jobs, answers) = self.blocking(blocking).await?;
        self.asker = Some(asker);
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                if self.figures.failed(&error, &self.config.url) {
                    tracing::warn!(backend = self.config.name, %error, "the result backend cannot be asked");
                }
                return Some(false);
            }
        };
        self.figures.asked(jobs.len());
        for (job, stored) in jobs.iter().zip(answers) {
            if let Some(stored) = stored {
                self.answer(job, &stored).await;
            }
        }
        Some(true)
    }

    /// `None` where it failed for good.
    async fn blocking<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let done = tokio::task::spawn_blocking(work).await;
        if done.is_err() {
            tracing::error!(backend = self.config.name, "asking the result backend has failed and ends");
        }
        done.ok()
    }

    async fn answer(&mut self, job: &Unended, stored: &[u8]) {
        let answer = match answer::read(stored) {
            Ok(answer) => answer,
            Err(unreadable) => return self.unreadable(&unreadable),
        };
        let Some(event) = answer.and_then(|answer: Answer| answer.event(job, now(), &self.config.redaction)) else {
            return;
        };
        // Of a retry the time is that of the question, which is another one each time.
        let mut mark = event.clone();
        if event.job.as_ref().is_some_and(|job| job.state == JobState::Retrying) {
            mark.timestamp = job.since;
            mark.job.as_mut().map(|job| job.completed_at.take());
        }
        let mark = proto_events::EventId::of(&mark).0;
        if self.told.contains(&mark) {
            return;
        }
        self.told.push_back(mark);
        if self.told.len() > REMEMBERED {
            self.told.pop_front();
        }
        self.figures.answered(&event);
        self.batcher.push(event).await;
    }

    fn unreadable(&self, reason: &Unreadable) {
        if self.figures.unreadable(reason.to_string()) {
            tracing::warn!(backend = self.config.name, %reason, "a stored result cannot be read");
        }
    }
}
