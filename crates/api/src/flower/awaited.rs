//! Who waits for the end of a task: woken when something becomes of that one, and of no other.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use projector::{Frames, Handle, Happening};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::errors::ApiError;

/// Who waits at once: each has a connection meanwhile.
const AT_ONCE: usize = 256;

const TOO_MANY: ApiError = ApiError::Unavailable("Too many requests wait for the end of a task.");

/// All who wait.
pub(crate) struct Awaited {
    slots: Arc<Semaphore>,
    all: Mutex<All>,
}

#[derive(Default)]
struct All {
    by_job: HashMap<Uuid, Vec<Arc<Notify>>>,
    /// Whether somebody goes through what happens.
    is_watched: bool,
}

/// One who waits, until it is dropped.
pub(super) struct Waiter {
    awaited: Arc<Awaited>,
    ids: Vec<Uuid>,
    woken: Arc<Notify>,
    _slot: OwnedSemaphorePermit,
}

impl Default for Awaited {
    fn default() -> Self {
        Self { slots: Arc::new(Semaphore::new(AT_ONCE)), all: Mutex::default() }
    }
}

impl Awaited {
    /// Whoever this is is woken by whatever becomes of one of these jobs from now on: so they are to be looked at once
    /// more now. Within a tokio runtime.
    pub(super) fn wait(self: &Arc<Self>, ids: Vec<Uuid>, projector: &Handle) -> Result<Waiter, ApiError> {
        let (projector, frames) = (projector.clone(), Arc::clone(projector.frames()));
        // A message of this number never comes: until none does any more.
        let stopped = async move {
            let _ = projector.wait_applied(u64::MAX, Duration::MAX).await;
        };
        self.wait_among(ids, frames, stopped)
    }

    fn wait_among(
        self: &Arc<Self>,
        ids: Vec<Uuid>,
        frames: Arc<Frames>,
        stopped: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Waiter, ApiError> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| TOO_MANY)?;
        let woken = Arc::new(Notify::new());
        let mut all = self.all.lock();
        for id in &ids {
            all.by_job.entry(*id).or_default().push(Arc::clone(&woken));
        }
        if !std::mem::replace(&mut all.is_watched, true) {
            let next = frames.end();
            tokio::spawn(Arc::clone(self).watch(frames, next, stopped));
        }
        drop(all);
        Ok(Waiter { awaited: Arc::clone(self), ids, woken, _slot: slot })
    }

    /// Goes through what happens for as long as anybody waits.
    async fn watch(self: Arc<Self>, frames: Arc<Frames>, mut next: u64, stopped: impl Future<Output = ()>) {
        let mut stopped = std::pin::pin!(stopped);
        loop {
            let is_stopped = tokio::select! {
                () = frames.reached(next) => false,
                () = &mut stopped => true,
            };
            let read = frames.read(next);
            let mut all = self.all.lock();
            if let Ok(pieces) = read {
                for piece in pieces {
                    piece.happenings().iter().for_each(|happening| all.wake(happening));
                    next = piece.end();
                }
            } else {
                // It has missed some.
                next = frames.end();
                all.wake_everybody();
            }
            if is_stopped {
                all.wake_everybody();
            }
            if is_stopped || all.by_job.is_empty() {
                all.is_watched = false;
                return;
            }
        }
    }
}

impl All {
    fn wake(&self, happening: &Happening) {
        match happening {
            Happening::Job(change) => {
                self.by_job.get(&change.id).into_iter().flatten().for_each(|one| one.notify_one());
            }
            Happening::Replaced => self.wake_everybody(),
            Happening::WorkerHeartbeat(_) | Happening::WorkerState(_) | Happening::Queue(_) => {}
        }
    }

    fn wake_everybody(&self) {
        self.by_job.values().flatten().for_each(|one| one.notify_one());
    }
}

impl Waiter {
    /// Waits until something became of one of the jobs since the last time, or nothing becomes of any job any more.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut all = self.awaited.all.lock();
        for id in &self.ids {
            if let Some(waiting) = all.by_job.get_mut(id) {
                waiting.retain(|one| !Arc::ptr_eq(one, &self.woken));
                if waiting.is_empty() {
                    all.by_job.remove(id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use projector::{FRAMES_KEPT, JobChange};
    use proto_events::{JobState, Timestamp};

    use super::*;

    fn change(job: u128) -> Happening {
        let id = Uuid::from_u128(job);
        let (name, state) = ("shop.send".into(), JobState::Active);
        let (queue, previous) = (None, None);
        Happening::Job(JobChange { connection: Uuid::nil(), id, name, queue, state, previous, at: Timestamp(0) })
    }

    /// Whether somebody is woken before everything stands still.
    async fn is_woken(waiter: &Waiter) -> bool {
        tokio::time::timeout(Duration::from_secs(1), waiter.woken()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_by_its_own_task_and_by_what_concerns_all() {
        let (awaited, frames) = (Arc::<Awaited>::default(), Arc::<Frames>::default());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let wait = |jobs: &[u128], stopped| {
            let ids = jobs.iter().copied().map(Uuid::from_u128).collect();
            awaited.wait_among(ids, Arc::clone(&frames), async move { drop(stopped.await) }).unwrap()
        };
        let never = || tokio::sync::oneshot::channel::<()>();
        let (_never, still) = never();
        let one = wait(&[1], stopped);
        let other = wait(&[3], still);
        frames.push(vec![change(7), change(1), change(8)]);
        assert_eq!((is_woken(&one).await, is_woken(&other).await), (true, false));
        let (_never, still) = never();
        let of_either = wait(&[5, 6], still);
        frames.push(vec![change(6)]);
        assert!(is_woken(&of_either).await && !is_woken(&one).await);
        drop(of_either);
        frames.push((0..FRAMES_KEPT as u128 * 2).map(|job| change(job + 10)).collect());
        assert!(is_woken(&one).await && is_woken(&other).await, "it may have been theirs");
        frames.push(vec![Happening::Replaced]);
        assert!(is_woken(&one).await && is_woken(&other).await);
        assert!(!is_woken(&one).await && !is_woken(&other).await, "and once for each");
        drop(stop);
        assert!(is_woken(&one).await && is_woken(&other).await);
        // Somebody watches for those who come later.
        let (_never, still) = never();
        let late = wait(&[3], still);
        frames.push(vec![change(3)]);
        assert!(is_woken(&late).await && is_woken(&other).await);
        drop((one, other, late));
        frames.push(vec![change(1)]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let all = awaited.all.lock();
        assert!(all.by_job.is_empty() && !all.is_watched, "nothing is left behind");
        assert_eq!(awaited.slots.available_permits(), AT_ONCE);
    }
}
