//! `forebay fold`: events in, records out, no server.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write as _};

use anyhow::Context as _;
use projection::Row;
use proto_events::{Event, Position};
use serde_json::Value;
use sources::lines::{self, LineError};
use uuid::Uuid;

use crate::cli::FoldArgs;

/// Where lines are kept together that name no connection, when none is given either.
const NO_CONNECTION: Uuid = Uuid::nil();

/// Reads all lines, then writes all records. `false` when some line was of no use.
pub(crate) fn run(args: &FoldArgs) -> anyhow::Result<bool> {
    let input: Box<dyn BufRead> = match &args.file {
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            Box::new(BufReader::new(file))
        }
        None => Box::new(std::io::stdin().lock()),
    };
    let mut jobs = Jobs::default();
    let mut all_good = true;
    for (index, line) in input.split(b'\n').enumerate() {
        let line = line.context("cannot read the input")?;
        if let Err(reason) = jobs.read(&line, index as u64 + 1, args.connection) {
            eprintln!("line {}: {reason}", index + 1);
            all_good = false;
        }
    }
    jobs.write()?;
    Ok(all_good)
}

/// The events of each job, in the order in which the jobs were first seen.
#[derive(Default)]
struct Jobs {
    places: HashMap<(Uuid, String), usize>,
    events: Vec<Vec<(Position, Event)>>,
}

impl Jobs {
    fn read(&mut self, line: &[u8], number: u64, connection: Option<Uuid>) -> Result<(), String> {
        let line = std::str::from_utf8(line).map_err(|_| "not UTF-8".to_owned())?.trim();
        if line.is_empty() {
            return Ok(());
        }
        let connection = connection.or_else(|| named_connection(line)).unwrap_or(NO_CONNECTION);
        let (events, reason) = match lines::events(line, connection) {
            Ok(events) => (events, None),
            Err(error) => {
                let reason = error.to_string();
                let LineError::Refused { events, .. } = error else { return Err(reason) };
                (events, Some(reason))
            }
        };
        for (index, event) in events.into_iter().enumerate() {
            self.add(Position::new(number, index as u32), connection, event);
        }
        reason.map_or(Ok(()), Err)
    }

    fn add(&mut self, position: Position, connection: Uuid, event: Event) {
        let Some(job) = &event.job else { return };
        let key = (connection, job.external_id.clone());
        let place = *self.places.entry(key).or_insert_with(|| {
            self.events.push(Vec::new());
            self.events.len() - 1
        });
        self.events[place].push((position, event));
    }

    fn write(&self) -> anyhow::Result<()> {
        let mut jobs: Vec<_> = self.places.iter().collect();
        jobs.sort_by_key(|(_, place)| **place);
        let mut output = BufWriter::new(std::io::stdout().lock());
        for ((connection, external_id), place) in jobs {
            let events = self.events[*place].iter().map(|(position, event)| (*position, event));
            if let Some(row) = Row::apply(None, *connection, external_id, events) {
                serde_json::to_writer(&mut output, &row.record)?;
                output.write_all(b"\n")?;
            }
        }
        output.flush()?;
        Ok(())
    }
}

/// The first `connectionId` that the line names anywhere.
fn named_connection(line: &str) -> Option<Uuid> {
    fn find(value: &Value) -> Option<Uuid> {
        match value {
            Value::Array(elements) => elements.iter().find_map(find),
            Value::Object(map) => match map.get("connectionId").and_then(Value::as_str) {
                Some(id) => id.parse().ok(),
                None => ["events", "event", "body"].iter().find_map(|key| find(map.get(*key)?)),
            },
            _ => None,
        }
    }
    // Only a line that holds the word is worth being parsed for it.
    if !line.contains("connectionId") {
        return None;
    }
    find(&serde_json::from_str(line).ok()?)
}
