//! The recent executions of one task name: a page of job ids by their first place in the log.

use proto_events::Position;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// So many jobs of a name count as recent: those with the highest first positions.
pub(crate) const RECENT: usize = 64;

/// A page keeps up to so many, so that jobs may leave it (a task that replaces itself takes another name) without a
/// search for successors each time.
const KEPT: usize = 2 * RECENT;

/// The jobs of one (connection, task name) with the highest first positions.
///
/// Which jobs count follows from the jobs alone: no order of insertion, removal or flush changes
/// [`RecentPage::latest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecentPage {
    /// Every job of the name with a first position above this one is in the page.
    above: Position,
    /// Ascending.
    jobs: Vec<(Position, Uuid)>,
}

impl RecentPage {
    pub(crate) fn insert(&mut self, first: Position, id: Uuid) {
        if first <= self.above {
            return;
        }
        if let Err(place) = self.jobs.binary_search(&(first, id)) {
            self.jobs.insert(place, (first, id));
        }
        if self.jobs.len() > KEPT {
            (self.above, _) = self.jobs.remove(0);
        }
    }

    pub(crate) fn remove(&mut self, first: Position, id: Uuid) {
        if let Ok(place) = self.jobs.binary_search(&(first, id)) {
            self.jobs.remove(place);
        }
    }

    /// Whether so many jobs left that older ones, which the page let go, count as recent again.
    pub(crate) fn is_short(&self) -> bool {
        self.jobs.len() < RECENT && self.above > Position::default()
    }

    /// Takes in older jobs again, found by `latest`: the jobs of the name with the highest first positions, up to so
    /// many.
    pub(crate) fn refill<E>(
        &mut self,
        latest: impl FnOnce(usize) -> Result<Vec<(Position, Uuid)>, E>,
    ) -> Result<(), E> {
        let jobs = latest(KEPT + 1)?;
        self.above = Position::default();
        for (first, id) in jobs {
            self.insert(first, id);
        }
        Ok(())
    }

    /// Lets go of all jobs whose first place is before this message, when no job has its first place there any more.
    /// Tells whether anything changed.
    pub(crate) fn forget(&mut self, sequence: u64) -> bool {
        // Otherwise it let them go long ago.
        let changes = self.above != Position::default() && self.above.sequence < sequence
            || self.jobs.first().is_some_and(|(first, _)| first.sequence < sequence);
        if changes {
            self.jobs.retain(|(first, _)| first.sequence >= sequence);
        }
        if self.above.sequence < sequence {
            self.above = Position::default();
        }
        changes
    }

    /// Whether there is nothing to say of the name.
    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.above == Position::default()
    }

    /// The recent jobs.
    pub(crate) fn latest(&self) -> impl Iterator<Item = Uuid> {
        self.jobs.iter().rev().take(RECENT).map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against the plain set of all jobs of the name; whole ranges come and go.
        #[test]
        fn the_latest_follow_from_the_jobs_alone(
            steps in prop::collection::vec((1_u64..400, 1_u64..150, prop::bool::weighted(0.4)), 0..40),
        ) {
            let mut page = RecentPage::default();
            let mut jobs = BTreeSet::new();
            for (from, count, leave) in steps {
                for sequence in from..from + count {
                    let job = (Position::new(sequence, 0), Uuid::from_u128(sequence.into()));
                    if leave {
                        jobs.remove(&job);
                        page.remove(job.0, job.1);
                        if page.is_short() {
                            let latest = |count| Ok::<_, ()>(jobs.iter().rev().take(count).copied().collect());
                            page.refill(latest).unwrap();
                        }
                    } else {
                        jobs.insert(job);
                        page.insert(job.0, job.1);
                    }
                    prop_assert!(page.jobs.len() <= KEPT);
                    let expected: Vec<_> = jobs.iter().rev().take(RECENT).map(|(_, id)| *id).collect();
                    prop_assert_eq!(page.latest().collect::<Vec<_>>(), expected);
                }
            }
        }
    }
}
