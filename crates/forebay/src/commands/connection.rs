//! `forebay connection`: the answers of `/api/connections`, for people.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::ConnectionAction;
use crate::client::{Client, segment};
use crate::text::{Paint, short, table};

const PATH: &str = "/api/connections";

/// Does what is asked; the text is what to print.
pub(crate) fn run(client: &Client, action: &ConnectionAction, paint: Paint) -> anyhow::Result<String> {
    match action {
        ConnectionAction::Create { name, output } => {
            let made = client.post(PATH, &json!({ "name": name }))?.good()?;
            if output.json { pretty(&made) } else { created(&made, paint) }
        }
        ConnectionAction::List { output } => {
            let all = client.get(PATH)?.good()?;
            if output.json { pretty(&all["data"]) } else { Ok(listed(&all["data"], paint)) }
        }
        ConnectionAction::Delete { connection, output } => {
            let path = format!("{PATH}/{}", segment(connection));
            let gone = client.delete(&path)?.good()?;
            let name = short(gone["name"].as_str().unwrap_or_default(), 255);
            if output.json { pretty(&gone) } else { Ok(format!("connection {name} deleted; its jobs stay\n")) }
        }
    }
}

fn created(made: &Value, paint: Paint) -> anyhow::Result<String> {
    let text = |key: &str| made[key].as_str().with_context(|| format!("the server's answer has no {key}"));
    let hint = "The key is shown this once: keep it, or delete the connection and make another.";
    Ok(format!(
        "{}  {}\n{}  {}\n{}  {}\n{}\n",
        paint.dim("name       "),
        short(text("name")?, 255),
        paint.dim("id         "),
        text("id")?,
        paint.dim("API key    "),
        paint.bold(text("apiKey")?),
        paint.dim(hint),
    ))
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

fn pretty(value: &Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}
