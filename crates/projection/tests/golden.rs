//! Every job of the recorded streams, folded: the records were reviewed by hand against what the tasks really did.
//!
//! `UPDATE_GOLDEN=1 cargo test -p projection` writes the files anew; read the difference before you commit it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use projection::Row;
use proto_events::{Event, Position};
use uuid::Uuid;

/// The connection of the documented sample.
const CONNECTION: Uuid = Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0000);

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder)
}

/// The events of a recording, by job, in the order of the jobs' first appearance.
fn jobs(recording: &Path) -> Vec<(String, Vec<(Position, Event)>)> {
    let mut jobs: Vec<(String, Vec<(Position, Event)>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (line, text) in fs::read_to_string(recording).unwrap().lines().enumerate() {
        let events =
            sources::lines::events(text, CONNECTION).unwrap_or_else(|error| panic!("line {}: {error}", line + 1));
        for (index, event) in events.into_iter().enumerate() {
            let Some(job) = &event.job else { continue };
            let place = *places.entry(job.external_id.clone()).or_insert_with(|| {
                jobs.push((job.external_id.clone(), Vec::new()));
                jobs.len() - 1
            });
            jobs[place].1.push((Position::new(line as u64 + 1, index as u32), event));
        }
    }
    jobs
}

fn recordings() -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(data("captures")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert_eq!(paths.len(), 9, "a recording is missing");
    paths
}

#[test]
fn every_recorded_job_gives_its_golden_record() {
    for recording in recordings() {
        let mut records = String::new();
        for (id, events) in jobs(&recording) {
            let row =
                Row::apply(None, CONNECTION, &id, events.iter().map(|(position, event)| (*position, event))).unwrap();
            writeln!(records, "{}", serde_json::to_string(&row.record).unwrap()).unwrap();
        }
        let golden = data("golden").join(recording.file_name().unwrap());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &records).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap();
        for (line, (got, expected)) in records.lines().zip(expected.lines()).enumerate() {
            assert_eq!(got, expected, "{} line {}", golden.display(), line + 1);
        }
        assert_eq!(records.lines().count(), expected.lines().count(), "{}", golden.display());
    }
}
