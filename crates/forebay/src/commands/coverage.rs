//! `forebay coverage`: what is missing in what is heard, for people.

use std::fmt::Write as _;

use serde_json::Value;

use super::pretty;
use crate::client::Client;
use crate::text::{Paint, short, table};

/// Where it is asked for.
pub(super) const PATH: &str = "/api/coverage";
/// Characters of a name or a reason in the table.
const CELL: usize = 60;

/// The text is what to print.
pub(crate) fn run(client: &Client, json: bool, paint: Paint) -> anyhow::Result<String> {
    let missing = client.get(PATH)?.good()?;
    if json { pretty(&missing["data"]) } else { Ok(listed(&missing["data"], paint)) }
}

pub(super) fn listed(missing: &Value, paint: Paint) -> String {
    let missing: Vec<&Value> = missing.as_array().into_iter().flatten().collect();
    if missing.is_empty() {
        return "nothing is missing, as far as can be told\n".to_owned();
    }
    let headings = ["missing", "connection", "worker or source", "jobs", "from", "to", "reason"];
    let rows: Vec<Vec<String>> = missing.iter().map(|missing| row(missing)).collect();
    let mut text = table(&headings, &rows, paint);
    let mut told: Vec<&str> = Vec::new();
    for missing in missing {
        let (what, message) = (text_of(missing, "what"), text_of(missing, "message"));
        if !told.contains(&what) {
            told.push(what);
            let _ = writeln!(text, "\n{}  {}", paint.bold(&short(what, CELL)), short(message, 400));
        }
    }
    text
}

fn text_of<'a>(missing: &'a Value, field: &str) -> &'a str {
    missing[field].as_str().unwrap_or("-")
}

fn row(missing: &Value) -> Vec<String> {
    let cell = |field: &str| short(text_of(missing, field), CELL);
    let who = if missing["source"].is_string() { cell("source") } else { cell("workerId") };
    let jobs = missing["jobs"].as_u64().zip(missing["of"].as_u64());
    let jobs = jobs.map_or_else(|| "-".to_owned(), |(jobs, of)| format!("{jobs} of {of}"));
    vec![cell("what"), cell("connectionId"), who, jobs, cell("from"), cell("to"), cell("reason")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_is_a_row_and_what_it_means_stands_below_once() {
        let gap = |to: &Value| {
            json!({ "what": "listening", "connectionId": "c", "workerId": null, "source": "main", "jobs": null, "of": null,
                    "from": "2026-01-01T00:00:00.000Z", "to": to, "reason": "gone \u{1b}[1m", "message": "it is lost" })
        };
        let text = listed(&json!([gap(&json!("2026-01-01T00:00:09.000Z")), gap(&json!(null))]), Paint::plain());
        assert_eq!((text.matches("main").count(), text.matches("it is lost").count()), (2, 1), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(listed(&json!([]), Paint::plain()).contains("nothing is missing"));
    }
}
