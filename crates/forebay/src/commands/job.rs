//! `forebay job`: one job, for people.

use std::fmt::Write as _;

use anyhow::Context as _;
use projection::{Execution, Note, Outcome, OutcomeFrom, Record};
use proto_events::{JobState, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::text::{Paint, duration, harmless, short, table, time};

/// Characters of an argument or an error on a line of its own.
const LINE: usize = 160;
/// Characters of an error in a table.
const CELL: usize = 60;

/// What the API answers beside the record itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Others {
    recent_executions: Vec<Recent>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recent {
    external_id: String,
    state: JobState,
    created_at: Timestamp,
    duration_ms: Option<u64>,
}

/// The answer of `GET /api/jobs/{id}` as text.
pub(crate) fn describe(answer: &Value, paint: Paint) -> anyhow::Result<String> {
    let unexpected = "the server's answer is not a job: is it another version of forebay?";
    let record = Record::deserialize(answer).context(unexpected)?;
    let others = Others::deserialize(answer).context(unexpected)?;
    let mut text = header(&record, paint);
    text.push_str(&warnings(answer, paint));
    text.push_str(&timeline(&record, paint));
    text.push_str(&executions(&record.executions, paint));
    text.push_str(&notes(&record, paint));
    if let Some(error) = &record.error {
        let _ = write!(text, "\n{}\n  {}\n", paint.bold("Error"), indented(error, |line| paint.red(line)));
    }
    if let Some(stacktrace) = &record.stacktrace {
        let _ = write!(text, "\n{}\n  {}\n", paint.bold("Traceback"), indented(stacktrace, str::to_owned));
    }
    text.push_str(&recent(&others.recent_executions, paint));
    Ok(text)
}

/// What the server's mark on an answer means.
pub(crate) fn out_of_date(mark: &str) -> String {
    match mark {
        "upgrading" => {
            "this is from the views of another version of Forebay and may be out of date: new ones are made by \
                        `forebay serve`, or by `forebay rebuild`"
                .to_owned()
        }
        reason => format!("this may be out of date, the log is not the one it was read from: {reason}"),
    }
}

/// Why the server finds no such job, or none at the time that was asked for.
pub(crate) fn not_found(id: &str, answer: &Value) -> String {
    let id = short(id, 200);
    let details = &answer["error"]["details"];
    let Some(reason) = details["asOf"].as_str() else { return format!("no job has the id {id}") };
    let reason = reason.trim_end_matches('.');
    match (details["firstPosition"].as_str(), details["firstPublishedAt"].as_str()) {
        (Some(position), Some(published)) => {
            format!("{id}: {reason}; its first event is at position {position} and was published at {published}")
        }
        _ => format!("{id}: {reason}"),
    }
}

fn header(record: &Record, paint: Paint) -> String {
    let state = paint.state(record.state, record.state.as_str());
    let mut text = format!("{}  {state}\n", paint.bold(&harmless(&record.name)));
    let attempt = match record.max_retries {
        Some(retries) => format!("{} of at most {}", record.attempt, u64::from(retries) + 1),
        None => record.attempt.to_string(),
    };
    let display = |value: &projection::JsonText| match value.value() {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let rows = [
        ("id", Some(record.id.to_string())),
        ("external id", Some(record.external_id.clone())),
        ("connection", Some(record.connection_id.to_string())),
        ("framework", Some(record.framework.as_str().to_owned())),
        ("queue", record.queue.clone()),
        ("worker", record.worker_id.clone()),
        ("attempt", Some(attempt)),
        ("created", Some(time(record.created_at))),
        ("scheduled for", record.scheduled_for.map(time)),
        ("took", record.duration_ms.map(duration)),
        ("progress", record.progress.map(|progress| format!("{:.0} %", progress * 100.0))),
        ("args", record.args.as_ref().map(display)),
        ("kwargs", record.kwargs.as_ref().map(display)),
        ("result", record.result.as_ref().map(display)),
        ("parent", record.parent_id.map(|id| id.to_string())),
        ("root", record.root_id.map(|id| id.to_string())),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            let _ = writeln!(text, "  {}  {}", paint.dim(&format!("{name:<13}")), short(&value, LINE));
        }
    }
    if record.outcome_from == Some(OutcomeFrom::ResultBackend) {
        text.push_str("  No event told how it ended: Celery's result backend was asked.\n");
    }
    if record.truncated {
        text.push_str("  Not all events of this job are kept: some steps may be missing.\n");
    }
    text
}

/// What may be wrong with the job, with what shows it and what it means.
fn warnings(answer: &Value, paint: Paint) -> String {
    let found = [("lost", lost as fn(&Value) -> String), ("stuck", stuck), ("waiting", waiting)];
    let mut text = String::new();
    for (name, in_words) in found {
        if let Some(found) = answer.get(name).filter(|found| found.is_object()) {
            let _ = writeln!(text, "\n{}  {}", paint.red(&name.to_uppercase()), harmless(&in_words(found)));
        }
    }
    text
}

fn text_of<'a>(found: &'a Value, field: &str) -> &'a str {
    found[field].as_str().unwrap_or("-")
}

fn number_of(found: &Value, field: &str) -> String {
    found[field].as_i64().map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn millis_of(found: &Value, field: &str) -> Option<String> {
    found[field].as_u64().map(duration)
}

fn lost(found: &Value) -> String {
    let (worker, since) = (text_of(found, "workerId"), text_of(found, "since"));
    let (pid, new_pid) = (number_of(found, "pid"), number_of(found, "newPid"));
    let counted = format!("{} after {}", number_of(found, "countedAfter"), number_of(found, "countedBefore"));
    let evidence = match text_of(found, "evidence") {
        "newProcess" => format!("process {new_pid} took the place of {pid} as {worker} at {since}"),
        "clockRestarted" => format!("{worker} (process {pid}) began anew at {since}: its clock said {counted}"),
        "countRestarted" => format!("{worker} (process {pid}) began anew at {since}: it had run {counted} jobs"),
        "silent" => {
            let noticed = text_of(found, "noticedAt");
            format!(
                "{worker} (process {pid}) was last heard at {since}, and not until {noticed} though its broker was \
                 listened to"
            )
        }
        other => format!("{worker}: {other}, since {since}"),
    };
    format!("{evidence}. The job will not end by itself; it may run again if it is acknowledged late (acks_late).")
}

fn stuck(found: &Value) -> String {
    let most = millis_of(found, "limitMs").unwrap_or_default();
    let usually = usually(found, "runs of this task take");
    format!(
        "it runs since {} and is over its limit of {most} since {}: {usually}.",
        text_of(found, "beganAt"),
        text_of(found, "since")
    )
}

fn waiting(found: &Value) -> String {
    let most = millis_of(found, "limitMs").unwrap_or_default();
    let began = text_of(found, "beganAt");
    let from =
        if found["pastEta"] == true { format!("its ETA was {began}") } else { format!("it waits since {began}") };
    let usually = usually(found, "jobs of its queue wait");
    format!("{from}, and is over its limit of {most} since {}: {usually}.", text_of(found, "since"))
}

fn usually(found: &Value, what: &str) -> String {
    let p99 = millis_of(found, "p99Ms");
    p99.map_or_else(|| format!("how long {what} is not known yet"), |p99| format!("99 of 100 {what} at most {p99}"))
}

/// Each step, and how long after the one before it came.
fn timeline(record: &Record, paint: Paint) -> String {
    let mut text = format!("\n{}\n", paint.bold("Timeline"));
    let mut before: Option<Timestamp> = None;
    let mut attempt = 1;
    let mut retried = false;
    for step in &record.state_history {
        let after = before.map_or_else(String::new, |before| {
            let millis = step.timestamp.millis() - before.millis();
            format!("+{}", duration(u64::try_from(millis).unwrap_or_default()))
        });
        let state = paint.state(step.state, &format!("{:<9}", step.state.as_str()));
        let note = if retried { format!("attempt {attempt}") } else { String::new() };
        let line = format!("  {}  {state}  {}  {}", time(step.timestamp), paint.dim(&format!("{after:<12}")), note);
        let _ = writeln!(text, "{}", line.trim_end());
        retried = step.state == JobState::Retrying;
        attempt += u32::from(retried);
        before = Some(step.timestamp);
    }
    text
}

fn executions(executions: &[Execution], paint: Paint) -> String {
    if executions.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = executions.iter().enumerate().map(|(index, run)| row(index + 1, run)).collect();
    let headings = ["#", "attempt", "outcome", "started", "took", "worker", "pid", "error"];
    format!("\n{}\n{}", paint.bold("Executions"), table(&headings, &rows, paint))
}

fn row(number: usize, run: &Execution) -> Vec<String> {
    let none = || "-".to_owned();
    let took =
        run.started_at.zip(run.completed_at).and_then(|(start, end)| u64::try_from(end.millis() - start.millis()).ok());
    vec![
        number.to_string(),
        run.attempt.to_string(),
        run.outcome.map_or_else(|| "running".to_owned(), outcome),
        run.started_at.map_or_else(none, time),
        took.map_or_else(none, duration),
        run.worker_id.as_deref().map_or_else(none, |worker| short(worker, CELL)),
        run.pid.map_or_else(none, |pid| pid.to_string()),
        run.error.as_deref().map_or_else(none, |error| short(error, CELL)),
    ]
}

/// As the API writes it.
fn outcome(outcome: Outcome) -> String {
    let name = serde_json::to_value(outcome).unwrap_or_default();
    name.as_str().unwrap_or("-").to_owned()
}

/// What the task said of its own.
fn notes(record: &Record, paint: Paint) -> String {
    if record.notes.is_empty() {
        return String::new();
    }
    let line = |note: &Note| vec![time(note.timestamp), short(&note.name, CELL), short(note.data.as_str(), LINE)];
    let rows: Vec<Vec<String>> = record.notes.iter().map(line).collect();
    let more =
        if record.notes_truncated { "  There were more than these, between the first and the last.\n" } else { "" };
    format!("\n{}\n{}{more}", paint.bold("Notes"), table(&["time", "event", "fields"], &rows, paint))
}

fn recent(others: &[Recent], paint: Paint) -> String {
    if others.is_empty() {
        return String::new();
    }
    let row = |run: &Recent| {
        let took = run.duration_ms.map_or_else(|| "-".to_owned(), duration);
        vec![time(run.created_at), run.state.as_str().to_owned(), took, short(&run.external_id, CELL)]
    };
    let rows: Vec<Vec<String>> = others.iter().map(row).collect();
    let headings = ["created", "state", "took", "external id"];
    format!("\n{}\n{}", paint.bold("Other runs of this task"), table(&headings, &rows, paint))
}

fn indented(text: &str, each: impl Fn(&str) -> String) -> String {
    harmless(text.trim_end()).lines().map(each).collect::<Vec<_>>().join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use projection::Row;
    use proto_events::Position;
    use uuid::Uuid;

    /// The answer about a task that fails once, is tried again ten seconds later, and then returns.
    fn retried() -> Value {
        let lines = [
            r#"{"type":"task-received","uuid":"a","hostname":"w\u001b[2J","pid":7,"clock":1,"timestamp":100.0,"name":"n","retries":0}"#,
            r#"{"type":"task-started","uuid":"a","hostname":"w\u001b[2J","pid":7,"clock":2,"timestamp":100.5}"#,
            r#"{"type":"task-retried","uuid":"a","hostname":"w\u001b[2J","pid":7,"clock":3,"timestamp":101.0,"exception":"KeyError('x')","traceback":"T"}"#,
            r#"{"type":"task-received","uuid":"a","hostname":"w\u001b[2J","pid":7,"clock":4,"timestamp":101.1,"name":"n","retries":1}"#,
            r#"{"type":"task-started","uuid":"a","hostname":"w\u001b[2J","pid":7,"clock":5,"timestamp":111.0}"#,
            r#"{"type":"task-succeeded","uuid":"a","hostname":"w\u001b[2J","pid":7,"clock":6,"timestamp":187.0,"result":"1","runtime":76.0}"#,
        ];
        let events: Vec<_> =
            lines.iter().map(|line| sources::lines::events(line, Uuid::nil()).unwrap().remove(0)).collect();
        let positions = events.iter().enumerate().map(|(index, event)| (Position::new(1, index as u32), event));
        let row = Row::apply(None, Uuid::nil(), "a", positions).unwrap();
        let mut answer = serde_json::to_value(&row.record).unwrap();
        answer["recentExecutions"] = serde_json::json!([]);
        answer
    }

    #[test]
    fn a_retried_job_shows_its_attempts_and_nothing_that_moves_the_cursor() {
        let text = describe(&retried(), Paint::plain()).unwrap();
        assert!(!text.contains('\u{1b}'), "{text}");
        let timeline = text.split_once("Timeline\n").unwrap().1.split_once("\n\n").unwrap().0;
        let expected = "  1970-01-01 00:01:40.000Z  queued
  1970-01-01 00:01:40.500Z  active     +500 ms
  1970-01-01 00:01:41.000Z  retrying   +500 ms
  1970-01-01 00:01:41.100Z  queued     +100 ms       attempt 2
  1970-01-01 00:01:51.000Z  active     +9.900 s
  1970-01-01 00:03:07.000Z  completed  +1 min 16 s";
        assert_eq!(timeline, expected);
        assert!(text.contains("  2  2        completed"), "{text}");
    }

    #[test]
    fn what_a_task_said_and_who_told_its_end_are_shown() {
        let mut answer = retried();
        answer["notes"] = serde_json::json!([{
            "name": "task-invoiced", "timestamp": "1970-01-01T00:02:00.000Z", "data": {"invoice": 17}, "truncated": false,
        }]);
        assert!(!describe(&answer, Paint::plain()).unwrap().contains("result backend"));
        answer["outcomeFrom"] = "result-backend".into();
        let text = describe(&answer, Paint::plain()).unwrap();
        assert!(text.contains("1970-01-01 00:02:00.000Z  task-invoiced  {\"invoice\":17}"), "{text}");
        assert!(text.contains("result backend was asked"), "{text}");
    }

    #[test]
    fn what_is_no_job_is_not_shown_as_one() {
        assert!(describe(&serde_json::json!({ "id": 7 }), Paint::plain()).is_err());
    }
}
