//! `forebay alerts`: the answers of `/api/alerts`, for people.

use serde_json::{Value, json};

use crate::cli::AlertsAction;
use crate::client::{Client, segment};
use crate::commands::maintain::Ended;
use crate::commands::pretty;
use crate::text::{Paint, duration, short, table};

const PATH: &str = "/api/alerts";
/// Incidents that are over, and are shown all the same.
const LATELY: usize = 5;

/// Does what is asked. It is not good where a test did not arrive.
pub(crate) fn run(
    client: &Client,
    action: Option<&AlertsAction>,
    is_json: bool,
    paint: Paint,
) -> anyhow::Result<Ended> {
    let Some(AlertsAction::Test { name, .. }) = action else {
        let all = client.get(PATH)?.good()?;
        let text = if is_json { pretty(&all)? } else { listed(&all, paint) };
        return Ok(Ended { good: true, text });
    };
    let tested = client.post(&format!("{PATH}/{}/test", segment(name)), &json!({}))?.good()?;
    let results = items(&tested["data"]);
    let good = !results.is_empty() && results.iter().all(|result| result["delivered"] == true);
    let text = if is_json { pretty(&tested["data"])? } else { told(name, &results) };
    Ok(Ended { good, text })
}

fn items(value: &Value) -> Vec<&Value> {
    value.as_array().into_iter().flatten().collect()
}

fn text(value: &Value, key: &str, characters: usize) -> String {
    short(value[key].as_str().unwrap_or("-"), characters)
}

fn told(name: &str, results: &[&Value]) -> String {
    if results.is_empty() {
        return format!("{} tells nobody: name webhooks in its `to`\n", short(name, 63));
    }
    let line = |result: &&Value| match result["error"].as_str() {
        Some(error) => format!("{}: not delivered: {}\n", text(result, "webhook", 63), short(error, 300)),
        None => format!("{}: delivered\n", text(result, "webhook", 63)),
    };
    results.iter().map(line).collect()
}

/// A value as people write it.
fn value(value: &Value, unit: &Value) -> String {
    let Some(value) = value.as_f64() else { return "-".to_owned() };
    match unit.as_str() {
        Some("share") => format!("{:.1}%", value * 100.0),
        Some("seconds") => duration((value.max(0.0) * 1_000.0) as u64),
        _ => format!("{value}"),
    }
}

fn listed(all: &Value, paint: Paint) -> String {
    let rules = items(&all["rules"]);
    if rules.is_empty() {
        return "no alert rules: [[alerts.rule]] in the file of --config makes one, `forebay config example` shows how\n"
            .to_owned();
    }
    let row = |rule: &&Value| {
        let unit = &rule["unit"];
        let said = rule["incident"]["summary"].as_str().or(rule["unknown"].as_str()).unwrap_or("-");
        let to = items(&rule["to"]).iter().filter_map(|to| to.as_str()).collect::<Vec<_>>().join(", ");
        vec![
            text(rule, "name", 63),
            text(rule, "kind", 20),
            text(rule, "state", 10),
            value(&rule["value"], unit),
            value(&rule["trigger"], unit),
            if to.is_empty() { "nobody".to_owned() } else { short(&to, 60) },
            short(said, 100),
        ]
    };
    let headings = ["rule", "kind", "state", "value", "from", "tells", "why"];
    let mut shown = table(&headings, &rules.iter().map(row).collect::<Vec<_>>(), paint);
    let over = items(&all["incidents"]);
    if !over.is_empty() {
        let row = |incident: &&Value| {
            let time = |key: &str| text(incident, key, 30);
            vec![text(incident, "rule", 63), time("startedAt"), time("resolvedAt"), text(incident, "summary", 100)]
        };
        let rows: Vec<_> = over.iter().take(LATELY).map(row).collect();
        shown = format!("{shown}\n{}", table(&["was", "began", "ended", "why"], &rows, paint));
    }
    let waiting = items(&all["deliveries"]).into_iter().filter(|notice| notice["state"] != "delivered");
    let lines = waiting.filter(|notice| notice["lastError"].is_string()).map(|notice| {
        let state = if notice["state"] == "waiting" { "waits" } else { "is given up" };
        let (webhook, error) = (text(notice, "webhook", 63), text(notice, "lastError", 300));
        format!("a notice for {webhook} {state} after {} attempt(s): {error}\n", notice["attempts"])
    });
    shown + &lines.collect::<String>()
}
