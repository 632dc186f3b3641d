//! Upgrading: views of another version of the fold answer as they are, while a generation of ours is made beside them,
//! and then takes their place by itself. Filling: the same in place of empty views, which answer nothing.

use std::time::Duration;

use views::{Candidate, Checkpoint, Writer};

use crate::follow::known;
use crate::handle::Handle;
use crate::pass::PassError;
use crate::rebuild::{From, Inner, Rebuild, RebuildError, RebuildState, RebuildStatus, Rebuilds, stand};
use crate::status::{Fenced, Phase, now};

/// Between two tries, when the disk was too small or something else was in the way.
const AGAIN: Duration = Duration::from_secs(10);
/// Tries that fail on the way cost time and disk, so that they become rarer, up to this.
const AGAIN_AT_MOST: Duration = Duration::from_secs(10 * 60);
/// Between two looks at whether a try has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Views of another version of the fold, or empty ones, and how far their successors are.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The version that made the views that answer; `None` where the views are empty and nothing is answered.
    pub from: Option<u32>,
    /// The version of those that will take their place.
    pub to: u32,
    /// How far they are; `None` while none are being made.
    pub rebuild: Option<RebuildStatus>,
    /// Why none can be made, as far as that is known; it is tried again by itself.
    pub blocked: Option<String>,
}

impl Rebuilds {
    /// The upgrade under way, if the views are of another version of the fold or empty.
    pub fn upgrade(&self) -> Option<Upgrade> {
        let from = match self.inner.live.status().phase {
            Phase::Upgrading { from } => Some(from),
            Phase::CatchingUp if self.inner.live.is_idle() => None,
            _ => return None,
        };
        let rebuild = self.all().into_iter().next().filter(RebuildStatus::is_under_way);
        let to = self.inner.generations.fold_version();
        Some(Upgrade { from, to, rebuild, blocked: self.inner.blocked.lock().clone() })
    }

    /// Upgrades the views while they are of another version of the fold, for as long as this is awaited. It tries until it
    /// is done, or until a person aborts it or has to decide.
    pub async fn upgrade_by_itself(&self) {
        let mut again = AGAIN;
        while matches!(self.inner.live.status().phase, Phase::Upgrading { .. }) {
            let mut wait = AGAIN;
            let blocked = match self.begin(From::Log, now()).await {
                Ok(begun) => match self.settled(&begun).await {
                    Some((RebuildState::Failed, reason)) => {
                        wait = again;
                        again = (again * 2).min(AGAIN_AT_MOST);
                        reason
                    }
                    _ => return,
                },
                // Somebody else began it.
                Err(RebuildError::UnderWay) => None,
                Err(error) => {
                    tracing::error!(%error, "new views cannot be made: the old ones go on answering, frozen");
                    Some(error.to_string())
                }
            };
            *self.inner.blocked.lock() = blocked;
            tokio::time::sleep(wait).await;
        }
    }

    /// Fills empty views by a pass over the whole log, which takes a fraction of the time of following it. Where that is
    /// not possible, they follow it all the same: this is their writer.
    pub async fn fill(&self, writer: Writer) {
        match self.begin(From::Log, now()).await {
            Ok(begun) => drop(self.settled(&begun).await),
            Err(error) => tracing::warn!(%error, "the views are filled the slow way"),
        }
        if self.inner.live.is_idle() {
            self.inner.live.start_over(self.inner.log.clone(), writer).await;
        }
    }

    /// How a rebuild ended, once it has or a person has to decide.
    async fn settled(&self, begun: &RebuildStatus) -> Option<(RebuildState, Option<String>)> {
        *self.inner.blocked.lock() = None;
        loop {
            let status = self.status(begun.id).ok()?;
            if !status.is_under_way() || (status.state == RebuildState::Verifying && status.reason.is_some()) {
                return Some((status.state, status.reason));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl RebuildStatus {
    fn is_under_way(&self) -> bool {
        self.state.is_under_way()
    }
}

impl Inner {
    /// Whether the views that serve are not gone on from.
    pub(crate) fn is_upgrading(&self) -> bool {
        self.live.is_idle() && !matches!(self.live.status().phase, Phase::Fenced(_))
    }

    /// A generation of our version that an upgrade can go on from, if this is one and there is any of this log.
    pub(crate) async fn found(&self) -> Result<Option<(Writer, Candidate)>, PassError> {
        if !self.is_upgrading() {
            return Ok(None);
        }
        let generations = self.generations.clone();
        let found = tokio::task::spawn_blocking(move || generations.open_ours()).await;
        let found = found.map_err(|error| PassError::Panicked(error.to_string()))??;
        let Some((writer, candidate)) = found else { return Ok(None) };
        match writer.checkpoint() {
            Some(checkpoint) if self.fence(&checkpoint).await?.is_none() => Ok(Some((writer, candidate))),
            _ => Ok(None),
        }
    }

    /// Why the log is not that of the views that serve, if it is not.
    pub(crate) async fn fenced(&self) -> Result<Option<Fenced>, PassError> {
        match self.live.status().phase {
            Phase::Fenced(fenced) => Ok(Some(fenced)),
            // Nothing is read for them, so it is asked.
            Phase::Upgrading { .. } => match self.serving.checkpoint() {
                Some(checkpoint) => self.fence(&checkpoint).await,
                None => Ok(None),
            },
            Phase::CatchingUp | Phase::Following | Phase::Failed(_) => Ok(None),
        }
    }

    async fn fence(&self, checkpoint: &Checkpoint) -> Result<Option<Fenced>, PassError> {
        let fence = self.log.fence(&known(checkpoint)).await.map_err(|error| PassError::Log(error.to_string()))?;
        Ok(Fenced::of(fence).err())
    }

    /// Puts a generation of our version in the place of the frozen or empty one, behind which it must not be.
    pub(crate) async fn take_over(
        &self,
        shadow: Handle,
        candidate: Candidate,
        rebuild: &Rebuild,
    ) -> Result<(), PassError> {
        let gone = || PassError::Panicked("the new generation's projector ended".to_owned());
        let Some(held) = stand(&shadow, self.serving.applied()).await else {
            self.give_up(shadow, candidate).await;
            return Err(PassError::Log("the new views did not come up to the message of the old ones".to_owned()));
        };
        let (at, writer) = (held.at, held.surrender().await.map_err(|_| gone())?);
        self.promote(candidate).await?;
        self.live.start_over(self.log.clone(), writer).await;
        tracing::info!(at, "the new views serve");
        rebuild.enter(RebuildState::Completed, rebuild.again());
        Ok(())
    }

    /// Whether the generation that served before can serve again.
    pub(crate) async fn may_go_back(&self) -> Result<(), RebuildError> {
        let generations = self.generations.clone();
        let version = tokio::task::spawn_blocking(move || generations.previous_version()).await;
        let version = version.map_err(|error| RebuildError::Unavailable(error.to_string()))?;
        let ours = self.generations.fold_version();
        match version.map_err(|error| RebuildError::Unavailable(error.to_string()))? {
            None => Err(RebuildError::NothingBefore),
            Some(found) if found != ours => Err(RebuildError::OtherFold { found, ours }),
            Some(_) => Ok(()),
        }
    }
}
