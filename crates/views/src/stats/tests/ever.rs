//! What there was over all time, against the plain truth.

use super::*;

/// Sent, received, started, succeeded, rejected, revoked, retried, failed, and the milliseconds that runs took.
fn counts(total: &Total) -> [u64; 9] {
    let Total { sent, received, started, succeeded, rejected, revoked, retried, .. } = *total;
    [sent, received, started, succeeded, rejected, revoked, retried, 0, total.runtime.sum_ms]
}

fn plus(mut sum: [u64; 9], more: [u64; 9]) -> [u64; 9] {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    sum
}

/// The same of some jobs, by definition.
fn ever<'a>(jobs: impl Iterator<Item = &'a Counting>) -> [u64; 9] {
    let mut all = [0; 9];
    for job in jobs {
        let runs = runs(job);
        let ended = |outcome: Outcome| runs.iter().filter(|run| run.outcome == Some(outcome)).count() as u64;
        let started = runs.iter().filter(|run| run.started_at.is_some()).count() as u64;
        let without_a_run = |state: JobState, known: u64| u64::from(job.state == state && known == 0);
        let (succeeded, rejected, revoked) =
            (ended(Outcome::Completed), ended(Outcome::Rejected), ended(Outcome::Cancelled));
        let failed = ended(Outcome::Failed);
        let took = runs.iter().filter(|run| run.outcome == Some(Outcome::Completed)).filter_map(|run| run.runtime_ms);
        let of_job = [
            job.sent.into(),
            job.received.into(),
            started,
            succeeded + without_a_run(JobState::Completed, succeeded),
            rejected,
            revoked + without_a_run(JobState::Cancelled, revoked),
            ended(Outcome::Retrying),
            failed + without_a_run(JobState::Failed, failed + rejected),
            // None counts for more than a hundred years.
            took.map(|ms| ms.min(3_153_600_000_000)).sum(),
        ];
        all = plus(all, of_job);
    }
    all
}

pub(super) fn assert_ever(stats: &Stats, jobs: &BTreeMap<usize, Counting>) -> Result<(), TestCaseError> {
    let Lifetime { totals, failures } = stats.totals().into();
    let mut told: BTreeMap<(Uuid, [Box<str>; 3]), [u64; 9]> = BTreeMap::new();
    for total in &totals {
        let key = (total.of.connection, total.of.names.clone().unwrap());
        prop_assert!(told.insert(key, counts(total)).is_none());
        // Each run that ended well took some time, of which there is as much as there are such runs.
        let timed: u64 = total.runtime.buckets.iter().sum();
        prop_assert!(timed <= total.succeeded && total.wait.buckets.iter().sum::<u64>() <= total.started);
    }
    for failure in failures {
        let sum = told.entry((failure.of.connection, failure.of.names.unwrap())).or_default();
        *sum = plus(*sum, [0, 0, 0, 0, 0, 0, 0, failure.count, 0]);
    }
    let mut truth: BTreeMap<(Uuid, [Box<str>; 3]), Vec<&Counting>> = BTreeMap::new();
    for job in jobs.values() {
        let name = if job.name == "unknown" { "None" } else { job.name };
        let names = [name, job.queue.unwrap_or("celery"), ""].map(Box::from);
        truth.entry((Uuid::from_u128(job.connection.into()), names)).or_default().push(job);
    }
    let truth = truth.into_iter().map(|(key, jobs)| (key, ever(jobs.into_iter())));
    let truth: BTreeMap<_, _> = truth.filter(|(_, counts)| *counts != [0; 9]).collect();
    prop_assert_eq!(told, truth);
    Ok(())
}

/// So many are told by name, and all of them together are all.
pub(super) fn assert_within(
    stats: &Stats,
    jobs: &BTreeMap<usize, Counting>,
    limit: usize,
) -> Result<(), TestCaseError> {
    let Lifetime { totals, failures } = stats.totals().into();
    prop_assert!(totals.iter().filter(|total| total.of.names.is_some()).count() <= limit);
    prop_assert!(failures.iter().filter(|total| total.of.names.is_some()).count() <= limit);
    let sum = totals.iter().fold([0; 9], |sum, total| plus(sum, counts(total)));
    let failed: u64 = failures.iter().map(|total| total.count).sum();
    prop_assert_eq!(plus(sum, [0, 0, 0, 0, 0, 0, 0, failed, 0]), ever(jobs.values()));
    Ok(())
}

/// Where hosts are told apart each run counts for its own, a job for the one that had it last, and sending for none.
#[test]
fn each_run_counts_for_the_host_of_its_worker() {
    let Act::Put(number, job) = regular_run(0, -1, Some(1)) else { unreachable!() };
    let run = |worker: &str, outcome, error: Option<&str>| Measure {
        worker: Some(worker.into()),
        started_at: Some(Timestamp(NOW * 1_000)),
        ended_at: Some(Timestamp(NOW * 1_000)),
        outcome: Some(outcome),
        runtime_ms: Some(7),
        wait_ms: None,
        error: error.map(Into::into),
    };
    let runs = vec![
        run("celery@a", Outcome::Retrying, Some("TimeoutError()")),
        run("celery@a", Outcome::Failed, Some("shop.errors.Late: by a day")),
        run("lonely", Outcome::Failed, Some("nobody knows")),
        run("celery@b", Outcome::Completed, None),
    ];
    let job = Counting { sent: 2, received: 4, worker: Some("celery@b"), runs: Some(runs), ..job };
    let life = Life::of(vec![Act::Put(number, job)], Limits { by_host: true, ..Limits::default() });
    let Lifetime { totals, failures } = life.stats.totals().into();
    let host = |of: &TotalOf| of.names.as_ref().unwrap()[2].to_string();
    let told: BTreeMap<String, [u64; 9]> = totals.iter().map(|total| (host(&total.of), counts(total))).collect();
    let expected = [
        ("a", [0, 0, 2, 0, 0, 0, 1, 0, 0]),
        ("b", [0, 4, 1, 1, 0, 0, 0, 0, 7]),
        ("generic", [2, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("lonely", [0, 0, 1, 0, 0, 0, 0, 0, 0]),
    ];
    assert_eq!(told, expected.map(|(host, counts)| (host.to_owned(), counts)).into());
    let failed: BTreeMap<_, _> =
        failures.iter().map(|total| (host(&total.of), (&*total.exception, total.count))).collect();
    let expected = [("a", ("Late", 1)), ("lonely", ("UnknownException", 1))];
    assert_eq!(failed, expected.map(|(host, count)| (host.to_owned(), count)).into());
}
