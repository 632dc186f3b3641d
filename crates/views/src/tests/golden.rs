//! The bytes of every stored type. Whoever changes them changes the format byte too (of a row: that, or the version of
//! the fold), since views that are on disk would be misread; then `UPDATE_GOLDEN=1` writes the new file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use projection::fleet::{FleetFact, What, Word};
use projection::{Evidence, Execution, JsonText, Note, Outcome, OutcomeFrom, Record, Row, Transition};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proto_events::{Event, Framework, Job, JobState, Position, Timestamp};
use serde_json::json;
use uuid::Uuid;

use crate::Digest;
use crate::codec::{self, Checkpoint, Landmark, Meta, Past, Quarantined, Stored, StoredRow, Tally};
use crate::recent::RecentPage;

fn check(name: &str, bytes: &[u8]) {
    assert_eq!(bytes, golden(name, bytes), "the bytes of a {name} changed, and its format did not");
}

/// The bytes of the golden file.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/tests/golden").join(format!("{name}.hex"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let mut text = String::new();
        for line in bytes.chunks(32) {
            for byte in line {
                write!(text, "{byte:02x}").unwrap();
            }
            text.push('\n');
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    read_golden(&path)
}

fn read_golden(path: &Path) -> Vec<u8> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn check_stored<T: Stored + PartialEq + std::fmt::Debug>(value: &T) {
    let bytes = codec::encode(value);
    assert_eq!(&codec::decode::<T>(&bytes).unwrap(), value);
    check(&format!("{}.{}", T::NAME.replace(' ', "-"), T::FORMAT), &bytes);
    let mut long = bytes.clone();
    long.push(0);
    let mut other = bytes.clone();
    other[0] += 1;
    for wrong in [&bytes[..bytes.len() - 1], &long, &other, &[]] {
        assert!(codec::decode::<T>(wrong).is_err());
    }
}

#[test]
fn small_values() {
    check_stored(&Meta { layout: 1, fold_version: 300 });
    check_stored(&Checkpoint {
        number: 1_000,
        created: Timestamp(1_795_440_115_833_834),
        sequence: 70_000,
        fingerprint: [0xab; 16],
        digest: Digest([0xcd; 32]),
        fold_version: 3,
        floor: 65_000,
        settled: true,
    });
    check_stored(&Tally { rows: 5, digest: Digest([1; 32]), ahead: 1 << 40 });
    check_stored(&Past { sequence: 251, digest: Digest([2; 32]) });
    check_stored(&Landmark { sequence: 250, fingerprint: [3; 16] });
    check_stored(&Quarantined {
        position: Position::new(70_001, 3),
        connection: Uuid::from_u128(2),
        external_id: Some("abc123".to_owned()),
        cause: "the fold panicked: ü".to_owned(),
    });
    check_stored(&crate::lifetime::tests::kept_alone());
    check_stored(&crate::lifetime::tests::kept());
    let of_worker = |what| FleetFact {
        connection: Uuid::from_u128(2),
        name: "celery@worker-1".into(),
        position: Position::new(70_001, 3),
        at: Timestamp(1_795_440_115_833_834),
        what,
    };
    let word = Word::Offline;
    let spoke = What::Spoke { word, pid: Some(7), clock: Some(300), processed: Some(41), freq: Some(2.0) };
    check_stored(&of_worker(spoke));
    let mut page = RecentPage::default();
    for sequence in 1..=130 {
        page.insert(Position::new(sequence, sequence as u32 % 3), Uuid::from_u128(sequence.into()));
    }
    check_stored(&page);
}

fn record() -> Record {
    let time = |seconds: i64| Timestamp(1_772_188_195_000_000 + seconds * 1_000_000);
    Record {
        id: Uuid::from_u128(1),
        external_id: "abc123".to_owned(),
        framework: Framework::Celery,
        connection_id: Uuid::from_u128(2),
        name: "app.tasks.send_email".to_owned(),
        queue: Some("default".to_owned()),
        tags: JsonText::of(&json!({"tenant": "ü"})),
        state: JobState::Failed,
        state_changed_at: time(7),
        previous_state: Some(JobState::Active),
        created_at: time(0),
        scheduled_for: Some(time(-1)),
        started_at: Some(time(1)),
        completed_at: Some(time(7)),
        duration_ms: Some(6_000),
        worker_id: Some("celery@worker-1".to_owned()),
        attempt: 2,
        max_retries: Some(3),
        progress: Some(0.5),
        args: Some(JsonText::of(&json!("(1, 2)"))),
        kwargs: Some(JsonText::of(&json!({}))),
        result: None,
        error: Some("ConnectionRefusedError".to_owned()),
        stacktrace: Some("Traceback".to_owned()),
        parent_id: Some(Uuid::from_u128(3)),
        root_id: None,
        extensions: JsonText::empty_object(),
        state_history: vec![Transition { state: JobState::Queued, timestamp: time(0) }],
        executions: vec![Execution {
            attempt: 1,
            worker_id: None,
            pid: Some(-7),
            started_at: None,
            completed_at: Some(time(7)),
            outcome: Some(Outcome::Lost),
            error: None,
        }],
        deliveries: 2,
        truncated: true,
        notes: vec![Note {
            name: "task-invoiced".to_owned(),
            timestamp: time(3),
            data: JsonText::of(&json!({"total": 7})),
            truncated: false,
        }],
        notes_truncated: true,
        outcome_from: Some(OutcomeFrom::ResultBackend),
    }
}

fn evidence() -> Evidence {
    let mut evidence = Evidence::default();
    for (sequence, state) in [(40, JobState::Queued), (41, JobState::Failed)] {
        let mut job = Job::new("abc123", state);
        job.name = Some("app.tasks.send_email".to_owned());
        job.error = Some("ConnectionRefusedError".to_owned());
        let event = Event::job(Timestamp(1_772_188_195_000_000), Framework::Celery, job);
        evidence.add(Position::new(sequence, 5), &event);
    }
    evidence
}

#[test]
fn rows() {
    let row = Row { record: record(), evidence: evidence() };
    // Not compressed: of that the bytes may differ with the version of the compressor.
    let (bytes, digest) = codec::encode_row_from(&row, usize::MAX);
    check(&format!("row.{}.fold.{}", codec::ROW_FORMAT, projection::FOLD_VERSION), &bytes);
    let stored = StoredRow::parse(&bytes).unwrap();
    assert_eq!(stored.row(row.record.id).unwrap(), row);
    assert_eq!(stored.head, codec::Head::of(&row));
    assert_eq!((stored.head.first, stored.head.last), (Position::new(40, 5), 41));
    assert_eq!(digest, stored.digest);
    // The digest is of the record, and of nothing that depends on where its events are in the log.
    let elsewhere = Row { record: record(), evidence: Evidence::default() };
    assert_eq!(codec::encode_row(&elsewhere).1, digest);
    for end in 0..bytes.len() {
        assert!(StoredRow::parse(&bytes[..end]).and_then(|row| row.row(Uuid::from_u128(1))).is_err(), "{end}");
    }
}

#[test]
fn long_rows_are_compressed() {
    let mut row = Row { record: record(), evidence: evidence() };
    row.record.stacktrace = Some("  File \"/app/tasks.py\", line 42, in send_email\n".repeat(100));
    let (bytes, digest) = codec::encode_row(&row);
    assert!(bytes.len() < 1_000, "{}", bytes.len());
    // Another version of the compressor may write other bytes; those of this one must stay readable.
    let golden = golden(&format!("row.{}.fold.{}.compressed", codec::ROW_FORMAT, projection::FOLD_VERSION), &bytes);
    for bytes in [&bytes, &golden] {
        let stored = StoredRow::parse(bytes).unwrap();
        assert_eq!(stored.row(row.record.id).unwrap(), row);
        assert_eq!(digest, stored.digest);
        for place in 0..bytes.len() {
            assert!(StoredRow::parse(&bytes[..place]).and_then(|row| row.row(Uuid::from_u128(1))).is_err(), "{place}");
            // Whatever a flipped bit does, it is no panic and no lack of memory.
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x40;
            let _ = StoredRow::parse(&damaged).and_then(|row| row.row(Uuid::from_u128(1)));
        }
    }
}

/// Every value that was ever written down here, as it is stored.
fn all_golden() -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/tests/golden");
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    names.sort();
    names.iter().map(|path| read_golden(path)).collect()
}

/// Everything that reads what is stored, on these bytes.
fn read_all(bytes: &[u8]) {
    let _ = codec::decode::<Meta>(bytes);
    let _ = codec::decode::<Checkpoint>(bytes);
    let _ = codec::decode::<Tally>(bytes);
    let _ = codec::decode::<Past>(bytes);
    let _ = codec::decode::<Landmark>(bytes);
    let _ = codec::decode::<Quarantined>(bytes);
    let _ = codec::decode::<FleetFact>(bytes);
    let _ = codec::decode::<RecentPage>(bytes);
    let _ = codec::decode::<crate::lifetime::Kept>(bytes);
    if let Ok(stored) = StoredRow::parse(bytes) {
        let _ = stored.row(stored.id);
        let _ = stored.brief(stored.id);
    }
}

#[test]
fn whichever_bit_of_what_is_stored_is_another_it_is_read_or_refused() {
    for bytes in all_golden() {
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            read_all(&bytes);
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_stored_is_read_or_refused(
        file in any::<Index>(), harms in vec((any::<Index>(), 0_usize..20, vec(any::<u8>(), 0..12)), 1..6),
        noise in vec(any::<u8>(), 0..200),
    ) {
        let all = all_golden();
        let mut bytes = file.get(&all).clone();
        // Its first byte says what it is.
        let format = bytes[0];
        for (place, length, other) in harms {
            let place = place.index(bytes.len() + 1);
            let end = (place + length).min(bytes.len());
            bytes.splice(place..end, other);
        }
        read_all(&bytes);
        read_all(&[&[format], &noise[..]].concat());
    }
}
