//! What can be asked of the statistics, and what they answer.

use std::sync::Arc;

use proto_events::Timestamp;
use uuid::Uuid;

use super::cells::{Cells, Failed, HOUR, MINUTE, Work};
use super::histogram::{Spread, Sum};
use super::range::{Range, Span};
use super::rhythm::Rhythm;
use super::{BETWEEN, FailureSeries, Stats, TaskSeries};
use crate::query::{Limit, Patience};

/// What ran in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Seconds of the span.
    pub seconds: f64,
    /// Jobs that ended well in it.
    pub completed: u64,
    /// Jobs that failed in it.
    pub failed: u64,
    /// Jobs that were cancelled in it.
    pub cancelled: u64,
    /// Runs that began in it; a job that is retried or delivered again runs several times.
    pub started: u64,
    /// Runs that ended in it.
    pub ended: u64,
    /// Those of them that failed and were to be tried again.
    pub retried: u64,
    /// Those whose message was given back or refused.
    pub rejected: u64,
    /// Those whose process was gone.
    pub lost: u64,
    /// How long runs took that ended in it.
    pub runtime: Spread,
    /// How long runs had waited that began in it.
    pub wait: Spread,
    /// The sum of that, in milliseconds.
    pub waited_ms: u64,
}

impl Totals {
    /// Jobs that failed, of those that completed or failed; `None` where none did.
    pub fn failure_rate(&self) -> Option<f64> {
        let all = self.completed + self.failed;
        (all > 0).then(|| self.failed as f64 / all as f64)
    }

    /// Runs that were retried, of those that ended; `None` where none did.
    pub fn retry_rate(&self) -> Option<f64> {
        (self.ended > 0).then(|| self.retried as f64 / self.ended as f64)
    }

    /// Jobs that completed or failed, per second.
    pub fn throughput(&self) -> f64 {
        (self.completed + self.failed) as f64 / self.seconds
    }

    /// The mean wait in milliseconds; `None` where no wait is known.
    pub fn mean_wait_ms(&self) -> Option<f64> {
        (self.wait.count > 0).then(|| self.waited_ms as f64 / self.wait.count as f64)
    }
}

/// What ran in a part of a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// The part.
    pub span: Span,
    /// What ran.
    pub totals: Totals,
}

impl Bucket {
    /// The parts of a range in which nothing ran.
    pub fn empty(range: Range, now: Timestamp) -> Vec<Self> {
        buckets(&[], range, now)
    }
}

/// What is known of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskStats {
    /// Whose.
    pub connection: Uuid,
    /// Its name; `None` stands for all tasks beyond the limit together.
    pub name: Option<Arc<str>>,
    /// What ran in the range.
    pub totals: Totals,
    /// The range in parts, where they were asked for.
    pub buckets: Vec<Bucket>,
    /// When a run of it last began (or ended, where the beginning is not known).
    pub last_run_at: Option<Timestamp>,
    /// How often it usually runs: the median of the gaps between the minutes in which it ran during the last six hours,
    /// where there are at least four, else between such hours of the last seven days. `None` where it ran too seldom.
    pub every_seconds: Option<u64>,
    /// Whether it usually runs at regular times (no gap is longer than three usual ones), and has not run now for more
    /// than twice the longest gap and two such minutes or hours.
    pub overdue: bool,
}

/// What is known of a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueStats {
    /// Whose.
    pub connection: Uuid,
    /// Its name; `None` stands for all queues beyond the limit together.
    pub name: Option<Arc<str>>,
    /// What ran in the range.
    pub totals: Totals,
    /// The range in parts.
    pub buckets: Vec<Bucket>,
}

/// How busy a worker is.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerRate {
    /// Whose.
    pub connection: Uuid,
    /// Its id; `None` stands for all workers beyond the limit together.
    pub worker: Option<Arc<str>>,
    /// Runs that ended, per minute, over the last 60 minutes.
    pub per_minute: f64,
    /// The queues that these were of.
    pub queues: Vec<Arc<str>>,
}

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct FailureGroup {
    /// Whose.
    pub connection: Uuid,
    /// The task; `None` stands for all groups beyond the limit together.
    pub name: Option<Box<str>>,
    /// The class of the error, without its module.
    pub class: Option<Box<str>>,
    /// What the error says, with numbers and ids folded.
    pub message: Box<str>,
    /// Jobs that failed so and stay so, in the range.
    pub jobs: u64,
    /// Runs that failed so in the range, those that were tried again included.
    pub attempts: u64,
    /// When it was first seen, of all that is known: the start of the minute, or of the hour where it is long ago.
    pub first_seen: Timestamp,
    /// When it was last seen, likewise.
    pub last_seen: Timestamp,
    /// The range in 12 to 28 parts.
    pub trend: Vec<FailureTrend>,
    /// Jobs that show such a failure, in the range or not, whether or not they failed in the end.
    pub(crate) known_jobs: u64,
}

impl FailureGroup {
    /// What names the kind of its failures among those of a connection.
    pub(crate) fn text(&self) -> String {
        let (name, class) = (self.name.as_deref().unwrap_or_default(), self.class.as_deref().unwrap_or_default());
        format!("{name}{BETWEEN}{class}{BETWEEN}{}", self.message)
    }
}

/// Failures in a part of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureTrend {
    /// The part.
    pub span: Span,
    /// Jobs.
    pub jobs: u64,
    /// Runs.
    pub attempts: u64,
}

/// Everything together.
#[derive(Clone, Debug, PartialEq)]
pub struct Overview {
    /// What ran in the range.
    pub totals: Totals,
    /// The range in parts.
    pub buckets: Vec<Bucket>,
}

/// Cells added up.
#[derive(Default)]
struct Adder {
    totals: Totals,
    runtime: Sum,
    wait: Sum,
}

impl Adder {
    fn add(&mut self, work: &Work) {
        let totals = &mut self.totals;
        totals.completed += u64::from(work.completed);
        totals.failed += u64::from(work.failed);
        totals.cancelled += u64::from(work.cancelled);
        totals.started += u64::from(work.started);
        totals.ended += u64::from(work.ended);
        totals.retried += u64::from(work.retried);
        totals.rejected += u64::from(work.rejected);
        totals.lost += u64::from(work.lost);
        totals.waited_ms = totals.waited_ms.saturating_add(work.waited);
        self.runtime.add(&work.runtime);
        self.wait.add(&work.wait);
    }

    fn totals(self, seconds: f64) -> Totals {
        Totals { seconds, runtime: self.runtime.spread(), wait: self.wait.spread(), ..self.totals }
    }
}

/// The cells of a span, the finest that make up the buckets of the range.
fn within<'a, C: super::Cell>(cells: &'a Cells<C>, range: Range, span: Span) -> Box<dyn Iterator<Item = &'a C> + 'a> {
    let (_, width) = range.buckets();
    if width < HOUR {
        Box::new(cells.minutes(span.start / MINUTE..span.end / MINUTE).map(|(_, cell)| cell))
    } else {
        Box::new(cells.hours(span.start / HOUR..span.end / HOUR).map(|(_, cell)| cell))
    }
}

fn total<'a>(all: impl Iterator<Item = &'a Cells<Work>>, range: Range, now: Timestamp) -> Totals {
    let mut adder = Adder::default();
    for cells in all {
        within(cells, range, range.span(now)).for_each(|work| adder.add(work));
    }
    adder.totals(range.seconds())
}

fn buckets(all: &[&Cells<Work>], range: Range, now: Timestamp) -> Vec<Bucket> {
    let bucket = |span: Span| {
        let mut adder = Adder::default();
        for cells in all {
            within(cells, range, span).for_each(|work| adder.add(work));
        }
        Bucket { span, totals: adder.totals((span.end - span.start) as f64 / 1_000.0) }
    };
    range.spans(now).map(bucket).collect()
}

fn is_wanted(connections: Option<&[Uuid]>, connection: Uuid) -> bool {
    connections.is_none_or(|wanted| wanted.contains(&connection))
}

impl Stats {
    /// Every task of which anything is known, whether or not it ran in the range, by name.
    pub(crate) fn tasks(&self, connections: Option<&[Uuid]>, range: Range, now: Timestamp) -> Vec<TaskStats> {
        let wanted = self.tasks.iter().filter(|(connection, _, _)| is_wanted(connections, *connection));
        let mut tasks: Vec<_> =
            wanted.map(|(connection, name, series)| series.stats(connection, name, range, now)).collect();
        tasks.sort_unstable_by(|a, b| (&a.name, a.connection).cmp(&(&b.name, b.connection)));
        tasks
    }

    /// The tasks of this name, with their buckets, by connection.
    pub(crate) fn task(
        &self,
        connections: Option<&[Uuid]>,
        name: &str,
        range: Range,
        now: Timestamp,
    ) -> Vec<TaskStats> {
        let of_name = self.tasks.iter().filter(|(connection, text, _)| {
            is_wanted(connections, *connection) && text.is_some_and(|text| **text == *name)
        });
        let mut tasks: Vec<_> = of_name
            .map(|(connection, name, series)| TaskStats {
                buckets: buckets(&[&series.work], range, now),
                ..series.stats(connection, name, range, now)
            })
            .collect();
        tasks.sort_unstable_by_key(|task| task.connection);
        tasks
    }

    /// How many tasks usually run at regular times and should have run long ago. Looks at nothing else.
    pub(crate) fn overdue(&self, now: Timestamp) -> usize {
        let is_overdue = |series: &TaskSeries| {
            let (last, rhythm) = (series.latest.get(), Rhythm::of(&series.work, now));
            last.zip(rhythm).is_some_and(|(last, rhythm)| rhythm.is_overdue(last, now))
        };
        self.tasks.iter().filter(|(_, name, series)| name.is_some() && is_overdue(series)).count()
    }

    /// Every queue of which anything is known, by name.
    pub(crate) fn queues(&self, connections: Option<&[Uuid]>, range: Range, now: Timestamp) -> Vec<QueueStats> {
        let wanted = self.queues.iter().filter(|(connection, _, _)| is_wanted(connections, *connection));
        let stats = |(connection, name, cells): (Uuid, Option<&Arc<str>>, &Cells<Work>)| QueueStats {
            connection,
            name: name.cloned(),
            totals: total(std::iter::once(cells), range, now),
            buckets: buckets(&[cells], range, now),
        };
        let mut queues: Vec<_> = wanted.map(stats).collect();
        queues.sort_unstable_by(|a, b| (&a.name, a.connection).cmp(&(&b.name, b.connection)));
        queues
    }

    /// Every worker that ended a run lately.
    pub(crate) fn worker_rates(&self, connections: Option<&[Uuid]>, now: Timestamp) -> Vec<WorkerRate> {
        let minute = now.millis().div_euclid(MINUTE);
        let wanted = self.workers.iter().filter(|(connection, _, _)| is_wanted(connections, *connection));
        wanted
            .map(|(connection, worker, series)| {
                let lately = minute - 59..=minute;
                let runs: u64 = series.all.range(lately.clone()).map(|(_, count)| u64::from(*count)).sum();
                let served = series.queues.iter().filter(|(_, minutes)| minutes.range(lately.clone()).next().is_some());
                let mut queues: Vec<Arc<str>> = served.map(|(queue, _)| Arc::clone(queue)).collect();
                queues.sort_unstable();
                WorkerRate { connection, worker: worker.cloned(), per_minute: runs as f64 / 60.0, queues }
            })
            .collect()
    }

    /// The groups of failures with anything in the range, those of most jobs first; of one task where it is named.
    pub(crate) fn failures(
        &self,
        connections: Option<&[Uuid]>,
        name: Option<&str>,
        range: Range,
        now: Timestamp,
    ) -> Vec<FailureGroup> {
        let wanted = self.failures.iter().filter(|(connection, _, _)| is_wanted(connections, *connection));
        let group = |(connection, text, series): (Uuid, Option<&Arc<str>>, &FailureSeries)| {
            let mut group = series.group(connection, text, range, now)?;
            if name.is_some_and(|name| group.name.as_deref() != Some(name)) || group.jobs + group.attempts == 0 {
                return None;
            }
            group.trend = range.parts(now).map(|span| trend(&series.cells, range, span)).collect();
            Some(group)
        };
        let mut groups: Vec<_> = wanted.filter_map(group).collect();
        groups.sort_unstable_by(|a, b| {
            let most = (b.jobs, b.attempts).cmp(&(a.jobs, a.attempts));
            let text = |group: &FailureGroup| (group.name.clone(), group.class.clone(), group.message.clone());
            most.then_with(|| text(a).cmp(&text(b))).then(a.connection.cmp(&b.connection))
        });
        groups
    }

    /// Everything together.
    pub(crate) fn overview(&self, connections: Option<&[Uuid]>, range: Range, now: Timestamp) -> Overview {
        let wanted = self.all.iter().filter(|(connection, _)| is_wanted(connections, **connection));
        let all: Vec<&Cells<Work>> = wanted.map(|(_, cells)| cells).collect();
        Overview { totals: total(all.iter().copied(), range, now), buckets: buckets(&all, range, now) }
    }

    /// How long a run of a task and the wait in a queue may take: three times what 99 of 100 of the last week took at
    /// most, and at least a minute. Only of those of which at least `enough` are known; `default` for others.
    pub(crate) fn patience(&self, now: Timestamp, enough: u64, default: u64) -> Patience {
        let limit = |spread: Spread| {
            let p99 = spread.p99.filter(|_| spread.count >= enough)?;
            Some(Limit { p99: Some(p99), most: p99.saturating_mul(3).max(60_000) })
        };
        let week = |work: &Cells<Work>| total(std::iter::once(work), Range::Week, now);
        let runs = |(connection, name, series): (Uuid, Option<&Arc<str>>, &TaskSeries)| {
            Some(((connection, name?.to_string()), limit(week(&series.work).runtime)?))
        };
        let waits = |(connection, name, work): (Uuid, Option<&Arc<str>>, &Cells<Work>)| {
            Some(((connection, name?.to_string()), limit(week(work).wait)?))
        };
        Patience {
            runs: self.tasks.iter().filter_map(runs).collect(),
            waits: self.queues.iter().filter_map(waits).collect(),
            default,
        }
    }
}

impl Stats {
    /// Whether both answer the same.
    pub(crate) fn agrees_with(&self, other: &Self, now: Timestamp) -> bool {
        let range = Range::Week;
        self.tasks(None, range, now) == other.tasks(None, range, now)
            && self.queues(None, range, now) == other.queues(None, range, now)
            && self.failures(None, None, range, now) == other.failures(None, None, range, now)
            && self.overview(None, range, now) == other.overview(None, range, now)
            && self.totals() == other.totals()
    }
}

impl TaskSeries {
    fn stats(&self, connection: Uuid, name: Option<&Arc<str>>, range: Range, now: Timestamp) -> TaskStats {
        let last_run_at = self.latest.get().filter(|_| name.is_some());
        let rhythm = Rhythm::of(&self.work, now).filter(|_| name.is_some());
        TaskStats {
            connection,
            name: name.cloned(),
            totals: total(std::iter::once(&self.work), range, now),
            buckets: Vec::new(),
            last_run_at,
            every_seconds: rhythm.map(|rhythm| (rhythm.usual / 1_000).cast_unsigned()),
            overdue: rhythm.zip(last_run_at).is_some_and(|(rhythm, last)| rhythm.is_overdue(last, now)),
        }
    }
}

impl FailureSeries {
    fn group(&self, connection: Uuid, text: Option<&Arc<str>>, range: Range, now: Timestamp) -> Option<FailureGroup> {
        let mut parts = text.map(|text| text.splitn(3, BETWEEN));
        let mut part = || parts.as_mut().and_then(Iterator::next);
        let (name, class, message) = (part(), part(), part());
        let (first_seen, last_seen) = self.cells.outermost()?;
        let sum = trend(&self.cells, range, range.span(now));
        Some(FailureGroup {
            connection,
            name: name.map(Into::into),
            class: class.filter(|class| !class.is_empty()).map(Into::into),
            message: message.unwrap_or_default().into(),
            jobs: sum.jobs,
            attempts: sum.attempts,
            first_seen,
            last_seen,
            trend: Vec::new(),
            known_jobs: self.shown,
        })
    }
}

fn trend(cells: &Cells<Failed>, range: Range, span: Span) -> FailureTrend {
    let (mut jobs, mut attempts) = (0, 0);
    for failed in within(cells, range, span) {
        jobs += u64::from(failed.jobs);
        attempts += u64::from(failed.attempts);
    }
    FailureTrend { span, jobs, attempts }
}
