//! What is remembered of rebuilds when the process ends: how they ended, and which of them were under way, so that the
//! next server begins those again under the same id.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{From, Inner, KEPT, Rebuild, RebuildState, RebuildStatus, Rebuilds, Told};
use crate::pass::{Pace, RETRY};

/// The note beside the generations.
const NOTE: &str = "rebuilds.json";
/// A rebuild under which the process died so often may be what kills it.
const BEGUN_AGAIN: u32 = 3;

/// A rebuild as it is written down.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Remembered {
    status: RebuildStatus,
    from: From,
    /// The generation that it made, once that is finished: where this one serves, the rebuild has come to its end.
    candidate: Option<String>,
    begun_again: u32,
    /// The version of the fold that it makes views of.
    fold_version: u32,
}

impl Remembered {
    fn of(rebuild: &Rebuild) -> Self {
        Self {
            fold_version: rebuild.fold_version,
            status: rebuild.status(),
            from: rebuild.from,
            candidate: rebuild.candidate.lock().clone(),
            begun_again: rebuild.begun_again,
        }
    }

    fn is_under_way(&self) -> bool {
        self.status.state.is_under_way()
    }

    /// A rebuild of an earlier process.
    fn past(self) -> Arc<Rebuild> {
        let Self { status, from, candidate, begun_again, fold_version } = self;
        let mut rebuild = Rebuild::new(status.id, status.started_at, from, fold_version);
        rebuild.begun_again = begun_again;
        rebuild.candidate = candidate.into();
        rebuild.past = Some(status).into();
        Arc::new(rebuild)
    }

    fn ended(mut self, state: RebuildState, reason: Option<String>) -> Arc<Rebuild> {
        (self.status.state, self.status.reason, self.status.eta_seconds) = (state, reason, None);
        self.past()
    }
}

impl Rebuild {
    /// That it is not the first try, for people.
    pub(crate) fn again(&self) -> Option<String> {
        (self.begun_again > 0).then(|| "begun again after the server ended".to_owned())
    }

    /// How it is for those who ask. One that an earlier process left is nobody's work where no server runs.
    pub(super) fn shown(&self) -> RebuildStatus {
        let status = self.status();
        if interrupted(self).is_none() {
            return status;
        }
        let reason = Some("its process ended; a server begins it again when it starts".to_owned());
        RebuildStatus { state: RebuildState::Aborted, reason, eta_seconds: None, ..status }
    }

    pub(super) fn new(id: Uuid, started_at: proto_events::Timestamp, from: From, fold_version: u32) -> Self {
        let told = Told {
            state: RebuildState::Running,
            reason: None,
            jobs: 0,
            pace: Pace::begin(),
            folded: None,
            same_as_before: None,
            differing: Vec::new(),
        };
        Self {
            id,
            started_at,
            from,
            fold_version,
            begun_again: 0,
            candidate: parking_lot::Mutex::default(),
            past: parking_lot::Mutex::default(),
            watch: Arc::default(),
            told: told.into(),
            waiting: parking_lot::Mutex::default(),
            task: parking_lot::Mutex::default(),
        }
    }

    /// Once more, from the beginning.
    fn once_more(remembered: &Remembered) -> Self {
        let Remembered { status, from, begun_again, fold_version, .. } = remembered;
        let mut rebuild = Self::new(status.id, status.started_at, *from, *fold_version);
        rebuild.begun_again = begun_again + 1;
        rebuild.told.get_mut().reason = rebuild.again();
        rebuild
    }
}

impl Inner {
    /// What an earlier process left.
    pub(super) fn recall(&self) {
        let read = self.generations.read_note(NOTE).map_err(|error| error.to_string());
        let read = read.and_then(|note| {
            note.map_or(Ok(Vec::new()), |note| serde_json::from_slice(&note).map_err(|error| error.to_string()))
        });
        match read {
            Ok(remembered) => *self.all.lock() = remembered.into_iter().map(Remembered::past).collect(),
            Err(error) => tracing::warn!(error, "what an earlier process did about rebuilds cannot be read"),
        }
    }

    /// Writes down how all of them are now. Not while the process is being stopped: what fails then is under way still,
    /// as far as the next process is concerned.
    pub(super) async fn remember(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            // One at a time, so that the note is never older than what was written before.
            let _one = this.writing.lock();
            if this.live.is_stopping() {
                return;
            }
            let all: Vec<_> = this.all.lock().iter().map(|rebuild| Remembered::of(rebuild)).collect();
            let note = serde_json::to_vec_pretty(&all).unwrap_or_default();
            if let Err(error) = this.generations.write_note(NOTE, &note) {
                tracing::warn!(%error, "rebuilds are forgotten when the process ends");
            }
        });
        // It does not panic, and at the end of the process nobody waits for it.
        let _ = written.await;
    }

    /// Those that were under way and are not any more end so, unless somebody begins them again.
    pub(super) fn settle_interrupted(&self, state: RebuildState, reason: &str) {
        for rebuild in self.all.lock().iter_mut() {
            if let Some(remembered) = interrupted(rebuild) {
                *rebuild = remembered.ended(state, Some(reason.to_owned()));
            }
        }
    }
}

/// A rebuild that was under way when an earlier process ended.
fn interrupted(rebuild: &Rebuild) -> Option<Remembered> {
    let is_past = rebuild.past.lock().is_some();
    Some(Remembered::of(rebuild)).filter(|remembered| is_past && remembered.is_under_way())
}

impl Rebuilds {
    /// Begins again what was under way when an earlier process ended, under the same id. For a server, which will be
    /// there to see its end. Within a tokio runtime.
    pub fn resume(&self) {
        let serving = self.inner.generations.serving().ok().flatten();
        let mut all = self.inner.all.lock();
        for place in all.iter_mut() {
            let Some(remembered) = interrupted(place) else { continue };
            let id = remembered.status.id;
            if remembered.candidate.is_some() && remembered.candidate == serving {
                tracing::info!(%id, "the views of a rebuild that the server's end interrupted serve already");
                *place = remembered.ended(RebuildState::Completed, None);
            } else if remembered.fold_version != self.inner.generations.fold_version() {
                let reason = "the server ended, and the next one was of another version of the fold".to_owned();
                *place = remembered.ended(RebuildState::Aborted, Some(reason));
            } else if remembered.begun_again >= BEGUN_AGAIN {
                let reason = format!("the server ended {} times while it was under way", BEGUN_AGAIN + 1);
                tracing::error!(%id, reason, "a rebuild is not begun again");
                *place = remembered.ended(RebuildState::Failed, Some(reason));
            } else {
                let rebuild = Arc::new(Rebuild::once_more(&remembered));
                tracing::info!(%id, "a rebuild that the server's end interrupted is begun again");
                *rebuild.task.lock() = Some(tokio::spawn(Arc::clone(&self.inner).run_again(Arc::clone(&rebuild))));
                *place = rebuild;
            }
        }
        drop(all);
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move { inner.remember().await });
    }
}

impl Inner {
    async fn run_again(self: Arc<Self>, rebuild: Arc<Rebuild>) {
        let info = loop {
            match self.log.info().await {
                Ok(info) => break info,
                Err(error) => tracing::debug!(%error, "the log does not answer yet"),
            }
            if rebuild.watch.check().is_err() {
                rebuild.enter(RebuildState::Aborted, rebuild.again());
                return self.remember().await;
            }
            tokio::time::sleep(RETRY).await;
        };
        // What the last try left is in nobody's way but takes the room.
        // An upgrade goes on from it.
        if !self.is_upgrading()
            && let Err(error) = self.generations.tidy(KEPT)
        {
            tracing::warn!(%error, "old generations of the views could not be looked after");
        }
        if let Err(error) = self.check_room(info.bytes) {
            rebuild.enter(RebuildState::Failed, Some(error.to_string()));
            return self.remember().await;
        }
        let target = if info.messages == 0 { 0 } else { info.last_sequence };
        self.run(rebuild, target).await;
    }
}
