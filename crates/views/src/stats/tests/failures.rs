//! The groups of failures, against the plain truth.

use super::*;

pub(super) fn assert_failures(
    stats: &Stats,
    jobs: &BTreeMap<usize, Counting>,
    range: Range,
    now: Timestamp,
) -> Result<(), TestCaseError> {
    let span = range.span(now);
    let within = |at: Timestamp| at >= span.start() && at < span.end();
    let mut truth: BTreeMap<(Uuid, &str, FailureText), (u64, u64)> = BTreeMap::new();
    for job in jobs.values() {
        let connection = Uuid::from_u128(job.connection.into());
        if let Some(ms) = job.completed.filter(|_| job.state == JobState::Failed)
            && within(Timestamp(ms * 1_000))
        {
            truth.entry((connection, job.name, FailureText::of(job.error))).or_default().0 += 1;
        }
        for run in runs(job) {
            let failed = match run.outcome {
                Some(Outcome::Failed | Outcome::Retrying) => true,
                Some(Outcome::Lost | Outcome::Rejected) => run.error.is_some(),
                _ => false,
            };
            if failed && run.ended_at.is_some_and(within) {
                truth.entry((connection, job.name, FailureText::of(run.error.as_deref()))).or_default().1 += 1;
            }
        }
    }
    let groups = stats.failures(None, None, range, now);
    let told: BTreeMap<_, _> = groups
        .iter()
        .map(|group| {
            let text = FailureText(group.class.clone(), group.message.clone());
            ((group.connection, group.name.as_deref().unwrap(), text), (group.jobs, group.attempts))
        })
        .collect();
    prop_assert_eq!(told, truth);
    for group in &groups {
        prop_assert_eq!(group.trend.iter().map(|part| part.jobs).sum::<u64>(), group.jobs);
        prop_assert_eq!(group.trend.iter().map(|part| part.attempts).sum::<u64>(), group.attempts);
        prop_assert!(group.first_seen <= group.last_seen);
    }
    prop_assert!(groups.is_sorted_by_key(|group| std::cmp::Reverse(group.jobs)));
    Ok(())
}

/// What names a kind of failure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FailureText(Option<Box<str>>, Box<str>);

impl FailureText {
    fn of(error: Option<&str>) -> Self {
        let kind = FailureKind::of(error.unwrap_or_default());
        Self(kind.class, kind.message)
    }
}
