//! `forebay rebuild --prepare`: the views of this version of the fold, made beside the running server of another one.

use std::time::Duration;

use anyhow::{Context as _, bail};
use event_log::EventLog;
use projector::{Prepared, Preparing};
use serde_json::{Value, json};
use views::Preparation;

use super::maintain::bar;
use crate::config::StackConfig;
use crate::offline::running;
use crate::stack::{server, views_options};
use crate::text::Paint;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// Makes them, and says so.
pub(crate) fn run(config: &StackConfig, as_json: bool, paint: Paint) -> anyhow::Result<String> {
    let (dir, ours) = (&config.data_dir, projection::fold_version());
    let Some(client) = running(config)? else {
        bail!(
            "no server answers in {}, so there is nothing to prepare beside: start this version, or run `forebay rebuild`",
            dir.display()
        );
    };
    let health = client.get("/api/health")?.body;
    let theirs = &health["views"]["foldVersion"];
    if theirs.is_null() {
        bail!("the running server does not tell the version of its views: if it is starting, try again in a moment");
    }
    if [theirs, &health["upgrade"]["to"]].contains(&&json!(ours)) {
        return nothing(&health, ours, as_json);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let prepared = runtime.block_on(prepare(config))?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    told(&prepared, ours, as_json, paint)
}

async fn prepare(config: &StackConfig) -> anyhow::Result<Prepared> {
    let dir = config.data_dir.canonicalize().context("cannot use the data directory")?;
    let log = EventLog::attach(server(config, &dir)?).await?;
    let Some(preparation) = Preparation::begin(&dir.join("views"), &views_options(config))? else {
        bail!("another `forebay rebuild --prepare` is under way in {}: wait for it, or end it", dir.display());
    };
    let (need, free) = preparation.room(log.info().await?.bytes)?;
    if free < need {
        bail!("this needs about {need} bytes of disk for a while, and {free} are free: free some space");
    }
    let (preparing, bar) = (Preparing::default(), bar("preparing"));
    let mut work = std::pin::pin!(projector::prepare(&log, preparation, &preparing));
    let prepared = loop {
        tokio::select! {
            prepared = &mut work => break prepared,
            () = tokio::time::sleep(LOOK) => {}
        }
        let (done, total) = preparing.progress();
        bar.set_length(total);
        bar.set_position(done);
    };
    bar.finish_and_clear();
    prepared.context("the views were not prepared, and nothing is changed: run the same command again")
}

fn nothing(health: &Value, ours: u32, as_json: bool) -> anyhow::Result<String> {
    if as_json {
        return Ok(serde_json::to_string_pretty(&json!({ "state": "nothing_to_prepare", "foldVersion": ours }))? + "\n");
    }
    let version = health["version"].as_str().unwrap_or_default();
    Ok(format!(
        "nothing to prepare: the running server ({version}) makes the same records, of version {ours} of the fold\n"
    ))
}

fn told(prepared: &Prepared, ours: u32, as_json: bool, paint: Paint) -> anyhow::Result<String> {
    let Prepared { sequence, jobs, continued } = *prepared;
    if as_json {
        let told = json!({
            "state": "prepared", "foldVersion": ours, "jobs": jobs, "sequence": sequence, "continued": continued,
        });
        return Ok(serde_json::to_string_pretty(&told)? + "\n");
    }
    let done = paint.bold("prepared");
    let how = if continued { ", brought up to date" } else { "" };
    Ok(format!(
        "{done}: {jobs} jobs of version {ours} of the fold, up to {sequence} of the log{how}; restart with this version\n"
    ))
}
