//! How often a task runs: the gaps between the times at which it did.

use std::collections::BTreeMap;

use proto_events::Timestamp;

use super::cells::{Cells, HOUR, MINUTE, Step, Work};

/// So many latest times are remembered by themselves.
const KEPT: usize = 64;
/// From so many used cells on there is a rhythm.
const ENOUGH: usize = 4;

/// The latest times of a task's runs, in milliseconds, each with how often it was.
#[derive(Clone, Debug, Default)]
pub(super) struct Latest {
    times: BTreeMap<i64, u32>,
    /// Every time after this one is remembered.
    after: Option<i64>,
}

impl Latest {
    pub(super) fn change(&mut self, at: i64, step: Step) {
        if self.after.is_some_and(|after| at <= after) {
            return;
        }
        let count = self.times.entry(at).or_default();
        step.count(count);
        if *count == 0 {
            self.times.remove(&at);
        }
        if self.times.len() > KEPT
            && let Some((first, _)) = self.times.pop_first()
        {
            self.after = Some(first);
        }
    }

    pub(super) fn get(&self) -> Option<Timestamp> {
        self.times.last_key_value().map(|(at, _)| Timestamp(at * 1_000))
    }

    /// Whether the latest time is one that was let go.
    pub(super) fn is_lost(&self) -> bool {
        self.times.is_empty() && self.after.is_some()
    }
}

/// How often a task usually runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rhythm {
    /// Milliseconds between two runs: half of the gaps are not longer.
    pub(super) usual: i64,
    longest: i64,
    width: i64,
}

impl Rhythm {
    /// By the minutes of the last six hours in which it ran, where there are at least four of them; else by the hours of
    /// the last week; else there is none.
    pub(super) fn of(cells: &Cells<Work>, now: Timestamp) -> Option<Self> {
        let (minute, hour) = (now.millis().div_euclid(MINUTE), now.millis().div_euclid(HOUR));
        let minutes = used(cells.minutes(minute - 6 * 60 + 1..minute + 1));
        let hours = || used(cells.hours(hour - 7 * 24 + 1..hour + 1));
        Self::between(&minutes, MINUTE).or_else(|| Self::between(&hours(), HOUR))
    }

    fn between(used: &[i64], width: i64) -> Option<Self> {
        if used.len() < ENOUGH {
            return None;
        }
        let mut gaps: Vec<i64> = used.windows(2).map(|pair| (pair[1] - pair[0]) * width).collect();
        gaps.sort_unstable();
        Some(Self { usual: gaps[(gaps.len() - 1) / 2], longest: *gaps.last()?, width })
    }

    /// Whether a task of this rhythm, which ran last at that time, should have run long ago. Of one that runs at any odd
    /// time that cannot be told: its gaps must not differ by more than three times.
    pub(super) fn is_overdue(self, last: Timestamp, now: Timestamp) -> bool {
        let is_regular = self.longest <= 3 * self.usual;
        is_regular && now.millis() - last.millis() > 2 * self.longest + 2 * self.width
    }
}

fn used<'a>(cells: impl Iterator<Item = (i64, &'a Work)>) -> Vec<i64> {
    cells.filter(|(_, work)| work.ran > 0).map(|(number, _)| number).collect()
}
