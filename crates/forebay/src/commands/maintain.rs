//! `forebay rebuild` and `forebay verify`.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::client::Client;
use crate::text::{Paint, harmless};

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(100);
/// How long a server that does not answer any more is waited for.
const RETURN: Duration = Duration::from_secs(60);

/// How a command ended, and what it says.
pub(crate) struct Ended {
    /// Whether all is well.
    pub(crate) good: bool,
    pub(crate) text: String,
}

/// Begins a rebuild, from the log or from the views before, and waits for its end.
pub(crate) fn rebuild(client: &Client, rollback: bool, as_json: bool, paint: Paint) -> anyhow::Result<Ended> {
    let begun = client.post("/api/rebuilds", &json!({ "rollback": rollback }))?.good()?;
    let ended = wait(client, "/api/rebuilds", &begun, "rebuilding")?;
    told(&ended, rollback, as_json, paint)
}

/// Rebuilds, and lets the new views serve whatever log they are from. One that is under way already, or waits, will do.
pub(crate) fn rebuild_and_promote(client: &Client, as_json: bool, paint: Paint) -> anyhow::Result<Ended> {
    let mut known = client.get("/api/rebuilds")?.good()?;
    let latest = known.pointer_mut("/data/0").map(Value::take).unwrap_or_default();
    let begun = if is_under_way(&latest) { latest } else { client.post("/api/rebuilds", &json!({}))?.good()? };
    let ended = wait(client, "/api/rebuilds", &begun, "rebuilding")?;
    match (ended["state"].as_str(), ended["id"].as_str()) {
        (Some("verifying"), Some(id)) => promote(client, id, as_json, paint),
        _ => told(&ended, false, as_json, paint),
    }
}

/// Lets a rebuild serve that waits for a person.
pub(crate) fn promote(client: &Client, id: &str, as_json: bool, paint: Paint) -> anyhow::Result<Ended> {
    let path = format!("/api/rebuilds/{}/promote", crate::client::segment(id));
    told(&client.post(&path, &json!({}))?.good()?, false, as_json, paint)
}

/// Removes the views that served before the last rebuild.
pub(crate) fn discard_old(client: &Client, as_json: bool) -> anyhow::Result<Ended> {
    let answer = client.delete("/api/rebuilds/previous")?.good()?;
    let removed = answer["removed"] == true;
    let text = match (as_json, removed) {
        (true, _) => serde_json::to_string_pretty(&answer)? + "\n",
        (false, true) => "the views that served before are removed\n".to_owned(),
        (false, false) => "there were no earlier views\n".to_owned(),
    };
    Ok(Ended { good: true, text })
}

fn told(ended: &Value, rolled_back: bool, as_json: bool, paint: Paint) -> anyhow::Result<Ended> {
    let state = ended["state"].as_str().unwrap_or_default();
    let good = state == "completed";
    if as_json {
        return Ok(Ended { good, text: serde_json::to_string_pretty(ended)? + "\n" });
    }
    let (jobs, events) = (&ended["jobs"], &ended["eventsTotal"]);
    let rate = ended["eventsPerSecond"].as_f64().unwrap_or_default();
    let reason = ended["reason"].as_str().unwrap_or_default();
    let text = match (state, ended["sameAsBefore"].as_bool()) {
        ("completed", Some(false)) => {
            let mut text = format!(
                "{}: {jobs} jobs from {events} events; the views differed from the log and are replaced. Jobs that changed:\n",
                paint.bold("rebuilt")
            );
            for id in ended["differing"].as_array().into_iter().flatten() {
                let _ = writeln!(text, "  {}", id.as_str().unwrap_or_default());
            }
            text
        }
        ("completed", same) => {
            if rolled_back {
                return Ok(Ended { good, text: format!("{}: the views of before serve again\n", paint.bold("done")) });
            }
            let same = if same == Some(true) { ", the same as before" } else { "" };
            format!("{}: {jobs} jobs from {events} events, {rate:.0} events/s{same}\n", paint.bold("rebuilt"))
        }
        ("verifying", _) => {
            let id = ended["id"].as_str().unwrap_or_default();
            format!(
                "{reason}\nTo let the new views serve: forebay rebuild --promote {id} (without a running server: --promote)\n"
            )
        }
        _ => format!("the rebuild {state}: {reason}\n"),
    };
    Ok(Ended { good, text })
}

/// Compares the views with a fresh replay and waits for the verdict.
pub(crate) fn verify(client: &Client, as_json: bool, paint: Paint) -> anyhow::Result<Ended> {
    let begun = client.post("/api/verifications", &json!({}))?.good()?;
    let ended = wait(client, "/api/verifications", &begun, "verifying")?;
    let verdict = &ended["verdict"];
    let good = verdict["equal"] == true;
    if as_json {
        return Ok(Ended { good, text: serde_json::to_string_pretty(&ended)? + "\n" });
    }
    if verdict.is_null() {
        let reason = ended["reason"].as_str().unwrap_or("it does not say why");
        anyhow::bail!("the views could not be verified: {reason}");
    }
    let (jobs, sequence) = (&verdict["jobs"], &verdict["sequence"]);
    if good {
        let equal = paint.bold("equal");
        return Ok(Ended {
            good,
            text: format!("{equal}: {jobs} jobs, as a fresh replay of the log up to {sequence} gives them\n"),
        });
    }
    let mut text =
        format!("{} of {jobs} jobs differ from a fresh replay of the log up to {sequence}\n", verdict["differing"]);
    for job in verdict["differences"].as_array().into_iter().flatten() {
        let external = harmless(job["externalId"].as_str().unwrap_or_default());
        let _ = writeln!(text, "\n{}  {external}", job["id"].as_str().unwrap_or_default());
        for field in job["fields"].as_array().into_iter().flatten() {
            let name = field["field"].as_str().unwrap_or_default();
            let _ = writeln!(text, "  {name}\n    views   {}\n    replay  {}", field["views"], field["replay"]);
        }
    }
    Ok(Ended { good, text })
}

/// Lists the events of the log that could not be used.
pub(crate) fn quarantine(client: &Client, as_json: bool, paint: Paint) -> anyhow::Result<Ended> {
    let answer = client.get("/api/quarantine")?.good()?;
    if as_json {
        return Ok(Ended { good: true, text: serde_json::to_string_pretty(&answer)? + "\n" });
    }
    let events = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if events.is_empty() {
        return Ok(Ended { good: true, text: "nothing: every event of the log is in the views\n".to_owned() });
    }
    let mut text = format!("{}\n", paint.bold(&format!("{} events of the log are not in the views", answer["total"])));
    for event in events {
        let of = |field: &str| harmless(event[field].as_str().unwrap_or("-")).into_owned();
        let _ = writeln!(text, "  {:<14}  {}  {}", of("position"), of("externalId"), of("cause"));
    }
    Ok(Ended { good: true, text })
}

/// Follows a piece of work until it is over or waits for a person. A server that ends meanwhile is waited for: the next
/// one goes on with a rebuild by itself.
fn wait(client: &Client, path: &str, begun: &Value, what: &str) -> anyhow::Result<Value> {
    let id = begun["id"].as_str().unwrap_or_default();
    let path = format!("{path}/{id}");
    let bar = bar(what);
    let mut silent_since: Option<Instant> = None;
    let mut ended_once = false;
    loop {
        let status = match client.get(&path) {
            Ok(answer) if answer.status == 404 && ended_once => {
                bar.finish_and_clear();
                anyhow::bail!("the server ended while it was {what}, and the next one does not go on: run this again");
            }
            // It has just started.
            Ok(answer) if answer.status == 503 => Err(answer.good().err()),
            Ok(answer) => Ok(answer.good()?),
            Err(error) if client.turn_to_the_next() => Err(Some(error)),
            Err(error) => return Err(error),
        };
        let status = match status {
            Ok(status) => status,
            Err(error) => {
                ended_once = true;
                if silent_since.get_or_insert_with(Instant::now).elapsed() > RETURN {
                    bar.finish_and_clear();
                    let error = error.map(|error| format!("{error:#}")).unwrap_or_default();
                    anyhow::bail!(
                        "{error}: while it was {what} the server ended, or does not answer any more. Start it again: a \
                         rebuild is then begun again by itself, as {id}, and whatever else it was doing is not"
                    );
                }
                bar.set_message("waiting for the server");
                std::thread::sleep(LOOK);
                continue;
            }
        };
        silent_since = None;
        let waits = status["state"] == "verifying" && !status["reason"].is_null();
        if waits || !is_under_way(&status) {
            bar.finish_and_clear();
            return Ok(status);
        }
        bar.set_length(status["eventsTotal"].as_u64().unwrap_or_default());
        bar.set_position(status["eventsDone"].as_u64().unwrap_or_default());
        bar.set_message(status["state"].as_str().unwrap_or_default().replace('_', " "));
        std::thread::sleep(LOOK);
    }
}

pub(super) fn is_under_way(status: &Value) -> bool {
    ["running", "catching_up", "verifying"].map(Some).contains(&status["state"].as_str())
}

pub(super) fn bar(what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let template =
        format!("{what} {{bar:30}} {{human_pos}} of {{human_len}} events, {{per_sec}}, {{eta}} left ({{msg}})");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}
