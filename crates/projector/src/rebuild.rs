//! Rebuilding: a new generation made from the log beside the one that serves, compared with it, and put in its place.
//!
//! The comparison is made with both at the same message and standing still, so that it says something. Where they
//! differ although log and fold are the same, the log wins.

use std::sync::Arc;
use std::time::Duration;

use event_log::EventLog;
use parking_lot::Mutex;
use proto_events::Timestamp;
use serde::Serialize;
use tokio::task::JoinHandle;
use uuid::Uuid;
use views::{Candidate, Digest, Generations, Prepared, Reader, ViewError, Writer};

use crate::handle::{Handle, Held, start};
use crate::pass::{Pace, PassError, Watch, scatter};
use crate::status::Phase;

/// Messages by which the new generation may be behind when the last step begins; fewer are applied in milliseconds.
const CLOSE: u64 = 500;
/// Between two looks at how far behind it is.
const LOOK: Duration = Duration::from_millis(20);
/// For one generation to reach the message at which the other one stands.
const MEETING: Duration = Duration::from_secs(60);
/// The generation that served before is kept for so long.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two looks at whether that is over.
const TIDY: Duration = Duration::from_secs(10 * 60);
/// Rebuilds that are remembered.
const REMEMBERED: usize = 20;
/// Differing jobs that are named.
const NAMED: usize = 100;

/// What a rebuild does, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RebuildState {
    /// The log is read and folded.
    Running,
    /// The new generation follows the log to its end.
    CatchingUp,
    /// It is compared with the one that serves; or it waits for a person, when `reason` says so.
    Verifying,
    /// It serves.
    Completed,
    /// It does not, and never will.
    Failed,
    /// Somebody stopped it.
    Aborted,
}

/// What the new generation is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The whole log, folded afresh.
    Log,
    /// The generation that served before: this undoes a rebuild.
    Previous,
}

/// A rebuild, as it is told.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RebuildStatus {
    /// Its id.
    pub id: Uuid,
    /// What it does.
    pub state: RebuildState,
    /// Events done: each is half done when it is read.
    pub events_done: u64,
    /// Events in all, estimated until all are read.
    pub events_total: u64,
    /// Events a second, so far.
    pub events_per_second: f64,
    /// Seconds until the log is folded; null while that cannot be told.
    pub eta_seconds: Option<f64>,
    /// Why it ended so, or what it waits for.
    pub reason: Option<String>,
    /// Jobs of the new generation.
    pub jobs: u64,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// Whether the generation that served before had the same records at the same message; null until that is known,
    /// and where they are of different logs.
    pub same_as_before: Option<bool>,
    /// Jobs in which they differed, the first hundred.
    pub differing: Vec<Uuid>,
}

/// Why a rebuild is not begun, or not found, or not to be promoted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// There is no generation to go back to.
    #[error("there are no earlier views to go back to: they are kept for a day after they were replaced")]
    NothingBefore,
    /// One at a time.
    #[error("a rebuild is under way already: wait for it, or abort it")]
    UnderWay,
    /// There is none of that id.
    #[error("there is no rebuild of that id")]
    NotFound,
    /// It does not wait for anybody.
    #[error("the rebuild does not wait to be promoted")]
    NotWaiting,
    /// The disk is too small.
    #[error("a rebuild needs about {need} bytes of disk for a while, and {free} are free: free some space")]
    Disk {
        /// Bytes that it may take.
        need: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// The log or the disk does not answer.
    #[error("{0}")]
    Unavailable(String),
}

/// Rebuilds the views of one server. Cheap to clone.
#[derive(Clone)]
pub struct Rebuilds {
    inner: Arc<Inner>,
}

struct Inner {
    log: EventLog,
    live: Handle,
    serving: Reader,
    generations: Generations,
    all: Mutex<Vec<Arc<Rebuild>>>,
}

struct Rebuild {
    id: Uuid,
    started_at: Timestamp,
    watch: Arc<Watch>,
    told: Mutex<Told>,
    /// A finished generation of another log, which serves only when a person says so.
    waiting: Mutex<Option<Waiting>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Waiting {
    shadow: Handle,
    candidate: Candidate,
}

struct Told {
    state: RebuildState,
    reason: Option<String>,
    jobs: u64,
    pace: Pace,
    /// The rate and the counts when the fold was done.
    folded: Option<(u64, f64)>,
    same_as_before: Option<bool>,
    differing: Vec<Uuid>,
}

impl Rebuild {
    fn status(&self) -> RebuildStatus {
        let told = self.told.lock();
        let (done, total) = self.watch.events();
        let (rate, eta) = told.pace.of(done, total);
        let running = told.state == RebuildState::Running;
        let (done, total, rate) = told.folded.map_or((done, total, rate), |(events, rate)| (events, events, rate));
        RebuildStatus {
            id: self.id,
            state: told.state,
            events_done: done,
            events_total: total,
            events_per_second: rate,
            eta_seconds: eta.filter(|_| running),
            reason: told.reason.clone(),
            jobs: told.jobs,
            started_at: self.started_at,
            same_as_before: told.same_as_before,
            differing: told.differing.clone(),
        }
    }

    fn enter(&self, state: RebuildState, reason: Option<String>) {
        let mut told = self.told.lock();
        (told.state, told.reason) = (state, reason);
    }

    fn is_under_way(&self) -> bool {
        use RebuildState::{CatchingUp, Running, Verifying};
        matches!(self.told.lock().state, Running | CatchingUp | Verifying)
    }
}

impl Rebuilds {
    /// For the views that this reader reads and this projector keeps up to date.
    pub fn new(log: EventLog, live: Handle, serving: Reader, generations: Generations) -> Self {
        Self { inner: Arc::new(Inner { log, live, serving, generations, all: Mutex::default() }) }
    }

    /// Begins a rebuild, unless one is under way or the disk is too small for it. From the log, or, to undo the last
    /// one, from the generation that served before.
    pub async fn begin(&self, from: From, now: Timestamp) -> Result<RebuildStatus, RebuildError> {
        let inner = Arc::clone(&self.inner);
        if from == From::Previous && !matches!(inner.generations.previous(), Ok(Some(_))) {
            return Err(RebuildError::NothingBefore);
        }
        let info = inner.log.info().await.map_err(|error| RebuildError::Unavailable(error.to_string()))?;
        let (need, free) =
            inner.generations.room(info.bytes).map_err(|error| RebuildError::Unavailable(error.to_string()))?;
        if free < need {
            return Err(RebuildError::Disk { need, free });
        }
        let told = Told {
            state: RebuildState::Running,
            reason: None,
            jobs: 0,
            pace: Pace::begin(),
            folded: None,
            same_as_before: None,
            differing: Vec::new(),
        };
        let rebuild = Arc::new(Rebuild {
            id: Uuid::new_v4(),
            started_at: now,
            watch: Arc::default(),
            told: Mutex::new(told),
            waiting: Mutex::default(),
            task: Mutex::default(),
        });
        {
            let mut all = self.inner.all.lock();
            if all.iter().any(|rebuild| rebuild.is_under_way()) {
                return Err(RebuildError::UnderWay);
            }
            if all.len() == REMEMBERED {
                all.remove(0);
            }
            all.push(Arc::clone(&rebuild));
        }
        let target = if info.messages == 0 { 0 } else { info.last_sequence };
        let status = rebuild.status();
        tracing::info!(id = %rebuild.id, ?from, target, "rebuilding the views");
        *rebuild.task.lock() = Some(tokio::spawn(inner.run(Arc::clone(&rebuild), from, target)));
        Ok(status)
    }

    /// All that are remembered, the latest first.
    pub fn all(&self) -> Vec<RebuildStatus> {
        self.inner.all.lock().iter().rev().map(|rebuild| rebuild.status()).collect()
    }

    fn find(&self, id: Uuid) -> Result<Arc<Rebuild>, RebuildError> {
        self.inner.all.lock().iter().find(|rebuild| rebuild.id == id).cloned().ok_or(RebuildError::NotFound)
    }

    /// Removes the generation that served before. `false` when there is none.
    pub fn discard_previous(&self) -> Result<bool, RebuildError> {
        if self.inner.all.lock().iter().any(|rebuild| rebuild.is_under_way()) {
            return Err(RebuildError::UnderWay);
        }
        let removed = self.inner.generations.tidy(Duration::ZERO);
        removed.map(|removed| removed > 0).map_err(|error| RebuildError::Unavailable(error.to_string()))
    }

    /// Removes the generation that served before once its day is over, for as long as this is awaited.
    pub async fn tidy(&self) {
        loop {
            let under_way = self.inner.all.lock().iter().any(|rebuild| rebuild.is_under_way());
            if !under_way && let Err(error) = self.inner.generations.tidy(KEPT) {
                tracing::warn!(%error, "old generations of the views could not be looked after");
            }
            tokio::time::sleep(TIDY).await;
        }
    }

    /// One of them.
    pub fn status(&self, id: Uuid) -> Result<RebuildStatus, RebuildError> {
        Ok(self.find(id)?.status())
    }

    /// Stops a rebuild; what it made so far is removed. One that has ended stays as it is.
    pub async fn abort(&self, id: Uuid) -> Result<RebuildStatus, RebuildError> {
        let rebuild = self.find(id)?;
        rebuild.watch.stop();
        let waiting = rebuild.waiting.lock().take();
        if let Some(waiting) = waiting {
            self.inner.give_up(waiting.shadow, waiting.candidate).await;
            rebuild.enter(RebuildState::Aborted, Some(PassError::Aborted.to_string()));
        }
        let task = rebuild.task.lock().take();
        if let Some(task) = task {
            // It ends by itself at its next look; its panic, if any, is told in its status.
            let _ = task.await;
        }
        Ok(rebuild.status())
    }

    /// Lets a generation of another log serve, which waits for a person to say so.
    pub async fn promote(&self, id: Uuid) -> Result<RebuildStatus, RebuildError> {
        let rebuild = self.find(id)?;
        let Waiting { shadow, candidate } = rebuild.waiting.lock().take().ok_or(RebuildError::NotWaiting)?;
        match self.inner.replace_fenced(shadow, candidate).await {
            Ok(()) => rebuild.enter(RebuildState::Completed, None),
            Err(error) => rebuild.enter(RebuildState::Failed, Some(error.to_string())),
        }
        Ok(rebuild.status())
    }
}

impl Inner {
    async fn run(self: Arc<Self>, rebuild: Arc<Rebuild>, from: From, target: u64) {
        match self.rebuild(&rebuild, from, target).await {
            Ok(()) => {}
            Err(PassError::Aborted) => rebuild.enter(RebuildState::Aborted, Some(PassError::Aborted.to_string())),
            Err(error) => {
                tracing::error!(%error, "the rebuild failed: the views go on as they are");
                rebuild.enter(RebuildState::Failed, Some(error.to_string()));
            }
        }
    }

    async fn rebuild(&self, rebuild: &Arc<Rebuild>, from: From, target: u64) -> Result<(), PassError> {
        let (writer, candidate) = match from {
            From::Log => self.build(rebuild, target).await?,
            From::Previous => self.open_previous().await?,
        };
        rebuild.enter(RebuildState::CatchingUp, None);
        let shadow = start(self.log.clone(), writer, &candidate.reader());
        match self.catch_up(&shadow, rebuild).await {
            Ok(()) => {}
            Err(error) => {
                self.give_up(shadow, candidate).await;
                return Err(error);
            }
        }
        rebuild.enter(RebuildState::Verifying, None);
        if let Phase::Fenced(fenced) = self.live.status().phase {
            // The views that serve may be the last copy of what the old log said: no machine throws them away.
            rebuild.enter(RebuildState::Verifying, Some(format!("waits to be promoted by hand: {fenced}")));
            *rebuild.waiting.lock() = Some(Waiting { shadow, candidate });
            return Ok(());
        }
        self.replace(shadow, candidate, from, rebuild).await
    }

    /// Makes the new generation of the log up to the target.
    async fn build(&self, rebuild: &Arc<Rebuild>, target: u64) -> Result<(Writer, Candidate), PassError> {
        let watch = Arc::clone(&rebuild.watch);
        let scattered = scatter(&self.log, target, self.generations.path(), &watch).await?;
        let (generations, for_thread) = (self.generations.clone(), Arc::clone(rebuild));
        let built = tokio::task::spawn_blocking(move || {
            let mut bulk = generations.begin()?;
            let put = scattered.fold(&watch, |row| Ok(Prepared::of(&row)), |row| Ok(bulk.put(row)?));
            if let Err(error) = put {
                bulk.abandon();
                return Err(error);
            }
            let jobs = bulk.rows();
            let (path, digest) = bulk.finish(&scattered.applied())?;
            let events = watch.events().0;
            {
                let mut told = for_thread.told.lock();
                let (rate, _) = told.pace.of(events, events);
                (told.jobs, told.folded) = (jobs, Some((events, rate)));
            }
            tracing::info!(jobs, events, %digest, "the log is folded");
            Ok(generations.open(&path)?)
        });
        built.await.map_err(|error| PassError::Panicked(error.to_string()))?
    }

    async fn open_previous(&self) -> Result<(Writer, Candidate), PassError> {
        let generations = self.generations.clone();
        let opened = tokio::task::spawn_blocking(move || generations.open_previous()).await;
        let opened = opened.map_err(|error| PassError::Panicked(error.to_string()))??;
        opened.ok_or(PassError::Aborted)
    }

    async fn catch_up(&self, shadow: &Handle, rebuild: &Rebuild) -> Result<(), PassError> {
        loop {
            rebuild.watch.check()?;
            let (status, live) = (shadow.status(), self.live.status());
            match status.phase {
                Phase::Fenced(_) => return Err(PassError::LogChanged),
                Phase::Failed(reason) => return Err(PassError::Panicked(reason.to_string())),
                Phase::Following if status.applied + CLOSE >= live.applied.max(status.log_last) => return Ok(()),
                Phase::Following | Phase::CatchingUp => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Brings both generations to the same message, compares them, and puts the new one in the place of the old one.
    async fn replace(
        &self,
        shadow: Handle,
        candidate: Candidate,
        from: From,
        rebuild: &Rebuild,
    ) -> Result<(), PassError> {
        let Some((new, old)) = self.meet(&shadow).await else {
            self.give_up(shadow, candidate).await;
            return Err(PassError::Log("the two generations did not meet at one message".to_owned()));
        };
        let digests = new.checkpoint.zip(old.checkpoint).map(|(new, old)| (new.digest, old.digest));
        // Whoever goes back to the generation before wants it as it is.
        if let Some((new, old)) = digests.filter(|_| from == From::Log) {
            self.compare(new, old, &candidate, rebuild)?;
        }
        let at = new.at;
        let Ok(writer) = new.surrender().await else {
            old.resume();
            return Err(PassError::Panicked("the new generation's projector ended".to_owned()));
        };
        self.generations.promote(candidate)?;
        old.switch(writer).map_err(|_| PassError::Panicked("the projector ended".to_owned()))?;
        tracing::info!(at, "the rebuilt views serve");
        rebuild.enter(RebuildState::Completed, None);
        Ok(())
    }

    fn compare(&self, new: Digest, old: Digest, candidate: &Candidate, rebuild: &Rebuild) -> Result<(), ViewError> {
        let differing = if new == old { Vec::new() } else { candidate.reader().differing(&self.serving, NAMED)? };
        if new != old {
            tracing::error!(jobs = ?differing, "the views differ from a fresh replay of the log; the replay is put in their place");
        }
        let mut told = rebuild.told.lock();
        (told.same_as_before, told.differing) = (Some(new == old), differing);
        Ok(())
    }

    /// Both standing at one message: first the new one where it is, then the old one there or, if it is past that
    /// already, the new one again where the old one stands.
    async fn meet(&self, shadow: &Handle) -> Option<(Held, Held)> {
        let new = stand(shadow, 0).await?;
        let old = stand(&self.live, new.at).await?;
        if old.at == new.at {
            return Some((new, old));
        }
        new.resume();
        let new = stand(shadow, old.at).await?;
        (new.at == old.at).then_some((new, old))
    }

    async fn replace_fenced(&self, shadow: Handle, candidate: Candidate) -> Result<(), PassError> {
        let gone = |_| PassError::Panicked("the new generation's projector ended".to_owned());
        let writer = shadow.hold(0).await.map_err(gone)?.surrender().await.map_err(gone)?;
        self.generations.promote(candidate)?;
        self.live.start_over(self.log.clone(), writer).await;
        tracing::info!("the views of the log that is there now serve");
        Ok(())
    }

    async fn give_up(&self, shadow: Handle, candidate: Candidate) {
        // Whatever ails it, it is thrown away.
        let _ = shadow.stop().await;
        drop(shadow);
        let generations = self.generations.clone();
        // Files that cannot be removed are told of in the log.
        let _ = tokio::task::spawn_blocking(move || generations.discard(candidate)).await;
    }
}

/// Makes a projector stand still at a message, in good time.
async fn stand(projector: &Handle, at: u64) -> Option<Held> {
    tokio::time::timeout(MEETING, projector.hold(at)).await.ok()?.ok()
}
