//! Rebuilding: a new generation made from the log beside the one that serves, compared with it, and put in its place.
//!
//! The comparison is made with both at the same message and standing still, so that it says something. Where they
//! differ although log and fold are the same, the log wins.
//!
//! One that the end of the process interrupts is begun again by the next server ([`remembered`]).

mod remembered;
mod told;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use event_log::EventLog;
use failpoints::{Point, hit};
use parking_lot::Mutex;
use proto_events::Timestamp;
use tokio::task::JoinHandle;
use uuid::Uuid;
use views::{BulkWriter, Candidate, Digest, Generations, Prepared, Reader, ViewError, Writer};

use crate::handle::{Handle, Held, start};
use crate::pass::{Pace, PassError, Scattered, Watch, scatter};
use crate::status::Phase;

pub use told::{From, RebuildError, RebuildState, RebuildStatus};

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

/// Rebuilds the views of one server. Cheap to clone.
#[derive(Clone)]
pub struct Rebuilds {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) log: EventLog,
    pub(crate) live: Handle,
    pub(crate) serving: Reader,
    pub(crate) generations: Generations,
    /// Why an upgrade does not get on.
    pub(crate) blocked: Mutex<Option<String>>,
    all: Mutex<Vec<Arc<Rebuild>>>,
    /// Held while it is written down how they are.
    writing: Mutex<()>,
}

pub(crate) struct Rebuild {
    id: Uuid,
    started_at: Timestamp,
    from: From,
    /// The version of the fold whose views it makes.
    fold_version: u32,
    /// How often it was begun again because the process had ended.
    begun_again: u32,
    /// The name of the generation that it made, once that is finished.
    candidate: Mutex<Option<String>>,
    /// How it ended, or how it was when an earlier process ended: nobody works on it.
    past: Mutex<Option<RebuildStatus>>,
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
        if let Some(past) = &*self.past.lock() {
            return past.clone();
        }
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

    pub(crate) fn enter(&self, state: RebuildState, reason: Option<String>) {
        {
            let mut told = self.told.lock();
            (told.state, told.reason) = (state, reason);
        }
        // Nothing moves any more, its rate included.
        if !state.is_under_way() {
            let ended = self.status();
            *self.past.lock() = Some(ended);
        }
    }

    fn is_under_way(&self) -> bool {
        self.past.lock().is_none() && self.told.lock().state.is_under_way()
    }
}

impl Rebuilds {
    /// For the views that this reader reads and this projector keeps up to date.
    pub fn new(log: EventLog, live: Handle, serving: Reader, generations: Generations) -> Self {
        let inner = Inner {
            log,
            live,
            serving,
            generations,
            blocked: Mutex::default(),
            all: Mutex::default(),
            writing: Mutex::default(),
        };
        inner.recall();
        Self { inner: Arc::new(inner) }
    }

    /// Begins a rebuild, unless one is under way or the disk is too small for it. From the log, or, to undo the last
    /// one, from the generation that served before.
    pub async fn begin(&self, from: From, now: Timestamp) -> Result<RebuildStatus, RebuildError> {
        let inner = Arc::clone(&self.inner);
        if from == From::Previous {
            inner.may_go_back().await?;
        }
        let info = inner.log.info().await.map_err(|error| RebuildError::Unavailable(error.to_string()))?;
        inner.check_room(info.bytes)?;
        let rebuild = Arc::new(Rebuild::new(Uuid::new_v4(), now, from, inner.generations.fold_version()));
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
        inner.settle_interrupted(RebuildState::Aborted, "the server ended, and another rebuild was begun since");
        inner.remember().await;
        let target = if info.messages == 0 { 0 } else { info.last_sequence };
        let status = rebuild.status();
        tracing::info!(id = %rebuild.id, ?from, target, "rebuilding the views");
        *rebuild.task.lock() = Some(tokio::spawn(inner.run(Arc::clone(&rebuild), target)));
        Ok(status)
    }

    /// All that are remembered, the latest first.
    pub fn all(&self) -> Vec<RebuildStatus> {
        self.inner.all.lock().iter().rev().map(|rebuild| rebuild.shown()).collect()
    }

    /// Whether one is under way, or waits for a person.
    pub(crate) fn is_under_way(&self) -> bool {
        self.inner.all.lock().iter().any(|rebuild| rebuild.is_under_way())
    }

    fn find(&self, id: Uuid) -> Result<Arc<Rebuild>, RebuildError> {
        self.inner.all.lock().iter().find(|rebuild| rebuild.id == id).cloned().ok_or(RebuildError::NotFound)
    }

    /// Removes the generation that served before, and what was prepared for other versions of the fold. `false` when
    /// there is none.
    pub fn discard_previous(&self) -> Result<bool, RebuildError> {
        if self.is_under_way() {
            return Err(RebuildError::UnderWay);
        }
        let generations = &self.inner.generations;
        let removed = generations.tidy(Duration::ZERO).and_then(|old| Ok(old + generations.discard_prepared()?));
        removed.map(|removed| removed > 0).map_err(|error| RebuildError::Unavailable(error.to_string()))
    }

    /// Removes the generation that served before once its day is over, for as long as this is awaited.
    pub async fn tidy(&self) {
        loop {
            // One of our version, which an upgrade can go on from, need not have served yet.
            if !self.is_under_way()
                && !self.inner.is_upgrading()
                && let Err(error) = self.inner.generations.tidy(KEPT)
            {
                tracing::warn!(%error, "old generations of the views could not be looked after");
            }
            tokio::time::sleep(TIDY).await;
        }
    }

    /// One of them.
    pub fn status(&self, id: Uuid) -> Result<RebuildStatus, RebuildError> {
        Ok(self.find(id)?.shown())
    }

    /// Stops a rebuild; what it made so far is removed. One that has ended stays as it is.
    pub async fn abort(&self, id: Uuid) -> Result<RebuildStatus, RebuildError> {
        let rebuild = self.find(id)?;
        rebuild.watch.stop();
        let waiting = rebuild.waiting.lock().take();
        if let Some(waiting) = waiting {
            self.inner.give_up(waiting.shadow, waiting.candidate).await;
            rebuild.enter(RebuildState::Aborted, Some(PassError::Aborted.to_string()));
            self.inner.remember().await;
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
        self.inner.remember().await;
        Ok(rebuild.status())
    }
}

impl Inner {
    fn check_room(&self, log_bytes: u64) -> Result<(), RebuildError> {
        let room = self.generations.room(log_bytes);
        let (need, free) = room.map_err(|error| RebuildError::Unavailable(error.to_string()))?;
        if free < need { Err(RebuildError::Disk { need, free }) } else { Ok(()) }
    }

    async fn run(self: Arc<Self>, rebuild: Arc<Rebuild>, target: u64) {
        match self.rebuild(&rebuild, target).await {
            Ok(()) => {}
            Err(PassError::Aborted) => rebuild.enter(RebuildState::Aborted, Some(PassError::Aborted.to_string())),
            Err(error) => {
                tracing::error!(%error, "the rebuild failed: the views go on as they are");
                rebuild.enter(RebuildState::Failed, Some(error.to_string()));
            }
        }
        self.remember().await;
    }

    async fn rebuild(self: &Arc<Self>, rebuild: &Arc<Rebuild>, target: u64) -> Result<(), PassError> {
        let found = if rebuild.from == From::Log { self.found().await? } else { None };
        let (writer, candidate) = match (found, rebuild.from) {
            (Some(found), _) => found,
            (None, From::Log) => self.build(rebuild, target).await?,
            (None, From::Previous) => self.open_previous().await?,
        };
        // From here on it may come to serve, and must not be made twice then.
        *rebuild.candidate.lock() = Some(candidate.name());
        rebuild.enter(RebuildState::CatchingUp, rebuild.again());
        self.remember().await;
        let shadow = start(self.log.clone(), writer, &candidate.reader());
        match self.catch_up(&shadow, rebuild).await {
            Ok(()) => {}
            Err(error) => {
                self.give_up(shadow, candidate).await;
                return Err(error);
            }
        }
        rebuild.enter(RebuildState::Verifying, None);
        hit(Point::CaughtUp);
        if let Some(fenced) = self.fenced().await? {
            // The views that serve may be the last copy of what the old log said: no machine throws them away.
            rebuild.enter(RebuildState::Verifying, Some(format!("waits to be promoted by hand: {fenced}")));
            *rebuild.waiting.lock() = Some(Waiting { shadow, candidate });
            return Ok(());
        }
        if self.is_upgrading() {
            return self.take_over(shadow, candidate, rebuild).await;
        }
        self.replace(shadow, candidate, rebuild).await
    }

    /// Makes the new generation of the log up to the target.
    async fn build(&self, rebuild: &Arc<Rebuild>, target: u64) -> Result<(Writer, Candidate), PassError> {
        let watch = Arc::clone(&rebuild.watch);
        let scattered = self.scattered(&watch, target).await?;
        hit(Point::Scattered);
        let (generations, for_thread) = (self.generations.clone(), Arc::clone(rebuild));
        let built = tokio::task::spawn_blocking(move || {
            let (path, jobs) = write_all(generations.begin()?, &scattered, &watch)?;
            let events = watch.events().0;
            {
                let mut told = for_thread.told.lock();
                let (rate, _) = told.pace.of(events, events);
                (told.jobs, told.folded) = (jobs, Some((events, rate)));
            }
            tracing::info!(jobs, events, "the log is folded");
            Ok(generations.open(&path)?)
        });
        built.await.map_err(|error| PassError::Panicked(error.to_string()))?
    }

    /// The whole log, sorted by job. What this node trims meanwhile, it trims afterwards.
    async fn scattered(&self, watch: &Arc<Watch>, mut target: u64) -> Result<Scattered, PassError> {
        loop {
            let _untrimmed = self.live.shared.trimming.read().await;
            match scatter(&self.log, target, self.generations.path(), watch).await {
                // Another node did. What it told of that is behind the target, maybe.
                Err(PassError::Trimmed) => target = target.max(self.live.status().applied),
                result => return result,
            }
        }
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
                // Just started, the projector may not know yet that the log is another one.
                _ if !live.knows_the_log() => tokio::time::sleep(LOOK).await,
                Phase::Fenced(fenced) if rebuild.from == From::Previous => return Err(PassError::Fenced(fenced)),
                Phase::Fenced(_) => return Err(PassError::LogChanged),
                Phase::Failed(reason) => return Err(PassError::Panicked(reason.to_string())),
                // A position of another log says nothing here.
                Phase::Following
                    if matches!(live.phase, Phase::Fenced(_)) && status.applied + CLOSE >= status.log_last =>
                {
                    return Ok(());
                }
                Phase::Following if status.applied + CLOSE >= live.applied.max(status.log_last) => return Ok(()),
                Phase::Following | Phase::CatchingUp | Phase::Upgrading { .. } => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Brings both generations to the same message, compares them, and puts the new one in the place of the old one.
    async fn replace(&self, shadow: Handle, candidate: Candidate, rebuild: &Rebuild) -> Result<(), PassError> {
        let Some((new, old)) = self.meet(&shadow).await else {
            self.give_up(shadow, candidate).await;
            return Err(PassError::Log("the two generations did not meet at one message".to_owned()));
        };
        let digests = new.checkpoint.zip(old.checkpoint).map(|(new, old)| (new.digest, old.digest));
        // Whoever goes back to the generation before wants it as it is.
        if let Some((new, old)) = digests.filter(|_| rebuild.from == From::Log) {
            self.compare(new, old, &candidate, rebuild)?;
        }
        hit(Point::Compared);
        let at = new.at;
        let Ok(writer) = new.surrender().await else {
            old.resume();
            return Err(PassError::Panicked("the new generation's projector ended".to_owned()));
        };
        hit(Point::Surrendered);
        self.promote(candidate).await?;
        hit(Point::SwitchBefore);
        old.switch(writer).await.map_err(|_| PassError::Panicked("the projector ended".to_owned()))?;
        hit(Point::SwitchAfter);
        tracing::info!(at, "the rebuilt views serve");
        rebuild.enter(RebuildState::Completed, rebuild.again());
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

    /// Lets it serve. It may have to count all jobs first, which of very many takes seconds.
    pub(crate) async fn promote(&self, candidate: Candidate) -> Result<(), PassError> {
        let generations = self.generations.clone();
        let promoted = tokio::task::spawn_blocking(move || generations.promote(candidate)).await;
        Ok(promoted.map_err(|panic| PassError::Panicked(panic.to_string()))??)
    }

    async fn replace_fenced(&self, shadow: Handle, candidate: Candidate) -> Result<(), PassError> {
        let gone = |_| PassError::Panicked("the new generation's projector ended".to_owned());
        let writer = shadow.hold(0).await.map_err(gone)?.surrender().await.map_err(gone)?;
        self.promote(candidate).await?;
        self.live.start_over(self.log.clone(), writer).await;
        tracing::info!("the views of the log that is there now serve");
        Ok(())
    }

    pub(crate) async fn give_up(&self, shadow: Handle, candidate: Candidate) {
        // Whatever ails it, it is thrown away.
        let _ = shadow.stop().await;
        drop(shadow);
        let generations = self.generations.clone();
        // Files that cannot be removed are told of in the log.
        let _ = tokio::task::spawn_blocking(move || generations.discard(candidate)).await;
    }
}

/// Folds everything into a new generation and closes it. Gives where it is and how many jobs are in it. Blocks.
pub(crate) fn write_all(
    mut bulk: BulkWriter,
    scattered: &Scattered,
    watch: &Watch,
) -> Result<(PathBuf, u64), PassError> {
    let put = scattered.fold(watch, |row| Ok(Prepared::of(&row)), |row| Ok(bulk.put(row)?));
    if let Err(error) = put {
        bulk.abandon();
        return Err(error);
    }
    let (jobs, bytes) = (bulk.rows(), bulk.bytes());
    let (path, digest) = bulk.finish(&scattered.applied(), scattered.floor())?;
    tracing::info!(jobs, bytes, %digest, "new views are written");
    Ok((path, jobs))
}

/// Makes a projector stand still at a message, in good time.
pub(crate) async fn stand(projector: &Handle, at: u64) -> Option<Held> {
    tokio::time::timeout(MEETING, projector.hold(at)).await.ok()?.ok()
}
