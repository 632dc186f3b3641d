//! `GET /api/jobs` with `format=csv` or `format=jsonl`: the whole list as a file.

use std::sync::Arc;

use csv::{QuoteStyle, Terminator, WriterBuilder};
use projection::Record;
use uuid::Uuid;
use views::{Query, Reader, ViewError};
use warp::http::{HeaderMap, HeaderValue, header};
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::errors::ApiError;
use crate::http::Hangup;
use crate::jobs::Item;
use crate::params::jobs::Format;
use crate::signs::{Found, Habits};
use crate::times::{Millis, now};
use crate::walk::{self, Walk, Writer};

pub(crate) const CSV: &str = "text/csv; charset=utf-8";
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// The columns of CSV: the fields of a job in the list, flat.
const COLUMNS: [&str; 19] = [
    "id",
    "externalId",
    "framework",
    "connectionId",
    "name",
    "queue",
    "state",
    "stateChangedAt",
    "scheduledFor",
    "createdAt",
    "startedAt",
    "completedAt",
    "durationMs",
    "workerId",
    "attempt",
    "error",
    "lost",
    "stuck",
    "waiting",
];

/// What the client asks for by its `Accept`, where no parameter says it. Whoever takes anything, as browsers and scripts
/// do, gets pages of JSON.
pub(crate) fn accepted(headers: &HeaderMap) -> Format {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let named = |value: &str| match value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Some(Format::Json),
        "text/csv" => Some(Format::Csv),
        NDJSON | "application/jsonl" => Some(Format::Lines),
        _ => None,
    };
    values.flat_map(|value| value.split(',')).find_map(named).unwrap_or(Format::Json)
}

/// The whole list, from the cursor of the query on.
pub(crate) fn answer(
    app: &App,
    parts: &Parts,
    hangup: Hangup,
    format: Format,
    query: Query,
    limit: usize,
) -> Result<Response, ApiError> {
    let walk = Walk { queries: [query].into(), skip: 0, limit };
    let habits = Arc::clone(&app.habits);
    let (response, ending) = match format {
        Format::Csv => (walk::answer(app, parts, hangup, walk, Csv(habits), CSV), "csv"),
        Format::Lines | Format::Json => (walk::answer(app, parts, hangup, walk, Lines(habits), NDJSON), "jsonl"),
    };
    let mut response = response?;
    // Digits and dashes, so that it is a name on every system.
    let day = &now().to_millis_text()[..19].replace(':', "-");
    if let Ok(value) = HeaderValue::try_from(format!("attachment; filename=\"jobs-{day}Z.{ending}\"")) {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

type KnownHabits = Arc<Habits>;

/// A line of JSON for each job.
struct Lines(KnownHabits);

impl Writer for Lines {
    fn begin(&mut self, _: &mut Vec<u8>) {}

    fn job(&mut self, reader: &Reader, id: Uuid, out: &mut Vec<u8>) -> Result<bool, ViewError> {
        let Some(record) = reader.job(id)? else { return Ok(false) };
        let item = Item::new(&record, self.0.of(reader, &record));
        let before = out.len();
        match serde_json::to_writer(&mut *out, &item) {
            Ok(()) => out.push(b'\n'),
            Err(error) => {
                tracing::error!(%error, job = %id, "a job cannot be written");
                out.truncate(before);
            }
        }
        Ok(true)
    }

    fn end(&mut self, _: &mut Vec<u8>) {}
}

/// A line of CSV for each job, as RFC 4180 has it.
struct Csv(KnownHabits);

impl Writer for Csv {
    fn begin(&mut self, out: &mut Vec<u8>) {
        line(out, COLUMNS.iter().map(|column| (*column).to_owned()));
    }

    fn job(&mut self, reader: &Reader, id: Uuid, out: &mut Vec<u8>) -> Result<bool, ViewError> {
        let Some(record) = reader.job(id)? else { return Ok(false) };
        let found = self.0.of(reader, &record);
        line(out, cells(&record, &found).into_iter());
        Ok(true)
    }

    fn end(&mut self, _: &mut Vec<u8>) {}
}

/// What is null is empty.
fn cells(record: &Record, found: &Found) -> [String; COLUMNS.len()] {
    let time = |Millis(time): Millis| time.to_millis_text();
    let some = |at: Option<proto_events::Timestamp>| at.map(|at| time(Millis(at))).unwrap_or_default();
    let text = |text: Option<&str>| text.map(guarded).unwrap_or_default();
    [
        record.id.to_string(),
        guarded(&record.external_id),
        record.framework.as_str().to_owned(),
        record.connection_id.to_string(),
        guarded(&record.name),
        text(record.queue.as_deref()),
        record.state.as_str().to_owned(),
        time(Millis(record.state_changed_at)),
        some(record.scheduled_for),
        time(Millis(record.created_at)),
        some(record.started_at),
        some(record.completed_at),
        record.duration_ms.map(|millis| millis.to_string()).unwrap_or_default(),
        text(record.worker_id.as_deref()),
        record.attempt.to_string(),
        text(record.error.as_deref()),
        found.lost.is_some().to_string(),
        found.stuck.is_some().to_string(),
        found.waiting.is_some().to_string(),
    ]
}

/// A text of somebody else, such that no spreadsheet takes it for a formula: with a quote before it, which a spreadsheet
/// does not show, where it begins like one.
fn guarded(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { format!("'{text}") } else { text.to_owned() }
}

fn line(out: &mut Vec<u8>, cells: impl Iterator<Item = String>) {
    let mut writer = WriterBuilder::new();
    // All in quotes: a spreadsheet that separates by semicolons would find the beginning of a cell within one.
    let writer = writer.quote_style(QuoteStyle::Always);
    let mut writer = writer.terminator(Terminator::CRLF).buffer_capacity(1_024).from_writer(out);
    // Writing into memory does not fail, and every line has as many cells as the first.
    let _ = writer.write_record(cells);
    let _ = writer.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_like_a_formula_is_none_and_every_cell_is_read_back() {
        let foreign = [
            "=1+1",
            "+1",
            "-1",
            "@SUM(A1)",
            "\t=1",
            "a,\"b\"\r\nc",
            "x;=1",
            "",
            "'=1",
            "plain",
            "=HYPERLINK(\"x\";\"y\")",
        ];
        let mut out = Vec::new();
        line(&mut out, foreign.iter().map(|text| guarded(text)));
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(out.as_slice());
        let read = reader.records().next().unwrap().unwrap();
        let expected = foreign.map(|text| {
            if text.starts_with(['=', '+', '-', '@', '\t']) { format!("'{text}") } else { text.to_owned() }
        });
        assert_eq!(read.iter().collect::<Vec<_>>(), expected);
        assert!(out.ends_with(b"\r\n"));
        assert!(String::from_utf8(out).unwrap().contains(",\"x;=1\","), "nothing of it begins a cell");
    }

    #[test]
    fn a_client_names_the_form_that_it_takes() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().unwrap());
            accepted(&headers)
        };
        assert_eq!(of("text/csv"), Format::Csv);
        assert_eq!(of("TEXT/CSV; header=present, */*"), Format::Csv);
        assert_eq!(of("application/x-ndjson"), Format::Lines);
        assert_eq!(of("application/json, text/csv;q=0.5"), Format::Json);
        assert_eq!(of("text/html, */*;q=0.8"), Format::Json);
        assert_eq!(accepted(&HeaderMap::new()), Format::Json);
    }
}
