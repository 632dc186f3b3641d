//! `forebay connection`: the answers of `/api/connections`, for people.

use serde_json::{Value, json};

use crate::cli::ConnectionAction;
use crate::client::{Client, segment};
use crate::commands::{key_once, pretty};
use crate::text::{Paint, short, table};

const PATH: &str = "/api/connections";

/// Does what is asked; the text is what to print.
pub(crate) fn run(client: &Client, action: &ConnectionAction, paint: Paint) -> anyhow::Result<String> {
    let path = |connection: &str| format!("{PATH}/{}", segment(connection));
    let name_of = |connection: &Value| short(connection["name"].as_str().unwrap_or_default(), 255);
    match action {
        ConnectionAction::Create { name, output } => {
            let made = client.post(PATH, &json!({ "name": name }))?.good()?;
            let hint = "The key is shown this once: keep it. `forebay connection rotate` makes another.";
            if output.json { pretty(&made) } else { key_once(&made, hint, paint) }
        }
        ConnectionAction::List { output } => {
            let all = client.get(PATH)?.good()?;
            if output.json { pretty(&all["data"]) } else { Ok(listed(&all["data"], paint)) }
        }
        ConnectionAction::Rename { connection, name, output } => {
            let renamed = client.patch(&path(connection), &json!({ "name": name }))?.good()?;
            let (former, name) = (short(connection, 255), name_of(&renamed));
            if output.json { pretty(&renamed) } else { Ok(format!("connection {former} is {name} now\n")) }
        }
        ConnectionAction::Rotate { connection, output } => {
            let rotated = client.post(&format!("{}/rotate", path(connection)), &json!({}))?.good()?;
            let hint = "The key is shown this once: keep it. The old one has stopped working.";
            if output.json { pretty(&rotated) } else { key_once(&rotated, hint, paint) }
        }
        ConnectionAction::Delete { connection, output } => {
            let gone = client.delete(&path(connection))?.good()?;
            if output.json {
                pretty(&gone)
            } else {
                Ok(format!("connection {} deleted; its jobs stay\n", name_of(&gone)))
            }
        }
    }
}

fn listed(all: &Value, paint: Paint) -> String {
    let text = |connection: &Value, key: &str| short(connection[key].as_str().unwrap_or("-"), 80);
    let row = |connection: &Value| {
        let key = if connection["hasKey"] == true { "yes" } else { "no" };
        vec![text(connection, "name"), text(connection, "id"), key.to_owned(), text(connection, "createdAt")]
    };
    let rows: Vec<Vec<String>> = all.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return "no connections yet: `forebay serve` makes the default one at its first start\n".to_owned();
    }
    table(&["name", "id", "key", "created"], &rows, paint)
}
