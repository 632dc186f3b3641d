//! What statistics count of a job's runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use projection::{Measure, Outcome, Row, dispatches, rejections};
use proto_events::{CeleryFacts, CeleryKind, Event, Framework, Job, JobState, Position, Producer, Timestamp};
use uuid::Uuid;

const NOON: i64 = 1_795_435_200_000;

fn time(millis: i64) -> Timestamp {
    Timestamp((NOON + millis) * 1_000)
}

fn celery(kind: CeleryKind, state: JobState, millis: i64, retries: Option<u32>) -> Event {
    let mut job = Job::new("job", state);
    job.celery = Some(CeleryFacts { retries, ..CeleryFacts::new(kind) });
    let mut event = Event::job(time(millis), Framework::Celery, job);
    let hostname = if kind == CeleryKind::Sent { "gen1@web" } else { "celery@a" };
    event.producer = Some(Producer { hostname: hostname.to_owned(), pid: Some(7), clock: Some(millis) });
    event
}

fn row(events: &[Event]) -> Row {
    let placed = events.iter().zip(1..).map(|(event, sequence)| (Position::new(sequence, 0), event));
    Row::apply(None, Uuid::nil(), "job", placed).unwrap()
}

fn with(mut event: Event, change: impl FnOnce(&mut Job)) -> Event {
    change(event.job.as_mut().unwrap());
    event
}

#[test]
fn each_run_waited_since_its_own_dispatch_or_its_eta_whichever_is_later() {
    let events = [
        celery(CeleryKind::Sent, JobState::Queued, 0, Some(0)),
        celery(CeleryKind::Received, JobState::Queued, 20, Some(0)),
        celery(CeleryKind::Started, JobState::Active, 120, None),
        with(celery(CeleryKind::Sent, JobState::Queued, 995, Some(1)), |job| job.scheduled_for = Some(time(3_000))),
        with(celery(CeleryKind::Received, JobState::Queued, 999, Some(1)), |job| job.scheduled_for = Some(time(3_000))),
        with(celery(CeleryKind::Retried, JobState::Retrying, 1_000, None), |job| {
            job.error = Some("ü".repeat(300));
        }),
        celery(CeleryKind::Started, JobState::Active, 3_200, None),
        celery(CeleryKind::Succeeded, JobState::Completed, 3_300, None),
    ];
    let runs = Measure::of(&row(&events)).unwrap();
    let of = |run: &Measure| (run.wait_ms, run.runtime_ms, run.outcome, run.ended_at);
    let expected = [
        (Some(120), Some(880), Some(Outcome::Retrying), Some(time(1_000))),
        (Some(200), Some(100), Some(Outcome::Completed), Some(time(3_300))),
    ];
    assert_eq!(runs.iter().map(of).collect::<Vec<_>>(), expected);
    assert_eq!(runs[0].error.as_deref(), Some("ü".repeat(256).as_str()));
}

#[test]
fn what_was_sent_or_refused_again_counts_again_and_what_came_twice_does_not() {
    let sent = |millis, retries| celery(CeleryKind::Sent, JobState::Queued, millis, Some(retries));
    let refused = |millis| celery(CeleryKind::Rejected, JobState::Queued, millis, None);
    // The same word by another way, with more in it.
    let other_way = with(sent(0, 0), |job| job.args = Some("(1,)".into()));
    let told = row(&[sent(0, 0), other_way, refused(30), sent(40, 1), refused(50)]);
    assert_eq!((dispatches(&told), rejections(&told)), (2, 2));
    let reported = |job: &mut Job| {
        job.celery = None;
        job.created_at = Some(time(0));
    };
    let by_sdk = row(&[with(sent(0, 0), reported), with(refused(30), |job| job.celery = None)]);
    assert_eq!((dispatches(&by_sdk), rejections(&by_sdk)), (1, 0));
}

#[test]
fn of_a_job_that_ran_once_the_record_says_all_but_the_wait() {
    let mut events = vec![
        celery(CeleryKind::Received, JobState::Queued, 20, Some(0)),
        celery(CeleryKind::Started, JobState::Active, 120, None),
        with(celery(CeleryKind::Failed, JobState::Failed, 500, None), |job| {
            job.error = Some("ValueError()".to_owned());
        }),
    ];
    let unsent = row(&events);
    assert_eq!((Measure::of(&unsent), Measure::wait_of(&unsent)), (None, None), "a receipt is no dispatch");
    // By the clock of the publisher, which is ahead.
    events.push(celery(CeleryKind::Sent, JobState::Queued, 130, Some(0)));
    assert_eq!(Measure::wait_of(&row(&events)), Some(0));
    *events.last_mut().unwrap() = celery(CeleryKind::Sent, JobState::Queued, 5, Some(0));
    let sent = row(&events);
    assert_eq!((Measure::of(&sent), Measure::wait_of(&sent)), (None, Some(115)));
}

#[test]
fn what_other_frameworks_report_as_queued_is_the_dispatch_and_the_sdks_is_not() {
    for (framework, expected) in [(Framework::Bullmq, Some(70)), (Framework::Celery, None)] {
        let report = |state, millis| Event::job(time(millis), framework, Job::new("job", state));
        let events = [report(JobState::Queued, 30), report(JobState::Active, 100), report(JobState::Completed, 400)];
        assert_eq!(Measure::wait_of(&row(&events)), expected);
        let mut told = events.clone();
        told[0] = with(told[0].clone(), |job| job.created_at = Some(time(10)));
        assert_eq!(Measure::wait_of(&row(&told)), Some(90));
    }
}
