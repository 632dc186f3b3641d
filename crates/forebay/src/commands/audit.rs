//! `forebay audit`: the answer of `/api/audit`, for people.

use serde_json::Value;

use crate::client::Client;
use crate::commands::pretty;
use crate::text::{Paint, short, table};

/// The latest changes; the text is what to print.
pub(crate) fn run(client: &Client, limit: u16, json: bool, paint: Paint) -> anyhow::Result<String> {
    let answer = client.get(&format!("/api/audit?limit={limit}"))?.good()?;
    let changes = &answer["data"];
    if json {
        return pretty(changes);
    }
    let rows: Vec<Vec<String>> = changes.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return Ok("nothing was changed yet\n".to_owned());
    }
    Ok(table(&["when", "who", "from", "what", "to what"], &rows, paint))
}

fn row(change: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let who = &change["who"];
    let kind = text(&who["kind"]);
    let who = match (kind.as_str(), who["name"].as_str()) {
        ("token", _) => "admin token".to_owned(),
        ("key", Some(name)) => format!("key {}", short(name, 40)),
        (_, Some(name)) => short(name, 60),
        _ => kind,
    };
    let about = change["about"].as_object().into_iter().flatten();
    let about: Vec<String> = about
        .map(|(name, value)| format!("{name}={}", short(value.as_str().unwrap_or(&value.to_string()), 60)))
        .collect();
    vec![text(&change["at"]), who, text(&change["address"]), text(&change["action"]), about.join(" ")]
}
