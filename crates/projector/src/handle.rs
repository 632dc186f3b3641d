//! Starting, watching and stopping the projector.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use event_log::EventLog;
use failpoints::{Point, hit};
use parking_lot::Mutex;
use tokio::runtime;
use tokio::sync::{Notify, RwLock, mpsc, oneshot, watch};
use tokio::task::JoinError;
use views::{Checkpoint, Reader, Writer};

use crate::apply::{Applier, Fold, Hold, Release};
use crate::follow::Follower;
use crate::frames::{Frames, Happening};
use crate::live::{IsBehind, Live, LiveSettings, OnChange};
use crate::poison::{guarded, message};
use crate::status::{FatalReason, Phase, Progress, Status};

/// Batches that may wait for the thread that applies them; while it writes, the next one is read.
const WAITING: usize = 2;

/// The running projector. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reader: Reader,
    fold: Fold,
}

/// The loop, standing still.
pub(crate) struct Held {
    /// At this message.
    pub(crate) at: u64,
    /// The checkpoint there, if there is one.
    pub(crate) checkpoint: Option<Checkpoint>,
    release: oneshot::Sender<Release>,
}

impl Held {
    /// Lets it go on.
    pub(crate) fn resume(self) {
        let _ = self.release.send(Release::Resume);
    }

    /// Lets it go on with other views, which are at the same message.
    pub(crate) async fn switch(self, writer: Writer) -> Result<(), Gone> {
        let (switched, told) = oneshot::channel();
        self.release.send(Release::Switch(Box::new(writer), switched)).map_err(|_| Gone)?;
        told.await.map_err(|_| Gone)
    }

    /// Ends it and takes its views.
    pub(crate) async fn surrender(self) -> Result<Writer, Gone> {
        let (to, writer) = oneshot::channel();
        self.release.send(Release::Surrender(to)).map_err(|_| Gone)?;
        writer.await.map_err(|_| Gone)
    }
}

/// The loop has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gone;

/// What the halves of the loop and the handles share.
pub(crate) struct Shared {
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) stop: watch::Sender<bool>,
    /// Whether it was told to stop, and did not end by itself.
    stopping: AtomicBool,
    /// Wakes who asks for the end of the log.
    pub(crate) ask: Notify,
    /// To the thread that applies, for whoever wants it to stand still.
    holds: Mutex<mpsc::Sender<Hold>>,
    /// Whether the thread has ended, its last write done.
    pub(crate) ended: watch::Sender<bool>,
    /// Held to write by whoever lets the log forget its beginning, and to read by those who must not see it shrink.
    pub(crate) trimming: RwLock<()>,
    /// Of the jobs that lost what stands before this message it is certain here that the log names them.
    pub(crate) named: AtomicU64,
    /// Whether nothing is applied, because other views are to be put in place of these.
    idle: AtomicBool,
    /// Events of jobs that were applied since the start.
    pub(crate) events: AtomicU64,
    /// What happened just now.
    pub(crate) frames: Arc<Frames>,
    /// Whether other views were put in place of these, and those who watch are still to be told.
    replaced: AtomicBool,
    /// Workers and queues as they are now.
    pub(crate) live: Arc<Live>,
}

/// Starts the projector on the current tokio runtime. It goes on from the checkpoint of the views.
///
/// # Panics
/// Outside of a tokio runtime, and when the system refuses a thread.
pub fn start(log: EventLog, writer: Writer, reader: &Reader) -> Handle {
    start_with(log, writer, reader, FOLD)
}

const FOLD: Fold = |known, connection, external_id, events| {
    projection::Row::apply(known, connection, external_id, events.iter().map(|event| (event.position, &event.event)))
};

pub(crate) fn start_with(log: EventLog, writer: Writer, reader: &Reader, fold: Fold) -> Handle {
    let (shared, wanted) = Shared::new(reader);
    run(log, writer, &shared, fold, wanted);
    Handle { shared, reader: reader.clone(), fold }
}

/// For views of another version of the fold, which this reader reads: nothing is applied to them. They answer as they
/// are until a rebuild puts others in their place, which are then followed. On the current tokio runtime.
pub fn start_frozen(log: EventLog, reader: &Reader) -> Handle {
    let handle = start_idle(log, reader);
    let frozen = Phase::Upgrading { from: reader.fold_version() };
    handle.shared.progress.send_modify(|progress| progress.enter(frozen));
    handle
}

/// For empty views, which are to be filled by [`Rebuilds::fill`](crate::Rebuilds::fill): nothing is applied to them. On
/// the current tokio runtime.
pub fn start_idle(log: EventLog, reader: &Reader) -> Handle {
    let (shared, _) = Shared::new(reader);
    shared.idle.store(true, Ordering::Release);
    tokio::spawn(Follower::new(log, Arc::clone(&shared), reader.checkpoint()).watch());
    Handle { shared, reader: reader.clone(), fold: FOLD }
}

/// Starts both halves of the loop.
fn run(log: EventLog, writer: Writer, shared: &Arc<Shared>, fold: Fold, holds: mpsc::Receiver<Hold>) {
    let (batches, waiting) = mpsc::channel(WAITING);
    let follower = Follower::new(log.clone(), Arc::clone(shared), writer.checkpoint());
    let applier = Applier::new(log, writer, Arc::clone(shared), fold);
    let (following, for_task) = (tokio::spawn(follower.run(batches)), Arc::clone(shared));
    tokio::spawn(async move {
        // Its end is the end of the other half too, which says so itself.
        if let Err(panic) = following.await.map_err(JoinError::try_into_panic)
            && let Ok(panic) = panic
        {
            for_task.fail(FatalReason::Panicked(message(&*panic)));
        }
    });
    let (runtime, for_thread) = (runtime::Handle::current(), Arc::clone(shared));
    std::thread::Builder::new()
        .name("projector".to_owned())
        .spawn(move || {
            // Nothing of the applier is used after a panic, so no broken state can be seen.
            let result = guarded(|| applier.run(&runtime, waiting, holds));
            let result = result.unwrap_or_else(|cause| Err(FatalReason::Panicked(cause)));
            for_thread.end(result);
        })
        .expect("the system gives a thread at start, or nothing would run");
}

impl Shared {
    fn new(reader: &Reader) -> (Arc<Self>, mpsc::Receiver<Hold>) {
        let (holds, wanted) = mpsc::channel(1);
        let mut progress = Progress::new(reader.applied());
        progress.forgot(reader.floor());
        let shared = Self {
            progress: watch::Sender::new(progress),
            stop: watch::Sender::new(false),
            stopping: AtomicBool::new(false),
            ask: Notify::new(),
            holds: Mutex::new(holds),
            ended: watch::Sender::new(false),
            trimming: RwLock::new(()),
            named: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            events: AtomicU64::new(0),
            frames: Arc::default(),
            replaced: AtomicBool::new(false),
            live: Live::new(),
        };
        (Arc::new(shared), wanted)
    }

    fn end(&self, result: Result<(), FatalReason>) {
        if let Err(reason) = result {
            self.fail(reason);
        }
        self.stop.send_replace(true);
        self.ended.send_replace(true);
    }

    /// Whether what is applied now is news to those who watch: what the log held at the start is not. They are told
    /// where other views came to follow the log meanwhile.
    pub(crate) fn is_news(&self) -> bool {
        let is_news = self.progress.borrow().phase == Phase::Following;
        if is_news && self.replaced.swap(false, Ordering::AcqRel) {
            self.frames.push(vec![Happening::Replaced]);
        }
        is_news
    }

    fn fail(&self, reason: FatalReason) {
        tracing::error!(%reason, "the projector failed: no event is applied any more");
        self.progress.send_modify(|progress| progress.enter(Phase::Failed(reason)));
    }
}

impl Handle {
    /// Where the projector is now.
    pub fn status(&self) -> Status {
        self.shared.progress.borrow().status()
    }

    /// What happened just now, for those who watch. Of jobs they are told here; whoever knows more pushes it.
    pub fn frames(&self) -> &Arc<Frames> {
        &self.shared.frames
    }

    /// How many events of jobs were applied since the start, those that changed nothing included.
    pub fn events_applied(&self) -> u64 {
        self.shared.events.load(Ordering::Relaxed)
    }

    /// Workers and queues as they are now.
    pub fn live(&self) -> &Arc<Live> {
        &self.shared.live
    }

    /// Lets the live view follow what workers and queues say, those who watch be told of it, and the log of what is found
    /// out about workers. To be called once, within a tokio runtime.
    pub fn follow_live(&self, log: &EventLog, forget_after: Duration, is_behind: IsBehind) {
        let frames = Arc::clone(self.frames());
        let on_change: OnChange = Arc::new(move |change| frames.push(vec![Happening::from(change)]));
        let forget_after = Some(forget_after);
        self.live().start(log, LiveSettings { forget_after, on_change: Some(on_change), is_behind: Some(is_behind) });
        self.testify(log);
    }

    /// Whether other views are to be put in place of these, and nothing is applied until then.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.idle.load(Ordering::Acquire)
    }

    /// Waits until readers see the effect of this message of the log; `false` when they do not in time, or never will.
    pub async fn wait_applied(&self, sequence: u64, timeout: Duration) -> bool {
        let mut progress = self.shared.progress.subscribe();
        let done = progress.wait_for(|progress| {
            progress.applied >= sequence || matches!(progress.phase, Phase::Fenced(_) | Phase::Failed(_))
        });
        match tokio::time::timeout(timeout, done).await {
            Ok(Ok(progress)) => progress.applied >= sequence,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Waits until readers see all that the log held at this moment; `false` when they do not in time, or never will.
    pub async fn wait_complete(&self, moment: Instant, timeout: Duration) -> bool {
        let is_complete = |progress: &Progress| progress.complete_at.is_some_and(|at| at >= moment);
        let mut progress = self.shared.progress.subscribe();
        if is_complete(&progress.borrow()) {
            return true;
        }
        self.shared.ask.notify_one();
        let done = progress.wait_for(|progress| {
            is_complete(progress) || matches!(progress.phase, Phase::Fenced(_) | Phase::Failed(_))
        });
        match tokio::time::timeout(timeout, done).await {
            Ok(Ok(progress)) => is_complete(&progress),
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Waits until the projector has died, and says why. For the process to end loudly: a projector that stopped or
    /// is fenced has not died, and then this waits for ever.
    pub async fn failed(&self) -> FatalReason {
        let mut progress = self.shared.progress.subscribe();
        loop {
            if let Phase::Failed(reason) = &progress.borrow_and_update().phase {
                return reason.clone();
            }
            if progress.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Makes the loop stand still once it has applied this message, all written; at 0, at the first chance.
    pub(crate) async fn hold(&self, at: u64) -> Result<Held, Gone> {
        let (held, standing) = oneshot::channel();
        let (release, released) = oneshot::channel();
        let holds = self.shared.holds.lock().clone();
        holds.send(Hold { at, held, release: released }).await.map_err(|_| Gone)?;
        let (at, checkpoint) = standing.await.map_err(|_| Gone)?;
        Ok(Held { at, checkpoint, release })
    }

    /// Starts the loop again on other views, after it was fenced or where none ran. Waits for the end of the old one.
    pub(crate) async fn start_over(&self, log: EventLog, writer: Writer) {
        self.shared.stop.send_replace(true);
        hit(Point::StartOverBefore);
        let mut ended = self.shared.ended.subscribe();
        // The sender lives as long as this handle, so this is not an error.
        let _ = ended.wait_for(|ended| *ended).await;
        let (holds, wanted) = mpsc::channel(1);
        *self.shared.holds.lock() = holds;
        self.shared.idle.store(false, Ordering::Release);
        self.shared.stop.send_replace(false);
        self.shared.ended.send_replace(false);
        // Of another log, maybe.
        self.shared.named.store(0, Ordering::Relaxed);
        let applied = writer.checkpoint().map_or(0, |checkpoint| checkpoint.sequence);
        let mut progress = Progress::new(applied);
        progress.forgot(writer.floor());
        self.shared.progress.send_replace(progress);
        self.shared.replaced.store(true, Ordering::Release);
        run(log, writer, &self.shared, self.fold, wanted);
        hit(Point::StartOverAfter);
    }

    /// Whether somebody lets the log forget its beginning, or waits for that.
    pub(crate) fn is_trimming(&self) -> bool {
        self.shared.trimming.try_read().is_err()
    }

    /// Whether it was told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    /// Stops reading, writes what is staged and the checkpoint, and waits for that.
    pub async fn stop(&self) -> Result<(), FatalReason> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.stop.send_replace(true);
        let mut ended = self.shared.ended.subscribe();
        // The sender lives as long as this handle, so this is not an error.
        let _ = ended.wait_for(|ended| *ended).await;
        match &self.shared.progress.borrow().phase {
            Phase::Failed(reason) => Err(reason.clone()),
            _ => Ok(()),
        }
    }
}
