//! `forebay sources`: the answers of `/api/sources`, for people.

use std::io::Read as _;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::SourcesAction;
use crate::client::{Answer, Client, segment};
use crate::commands::{coverage, pretty};
use crate::text::{Paint, short, table};

const PATH: &str = "/api/sources";

/// Does what is asked; the text is what to print.
pub(crate) fn run(
    client: &Client,
    action: Option<&SourcesAction>,
    is_json: bool,
    paint: Paint,
) -> anyhow::Result<String> {
    match action {
        None => {
            let all = client.get(PATH)?.good()?;
            if is_json {
                return pretty(&all["data"]);
            }
            // A server that cannot say yet what is missing has its sources all the same.
            let missing = client.get(coverage::PATH).and_then(Answer::good);
            Ok(listed(&all["data"], paint) + &missing.map_or_else(|_| String::new(), |it| below(&it["data"], paint)))
        }
        Some(SourcesAction::Add { name, url, connection, .. }) => {
            let mut wanted = json!({ "name": name, "url": given(url)? });
            if let Some(connection) = connection {
                wanted["connection"] = json!(connection);
            }
            let added = client.post(PATH, &wanted)?.good()?;
            if is_json { pretty(&added) } else { Ok(format!("listening to {}\n", described(&added))) }
        }
        Some(SourcesAction::Remove { name, .. }) => {
            let gone = client.delete(&format!("{PATH}/{}", segment(name)))?.good()?;
            if is_json {
                pretty(&gone)
            } else {
                Ok(format!("not listening to {} any more; its jobs stay\n", described(&gone)))
            }
        }
    }
}

/// The URL holds a password, and arguments are seen by every user of the machine.
fn given(url: &str) -> anyhow::Result<String> {
    if url != "-" {
        return Ok(url.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the URL from standard input")?;
    Ok(text.trim().to_owned())
}

fn described(source: &Value) -> String {
    let text = |key: &str| short(source[key].as_str().unwrap_or("-"), 200);
    format!("{} ({})", text("name"), text("urlMasked"))
}

/// What is missing in what they hear, where there is something.
fn below(missing: &Value, paint: Paint) -> String {
    if missing.as_array().is_none_or(Vec::is_empty) {
        return String::new();
    }
    format!("\n{}", coverage::listed(missing, paint))
}

fn listed(all: &Value, paint: Paint) -> String {
    let text = |source: &Value, key: &str| short(source[key].as_str().unwrap_or("-"), 80);
    let count = |value: &Value| value.as_u64().unwrap_or_default().to_string();
    let row = |source: &Value| {
        vec![
            text(source, "name"),
            text(source, "urlMasked"),
            text(source, "state"),
            text(source, "origin"),
            count(&source["events"]),
            count(&source["spool"]["events"]),
            lost(source).to_string(),
            text(source, "lastEventAt"),
        ]
    };
    let sources: Vec<&Value> = all.as_array().into_iter().flatten().collect();
    if sources.is_empty() {
        return "no sources: `forebay serve --celery URL` or `forebay sources add NAME URL` makes one\n".to_owned();
    }
    let rows: Vec<Vec<String>> = sources.iter().map(|source| row(source)).collect();
    let headings = ["name", "broker", "state", "from", "events", "on disk", "dropped", "last event"];
    let said = sources.iter().flat_map(|source| {
        let said = ["reason", "hint"].into_iter().filter_map(|key| source[key].as_str());
        said.map(|text| format!("{}: {}\n", short(source["name"].as_str().unwrap_or_default(), 63), short(text, 600)))
    });
    table(&headings, &rows, paint) + &said.collect::<String>()
}

/// Messages that no queue could hold, and events of tasks that the spool could not.
fn lost(source: &Value) -> u64 {
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    count(&source["dropped"]) + count(&source["spool"]["droppedTaskEvents"])
}
