//! What a finished job must survive: the same message run several times, lower events that come late, clocks that differ.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;

use projection::{Outcome, Record, Row};
use proptest::prelude::*;
use proto_events::{CeleryFacts, CeleryKind, Event, Framework, Job, JobState, Position, Producer, Timestamp};
use uuid::Uuid;

const NOON: i64 = 1_795_435_200_000_000;
const SECOND: i64 = 1_000_000;

fn fold(events: &[Event]) -> Record {
    let positions = events.iter().enumerate().map(|(place, event)| (Position::new(place as u64 + 1, 0), event));
    Row::apply(None, Uuid::nil(), "job", positions).expect("a job event").record
}

/// An event of Celery's stream: seconds after noon, worker, clock.
fn celery(kind: CeleryKind, seconds: f64, host: &str, clock: i64) -> Event {
    let state = match kind {
        CeleryKind::Sent | CeleryKind::Received => JobState::Queued,
        CeleryKind::Started => JobState::Active,
        CeleryKind::Succeeded => JobState::Completed,
        _ => JobState::Failed,
    };
    let mut job = Job::new("job", state);
    let retries = matches!(kind, CeleryKind::Sent | CeleryKind::Received).then_some(0);
    job.celery = Some(CeleryFacts { retries, ..CeleryFacts::new(kind) });
    job.worker_id = (kind != CeleryKind::Sent).then(|| host.to_owned());
    let mut event = Event::job(Timestamp(NOON + (seconds * 1e6) as i64), Framework::Celery, job);
    event.producer = Some(Producer { hostname: host.to_owned(), pid: Some(7), clock: Some(clock) });
    event
}

fn succeeded(seconds: f64, host: &str, clock: i64, runtime: f64) -> Event {
    let mut event = celery(CeleryKind::Succeeded, seconds, host, clock);
    event.job.as_mut().unwrap().celery.as_mut().unwrap().runtime = Some(runtime);
    event
}

fn report(state: JobState, seconds: f64, worker: Option<&str>) -> Event {
    let mut job = Job::new("job", state);
    job.worker_id = worker.map(str::to_owned);
    Event::job(Timestamp(NOON + (seconds * 1e6) as i64), Framework::Celery, job)
}

fn history(record: &Record) -> Vec<&'static str> {
    record.state_history.iter().map(|entry| entry.state.as_str()).collect()
}

fn one_run() -> Vec<Event> {
    vec![
        celery(CeleryKind::Sent, 0.0, "gen1@web", 1),
        celery(CeleryKind::Received, 0.1, "w1", 5),
        celery(CeleryKind::Started, 0.2, "w1", 6),
        succeeded(1.2, "w1", 7, 1.0),
    ]
}

#[test]
fn a_sent_event_from_a_clock_that_is_ahead_stays_the_beginning() {
    let mut events = one_run();
    events[0] = celery(CeleryKind::Sent, 300.0, "gen1@web", 1);
    let record = fold(&events);
    assert_eq!(history(&record), ["queued", "active", "completed"]);
    assert_eq!(record.created_at, Timestamp(NOON + SECOND / 10));
    assert_eq!((record.duration_ms, record.state), (Some(1_000), JobState::Completed));
}

#[test]
fn a_delivery_to_another_worker_counts_only_when_it_runs() {
    let mut events = one_run();
    events.push(celery(CeleryKind::Received, 240.0, "w2", 3));
    let waiting = fold(&events);
    assert_eq!((history(&waiting), waiting.deliveries), (vec!["queued", "active", "completed"], 2));
    events.push(celery(CeleryKind::Started, 241.0, "w2", 4));
    let running = fold(&events);
    assert_eq!(history(&running), ["queued", "active", "completed", "queued", "active"]);
    assert_eq!((running.worker_id.as_deref(), running.executions.len()), (Some("w2"), 2));
    assert_eq!((running.completed_at, running.duration_ms), (None, None));
}

#[test]
fn the_same_id_sent_again_to_the_same_worker_begins_anew() {
    let mut events = one_run();
    events.extend([celery(CeleryKind::Sent, 9.0, "gen1@web", 2)]);
    assert_eq!(fold(&events).state, JobState::Completed, "sent alone re-opens nothing");
    events.extend([celery(CeleryKind::Received, 9.1, "w1", 15), celery(CeleryKind::Started, 9.2, "w1", 16)]);
    let record = fold(&events);
    assert_eq!(history(&record), ["queued", "active", "completed", "queued", "active"]);
    assert_eq!(record.state_history[3].timestamp, Timestamp(NOON + 9 * SECOND));
    assert_eq!(record.attempt, 1);
}

#[test]
fn what_a_worker_gave_up_is_queued_again_by_whichever_worker_receives_it() {
    let mut events = one_run();
    events[3] = celery(CeleryKind::Cancelled, 1.2, "w1", 7);
    events[3].job.as_mut().unwrap().state = JobState::Cancelled;
    let given_up = fold(&events);
    assert_eq!((given_up.state, given_up.extensions.as_str()), (JobState::Cancelled, r#"{"cancelledBy":"worker"}"#));
    events.push(celery(CeleryKind::Received, 2.0, "w2", 3));
    assert_eq!(history(&fold(&events)), ["queued", "active", "cancelled", "queued"]);
}

#[test]
fn a_report_after_the_end_is_noise_for_five_minutes_and_a_second_run_after() {
    let told = [(JobState::Queued, 0.0), (JobState::Active, 1.0), (JobState::Completed, 2.0)];
    let mut events: Vec<Event> = told.iter().map(|(state, at)| report(*state, *at, None)).collect();
    events.push(report(JobState::Active, 200.0, None));
    events.push(report(JobState::Queued, 201.0, None));
    assert_eq!(history(&fold(&events)), ["queued", "active", "completed"]);
    events.push(report(JobState::Active, 400.0, None));
    assert_eq!(history(&fold(&events)), ["queued", "active", "completed", "active"]);
}

#[test]
fn where_a_report_names_its_worker_that_decides() {
    let told = [(JobState::Active, 1.0, "w1"), (JobState::Completed, 2.0, "w1"), (JobState::Active, 3.0, "w2")];
    let events: Vec<Event> = told.iter().map(|(state, at, worker)| report(*state, *at, Some(worker))).collect();
    let record = fold(&events);
    assert_eq!(history(&record), ["active", "completed", "active"]);
    assert_eq!((record.worker_id.as_deref(), record.executions.len()), (Some("w2"), 2));
}

#[test]
fn a_success_whose_start_was_lost_still_counts_with_its_runtime() {
    let record = fold(&[celery(CeleryKind::Received, 0.1, "w1", 5), succeeded(3.0, "w1", 9, 2.5)]);
    assert_eq!(history(&record), ["queued", "completed"]);
    assert_eq!((record.started_at, record.duration_ms, record.executions.len()), (None, Some(2_500), 1));
}

#[test]
fn a_task_that_nobody_registered_fails_without_a_run() {
    let mut failed = celery(CeleryKind::Failed, 1.0, "w1", 4);
    failed.job.as_mut().unwrap().error = Some("NotRegistered('no.such.task')".to_owned());
    let record = fold(&[celery(CeleryKind::Sent, 0.5, "gen1@web", 1), failed]);
    assert_eq!((history(&record), record.executions.len()), (vec!["queued", "failed"], 0));
    assert_eq!(record.error.as_deref(), Some("NotRegistered('no.such.task')"));
    assert!(record.completed_at.is_some());
}

#[test]
fn a_refusal_for_good_is_a_failure_that_says_so() {
    let mut rejected = celery(CeleryKind::Rejected, 1.0, "w1", 9);
    rejected.job.as_mut().unwrap().celery.as_mut().unwrap().requeue = Some(false);
    let mut events = one_run();
    events[3] = rejected;
    let record = fold(&events);
    assert_eq!(history(&record), ["queued", "active", "failed"]);
    assert_eq!(record.error.as_deref(), Some("Rejected (requeue=false)"));
}

#[test]
fn what_is_not_said_erases_nothing() {
    let mut named = report(JobState::Queued, 0.0, Some("w1"));
    let job = named.job.as_mut().unwrap();
    (job.name, job.queue, job.max_retries) = (Some("app.send".to_owned()), Some("mail".to_owned()), Some(3));
    (job.parent_id, job.root_id) = (Some("job".to_owned()), Some("root".to_owned()));
    let mut unnamed = report(JobState::Completed, 9.0, None);
    unnamed.job.as_mut().unwrap().name = Some("unknown".to_owned());
    let record = fold(&[named, report(JobState::Active, 1.0, None), unnamed]);
    assert_eq!(
        (record.name.as_str(), record.queue.as_deref(), record.max_retries),
        ("app.send", Some("mail"), Some(3))
    );
    assert_eq!(record.worker_id.as_deref(), Some("w1"));
    assert_eq!(record.parent_id, None, "a job is not its own parent");
    assert_eq!(record.root_id, Some(proto_events::job_id(Uuid::nil(), "root")));
}

proptest! {
    #![proptest_config(cases::at_least(500))]

    /// A message that is delivered again and again while it runs, to any of three workers: every run is one execution of
    /// its own length, and the job ends once.
    #[test]
    fn every_run_of_a_redelivered_message_is_one_execution(
        runs in proptest::collection::vec((0_usize..3, 0.1_f64..9.0), 1..6),
        skew in proptest::array::uniform3(-300.0_f64..300.0),
        skewed in any::<bool>(),
    ) {
        let mut clocks = [10_i64; 3];
        let mut told: Vec<(f64, usize, CeleryKind, f64)> = Vec::new();
        for (number, (worker, length)) in runs.iter().enumerate() {
            // Deliveries 0.3 s apart, each while the first run still goes on: that one takes ten seconds.
            let at = number as f64 * 0.3;
            let length = if number == 0 { 10.0 } else { 10.0 + length };
            told.extend([(at, *worker, CeleryKind::Received, 0.0), (at + 0.05, *worker, CeleryKind::Started, 0.0)]);
            told.push((at + 0.05 + length, *worker, CeleryKind::Succeeded, length));
        }
        told.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut events = Vec::new();
        for (at, worker, kind, length) in told {
            clocks[worker] += 1;
            let (host, at) = (format!("w{worker}"), at + if skewed { skew[worker] } else { 0.0 });
            events.push(match kind {
                CeleryKind::Succeeded => succeeded(at, &host, clocks[worker], length),
                _ => celery(kind, at, &host, clocks[worker]),
            });
        }
        let record = fold(&events);
        prop_assert_eq!(record.state, JobState::Completed);
        prop_assert_eq!(record.executions.len(), runs.len());
        prop_assert_eq!(record.deliveries as usize, runs.len());
        prop_assert_eq!(record.attempt, 1);
        prop_assert!(record.executions.iter().all(|execution| execution.outcome == Some(Outcome::Completed)));
        let mut lengths: Vec<i64> = record.executions.iter()
            .map(|execution| (execution.completed_at.unwrap().micros() - execution.started_at.unwrap().micros()) / 1_000).collect();
        let mut truth: Vec<i64> = runs.iter().enumerate()
            .map(|(number, (_, length))| ((if number == 0 { 10.0 } else { 10.0 + length }) * 1e3) as i64).collect();
        lengths.sort_unstable();
        truth.sort_unstable();
        prop_assert!(lengths.iter().zip(&truth).all(|(length, truth)| (length - truth).abs() <= 1), "{:?} {:?}", lengths, truth);
        if !skewed {
            prop_assert_eq!(history(&record), vec!["queued", "active", "completed"]);
            // The run that started last ends the job, whichever ends first.
            let last = record.executions.last().and_then(|execution| execution.completed_at);
            prop_assert_eq!((Some(record.state_changed_at), record.completed_at), (last, last));
        }
    }
}

#[test]
fn each_event_is_told_what_became_of_it() {
    let mut events = one_run();
    let mut shown_again = celery(CeleryKind::Started, 0.2, "w1", 6);
    shown_again.job.as_mut().unwrap().queue = Some("redacted differently".to_owned());
    events.extend([
        shown_again,
        report(JobState::Completed, 1.25, None),
        celery(CeleryKind::Sent, 9.0, "gen1@web", 2),
        celery(CeleryKind::Received, 240.0, "w2", 3),
    ]);
    let mut evidence = projection::Evidence::default();
    for (place, event) in events.iter().enumerate() {
        evidence.add(Position::new(place as u64 + 1, 0), event);
    }
    let mut told: Vec<(u64, String)> = projection::explain(&evidence)
        .iter()
        .map(|one| (one.position.sequence, format!("{:?} {}", one.verdict, one.reason.unwrap_or_default())))
        .collect();
    told.sort();
    let expected = [
        (1, "Counted "),
        (2, "Counted a delivery; the state stays"),
        (3, "Counted "),
        (4, "Counted "),
        (5, "Collapsed the same event came twice"),
        (6, "Collapsed Celery's own event says the same"),
        (7, "Refused it was sent again after the end, and nothing has come of that"),
        (8, "Refused another worker received it after the end, and has not run it"),
    ];
    let told: Vec<(u64, &str)> = told.iter().map(|(position, told)| (*position, told.as_str())).collect();
    // Which of two events that differ in a text alone counts is decided by their identities.
    let (mut same, mut wanted) = (told.clone(), expected.to_vec());
    same.retain(|(position, _)| ![3, 5].contains(position));
    wanted.retain(|(position, _)| ![3, 5].contains(position));
    assert_eq!(same, wanted);
    assert_eq!(told.iter().filter(|(_, told)| told.contains("came twice")).count(), 1);
}
