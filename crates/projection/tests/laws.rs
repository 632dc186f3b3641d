//! The laws of the fold: what is true of a job is read from its events, and nothing but the set of them counts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;

mod story;

use projection::{Evidence, Row};
use proptest::prelude::*;
use proto_events::{CeleryFacts, CeleryKind, Event, Framework, Job, JobState, Origin, Position, Producer, Timestamp};
use serde_json::json;
use story::{NOON, Story, stories, tell};
use uuid::Uuid;

const CONNECTION: Uuid = Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0000);

fn fold<'a>(events: impl IntoIterator<Item = (Position, &'a Event)>) -> Row {
    Row::apply(None, CONNECTION, "story", events).expect("a job event")
}

fn in_order(events: &[Event]) -> Vec<(Position, &Event)> {
    events.iter().enumerate().map(|(place, event)| (Position::new(place as u64 + 1, 0), event)).collect()
}

fn outcome(value: &impl serde::Serialize) -> Option<String> {
    serde_json::to_value(value).unwrap().as_str().map(str::to_owned)
}

/// Compares the record with what is true of the story.
fn check(story: &Story, row: &Row) -> Result<(), TestCaseError> {
    let (_, truth) = tell(story);
    let record = &row.record;
    let history: Vec<JobState> = record.state_history.iter().map(|entry| entry.state).collect();
    prop_assert_eq!(&history, &truth.history);
    prop_assert_eq!(record.attempt, truth.attempt.max(1));
    prop_assert_eq!(record.deliveries, truth.deliveries);
    let outcomes: Vec<Option<String>> = record.executions.iter().map(|execution| outcome(&execution.outcome)).collect();
    prop_assert_eq!(outcomes, truth.outcomes.iter().map(|outcome| outcome.map(str::to_owned)).collect::<Vec<_>>());
    prop_assert_eq!(record.queue.as_deref(), story.sent_events.then_some("mail"));
    prop_assert_eq!(&record.name, "app.story");
    well_formed(row)
}

/// What holds of every record, whatever the events.
fn well_formed(row: &Row) -> Result<(), TestCaseError> {
    let record = &row.record;
    prop_assert_eq!(record.state_history.last().map(|entry| entry.state), Some(record.state));
    prop_assert_eq!(record.state_history.last().map(|entry| entry.timestamp), Some(record.state_changed_at));
    for pair in record.state_history.windows(2) {
        prop_assert!(pair[0].state != pair[1].state, "the same state twice: {:?}", record.state_history);
        prop_assert!(pair[0].timestamp <= pair[1].timestamp, "back in time: {:?}", record.state_history);
    }
    prop_assert!(record.attempt >= 1);
    prop_assert_eq!(record.outcome_from.is_some(), record.state.is_final() || record.state == JobState::Retrying);
    prop_assert!(record.notes.len() <= 100 && record.notes.is_sorted_by_key(|note| note.timestamp));
    for note in &record.notes {
        prop_assert!(note.data.as_str().len() <= 1_024, "{}", note.data.as_str().len());
    }
    if let (Some(start), Some(end), Some(duration)) = (record.started_at, record.completed_at, record.duration_ms) {
        prop_assert_eq!(duration, (end.millis() - start.millis()).max(0) as u64);
    }
    let json = serde_json::to_string(record).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    prop_assert_eq!(value["state"].as_str(), Some(record.state.as_str()));
    Ok(())
}

/// The same events in another order, some of them twice, in batches of any size: the row must be the same to the byte.
fn check_noise(events: &[Event], noise: &[u64], cuts: &[usize]) -> Result<(), TestCaseError> {
    let plain = fold(in_order(events));
    let mut arrivals: Vec<(u64, (Position, &Event))> = Vec::new();
    for (place, (position, event)) in in_order(events).into_iter().enumerate() {
        let draw = noise[place % noise.len()].rotate_left(place as u32);
        arrivals.push((draw, (position, event)));
        if draw.is_multiple_of(3) {
            arrivals.push((draw.rotate_left(17), (Position::new(position.sequence + 1_000_000, 3), event)));
        }
    }
    let mut by_place: Vec<(Position, &Event)> = arrivals.iter().map(|(_, event)| *event).collect();
    by_place.sort_by_key(|(position, _)| *position);
    // Where the repeats stand is kept beside the record.
    let repeated = fold(by_place);
    arrivals.sort_by_key(|(draw, (position, _))| (*draw, *position));
    let mut row: Option<Row> = None;
    let mut rest = arrivals.as_slice();
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (batch, later) = rest.split_at((*cut).min(rest.len()));
        row = Row::apply(row.as_ref(), CONNECTION, "story", batch.iter().map(|(_, event)| *event));
        rest = later;
    }
    let row = row.expect("there were events");
    prop_assert_eq!(&row.record, &plain.record);
    prop_assert_eq!(&row, &repeated);
    Ok(())
}

proptest! {
    #![proptest_config(cases::at_least(1_000))]

    #[test]
    fn a_true_story_gives_its_true_record(story in stories(false)) {
        check(&story, &fold(in_order(&tell(&story).0)))?;
    }

    #[test]
    fn clocks_that_are_minutes_off_change_no_story(story in stories(true)) {
        let (events, _) = tell(&story);
        check(&story, &fold(in_order(&events)))?;
    }

    #[test]
    fn order_batches_and_repeats_do_not_matter(
        story in stories(true), noise in proptest::collection::vec(any::<u64>(), 1..20), cuts in proptest::collection::vec(1_usize..7, 1..5),
    ) {
        check_noise(&tell(&story).0, &noise, &cuts)?;
    }

    #[test]
    fn whatever_comes_is_folded_alike_in_any_order(
        events in proptest::collection::vec(any_event(), 1..40), noise in proptest::collection::vec(any::<u64>(), 1..20),
        cuts in proptest::collection::vec(1_usize..7, 1..5),
    ) {
        well_formed(&fold(in_order(&events)))?;
        check_noise(&events, &noise, &cuts)?;
    }

    #[test]
    fn the_same_facts_from_sdk_and_stream_are_told_once(story in stories(false), shift in -20_000_i64..20_000) {
        let (mut events, _) = tell(&story);
        let reports: Vec<Event> = events.iter().filter_map(|event| as_report(event, shift)).collect();
        events.extend(reports);
        check(&story, &fold(in_order(&events)))?;
    }

    #[test]
    fn the_sdks_doubled_reports_tell_one_story(retries in 0_usize..4, doubled in 1_usize..4, fails in any::<bool>(), noise in any::<u64>()) {
        let (events, history) = sdk_story(retries, doubled, fails);
        let row = fold(in_order(&events));
        prop_assert_eq!(row.record.state_history.iter().map(|entry| entry.state).collect::<Vec<_>>(), history);
        prop_assert_eq!(row.record.attempt, retries as u32 + 1);
        prop_assert_eq!(row.record.executions.len(), retries + 1);
        check_noise(&events, &[noise], &[3])?;
    }
}

/// Any event at all: kinds, hosts, clocks and times drawn from small sets, so that they meet; now and then a number as
/// large as anybody may send.
fn any_event() -> impl Strategy<Value = Event> {
    let kind = prop_oneof![
        Just(None),
        Just(Some(CeleryKind::Sent)),
        Just(Some(CeleryKind::Received)),
        Just(Some(CeleryKind::Started)),
        Just(Some(CeleryKind::Succeeded)),
        Just(Some(CeleryKind::Failed)),
        Just(Some(CeleryKind::Retried)),
        Just(Some(CeleryKind::Revoked)),
        Just(Some(CeleryKind::Rejected)),
        Just(Some(CeleryKind::Cancelled)),
        Just(Some(CeleryKind::Custom)),
    ];
    let who = (0_i64..3, 0_i64..2, proptest::option::of(1_i64..12));
    let at = prop_oneof![
        40 => (0_i64..30).prop_map(|at| NOON + at * 1_300_000),
        // The first and the last day that a timestamp can name.
        1 => prop_oneof!["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"].prop_map(|day| Timestamp::parse(&day).unwrap().micros()),
    ];
    let facts = (
        proptest::option::of(prop_oneof![20 => 0_u32..4, 1 => u32::MAX - 2..=u32::MAX]),
        proptest::option::of(prop_oneof![20 => 0.0_f64..20.0, 1 => Just(f64::MAX)]),
        proptest::option::of(any::<bool>()),
    );
    let texts = (proptest::option::of("[a-c]{0,2}"), proptest::option::of(0_usize..3_000));
    let word = (
        prop_oneof![2 => Just(Framework::Celery), 1 => Just(Framework::Bullmq), 1 => Just(Framework::Sidekiq)],
        proptest::option::of((0_usize..8).prop_map(|state| JobState::ALL[state])),
        proptest::bool::weighted(0.2),
        any::<bool>(),
    );
    (kind, 0_usize..8, at, who, facts, texts, word).prop_map(
        |(kind, state, at, (host, pid, clock), (retries, runtime, flag), (name, long), word)| {
            let (framework, before, by_backend, progress) = word;
            let kind = kind.filter(|_| !by_backend);
            let mut job = Job::new("story", JobState::ALL[state]);
            job.celery = kind.map(|kind| CeleryFacts {
                retries,
                runtime,
                requeue: flag,
                terminated: flag,
                ..CeleryFacts::new(kind)
            });
            job.attempt = retries.filter(|_| kind.is_none());
            job.progress = runtime.map(|runtime| runtime / 20.0);
            job.scheduled_for = flag.map(|_| Timestamp(NOON + 10_000_000));
            job.name = name;
            job.stacktrace = long.map(|length| "x".repeat(length));
            job.worker_id = (host > 0).then(|| format!("w{host}"));
            job.previous_state = before;
            job.origin = by_backend.then_some(Origin::ResultBackend);
            if kind == Some(CeleryKind::Custom) {
                let name = if progress { "task-progress" } else { "task-invoiced" };
                job.extensions.insert("celeryEvent".to_owned(), json!(name));
                job.extensions.insert("what".to_owned(), json!("y".repeat(long.unwrap_or_default())));
            }
            let mut event = Event::job(Timestamp(at), framework, job);
            event.producer = kind.map(|_| Producer { hostname: format!("w{host}"), pid: Some(pid), clock });
            event
        },
    )
}

/// What the SDK reports beside a worker's event: no attempt, no process, its own clock.
fn as_report(event: &Event, shift: i64) -> Option<Event> {
    let told = event.job.as_deref()?;
    let state = match told.celery.as_ref()?.event {
        CeleryKind::Received => JobState::Queued,
        CeleryKind::Started => JobState::Active,
        CeleryKind::Succeeded if told.celery.as_ref()?.runtime.is_some() => JobState::Completed,
        CeleryKind::Failed => JobState::Failed,
        CeleryKind::Retried => JobState::Retrying,
        CeleryKind::Revoked => JobState::Cancelled,
        _ => return None,
    };
    let mut job = Job::new("story", state);
    job.name = Some("app.story".to_owned());
    Some(Event::job(Timestamp(event.timestamp.micros() + shift), Framework::Celery, job))
}

/// A job as the SDK tells it: the next attempt's `queued` two milliseconds before `retrying`, and everything as often as
/// the broker connection was made.
fn sdk_story(retries: usize, doubled: usize, fails: bool) -> (Vec<Event>, Vec<JobState>) {
    let (mut events, mut history, mut now) = (Vec::new(), Vec::new(), NOON);
    let mut tell = |state: JobState, at: i64| {
        for copy in 0..doubled {
            let mut job = Job::new("story", state);
            job.name = Some("app.story".to_owned());
            job.worker_id = (state == JobState::Queued).then(|| "celery@w1".to_owned());
            events.push(Event::job(Timestamp(at + copy as i64 * 400), Framework::Celery, job));
        }
    };
    tell(JobState::Queued, now);
    history.push(JobState::Queued);
    for _ in 0..retries {
        tell(JobState::Active, now + 5_000);
        tell(JobState::Queued, now + 300_000);
        tell(JobState::Retrying, now + 302_000);
        history.extend([JobState::Active, JobState::Retrying, JobState::Queued]);
        now += 2_000_000;
    }
    tell(JobState::Active, now + 5_000);
    let end = if fails { JobState::Failed } else { JobState::Completed };
    tell(end, now + 90_000);
    history.extend([JobState::Active, end]);
    (events, history)
}

#[test]
fn five_thousand_events_in_many_orders_give_one_row() {
    let mut events = Vec::new();
    for number in 0..5_000_i64 {
        let mut job = Job::new("story", if number % 2 == 0 { JobState::Active } else { JobState::Retrying });
        job.error = (number % 2 == 1).then(|| format!("{number} ").repeat(if number % 5 == 0 { 400 } else { 2 }));
        events.push(Event::job(Timestamp(NOON + number * 2_000_000), Framework::Celery, job));
    }
    let plain = fold(in_order(&events));
    assert!(plain.record.truncated);
    assert_eq!(plain.evidence.len(), 1_000);
    assert!(plain.record.state_history.len() > 500);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20 {
        let mut shuffled = in_order(&events);
        for place in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(place, (state >> 33) as usize % (place + 1));
        }
        let mut evidence = Evidence::default();
        for (position, event) in shuffled {
            evidence.add(position, event);
        }
        let record = projection::fold(CONNECTION, "story", &evidence).unwrap();
        assert_eq!(record, plain.record);
        assert_eq!(evidence, plain.evidence);
    }
}
