//! How a job ended by the word of Celery's result backend: it counts where no event told, and nowhere else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;

mod story;

use projection::{Outcome, OutcomeFrom, Record, Row};
use proptest::prelude::*;
use proto_events::{CeleryKind, Event, Framework, Job, JobState, Origin, Position, Timestamp};
use serde_json::json;
use story::{Ending, NOON, Story, Try, stories, tell};
use uuid::Uuid;

fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Record {
    let positions = events.into_iter().enumerate().map(|(place, event)| (Position::new(place as u64 + 1, 0), event));
    Row::apply(None, Uuid::nil(), "story", positions).expect("a job event").record
}

fn stored(state: JobState, at: i64) -> Event {
    let mut job = Job::new("story", state);
    job.completed_at = Some(Timestamp(at));
    job.origin = Some(Origin::ResultBackend);
    job.result = (state == JobState::Completed).then(|| json!("42"));
    job.error = (state == JobState::Failed).then(|| "KeyError('x')".to_owned());
    Event::job(Timestamp(at), Framework::Celery, job)
}

fn history(record: &Record) -> Vec<JobState> {
    record.state_history.iter().map(|entry| entry.state).collect()
}

fn outcome(state: JobState) -> Outcome {
    if state == JobState::Completed { Outcome::Completed } else { Outcome::Failed }
}

fn kind(event: &Event) -> CeleryKind {
    event.job.as_ref().unwrap().celery.as_ref().unwrap().event
}

/// The events of a story with its end, and what the backend holds of that.
fn with_end(story: &Story) -> Option<(Vec<Event>, usize, Event)> {
    let state = match story.ending {
        Ending::Succeeds => JobState::Completed,
        Ending::Fails => JobState::Failed,
        _ => return None,
    };
    let (events, _) = tell(story);
    let end = events.iter().rposition(|event| matches!(kind(event), CeleryKind::Succeeded | CeleryKind::Failed))?;
    // The task stores its result a little before its worker announces it.
    let stored = stored(state, events[end].timestamp.micros() - 2_000);
    Some((events, end, stored))
}

fn job() -> impl Strategy<Value = Story> {
    stories(true).prop_filter("an end that is told once", |story| !story.again && !story.revoked_waiting)
}

/// Each try is run once, and long enough to be told from the one before by when it began.
fn each_try_once() -> impl Strategy<Value = Story> {
    stories(false).prop_map(|story| {
        let tries = story
            .tries
            .into_iter()
            .map(|one| Try { requeued: 0, killed: 0, millis: one.millis.max(300), ..one })
            .collect();
        Story { tries, again: false, revoked_waiting: false, ..story }
    })
}

proptest! {
    #![proptest_config(cases::at_least(1_000))]

    #[test]
    fn where_the_end_is_announced_the_backend_adds_nothing(story in job(), late in -3_000_000_i64..3_000_000) {
        let Some((mut events, _, _)) = with_end(&story) else { return Ok(()) };
        let plain = fold(&events);
        for state in [plain.state, JobState::Failed] {
            let end = plain.completed_at.unwrap().micros();
            let mut asked = events.clone();
            asked.insert(0, stored(state, end + if state == plain.state { late } else { 0 }));
            prop_assert_eq!(fold(&asked), plain.clone());
        }
        events.reverse();
        prop_assert_eq!(fold(&events), plain);
    }

    #[test]
    fn an_end_that_was_not_announced_is_that_of_the_backend(story in job()) {
        let Some((mut events, end, stored)) = with_end(&story) else { return Ok(()) };
        let (whole, removed) = (fold(&events), events.remove(end));
        events.push(stored);
        let record = fold(&events);
        prop_assert_eq!(history(&record), history(&whole), "{:#?}", record);
        prop_assert_eq!(record.outcome_from, Some(OutcomeFrom::ResultBackend));
        prop_assert_eq!(whole.outcome_from, Some(OutcomeFrom::Event));
        let outcomes = |record: &Record| record.executions.iter().map(|run| (run.attempt, run.outcome)).collect::<Vec<_>>();
        prop_assert_eq!(outcomes(&record), outcomes(&whole));
        prop_assert_eq!(&record.worker_id, &whole.worker_id);
        // It comes after all: the record is what it always was.
        events.push(removed);
        prop_assert_eq!(fold(&events), whole);
    }

    // Celery's workers lose any of their events, and most of all those of tasks that are tried again in threads. Which try
    // it is only messages tell.
    #[test]
    fn the_end_is_the_end_whichever_starts_and_retries_were_never_told(
        story in each_try_once(),
        told in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let Some((mut events, end, stored)) = with_end(&story) else { return Ok(()) };
        let (announced, state) = (events[end].clone(), fold(&events).state);
        let end = kind(&announced);
        let mut told = told.iter();
        events.retain(|event| match kind(event) {
            CeleryKind::Received => true,
            kind => kind != end && *told.next().unwrap_or(&true),
        });
        for (end, from) in [(stored, OutcomeFrom::ResultBackend), (announced, OutcomeFrom::Event)] {
            events.push(end);
            let record = fold(&events);
            prop_assert_eq!(record.state, state, "{:#?}", record);
            prop_assert_eq!(record.outcome_from, Some(from));
            prop_assert_eq!(record.executions.last().unwrap().outcome, Some(outcome(state)));
        }
    }
}

fn celery(kind: CeleryKind, seconds: f64) -> Event {
    let mut job = Job::new("story", JobState::Queued);
    job.celery = Some(proto_events::CeleryFacts { retries: Some(0), ..proto_events::CeleryFacts::new(kind) });
    let mut event = Event::job(Timestamp(NOON + (seconds * 1e6) as i64), Framework::Celery, job);
    let hostname = if kind == CeleryKind::Sent { "gen1@web" } else { "w1" };
    event.producer = Some(proto_events::Producer {
        hostname: hostname.to_owned(),
        pid: Some(7),
        clock: Some((seconds * 10.0) as i64),
    });
    event
}

#[test]
fn a_job_of_which_only_the_sending_is_known_gets_its_end() {
    for (state, outcome) in [(JobState::Completed, Outcome::Completed), (JobState::Failed, Outcome::Failed)] {
        let record = fold(&[celery(CeleryKind::Sent, 0.0), stored(state, NOON + 5_000_000)]);
        assert_eq!(history(&record), [JobState::Queued, state]);
        assert_eq!(record.executions.iter().map(|run| run.outcome).collect::<Vec<_>>(), [Some(outcome)]);
        assert_eq!(record.completed_at, Some(Timestamp(NOON + 5_000_000)));
        assert_eq!(
            (record.result.is_some(), record.error.is_some()),
            (state == JobState::Completed, state == JobState::Failed)
        );
    }
    // The client's clock is ten minutes ahead of the worker's.
    let record = fold(&[celery(CeleryKind::Sent, 600.0), stored(JobState::Completed, NOON)]);
    assert_eq!(history(&record), [JobState::Queued, JobState::Completed]);
    // Revoked before it ran: at once by the backend, and by its worker when its turn came.
    let mut events = vec![celery(CeleryKind::Sent, 0.0), stored(JobState::Cancelled, NOON + 1_000_000)];
    let record = fold(&events);
    assert_eq!((history(&record), record.executions.len()), (vec![JobState::Queued, JobState::Cancelled], 0));
    let mut revoked = celery(CeleryKind::Revoked, 60.0);
    revoked.job.as_mut().unwrap().state = JobState::Cancelled;
    events.push(revoked);
    let record = fold(&events);
    assert_eq!(
        (record.outcome_from, record.state_changed_at),
        (Some(OutcomeFrom::Event), Timestamp(NOON + 60_000_000))
    );
    assert_eq!(history(&record), [JobState::Queued, JobState::Cancelled]);
}

#[test]
fn a_start_that_is_announced_after_the_result_was_stored_does_not_reopen_the_job() {
    let started = [celery(CeleryKind::Sent, 0.0), celery(CeleryKind::Received, 1.0), celery(CeleryKind::Started, 2.3)];
    let mut events = started.to_vec();
    events.push(stored(JobState::Completed, NOON + 2_000_000));
    let record = fold(&events);
    assert_eq!(history(&record), [JobState::Queued, JobState::Active, JobState::Completed]);
    assert_eq!(record.executions.len(), 1);
    // What the message of another run later has stored is not this one's.
    let mut again = started.to_vec();
    again.push(celery(CeleryKind::Succeeded, 3.0));
    again.extend([celery(CeleryKind::Received, 900.0), celery(CeleryKind::Started, 901.0)]);
    assert_eq!(fold(&again).state, JobState::Active);
    again.push(stored(JobState::Completed, NOON + 2_900_000));
    assert_eq!(fold(&again).state, JobState::Active);
    again.push(stored(JobState::Completed, NOON + 950_000_000));
    assert_eq!(fold(&again).state, JobState::Completed);
}

#[test]
fn a_result_of_an_earlier_try_ends_no_later_one() {
    let mut retried = stored(JobState::Retrying, NOON + 9_000_000);
    retried.job.as_mut().unwrap().attempt = Some(1);
    let mut events = vec![
        celery(CeleryKind::Sent, 0.0),
        celery(CeleryKind::Received, 1.0),
        celery(CeleryKind::Started, 2.0),
        retried.clone(),
    ];
    let record = fold(&events);
    assert_eq!(history(&record), [JobState::Queued, JobState::Active, JobState::Retrying]);
    assert_eq!(record.outcome_from, Some(OutcomeFrom::ResultBackend));
    for (kind, seconds) in [(CeleryKind::Received, 8.0), (CeleryKind::Started, 8.5)] {
        let mut event = celery(kind, seconds);
        event.job.as_mut().unwrap().celery.as_mut().unwrap().retries = (kind == CeleryKind::Received).then_some(1);
        events.push(event);
    }
    let record = fold(&events);
    assert_eq!((record.state, record.attempt), (JobState::Active, 2), "{record:#?}");
}
