//! Sums by time: a cell for each minute of the last hours and for each hour of all time.

use std::collections::BTreeMap;
use std::ops::Range;

use projection::Outcome;
use proto_events::{JobState, Timestamp};

use super::histogram::Histogram;
use crate::codec::Counted;

/// Milliseconds.
pub(super) const MINUTE: i64 = 60_000;
/// Milliseconds.
pub(super) const HOUR: i64 = 60 * MINUTE;

/// Cells of both widths, by their number since the epoch. A fine cell before the horizon is not kept, and what falls into
/// it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cells<C> {
    minutes: BTreeMap<i64, C>,
    hours: BTreeMap<i64, C>,
}

impl<C> Default for Cells<C> {
    fn default() -> Self {
        Self { minutes: BTreeMap::new(), hours: BTreeMap::new() }
    }
}

/// Something that is empty when all that was added was taken out.
pub(super) trait Cell: Default {
    fn is_empty(&self) -> bool;
}

impl<C: Cell> Cells<C> {
    /// Changes the cells of a moment.
    pub(super) fn change(&mut self, at: Timestamp, horizon: i64, change: impl Fn(&mut C)) {
        let (minute, hour) = (at.millis().div_euclid(MINUTE), at.millis().div_euclid(HOUR));
        change_cell(&mut self.hours, hour, &change);
        if minute >= horizon {
            change_cell(&mut self.minutes, minute, &change);
        }
    }

    /// Drops fine cells before this minute.
    pub(super) fn advance(&mut self, horizon: i64) {
        self.minutes = self.minutes.split_off(&horizon);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hours.is_empty()
    }

    /// The cells of these minutes.
    pub(super) fn minutes(&self, numbers: Range<i64>) -> impl DoubleEndedIterator<Item = (i64, &C)> {
        self.minutes.range(numbers).map(|(number, cell)| (*number, cell))
    }

    /// The cells of these hours.
    pub(super) fn hours(&self, numbers: Range<i64>) -> impl DoubleEndedIterator<Item = (i64, &C)> {
        self.hours.range(numbers).map(|(number, cell)| (*number, cell))
    }

    /// The start of the first cell that is used, and of the last one, each as fine as it is known.
    pub(super) fn outermost(&self) -> Option<(Timestamp, Timestamp)> {
        let (first, last) = (self.hours.first_key_value()?.0, self.hours.last_key_value()?.0);
        let hour = |number: i64| number.saturating_mul(HOUR);
        // The first fine cell is the first one only where it lies in the first hour.
        let first_minute = self.minutes.first_key_value().map(|(number, _)| number * MINUTE);
        let first = first_minute.filter(|start| start.div_euclid(HOUR) == *first).unwrap_or(hour(*first));
        let last_minute = self.minutes.last_key_value().map(|(number, _)| number * MINUTE);
        let last = last_minute.filter(|start| start.div_euclid(HOUR) == *last).unwrap_or(hour(*last));
        Some((Timestamp(first.saturating_mul(1_000)), Timestamp(last.saturating_mul(1_000))))
    }
}

fn change_cell<C: Cell>(cells: &mut BTreeMap<i64, C>, number: i64, change: &impl Fn(&mut C)) {
    let cell = cells.entry(number).or_default();
    change(cell);
    if cell.is_empty() {
        cells.remove(&number);
    }
}

/// What ran and ended in a cell's time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Jobs that ended, by the time of their end.
    pub(super) completed: u32,
    pub(super) failed: u32,
    pub(super) cancelled: u32,
    /// Runs, by the time of their start.
    pub(super) started: u32,
    /// Runs, by the time of their end.
    pub(super) ended: u32,
    /// Runs, by the time of their start or, where that is not known, of their end.
    pub(super) ran: u32,
    pub(super) retried: u32,
    pub(super) rejected: u32,
    pub(super) lost: u32,
    /// Of runs, by the time of their end.
    pub(super) runtime: Histogram,
    /// Of runs, by the time of their start.
    pub(super) wait: Histogram,
    pub(super) waited: u64,
}

impl Cell for Work {
    fn is_empty(&self) -> bool {
        let counts = self.completed + self.failed + self.cancelled + self.started + self.ended + self.ran;
        counts == 0 && self.runtime.is_empty() && self.wait.is_empty()
    }
}

impl Work {
    pub(super) fn job(&mut self, state: JobState, step: Step) {
        match state {
            JobState::Completed => step.count(&mut self.completed),
            JobState::Failed => step.count(&mut self.failed),
            JobState::Cancelled => step.count(&mut self.cancelled),
            _ => {}
        }
    }

    pub(super) fn start(&mut self, run: &Counted<'_>, step: Step) {
        step.count(&mut self.started);
        step.count(&mut self.ran);
        if let Some(wait) = run.wait_ms {
            step.value(&mut self.wait, wait);
            self.waited = match step {
                Step::Add => self.waited.wrapping_add(wait),
                Step::Subtract => self.waited.wrapping_sub(wait),
            };
        }
    }

    pub(super) fn end(&mut self, run: &Counted<'_>, step: Step) {
        step.count(&mut self.ended);
        if run.started_at.is_none() {
            step.count(&mut self.ran);
        }
        match run.outcome {
            Some(Outcome::Retrying) => step.count(&mut self.retried),
            Some(Outcome::Rejected) => step.count(&mut self.rejected),
            Some(Outcome::Lost) => step.count(&mut self.lost),
            _ => {}
        }
        if let Some(runtime) = run.runtime_ms {
            step.value(&mut self.runtime, runtime);
        }
    }
}

/// Failures in a cell's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) jobs: u32,
    pub(super) attempts: u32,
}

impl Cell for Failed {
    fn is_empty(&self) -> bool {
        self.jobs == 0 && self.attempts == 0
    }
}

/// Into the sums or out of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Add,
    Subtract,
}

impl Step {
    pub(super) fn count(self, count: &mut u32) {
        match self {
            Self::Add => *count += 1,
            Self::Subtract => *count -= 1,
        }
    }

    fn value(self, histogram: &mut Histogram, value: u64) {
        match self {
            Self::Add => histogram.add(value),
            Self::Subtract => histogram.subtract(value),
        }
    }
}
