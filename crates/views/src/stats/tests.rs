//! The sums against the plain truth: the list of jobs, gone through by definition for each answer.

mod ever;
mod failures;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use projection::{FailureKind, Measure, Outcome};
use proptest::prelude::*;
use proptest::sample::select;
use proto_events::{Framework, JobState, Position, Timestamp};
use uuid::Uuid;

use super::*;
use crate::codec::Rare;

/// Some moment, in milliseconds, in the middle of a minute.
const NOW: i64 = 1_795_435_230_000;
const NAMES: [&str; 4] = ["app.send", "app.resize", "unknown", "app.late"];
const ERRORS: [&str; 3] = ["ValueError('bad 17')", "ValueError('bad 18')", "TimeoutError: slow"];

/// A job as the sums see it.
#[derive(Clone, Debug)]
struct Counting {
    connection: u8,
    first: u64,
    name: &'static str,
    queue: Option<&'static str>,
    worker: Option<&'static str>,
    state: JobState,
    started: Option<i64>,
    completed: Option<i64>,
    wait: Option<u64>,
    sent: u32,
    received: u32,
    error: Option<&'static str>,
    runs: Option<Vec<Measure>>,
}

impl Counting {
    fn head(&self) -> Head<'_> {
        let time = |ms: i64| Timestamp(ms * 1_000);
        let all = self.runs.iter().flatten();
        let rejected = all.filter(|run| run.outcome == Some(Outcome::Rejected)).count() as u32;
        let rare = Rare { rejected, error: self.error.map(Into::into), runs: self.runs.clone(), ..Rare::default() };
        let duration = self.started.zip(self.completed).map(|(start, end)| (end - start).max(0).cast_unsigned());
        Head {
            first: Position::new(self.first, 0),
            last: self.first,
            created_at: Timestamp(0),
            started_at: self.started.map(time),
            completed_at: self.completed.map(time),
            duration_ms: duration,
            wait_ms: self.wait,
            attempt: 1,
            sent: self.sent,
            received: self.received,
            state: self.state,
            framework: Framework::Celery,
            connection: Uuid::from_u128(self.connection.into()),
            name: self.name,
            queue: self.queue,
            worker: self.worker,
            rare: (rare != Rare::default()).then(|| Arc::new(rare)),
        }
    }
}

fn moment() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => NOW - 3_600_000..NOW + 60_000,
        2 => NOW - 8 * 3_600_000..NOW,
        2 => NOW - 8 * 86_400_000..NOW,
        1 => select(vec![0, -1, -62_135_596_800_000, 253_402_300_799_999]),
    ]
}

fn measure() -> impl Strategy<Value = Measure> {
    let outcomes = vec![
        None,
        Some(Outcome::Completed),
        Some(Outcome::Failed),
        Some(Outcome::Retrying),
        Some(Outcome::Rejected),
        Some(Outcome::Lost),
        Some(Outcome::Cancelled),
    ];
    let error = prop::option::of(select(ERRORS.to_vec()));
    let times = (prop::option::of(moment()), prop::option::of(moment()), prop::option::of(0_u64..100_000));
    (times, select(outcomes), prop::option::of(select(vec!["w1", "w2", "w3"])), error).prop_map(
        |((started, ended, wait), outcome, worker, error)| Measure {
            worker: worker.map(Into::into),
            started_at: started.map(|ms| Timestamp(ms * 1_000 + 7)),
            ended_at: ended.map(|ms| Timestamp(ms * 1_000 + 9)),
            outcome,
            runtime_ms: started.zip(ended).map(|(start, end)| (end - start).max(0).cast_unsigned()),
            wait_ms: wait.filter(|_| started.is_some()),
            error: error.map(Into::into),
        },
    )
}

fn job() -> impl Strategy<Value = Counting> {
    let who = (0_u8..2, 1_u64..1_000, select(NAMES.to_vec()), prop::option::of(select(vec!["q1", "q2", "q3"])));
    let times = (prop::option::of(moment()), prop::option::of(moment()), prop::option::of(0_u64..10_000));
    let what = (
        prop::option::of(select(vec!["w1", "w2", "w3"])),
        select(JobState::ALL.to_vec()),
        prop::option::of(select(ERRORS.to_vec())),
        prop::option::weighted(0.3, prop::collection::vec(measure(), 0..4)),
        (0_u32..3, 0_u32..3),
    );
    (who, times, what).prop_map(|(who, times, what)| Counting {
        connection: who.0,
        first: who.1,
        name: who.2,
        queue: who.3,
        worker: what.0,
        state: what.1,
        started: times.0,
        completed: times.1,
        wait: times.2.filter(|_| times.0.is_some()),
        sent: what.4.0,
        received: what.4.1,
        error: what.2,
        runs: what.3,
    })
}

/// What happens to the job of a number.
#[derive(Clone, Debug)]
enum Act {
    Put(usize, Counting),
    Remove(usize),
    /// It is handed to a worker once more, of which nothing else comes.
    Hand(usize),
    /// Minutes pass.
    Pass(i64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        8 => (0_usize..20, job()).prop_map(|(number, job)| Act::Put(number, job)),
        2 => (0_usize..20).prop_map(Act::Remove),
        1 => (0_usize..20).prop_map(Act::Hand),
        1 => (0_i64..600).prop_map(Act::Pass),
    ];
    prop::collection::vec(act, 0..60)
}

/// Jobs, the sums that followed them, and the time.
struct Life {
    jobs: BTreeMap<usize, Counting>,
    stats: Stats,
    now: Timestamp,
}

impl Life {
    fn of(acts: Vec<Act>, limits: Limits) -> Self {
        let now = Timestamp(NOW * 1_000);
        let mut life = Self { jobs: BTreeMap::new(), stats: Stats::new(limits, now), now };
        for act in acts {
            match act {
                Act::Put(number, mut job) => {
                    // No two jobs begin at the same place of the log.
                    job.first = job.first * 32 + number as u64;
                    let before = life.jobs.get(&number).map(Counting::head);
                    life.stats.replace(before.as_ref(), Some(&job.head()));
                    life.jobs.insert(number, job);
                }
                Act::Remove(number) => {
                    if let Some(job) = life.jobs.remove(&number) {
                        life.stats.replace(Some(&job.head()), None);
                    }
                }
                Act::Hand(number) => {
                    if let Some(job) = life.jobs.get_mut(&number) {
                        let before = job.clone();
                        job.received += 1;
                        life.stats.replace(Some(&before.head()), Some(&job.head()));
                    }
                }
                Act::Pass(minutes) => {
                    life.now = Timestamp(life.now.micros() + minutes * 60_000_000);
                    life.stats.advance(life.now);
                }
            }
            if life.stats.is_unsettled() {
                life.stats = made_of(limits, &life.jobs.values(), life.now);
            }
        }
        life
    }

    fn anew(&self) -> Stats {
        // In another order.
        made_of(self.stats.limits(), &self.jobs.values().rev(), self.now)
    }
}

fn made_of<'a>(limits: Limits, jobs: &(impl Iterator<Item = &'a Counting> + Clone), now: Timestamp) -> Stats {
    let heads = |visit: &mut dyn FnMut(&Head<'_>)| {
        jobs.clone().for_each(|job| visit(&job.head()));
        Ok::<_, std::convert::Infallible>(())
    };
    Stats::of(limits, heads, now).unwrap()
}

/// Everything that can be asked.
fn answers(stats: &Stats, now: Timestamp) -> String {
    let mut answers = String::new();
    for range in Range::ALL {
        let tasks = stats.tasks(None, range, now);
        let one: Vec<_> = NAMES.iter().map(|name| stats.task(None, name, range, now)).collect();
        let failures = stats.failures(None, None, range, now);
        let (queues, overview) = (stats.queues(None, range, now), stats.overview(None, range, now));
        write!(answers, "{tasks:?}{one:?}{failures:?}{queues:?}{overview:?}").unwrap();
    }
    let mut rates = stats.worker_rates(None, now);
    rates.retain(|rate| rate.per_minute > 0.0);
    rates.sort_by(|a, b| (&a.worker, a.connection).cmp(&(&b.worker, b.connection)));
    let patience = stats.patience(now, 1, 0);
    let (runs, waits): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (patience.runs.into_iter().collect(), patience.waits.into_iter().collect());
    answers + &format!("{rates:?}{runs:?}{waits:?}{:?}", stats.totals())
}

/// What is counted of some jobs in a span, by definition.
#[derive(Debug, Default, PartialEq)]
struct Truth {
    counts: [u64; 8],
    runtimes: Vec<u64>,
    waits: Vec<u64>,
}

fn runs(job: &Counting) -> Vec<Measure> {
    let measure = |run: Counted<'_>| Measure {
        worker: run.worker.map(Into::into),
        started_at: run.started_at,
        ended_at: run.ended_at,
        outcome: run.outcome,
        runtime_ms: run.runtime_ms,
        wait_ms: run.wait_ms,
        error: run.error.map(Into::into),
    };
    job.head().runs().map(measure).collect()
}

fn truth<'a>(jobs: impl Iterator<Item = &'a Counting>, span: Span) -> Truth {
    let mut truth = Truth::default();
    let within = |at: Option<Timestamp>| at.is_some_and(|at| at >= span.start() && at < span.end());
    for job in jobs {
        if within(job.completed.map(|ms| Timestamp(ms * 1_000))) {
            match job.state {
                JobState::Completed => truth.counts[0] += 1,
                JobState::Failed => truth.counts[1] += 1,
                JobState::Cancelled => truth.counts[2] += 1,
                _ => {}
            }
        }
        for run in runs(job) {
            if within(run.started_at) {
                truth.counts[3] += 1;
                truth.waits.extend(run.wait_ms);
            }
            if within(run.ended_at) && run.outcome.is_some() {
                truth.counts[4] += 1;
                truth.counts[5] += u64::from(run.outcome == Some(Outcome::Retrying));
                truth.counts[6] += u64::from(run.outcome == Some(Outcome::Rejected));
                truth.counts[7] += u64::from(run.outcome == Some(Outcome::Lost));
                truth.runtimes.extend(run.runtime_ms);
            }
        }
    }
    truth.runtimes.sort_unstable();
    truth.waits.sort_unstable();
    truth
}

fn assert_totals(told: &Totals, truth: &Truth) -> Result<(), TestCaseError> {
    let Totals { completed, failed, cancelled, started, ended, retried, rejected, lost, .. } = *told;
    let counts = [completed, failed, cancelled, started, ended, retried, rejected, lost];
    prop_assert_eq!(counts, truth.counts);
    prop_assert_eq!(told.waited_ms, truth.waits.iter().sum::<u64>());
    for (spread, values) in [(told.runtime, &truth.runtimes), (told.wait, &truth.waits)] {
        prop_assert_eq!(spread.count, values.len() as u64);
        for (share, told) in [(50, spread.p50), (95, spread.p95), (99, spread.p99), (100, spread.max)] {
            let value = values.get((values.len() * share).div_ceil(100).max(1) - 1);
            prop_assert_eq!(told.is_some(), value.is_some());
            if let (Some(told), Some(value)) = (told, value) {
                prop_assert!(told >= *value && (told - value) as f64 <= *value as f64 * RELATIVE_ERROR);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn sums_are_those_of_the_jobs_whatever_became_of_them_on_the_way(acts in acts()) {
        let life = Life::of(acts, Limits::default());
        let (jobs, stats, now) = (&life.jobs, &life.stats, life.now);
        prop_assert_eq!(answers(stats, now), answers(&life.anew(), now));
        for range in Range::ALL {
            let span = range.span(now);
            for task in stats.tasks(None, range, now) {
                let name = task.name.clone().unwrap();
                let is_of = |job: &&Counting| {
                    *job.name == *name && Uuid::from_u128(job.connection.into()) == task.connection
                };
                assert_totals(&task.totals, &truth(jobs.values().filter(is_of), span))?;
                let all = jobs.values().filter(is_of).flat_map(runs);
                let last = all.filter_map(|run| run.started_at.or(run.ended_at)).max();
                prop_assert_eq!(task.last_run_at.map(Timestamp::millis), last.map(Timestamp::millis));
                for bucket in stats.task(Some(&[task.connection]), &name, range, now)[0].buckets.clone() {
                    assert_totals(&bucket.totals, &truth(jobs.values().filter(is_of), bucket.span))?;
                }
            }
            let told: BTreeSet<_> = stats.tasks(None, range, now).into_iter().map(|task| task.name.unwrap()).collect();
            let ever = Span { start: i64::MIN / 1_000, end: i64::MAX / 1_000 };
            for name in NAMES.into_iter().filter(|name| *name != "unknown") {
                let of_name = jobs.values().filter(|job| job.name == name);
                prop_assert_eq!(told.contains(name), truth(of_name, ever).counts != [0; 8], "{}", name);
            }
            for queue in stats.queues(None, range, now) {
                let is_of = |job: &&Counting| {
                    job.queue == queue.name.as_deref() && Uuid::from_u128(job.connection.into()) == queue.connection
                };
                assert_totals(&queue.totals, &truth(jobs.values().filter(is_of), span))?;
            }
            let overview = stats.overview(None, range, now);
            assert_totals(&overview.totals, &truth(jobs.values(), span))?;
            let one = Uuid::from_u128(1);
            let of_one = jobs.values().filter(|job| job.connection == 1);
            assert_totals(&stats.overview(Some(&[one]), range, now).totals, &truth(of_one, span))?;
            failures::assert_failures(stats, jobs, range, now)?;
        }
        ever::assert_ever(stats, jobs)?;
        for rate in stats.worker_rates(None, now) {
            let minute = now.millis().div_euclid(MINUTE);
            let ended = |run: &Measure| {
                let at = run.ended_at.filter(|_| run.outcome.is_some()).map(|at| at.millis().div_euclid(MINUTE));
                at.is_some_and(|at| at > minute - 60 && at <= minute) && run.worker.as_deref() == rate.worker.as_deref()
            };
            let of = jobs.values().filter(|job| Uuid::from_u128(job.connection.into()) == rate.connection);
            let count = of.flat_map(runs).filter(ended).count();
            prop_assert!((rate.per_minute * 60.0 - count as f64).abs() < 1e-6);
        }
    }

    /// Who is counted by name follows from the jobs alone, and the others are counted together.
    #[test]
    fn beyond_the_limits_those_count_that_stand_first_in_the_log(acts in acts()) {
        let limits = Limits { tasks: 2, queues: 2, workers: 1, failures: 2, totals: 2, by_host: true };
        let life = Life::of(acts, limits);
        let now = life.now;
        prop_assert_eq!(answers(&life.stats, now), answers(&life.anew(), now));
        let mut firsts: BTreeMap<(Uuid, &str), u64> = BTreeMap::new();
        for job in life.jobs.values().filter(|job| job.name != "unknown") {
            let first = firsts.entry((Uuid::from_u128(job.connection.into()), job.name)).or_insert(job.first);
            *first = job.first.min(*first);
        }
        let mut order: Vec<_> = firsts.iter().map(|(key, first)| (*first, *key)).collect();
        order.sort_unstable();
        let last = order.get(1).map_or(u64::MAX, |(first, _)| *first);
        for task in life.stats.tasks(None, Range::Week, now).iter().filter(|task| task.name.is_some()) {
            let key = (task.connection, task.name.as_deref().unwrap());
            prop_assert!(firsts[&key] <= last, "{:?} in {:?}", key, order);
        }
        let sum: u64 = life.stats.tasks(None, Range::Week, now).iter().map(|task| task.totals.started).sum();
        let named = life.jobs.values().filter(|job| job.name != "unknown");
        prop_assert_eq!(sum, truth(named, Range::Week.span(now)).counts[3]);
        ever::assert_within(&life.stats, &life.jobs, limits.totals)?;
    }
}

/// A job that started so many minutes after now, and took so many seconds.
fn regular_run(number: usize, minutes: i64, seconds: Option<i64>) -> Act {
    let started = NOW + minutes * 60_000;
    let job = Counting {
        connection: 0,
        first: number as u64 + 1,
        name: "app.send",
        queue: None,
        worker: None,
        state: seconds.map_or(JobState::Active, |_| JobState::Completed),
        started: Some(started),
        completed: seconds.map(|seconds| started + seconds * 1_000),
        wait: None,
        sent: 0,
        received: 0,
        error: None,
        runs: None,
    };
    Act::Put(number, job)
}

/// What counts is when runs begin, not that they reach into the next minute, or the next day's first hour.
#[test]
fn how_often_a_task_runs_has_nothing_to_do_with_how_long_it_takes() {
    let task = |life: &Life, minutes: i64| {
        let now = Timestamp((NOW + minutes * 60_000) * 1_000);
        life.stats.task(None, "app.send", Range::Hour, now).remove(0)
    };
    let minutes = (0..12).map(|n| regular_run(n, n as i64 * 5 - 55, Some(90))).collect();
    let minutes = task(&Life::of(minutes, Limits::default()), 4);
    assert_eq!((minutes.every_seconds, minutes.overdue), (Some(300), false));
    let midnight = -NOW.rem_euclid(86_400_000) / 60_000;
    let nights = (0..6).map(|n| regular_run(n, midnight - 10 - n as i64 * 1_440, Some(1_200))).collect();
    let nights = task(&Life::of(nights, Limits::default()), midnight + 23 * 60);
    assert_eq!((nights.every_seconds, nights.overdue), (Some(86_400), false));
}

/// Whoever retried and is well now showed a failure for a while, and does not count any more; who shows one does.
#[test]
fn of_a_group_of_failures_as_many_jobs_are_known_as_show_it() {
    let retrying = |error| {
        let Act::Put(number, job) = regular_run(0, -1, Some(1)) else { unreachable!() };
        let run = Measure {
            worker: None,
            started_at: None,
            ended_at: Some(Timestamp((NOW - 60_000) * 1_000)),
            outcome: Some(Outcome::Retrying),
            runtime_ms: None,
            wait_ms: None,
            error: Some("TimeoutError()".into()),
        };
        Act::Put(number, Counting { state: JobState::Retrying, completed: None, error, runs: Some(vec![run]), ..job })
    };
    let known = |acts| {
        let life = Life::of(acts, Limits::default());
        let groups = life.stats.failures(None, None, Range::Hour, life.now);
        groups.iter().map(|group| (group.jobs, group.attempts, group.known_jobs)).collect::<Vec<_>>()
    };
    let shows = || retrying(Some("TimeoutError()"));
    assert_eq!(known(vec![shows()]), [(0, 1, 1)]);
    assert_eq!(known(vec![shows(), retrying(None)]), [(0, 1, 0)]);
    assert_eq!(known(vec![shows(), Act::Remove(0)]), []);
}

/// A task that ran every ten minutes, and then stopped.
#[test]
fn what_ran_regularly_and_stopped_is_overdue() {
    let at = |minutes: i64| Timestamp((NOW + minutes * 60_000) * 1_000);
    let run = |number, minutes| regular_run(number, minutes, None);
    let regular = Life::of((0..12).map(|n| run(n, n as i64 * 10 - 120)).collect(), Limits::default());
    let task = |life: &Life, minutes| life.stats.task(None, "app.send", Range::Hour, at(minutes)).remove(0);
    let on_time = task(&regular, 5);
    assert_eq!((on_time.every_seconds, on_time.overdue, on_time.last_run_at), (Some(600), false, Some(at(-10))));
    assert!(!task(&regular, 12).overdue, "twice the gap and two minutes are not over yet");
    assert!(task(&regular, 13).overdue);
    // Days later only hours are left of it, and of those too few.
    assert!(!task(&regular, 3 * 24 * 60).overdue);
    let odd =
        Life::of([-300, -298, -200, -10, -9].iter().enumerate().map(|(n, m)| run(n, *m)).collect(), Limits::default());
    assert!(!task(&odd, 350).overdue, "who runs at any odd time is never late");
    let daily = Life::of((0..7).map(|n| run(n, n as i64 * 1_440 - 10_000)).collect(), Limits::default());
    assert_eq!(task(&daily, -1_300).every_seconds, Some(86_400));
    assert!(!task(&daily, -1_300 + 2 * 1_440).overdue && task(&daily, -1_300 + 3 * 1_440).overdue);
}
