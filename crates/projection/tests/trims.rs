//! The law of trimming: what is left of the evidence is the evidence of what is left.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cases;

use projection::{Evidence, Row, Trimmed};
use proptest::prelude::*;
use proto_events::{Event, Framework, Job, JobState, Position, Timestamp};
use serde_json::json;
use uuid::Uuid;

/// Longer texts are kept in full only once.
const LONG: usize = 1_024;

/// An event, and the messages in which it stands.
#[derive(Clone, Debug)]
struct Told {
    event: Event,
    messages: Vec<u64>,
}

fn told(longest: usize, copies: usize) -> impl Strategy<Value = Told> {
    let lengths = proptest::collection::vec(proptest::option::of(0..longest), 4);
    let messages = proptest::collection::vec(1_u64..60, 1..=copies);
    (0_usize..8, 0_i64..40, proptest::option::of(1_u32..5), lengths, messages).prop_map(
        |(state, at, attempt, lengths, messages)| {
            let text = |at: usize| lengths[at].map(|length| "\u{e9}\"x".repeat(length / 3));
            let mut job = Job::new("trimmed", JobState::ALL[state]);
            (job.attempt, job.error, job.stacktrace) = (attempt, text(0), text(1));
            job.args = text(2).map(|text| json!([text]));
            job.extensions.extend(text(3).map(|text| ("note".to_owned(), json!(text))));
            job.started_at = attempt.map(|attempt| Timestamp(i64::from(attempt) * 1_000_000));
            Told { event: Event::job(Timestamp(at * 1_000_000), Framework::Celery, job), messages }
        },
    )
}

/// The evidence of all that stands at this message or behind it, added in an order that nobody chose.
fn evidence(told: &[Told], from: u64, noise: u64, trim: Option<u64>) -> Evidence {
    let mut adds: Vec<(Position, &Event)> = Vec::new();
    for (index, Told { event, messages }) in (0..).zip(told) {
        let places = messages.iter().filter(|message| **message >= from);
        adds.extend(places.map(|message| (Position::new(*message, index), event)));
    }
    adds.sort_by_key(|(at, _)| (at.sequence * 31 + u64::from(at.index) * 17).wrapping_mul(noise | 1).rotate_left(7));
    let mut evidence = Evidence::default();
    for (position, event) in adds {
        evidence.add(position, event);
    }
    trim.inspect(|trim| evidence.note_trim(*trim));
    evidence
}

proptest! {
    #![proptest_config(cases::at_least(500))]

    #[test]
    fn what_is_left_of_the_evidence_is_the_evidence_of_what_is_left(
        told in proptest::collection::vec(told(2 * LONG, 4), 1..12), cut in 0_u64..62, noise: [u64; 2], trim in proptest::option::of(1_u64..70),
    ) {
        let expected = evidence(&told, cut, noise[0], trim);
        match evidence(&told, 0, noise[1], trim).trimmed(cut) {
            Trimmed::Exact(Some(left)) => prop_assert_eq!(*left, expected),
            Trimmed::Exact(None) => prop_assert!(expected.is_empty()),
            Trimmed::Inexact => prop_assert!(!expected.is_empty()),
        }
    }

    #[test]
    fn of_a_plain_job_it_can_always_be_told(
        told in proptest::collection::vec(told(LONG / 4, 2), 1..12), cuts: [u8; 3], noise: [u64; 2],
    ) {
        let mut cuts = cuts.map(|cut| u64::from(cut) % 62);
        cuts.sort_unstable();
        // One trim after the other comes to the same as the last alone.
        let mut known = evidence(&told, 0, noise[0], None);
        for cut in cuts {
            let Trimmed::Exact(left) = known.trimmed(cut) else {
                return Err(TestCaseError::fail(format!("inexact at {cut}: {told:?}")));
            };
            known = left.map(|left| *left).unwrap_or_default();
        }
        prop_assert_eq!(known, evidence(&told, cuts[2], noise[1], None));
    }
}

#[test]
fn a_text_is_missed_only_where_another_may_have_been_shortened_for_it() {
    let told = |second: i64, message: u64, length: usize| {
        let mut job = Job::new("trimmed", JobState::Active);
        job.args = (length > 0).then(|| json!("x".repeat(length)));
        // Of these it cannot be seen whether they were left out.
        job.extensions.insert("note".to_owned(), json!(second));
        let event = Event::job(Timestamp(second * 1_000_000), Framework::Celery, job);
        Told { event, messages: vec![message] }
    };
    let trimmed = |told: &[Told]| evidence(told, 0, 5, None).trimmed(10);
    // The usual job: the event that was sent first has the arguments, long ones, and no other has any.
    let usual = [told(1, 1, 5_000), told(2, 11, 0), told(3, 12, 20)];
    assert_eq!(trimmed(&usual), Trimmed::Exact(Some(Box::new(evidence(&usual, 10, 3, None)))));
    // One that stays keeps them.
    let stays = [told(1, 1, 5_000), told(2, 11, 5_000)];
    assert_eq!(trimmed(&stays), Trimmed::Exact(Some(Box::new(evidence(&stays, 10, 3, None)))));
    // The last event that had them came early.
    let goes = [told(1, 11, 5_000), told(2, 1, 5_000)];
    assert_eq!(trimmed(&goes), Trimmed::Inexact);
}

#[test]
fn where_events_were_left_out_it_cannot_be_told() {
    let told: Vec<Told> = (0..1_001_u64)
        .map(|second| {
            let job = Job::new("trimmed", JobState::Active);
            let event = Event::job(Timestamp(second.cast_signed() * 1_000_000), Framework::Celery, job);
            Told { event, messages: vec![second + 1] }
        })
        .collect();
    let all = evidence(&told, 0, 1, None);
    assert_eq!(all.trimmed(2), Trimmed::Inexact);
    assert_eq!(all.trimmed(1), Trimmed::Exact(Some(Box::new(all.clone()))));
    assert_eq!(all.trimmed(1_002), Trimmed::Exact(None));
    let thousand = evidence(&told[1..], 0, 1, None);
    assert_eq!(thousand.trimmed(900), Trimmed::Exact(Some(Box::new(evidence(&told[1..], 900, 7, None)))));
}

#[test]
fn a_record_says_that_it_lacks_what_the_log_has_forgotten() {
    let told: Vec<Told> = (1..=4)
        .map(|message| {
            let job = Job::new("trimmed", JobState::Active);
            let event = Event::job(Timestamp(message * 1_000_000), Framework::Celery, job);
            Told { event, messages: vec![message.cast_unsigned() * 10] }
        })
        .collect();
    let truncated =
        |evidence: &Evidence| Row::of(Uuid::nil(), "trimmed", evidence.clone()).is_some_and(|row| row.record.truncated);
    let mut known = evidence(&told, 0, 1, None);
    assert!(!truncated(&known));
    known.note_trim(25);
    assert!(truncated(&known) && truncated(&known.up_to(25)) && !truncated(&known.up_to(24)));
    for (cut, is_truncated) in [(20, true), (24, false)] {
        let Trimmed::Exact(Some(left)) = known.trimmed(cut) else { panic!("{cut}") };
        // Once all that is left came after the event that told of it, the job is as if it had begun then.
        assert_eq!((truncated(&left), left.is_trimmed()), (is_truncated, is_truncated), "{cut}");
    }
    let mut later = evidence(&told, 20, 1, None);
    later.note_trim(20);
    assert!(!truncated(&later), "a trim says nothing of what comes after it");
}
