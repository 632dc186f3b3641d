//! How far the projector is, and what is the matter with it.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto_events::Timestamp;

use crate::cut::Done;

/// So many looks at the log's end may wait until that end is applied.
const SIGHTS: usize = 64;

/// What the projector does.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// It applies what the log held when it started; the views are older than that.
    CatchingUp,
    /// It has applied all that the log held at the start and follows.
    Following,
    /// The views are of another version of the fold. Nothing is applied to them; they answer as they are, stale, until
    /// new ones are made, which then take their place.
    Upgrading {
        /// The version that wrote them.
        from: u32,
    },
    /// The log is not the one that the views were made from. Nothing is applied any more; the views answer as they
    /// are, stale.
    Fenced(Fenced),
    /// It died. The process should end, and say why.
    Failed(FatalReason),
}

impl Phase {
    /// Whether events are applied.
    pub(crate) fn is_following(&self) -> bool {
        matches!(self, Self::CatchingUp | Self::Following)
    }
}

/// How the log differs from the one that the views were made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fenced {
    /// It is another log.
    #[error(
        "the log was deleted and made anew, so the views are of another one: restore it, or make new views of what \
         there is with `forebay rebuild`"
    )]
    Recreated,
    /// It lost its end.
    #[error(
        "the log was rolled back to {last} at most, behind what the views hold: restore it, or make new views of what \
         there is with `forebay rebuild`"
    )]
    RolledBack {
        /// Up to where it may still agree with the views.
        last: u64,
    },
    /// It is gone.
    #[error("the log was deleted while it was being followed: restore it and restart")]
    Missing,
}

/// Why the projector died.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FatalReason {
    /// The views cannot be read or written.
    #[error(transparent)]
    Views(#[from] views::ViewError),
    /// A bug.
    #[error("the projector panicked: {0}")]
    Panicked(String),
}

impl PartialEq for FatalReason {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

/// Where the projector is.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// What it does.
    pub phase: Phase,
    /// The last message of the log whose effect readers see.
    pub applied: u64,
    /// The last message of the log, as far as is known.
    pub log_last: u64,
    /// The last message of the log when the projector started.
    pub target: u64,
    /// Messages of the log that are not applied yet.
    pub lag_events: u64,
    /// Age of the oldest of them in seconds, 0 when there is none.
    pub lag_seconds: f64,
    /// Readers see at least all that the log held so long ago; `None` until the log was asked.
    pub staleness: Option<Duration>,
    /// Events that could not be read and were passed over, since the start.
    pub quarantined: u64,
    /// The log had dropped messages before they were applied: it began here when that was noticed. It stays so until
    /// other views serve.
    pub trimmed: Option<u64>,
    /// Somebody else dropped what comes before this message from the log, and the views hold it still.
    pub lost: Option<u64>,
    /// What the log said before this message is forgotten; 0 while nothing is.
    pub floor: u64,
}

impl Status {
    /// Whether the log was compared with what is known of it.
    pub fn knows_the_log(&self) -> bool {
        self.phase != Phase::CatchingUp || self.target > 0
    }
}

/// What the two halves of the loop report.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) phase: Phase,
    pub(crate) applied: u64,
    pub(crate) log_last: u64,
    /// `None` until the log was asked.
    pub(crate) target: Option<u64>,
    pub(crate) quarantined: u64,
    pub(crate) trimmed: Option<u64>,
    pub(crate) lost: Option<u64>,
    /// What the log said before this message is forgotten, lastingly.
    pub(crate) floor: u64,
    /// What became of the last message that told of a trim.
    pub(crate) done: Done,
    /// When the oldest message that is not applied was published, or a little before; `None` when all are applied.
    pub(crate) behind_since: Option<Timestamp>,
    /// When the log was created that is followed; `None` until it was asked.
    pub(crate) created: Option<Timestamp>,
    /// All that the log held at this moment is applied. By the clock of this process alone: no other one plays a part.
    pub(crate) complete_at: Option<Instant>,
    /// When the log was asked for its end, and what it said, as far as that is not applied.
    sights: VecDeque<(Instant, u64)>,
}

impl Progress {
    pub(crate) fn new(applied: u64) -> Self {
        Self {
            phase: Phase::CatchingUp,
            applied,
            log_last: applied,
            target: None,
            quarantined: 0,
            trimmed: None,
            lost: None,
            floor: 0,
            done: Done::default(),
            behind_since: None,
            created: None,
            complete_at: None,
            sights: VecDeque::new(),
        }
    }

    /// The messages up to this one are applied; it was published then.
    pub(crate) fn applied(&mut self, sequence: u64, published: Timestamp) {
        self.applied = sequence;
        self.log_last = self.log_last.max(sequence);
        self.behind_since = (sequence < self.log_last).then_some(published);
        self.settle();
        self.catch_up();
    }

    /// A message that told of a trim has done this, lastingly.
    pub(crate) fn cut(&mut self, floor: u64, done: Done) {
        self.done = done;
        self.forgot(floor);
    }

    /// What the log said before this message is forgotten.
    pub(crate) fn forgot(&mut self, floor: u64) {
        self.floor = floor;
        // What is to be forgotten is not missed.
        self.trimmed.take_if(|first| *first <= floor);
        self.lost.take_if(|first| *first <= floor);
    }

    /// Follows from now on, if all that the log held at the start is applied.
    pub(crate) fn catch_up(&mut self) {
        if self.target.is_some_and(|target| self.applied >= target) {
            self.enter(Phase::Following);
        }
    }

    /// Goes forward only: what is fenced follows no more, and what is dead stays so.
    pub(crate) fn enter(&mut self, phase: Phase) {
        let rank = |phase: &Phase| match phase {
            Phase::CatchingUp => 0,
            Phase::Following => 1,
            Phase::Upgrading { .. } => 2,
            Phase::Fenced(_) => 3,
            Phase::Failed(_) => 4,
        };
        if rank(&phase) > rank(&self.phase) {
            self.phase = phase;
        }
    }

    /// The log ends here.
    pub(crate) fn saw_end(&mut self, last: u64) {
        self.log_last = self.log_last.max(last);
        if self.applied < self.log_last {
            self.behind_since.get_or_insert_with(now);
        }
    }

    /// The log that is followed, asked at that moment, ended here.
    pub(crate) fn saw_end_at(&mut self, asked: Instant, last: u64) {
        self.saw_end(last);
        // Where too many wait, the older ones are worth more: their end will be reached first.
        if self.sights.len() < SIGHTS {
            self.sights.push_back((asked, last));
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some((asked, _)) = self.sights.front().filter(|(_, last)| *last <= self.applied) {
            self.complete_at = Some(*asked);
            self.sights.pop_front();
        }
    }

    pub(crate) fn status(&self) -> Status {
        let age = self.behind_since.map_or(0, |since| now().micros().saturating_sub(since.micros()).max(0));
        Status {
            phase: self.phase.clone(),
            applied: self.applied,
            log_last: self.log_last,
            target: self.target.unwrap_or(0),
            lag_events: self.log_last.saturating_sub(self.applied),
            lag_seconds: age as f64 / 1e6,
            staleness: self.complete_at.map(|at| at.elapsed()),
            quarantined: self.quarantined,
            trimmed: self.trimmed,
            lost: self.lost,
            floor: self.floor,
        }
    }
}

pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_micros() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_as_old_as_the_last_look_at_the_log_whose_end_they_hold() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut progress = Progress::new(7);
        assert_eq!(progress.status().staleness, None, "nobody has looked");
        progress.saw_end_at(at(0), 7);
        assert_eq!(progress.complete_at, Some(at(0)));
        // Behind, the views stay as old as they are, whatever is seen.
        progress.saw_end_at(at(1), 8);
        progress.saw_end_at(at(2), 9);
        progress.saw_end(9);
        assert_eq!(progress.complete_at, Some(at(0)));
        progress.applied(8, Timestamp(0));
        assert_eq!(progress.complete_at, Some(at(1)));
        progress.applied(12, Timestamp(0));
        assert_eq!(progress.complete_at, Some(at(2)));
        // Far behind, no more is remembered than need be, and what is remembered still counts.
        (0..1_000).for_each(|second| progress.saw_end_at(at(3 + second), 13 + second));
        assert_eq!(progress.sights.len(), SIGHTS);
        progress.applied(14, Timestamp(0));
        assert_eq!(progress.complete_at, Some(at(4)));
        progress.applied(2_000, Timestamp(0));
        progress.saw_end_at(at(2_000), 2_000);
        assert_eq!(progress.complete_at, Some(at(2_000)));
    }
}
