//! Statistics: what ran, how long it took and how it ended, by task, queue, worker and failure.
//!
//! Every job adds integers to cells of time, and takes out exactly those when it is corrected; so the sums are a function
//! of the set of jobs, whatever the order and however often one changes. Nothing of it is stored: it is made from the
//! heads of the rows when views are opened.
//!
//! # Layout
//! - [`Stats`]: what a job adds to which series
//! - `series`: sums by name, of a limited number of names; `cells`: sums by time; `histogram`: sums by duration
//! - `totals`: sums of all time, for counters
//! - `answers`: what can be asked; `range`: spans of time and their buckets; `rhythm`: how often a task runs

mod answers;
mod cells;
mod ended;
mod histogram;
mod range;
mod rhythm;
mod series;
#[cfg(test)]
mod tests;
mod totals;

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use projection::{FailureKind, Outcome};
use proto_events::{JobState, Position, Timestamp};
use uuid::Uuid;

pub use self::answers::{Bucket, FailureGroup, FailureTrend, Overview, QueueStats, TaskStats, Totals, WorkerRate};
pub use self::ended::Ended;
pub use self::histogram::{RELATIVE_ERROR, Spread};
pub use self::range::{Range, Span, UnknownRange};
pub use self::totals::{ANY_SENDER, FailureTotal, Lifetime, RUNTIME_BOUNDS, Times, Total, TotalOf, WAIT_BOUNDS};
pub(crate) use self::totals::{TotalKey, TotalMap};

use self::cells::{Cell, Cells, Failed, MINUTE, Step, Work};
use self::rhythm::Latest;
use self::series::{Group, Series};
use crate::codec::{Counted, Head};
use crate::shared::UNKNOWN_NAME;

/// Minutes are kept one by one for so many milliseconds: the longest range that is told by minutes, and some more.
const FINE: i64 = 7 * 60 * MINUTE;
/// Between the parts of a text that names a failure.
const BETWEEN: char = '\u{1f}';

/// Of how many things of each kind statistics are kept; of all others together. Those count whose first event comes
/// first in the log.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Task names.
    pub tasks: usize,
    /// Queues.
    pub queues: usize,
    /// Workers.
    pub workers: usize,
    /// Groups of failures.
    pub failures: usize,
    /// Pairs of a task and a queue that have totals, and as many with the class of an error beside them.
    pub totals: usize,
    /// Whether totals are told apart by the hosts of workers, too.
    pub by_host: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tasks: 5_000, queues: 5_000, workers: 2_000, failures: 5_000, totals: 5_000, by_host: false }
    }
}

/// All sums.
#[derive(Clone, Debug)]
pub(crate) struct Stats {
    limits: Limits,
    /// The first minute that is kept by itself.
    horizon: i64,
    tasks: Group<TaskSeries>,
    queues: Group<Cells<Work>>,
    workers: Group<WorkerSeries>,
    failures: Group<FailureSeries>,
    totals: totals::Totals,
    /// Of all jobs of a connection.
    all: BTreeMap<Uuid, Cells<Work>>,
}

#[derive(Clone, Debug, Default)]
struct TaskSeries {
    work: Cells<Work>,
    latest: Latest,
}

impl Series for TaskSeries {
    fn is_empty(&self) -> bool {
        self.work.is_empty()
    }
}

impl Series for Cells<Work> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

/// Runs that ended, by the minute: of all jobs, and of those of each queue.
#[derive(Clone, Debug, Default)]
struct WorkerSeries {
    all: BTreeMap<i64, u32>,
    queues: HashMap<Arc<str>, BTreeMap<i64, u32>>,
}

impl Series for WorkerSeries {
    fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl WorkerSeries {
    fn change(&mut self, minute: i64, queue: Option<&str>, step: Step) {
        change_minute(&mut self.all, minute, step);
        let Some(queue) = queue else { return };
        if let Some(minutes) = self.queues.get_mut(queue) {
            change_minute(minutes, minute, step);
            if minutes.is_empty() {
                self.queues.remove(queue);
            }
        } else {
            change_minute(self.queues.entry(queue.into()).or_default(), minute, step);
        }
    }

    fn advance(&mut self, horizon: i64) {
        self.all = self.all.split_off(&horizon);
        self.queues.retain(|_, minutes| {
            *minutes = minutes.split_off(&horizon);
            !minutes.is_empty()
        });
    }
}

fn change_minute(minutes: &mut BTreeMap<i64, u32>, minute: i64, step: Step) {
    let count = minutes.entry(minute).or_default();
    step.count(count);
    if *count == 0 {
        minutes.remove(&minute);
    }
}

#[derive(Clone, Debug, Default)]
struct FailureSeries {
    cells: Cells<Failed>,
    /// Jobs that show it, whether they failed in the end or not.
    shown: u64,
}

impl Series for FailureSeries {
    fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.shown == 0
    }
}

impl Stats {
    pub(crate) fn new(limits: Limits, now: Timestamp) -> Self {
        Self {
            limits,
            horizon: horizon(now),
            tasks: Group::new(limits.tasks),
            queues: Group::new(limits.queues),
            workers: Group::new(limits.workers),
            failures: Group::new(limits.failures),
            totals: totals::Totals::new(limits.totals, limits.by_host),
            all: BTreeMap::new(),
        }
    }

    /// The sums of all these jobs, in any order.
    pub(crate) fn of<E>(
        limits: Limits,
        heads: impl Fn(&mut dyn FnMut(&Head<'_>)) -> Result<(), E>,
        now: Timestamp,
    ) -> Result<Self, E> {
        let mut stats = Self::new(limits, now);
        heads(&mut |head| stats.replace(None, Some(head)))?;
        if stats.is_unsettled() {
            // Once more, now that it is known which names stand first in the log.
            stats = stats.admitting(now);
            heads(&mut |head| stats.replace(None, Some(head)))?;
        }
        Ok(stats)
    }

    /// Nothing yet, but with those names admitted that stand first in the log.
    fn admitting(self, now: Timestamp) -> Self {
        Self {
            tasks: self.tasks.admitting(),
            queues: self.queues.admitting(),
            workers: self.workers.admitting(),
            failures: self.failures.admitting(),
            totals: self.totals.admitting(),
            ..Self::new(self.limits, now)
        }
    }

    /// Whether the sums may not be those of the jobs any more, so that they have to be made anew: beyond the limits, when
    /// names come and go in another order than that of the log.
    pub(crate) fn is_unsettled(&self) -> bool {
        let Self { tasks, queues, workers, failures, totals, .. } = self;
        let latest = tasks.iter().any(|(_, _, series)| series.latest.is_lost());
        latest
            || tasks.unsettled
            || queues.unsettled
            || workers.unsettled
            || failures.unsettled
            || totals.is_unsettled()
    }

    /// Has them made anew.
    pub(crate) fn unsettle(&mut self) {
        self.tasks.unsettled = true;
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// How much there is of everything, over all time.
    pub(crate) fn totals(&self) -> TotalMap {
        self.list_totals().into_iter().collect()
    }

    /// The same, in no order: as quickly as it can be got.
    pub(crate) fn list_totals(&self) -> Vec<(TotalKey, Vec<i64>)> {
        self.totals.all()
    }

    /// Lets go of minutes that are long past.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        self.advance_to(horizon(now));
    }

    /// Lets go of the same minutes as the other sums.
    pub(crate) fn advance_like(&mut self, other: &Self) {
        self.advance_to(other.horizon);
    }

    fn advance_to(&mut self, horizon: i64) {
        if horizon <= self.horizon {
            return;
        }
        self.horizon = horizon;
        self.tasks.iter_mut().for_each(|series| series.work.advance(horizon));
        self.queues.iter_mut().for_each(|cells| cells.advance(horizon));
        self.workers.iter_mut().for_each(|series| series.advance(horizon));
        self.failures.iter_mut().for_each(|series| series.cells.advance(horizon));
        self.all.values_mut().for_each(|cells| cells.advance(horizon));
    }

    /// A job that was so is so from now on.
    pub(crate) fn replace(&mut self, before: Option<&Head<'_>>, after: Option<&Head<'_>>) {
        if let (Some(before), Some(after)) = (before, after)
            && counts_the_same(before, after)
        {
            return;
        }
        self.totals.replace(before, after);
        if let Some(after) = after {
            self.names(after, before, |names, text, first| names.join(text, first));
        }
        // What a series was is taken out before anything else is put in, and the names stay meanwhile.
        if let Some(before) = before {
            self.count(before, Step::Subtract);
        }
        if let Some(after) = after {
            self.count(after, Step::Add);
        }
        if let Some(before) = before {
            self.names(before, after, |names, text, first| names.leave(text, first));
        }
    }

    /// Calls this with each name that a job has and another one has not from the same place in the log on.
    fn names(&mut self, of: &Head<'_>, but: Option<&Head<'_>>, mut each: impl FnMut(&mut dyn Names, &str, Position)) {
        let connection = of.connection;
        let but = but.filter(|but| (but.first, but.connection) == (of.first, of.connection));
        let name = but_not(Some(of.name), but.map(|but| but.name));
        if let Some(name) = name.filter(|name| *name != UNKNOWN_NAME) {
            each(&mut (connection, &mut self.tasks), name, of.first);
        }
        if let Some(queue) = but_not(of.queue, but.and_then(|but| but.queue)) {
            each(&mut (connection, &mut self.queues), queue, of.first);
        }
        let theirs = but.map(workers).unwrap_or_default();
        for worker in workers(of).into_iter().filter(|worker| !theirs.contains(worker)) {
            each(&mut (connection, &mut self.workers), worker, of.first);
        }
        let theirs = but.map(failures).unwrap_or_default();
        for failure in failures(of).iter().filter(|failure| !theirs.contains(failure)) {
            each(&mut (connection, &mut self.failures), failure, of.first);
        }
    }

    fn count(&mut self, head: &Head<'_>, step: Step) {
        let (connection, horizon) = (head.connection, self.horizon);
        if head.name != UNKNOWN_NAME {
            let TaskSeries { work, latest } = self.tasks.get_mut(connection, head.name);
            count_work(work, head, horizon, step);
            for at in head.runs().filter_map(|run| run.started_at.or(run.ended_at)) {
                latest.change(at.millis(), step);
            }
        }
        if let Some(queue) = head.queue {
            count_work(self.queues.get_mut(connection, queue), head, horizon, step);
        }
        let all = self.all.entry(connection).or_default();
        count_work(all, head, horizon, step);
        if all.is_empty() {
            self.all.remove(&connection);
        }
        for run in head.runs() {
            self.count_run(head, run, step);
        }
        if let Some(kind) = failure_shown(head) {
            let shown = &mut self.failures.get_mut(connection, &kind).shown;
            match step {
                Step::Add => *shown += 1,
                Step::Subtract => *shown -= 1,
            }
        }
        if let Some(at) = ended(head).filter(|_| head.state == JobState::Failed) {
            let error = head.rare.as_deref().and_then(|rare| rare.error.as_deref());
            self.failure(head, error, at, step, |failed| &mut failed.jobs);
        }
    }

    fn count_run(&mut self, head: &Head<'_>, run: Counted<'_>, step: Step) {
        let Some(at) = run.ended_at.filter(|_| run.outcome.is_some()) else { return };
        let minute = at.millis().div_euclid(MINUTE);
        if let Some(worker) = run.worker.filter(|_| minute >= self.horizon) {
            self.workers.get_mut(head.connection, worker).change(minute, head.queue, step);
        }
        if failed(&run) {
            self.failure(head, run.error, at, step, |failed| &mut failed.attempts);
        }
    }

    fn failure(
        &mut self,
        head: &Head<'_>,
        error: Option<&str>,
        at: Timestamp,
        step: Step,
        of_cell: impl Fn(&mut Failed) -> &mut u32,
    ) {
        let series = self.failures.get_mut(head.connection, &failure_text(head.name, error));
        series.cells.change(at, self.horizon, |cell| step.count(of_cell(cell)));
    }
}

/// The names of one kind.
trait Names {
    fn join(&mut self, text: &str, first: Position);
    fn leave(&mut self, text: &str, first: Position);
}

impl<S: Series> Names for (Uuid, &mut Group<S>) {
    fn join(&mut self, text: &str, first: Position) {
        self.1.join(self.0, text, first);
    }

    fn leave(&mut self, text: &str, first: Position) {
        self.1.leave(self.0, text, first);
    }
}

/// Whether nothing that is counted differs: most changes of a job are of this kind.
fn counts_the_same(before: &Head<'_>, after: &Head<'_>) -> bool {
    let of = |head: &Head<'_>| (head.started_at, head.completed_at, head.duration_ms, head.wait_ms, head.first);
    let state = |state: JobState| if state.is_final() || state == JobState::Retrying { Some(state) } else { None };
    of(before) == of(after)
        && state(before.state) == state(after.state)
        && (before.connection, before.name) == (after.connection, after.name)
        && (before.queue, before.worker) == (after.queue, after.worker)
        && (before.sent, before.received) == (after.sent, after.received)
        && before.rare == after.rare
}

/// A text, unless the other job has the same.
fn but_not<'a>(text: Option<&'a str>, other: Option<&str>) -> Option<&'a str> {
    text.filter(|_| other != text)
}

/// When a job ended, if it has.
fn ended(head: &Head<'_>) -> Option<Timestamp> {
    head.completed_at.filter(|_| head.state.is_final())
}

/// What a job adds to cells, or takes out of them.
fn count_work(cells: &mut Cells<Work>, head: &Head<'_>, horizon: i64, step: Step) {
    if let Some(at) = ended(head) {
        cells.change(at, horizon, |work| work.job(head.state, step));
    }
    for run in head.runs() {
        if let Some(at) = run.started_at {
            cells.change(at, horizon, |work| work.start(&run, step));
        }
        if let Some(at) = run.ended_at.filter(|_| run.outcome.is_some()) {
            cells.change(at, horizon, |work| work.end(&run, step));
        }
    }
}

/// The workers that a job counts for, each once.
fn workers<'a>(head: &'a Head<'_>) -> Vec<&'a str> {
    let mut workers = Vec::new();
    for worker in head.runs().filter_map(|run| run.worker) {
        if !workers.contains(&worker) {
            workers.push(worker);
        }
    }
    workers
}

/// The failures that a job counts for, each once.
fn failures(head: &Head<'_>) -> Vec<String> {
    // What it shows is also what it failed of, if it did.
    let mut failures: Vec<String> = failure_shown(head).into_iter().collect();
    for run in head.runs().filter(|run| failed(run) && run.ended_at.is_some()) {
        let text = failure_text(head.name, run.error);
        if !failures.contains(&text) {
            failures.push(text);
        }
    }
    failures
}

/// What names the kind of failure that a job shows; `None` where it shows none.
pub(crate) fn failure_shown(head: &Head<'_>) -> Option<String> {
    let error = head.rare.as_deref().and_then(|rare| rare.error.as_deref());
    (head.state == JobState::Failed || error.is_some()).then(|| failure_text(head.name, error))
}

/// Whether a run is an attempt that failed. One that was lost fails only where something says so.
fn failed(run: &Counted<'_>) -> bool {
    match run.outcome {
        Some(Outcome::Failed | Outcome::Retrying) => true,
        Some(Outcome::Lost | Outcome::Rejected) => run.error.is_some(),
        _ => false,
    }
}

/// What names a group of failures: the task, the class of the error, and what it says.
fn failure_text(name: &str, error: Option<&str>) -> String {
    let kind = FailureKind::of(error.unwrap_or_default());
    format!("{name}{BETWEEN}{}{BETWEEN}{}", kind.class.as_deref().unwrap_or_default(), kind.message)
}

/// The first minute that is kept by itself at this time.
fn horizon(now: Timestamp) -> i64 {
    now.millis().saturating_sub(FINE).div_euclid(MINUTE)
}
