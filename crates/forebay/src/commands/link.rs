//! `forebay link`: into the dashboard without the password.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::client::Client;
use crate::data_dir;

/// A link to the server that runs on this directory. The token stands behind the `#`, which no browser sends to anybody
/// and no proxy logs.
pub(crate) fn run(data_dir: &Path) -> anyhow::Result<String> {
    let Some(admin) = data_dir::admin(data_dir)? else {
        bail!("no server runs on {}: start it with `forebay serve`, or name its --data-dir", data_dir.display());
    };
    let url = admin.url.clone().unwrap_or_else(|| format!("http://{}", admin.address));
    let made = Client::new(admin).post("/api/session/once", &json!({}))?.good()?;
    let token =
        made["token"].as_str().context("the server's answer has no token: is it another version of forebay?")?;
    Ok(format!("{url}/login#once={token}\n"))
}
