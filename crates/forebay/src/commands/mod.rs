//! The commands other than `serve`.

pub(crate) mod alerts;
pub(crate) mod audit;
pub(crate) mod connection;
pub(crate) mod coverage;
pub(crate) mod events;
pub(crate) mod export;
pub(crate) mod fold;
pub(crate) mod import;
pub(crate) mod job;
pub(crate) mod jobs;
pub(crate) mod key;
mod lines;
pub(crate) mod link;
pub(crate) mod maintain;
pub(crate) mod prepare;
pub(crate) mod sources;

use anyhow::Context as _;
use serde_json::Value;

use crate::text::{Paint, short};

/// What has a key of its own, with the key, as it is shown only this once.
fn key_once(made: &Value, hint: &str, paint: Paint) -> anyhow::Result<String> {
    let text = |key: &str| made[key].as_str().with_context(|| format!("the server's answer has no {key}"));
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

/// JSON for programs.
pub(crate) fn pretty(value: &Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}
