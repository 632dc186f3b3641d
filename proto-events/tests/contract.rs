//! What is published about the contract, and what was ever written in it, still holds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proto_events::{Event, EventId, VERSION, decode, encode};

/// Every sample of version 1 with the identities of its events, as they were when the sample was added. A sample is never
/// changed nor removed: logs hold such messages, and their identities decide what counts as a repetition.
///
/// With a new version come samples of it in a folder of its own; those of older ones then have the identities of the newest
/// form that they are brought to, which stands in a folder of the same name in `samples/newest`.
const SAMPLES: &[(&str, &[&str])] = &[
    ("array.mixed", &["065de5a7775ddc10a39291f91030f2f0", "eedbb8066f7baaf2e6c570efc567bdba"]),
    ("clock", &["065de5a7775ddc10a39291f91030f2f0"]),
    ("job.celery-sent", &["6f2d9082bd3825f725d1a12ee47daf83"]),
    (
        "job.celery-stream",
        &[
            "ab13b54061e03819c71931ac5be7134d",
            "349faa189673109b6e4c2df5e7af88ee",
            "f19328e28f796e319fad735409f3ae23",
            "700fc1dfdd2031316edf53eba839b546",
            "49122cb676f913cf3de4794d42825564",
        ],
    ),
    ("job.reconciled", &["6dab7440815abbd2b83e8c4a28f5b81f"]),
    ("job.report", &["4fb0f60c9003e90b5b2ccc0827c998a9"]),
    ("queue", &["7ae0a6e936763d345d0191509a5cea09"]),
    ("source", &["ece2c3beda8dfa868d8a51bab7d555af"]),
    ("trim", &["b1dd32be21b37d04a5213f4e24a6b635", "bd98238101ebd5db65f42b3b547ab3f5"]),
    ("worker", &["afbcebc1b129ccfbb90146c745352fd0"]),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The versions that were ever written.
fn versions() -> impl Iterator<Item = u16> {
    1..=VERSION
}

/// All samples of all versions.
fn samples() -> BTreeMap<String, Vec<u8>> {
    versions().flat_map(|version| read(&format!("samples/v{version}"))).collect()
}

/// Each with its golden form in the newest version.
fn with_newest() -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for version in versions() {
        let newest = if version == VERSION { "samples".to_owned() } else { "samples/newest".to_owned() };
        let mut golden = read(&format!("{newest}/v{version}"));
        for (name, bytes) in read(&format!("samples/v{version}")) {
            let newest =
                golden.remove(&name).unwrap_or_else(|| panic!("{name} of version {version} has no newest form"));
            all.push((name, bytes, newest));
        }
    }
    all
}

fn read(directory: &str) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder(directory)).unwrap_or_else(|error| panic!("{directory}: {error}"));
    files
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut bytes = std::fs::read(path).unwrap();
            assert_eq!(bytes.pop(), Some(b'\n'), "{name} ends with a newline");
            (name, bytes)
        })
        .collect()
}

fn events(name: &str, bytes: &[u8]) -> Vec<Event> {
    let events = decode(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    events.into_iter().map(|event| event.unwrap_or_else(|error| panic!("{name}: {error}"))).collect()
}

#[test]
fn samples_of_every_version_are_read_and_written_back_in_the_newest_byte_for_byte() {
    for (name, bytes, newest) in with_newest() {
        let written = String::from_utf8(encode(&events(&name, &bytes))).unwrap();
        assert_eq!(written, String::from_utf8(newest).unwrap(), "{name}");
    }
}

#[test]
fn identities_of_the_samples_are_what_they_always_were() {
    let actual: Vec<(String, Vec<String>)> = samples()
        .into_iter()
        .map(|(name, bytes)| {
            let ids = events(&name, &bytes).iter().map(|event| EventId::of(event).to_string()).collect();
            (name, ids)
        })
        .collect();
    let known: Vec<(String, Vec<String>)> = SAMPLES
        .iter()
        .map(|(name, ids)| ((*name).to_owned(), ids.iter().map(|id| (*id).to_owned()).collect()))
        .collect();
    assert_eq!(actual, known);
}

#[test]
fn identity_does_not_depend_on_how_the_sender_wrote_the_event() {
    let one = r#"{"v":1,"type":"job_state_change","timestamp":"2026-03-01T09:30:00+01:30","framework":"celery",
        "job":{"state":"queued","externalId":"a","extensions":{"b":1,"a":[1.50]},"tags":null,"queue":null}}"#;
    let other = r#"{"job":{"extensions":{"a":[1.5],"b":1},"externalId":"\u0061","state":"queued"},"framework":"celery",
        "timestamp":"2026-03-01T08:00:00Z","type":"job.state_change","added by a later writer":true}"#;
    let ids: Vec<EventId> = [one, other].map(|text| EventId::of(&events("inline", text.as_bytes())[0])).into();
    assert_eq!(ids[0], ids[1]);
}

/// `UPDATE_GOLDEN=1 cargo test -p proto-events` writes the file anew.
#[test]
fn published_schema_is_the_one_of_the_types() {
    let (path, schema) = (folder("schema/event.v1.json"), proto_events::schema::event_schema());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &schema).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(published == schema, "{} is out of date: run UPDATE_GOLDEN=1 cargo test -p proto-events", path.display());
}

#[test]
fn samples_hold_to_the_published_schema_and_broken_ones_do_not() {
    let text = proto_events::schema::event_schema();
    let schema = jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap();
    for (name, bytes) in samples() {
        for event in events(&name, &bytes) {
            let value = serde_json::to_value(event).unwrap();
            let errors: Vec<String> = schema.iter_errors(&value).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
        }
    }
    let (_, bytes) = samples().into_iter().find(|(name, _)| name == "job.report").unwrap();
    let good: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for (pointer, bad) in [
        ("/type", "job.exploded"),
        ("/timestamp", "{}"),
        ("/job/state", "dead"),
        ("/job/attempt", "one"),
        ("/job", ""),
        ("/job/externalId", ""),
        ("/v", "2"),
    ] {
        let mut event = good.clone();
        *event.pointer_mut(pointer).unwrap() =
            serde_json::from_str(bad).unwrap_or_else(|_| serde_json::Value::String(bad.to_owned()));
        assert!(!schema.is_valid(&event), "{pointer} = {bad} must not be valid");
    }
}
