//! `forebay key`: the answers of `/api/keys`, for people.

use serde_json::{Value, json};

use crate::cli::KeyAction;
use crate::client::{Client, segment};
use crate::commands::{key_once, pretty};
use crate::text::{Paint, short, table};

const PATH: &str = "/api/keys";

/// Does what is asked; the text is what to print.
pub(crate) fn run(client: &Client, action: &KeyAction, paint: Paint) -> anyhow::Result<String> {
    match action {
        KeyAction::Create { name, output } => {
            let made = client.post(PATH, &json!({ "name": name }))?.good()?;
            let hint = "The key is shown this once: keep it. It may read all, and change nothing.";
            if output.json { pretty(&made) } else { key_once(&made, hint, paint) }
        }
        KeyAction::List { output } => {
            let all = client.get(PATH)?.good()?;
            if output.json { pretty(&all["data"]) } else { Ok(listed(&all["data"], paint)) }
        }
        KeyAction::Delete { key, output } => {
            let gone = client.delete(&format!("{PATH}/{}", segment(key)))?.good()?;
            let name = short(gone["name"].as_str().unwrap_or_default(), 255);
            if output.json { pretty(&gone) } else { Ok(format!("read key {name} deleted\n")) }
        }
    }
}

fn listed(all: &Value, paint: Paint) -> String {
    let text = |key: &Value, field: &str| short(key[field].as_str().unwrap_or("-"), 80);
    let row = |key: &Value| vec![text(key, "name"), text(key, "id"), text(key, "createdAt")];
    let rows: Vec<Vec<String>> = all.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        return "no read keys yet: `forebay key create NAME` makes one\n".to_owned();
    }
    table(&["name", "id", "created"], &rows, paint)
}
