//! A corpus of messages, and what becomes of it byte by byte: every parser answers, and what it lets through is an event
//! of the contract.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

mod cases;

use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proto_events::{Event, JobState, Timestamp, limits};
use sources::Redaction;
use sources::backend::{Unended, answer};
use sources::celery::Normaliser;
use sources::{lines, sdk};
use uuid::Uuid;

/// The connection that the batches of the corpus name.
const CONNECTION: Uuid = Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0000);

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// All that any parser lets through.
fn parsed(bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    events.extend(Normaliser::default().message(bytes).map(|message| message.events).unwrap_or_default());
    events.extend(sdk::batch(bytes, CONNECTION, &sdk::Options::default()).unwrap_or_default().events);
    if let Ok(text) = std::str::from_utf8(bytes) {
        events.extend(
            Normaliser { redaction: Redaction::new(true, Vec::new()) }
                .body(text)
                .map(|message| message.events)
                .unwrap_or_default(),
        );
        match lines::events(text, CONNECTION) {
            Ok(read) | Err(lines::LineError::Refused { events: read, .. }) => events.extend(read),
            Err(_) => {}
        }
    }
    let since = Timestamp(0);
    let job = Unended { external_id: "a".to_owned(), state: JobState::Active, attempt: 1, started_at: None, since };
    events
        .extend(answer::read(bytes).ok().flatten().and_then(|answer| answer.event(&job, since, &Redaction::default())));
    events
}

fn check(events: Vec<Event>) {
    for event in events {
        assert_eq!(event.check(), Ok(()));
        let bytes = proto_events::encode(std::slice::from_ref(&event));
        assert!(bytes.len() <= limits::EVENT_BYTES);
        assert_eq!(proto_events::decode(&bytes).unwrap().remove(0), Ok(event));
    }
}

#[test]
fn each_message_of_the_corpus_gives_the_events_that_it_always_gave() {
    let counts: Vec<(String, usize)> = corpus()
        .into_iter()
        .map(|(name, bytes)| (name, parsed(&bytes).len()))
        .filter(|(_, count)| *count > 0)
        .collect();
    let counts: Vec<String> = counts.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
    let expected = include_str!("corpus.txt").lines().collect::<Vec<_>>();
    assert_eq!(counts, expected);
    for (_, bytes) in corpus() {
        check(parsed(&bytes));
    }
}

/// What happens to bytes on their way.
#[derive(Clone, Debug)]
enum Harm {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    End(Index),
}

fn harm() -> impl Strategy<Value = Harm> {
    let token = prop_oneof![
        vec(any::<u8>(), 1..6),
        proptest::sample::select(vec![
            "\"", "\\", "{", "}", "[", "]", ",", ":", "null", "1e999", "-0", "NaN", "\\ud800", "\u{feff}"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        4 => (any::<Index>(), token).prop_map(|(at, token)| Harm::Insert(at, token)),
        2 => (any::<Index>(), 1_usize..30).prop_map(|(at, length)| Harm::Remove(at, length)),
        1 => (any::<Index>(), 1_usize..40, 1_usize..40).prop_map(|(at, length, times)| Harm::Repeat(at, length, times)),
        1 => any::<Index>().prop_map(Harm::End),
    ]
}

fn harmed(mut bytes: Vec<u8>, harms: &[Harm]) -> Vec<u8> {
    for harm in harms {
        let place = |at: &Index| at.index(bytes.len() + 1);
        match harm {
            Harm::Set(at, byte) => {
                let at = place(at);
                bytes.get_mut(at).into_iter().for_each(|old| *old = *byte);
            }
            Harm::Insert(at, token) => drop(bytes.splice(place(at)..place(at), token.iter().copied())),
            Harm::Remove(at, length) => {
                let at = place(at);
                bytes.drain(at..(at + length).min(bytes.len()));
            }
            Harm::Repeat(at, length, times) => {
                let at = place(at);
                let part = bytes[at..(at + length).min(bytes.len())].repeat(*times);
                bytes.splice(at..at, part);
            }
            Harm::End(at) => bytes.truncate(place(at)),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(cases::at_least(4_000))]

    #[test]
    fn whatever_harm_comes_to_a_message_it_gives_an_answer(file in any::<Index>(), harms in vec(harm(), 1..10)) {
        let corpus = corpus();
        let (_, bytes) = corpus[file.index(corpus.len())].clone();
        check(parsed(&harmed(bytes, &harms)));
    }

    /// The harm comes to what is inside, and the envelope is whole.
    #[test]
    fn whatever_is_in_an_envelope_it_gives_an_answer(file in any::<Index>(), harms in vec(harm(), 0..10)) {
        use base64::Engine as _;
        let corpus = corpus();
        let (_, bytes) = corpus[file.index(corpus.len())].clone();
        let body = base64::engine::general_purpose::STANDARD.encode(harmed(bytes, &harms));
        let envelope = serde_json::json!({
            "body": body, "content-type": "application/json", "properties": {"body_encoding": "base64"},
        });
        check(parsed(envelope.to_string().as_bytes()));
    }
}
