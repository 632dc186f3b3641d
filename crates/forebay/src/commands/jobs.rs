//! `forebay jobs`: the list of jobs by the filters of `GET /api/jobs`, as a table, as JSON lines or as CSV.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Args;
use proto_events::{JobState, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::job::out_of_date;
use crate::client::{Answer, Client, segment};
use crate::config::StackArgs;
use crate::text::{Paint, duration, short, table, time};
use crate::units;

/// Jobs in a table where nothing else is said, and jobs of one answer.
const TABLE: u64 = 50;
const PAGE: u64 = 100;
/// Characters of a name or an error in a table.
const CELL: usize = 60;

pub(crate) const HELP: &str = "\
All filters have to fit. TIME is a time as in RFC 3339, or how long ago: 90s, 15m, 6h, 7d. The newest come first unless
--sort-by or --asc say otherwise. Works beside a running server and without one. A table has 50 jobs at most; --json and
--csv write all of them, however many, one line each.

Examples:
  forebay jobs --state failed --created-after 1h
  forebay jobs --name shop.charge_card --queue billing --sort-by duration --limit 20
  forebay jobs --lost --json | jq -r .externalId
  forebay jobs --state failed,cancelled --error-contains timeout --created-after 7d --csv > failed.csv";

#[derive(Args, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct JobsArgs {
    /// Only in one of these states: queued, scheduled, active, retrying, completed, failed, cancelled, unknown
    #[arg(long, value_name = "STATE,…", value_delimiter = ',')]
    state: Vec<String>,
    /// Only of exactly this task name
    #[arg(long)]
    name: Option<String>,
    /// Only where the task name contains this text
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Only of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only of this worker
    #[arg(long)]
    worker: Option<String>,
    /// Only of this connection
    #[arg(long, value_name = "ID|NAME")]
    connection: Option<String>,
    /// Only of this framework: celery, bullmq, sidekiq
    #[arg(long)]
    framework: Option<String>,
    /// Only created at this time or later
    #[arg(long, value_name = "TIME")]
    created_after: Option<String>,
    /// Only created before this time
    #[arg(long, value_name = "TIME")]
    created_before: Option<String>,
    /// Only of this id of the framework (Celery's task id)
    #[arg(long, value_name = "ID")]
    external_id: Option<String>,
    /// Only where the error contains this text
    #[arg(long, value_name = "TEXT")]
    error_contains: Option<String>,
    /// Only at this try or a later one
    #[arg(long, value_name = "N")]
    attempt_at_least: Option<u32>,
    /// Only with this label, or with this label of this value
    #[arg(long, value_name = "KEY[:VALUE]")]
    tag: Option<String>,
    /// Only jobs whose worker is gone and never said how they ended (or only the others)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    lost: Option<bool>,
    /// Only jobs that run for far too long (or only the others)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    stuck: Option<bool>,
    /// Only jobs that wait for far too long (or only the others)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    waiting: Option<bool>,
    /// By what to order
    #[arg(long, value_name = "FIELD", default_value = "created",
          value_parser = ["created", "started", "duration", "name", "state", "queue", "worker"])]
    sort_by: String,
    /// The smallest or the oldest first
    #[arg(long, conflicts_with = "desc")]
    asc: bool,
    /// The largest or the newest first, as it is without this
    #[arg(long)]
    desc: bool,
    /// How many jobs at most [default: 50 in a table, else all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST))]
    limit: Option<u64>,
    /// Write JSON lines, each as a job of GET /api/jobs
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Write CSV with a line of names
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

/// The largest number that JSON keeps exact.
const MOST: u64 = (1 << 53) - 1;

/// A page of the list, as far as it is shown.
#[derive(Deserialize)]
struct Page {
    data: Vec<Job>,
    pagination: Pagination,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pagination {
    next_cursor: Option<String>,
    total: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Job {
    external_id: String,
    name: String,
    queue: Option<String>,
    state: JobState,
    created_at: Timestamp,
    duration_ms: Option<u64>,
    worker_id: Option<String>,
    error: Option<String>,
    lost: Option<Value>,
    stuck: Option<Value>,
    waiting: Option<Value>,
}

/// Writes the list to standard output.
pub(crate) fn run(client: &Client, args: &JobsArgs, paint: Paint) -> anyhow::Result<()> {
    let query = query(client, args)?;
    let mut output = io::stdout().lock();
    if args.json || args.csv {
        let format = if args.csv { "csv" } else { "jsonl" };
        let limit = args.limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
        let mut lines = client.get_lines(&format!("/api/jobs?format={format}{limit}{query}"))?;
        io::copy(&mut lines, &mut output)?;
    } else {
        let (jobs, total) = jobs(client, &query, args.limit.unwrap_or(TABLE))?;
        output.write_all(listed(&jobs, total, paint).as_bytes())?;
    }
    output.flush()?;
    Ok(())
}

/// So many jobs, and how many there are.
fn jobs(client: &Client, query: &str, limit: u64) -> anyhow::Result<(Vec<Job>, u64)> {
    let (mut jobs, mut cursor) = (Vec::new(), String::new());
    loop {
        let left = limit - jobs.len() as u64;
        let answer: Answer = client.get(&format!("/api/jobs?limit={}{cursor}{query}", left.min(PAGE)))?;
        if let Some(reason) = answer.stale.as_ref().filter(|_| jobs.is_empty()) {
            eprintln!("forebay: {}", out_of_date(reason));
        }
        let page = Page::deserialize(answer.good()?)
            .context("the server's answer is no list of jobs: is it another version of forebay?")?;
        jobs.extend(page.data);
        match page.pagination.next_cursor {
            Some(next) if (jobs.len() as u64) < limit => cursor = format!("&cursor={}", segment(&next)),
            _ => return Ok((jobs, page.pagination.total)),
        }
    }
}

/// What is asked for, but how many and in which form.
fn query(client: &Client, args: &JobsArgs) -> anyhow::Result<String> {
    let sort_by = match args.sort_by.as_str() {
        "created" => "createdAt",
        "started" => "startedAt",
        "duration" => "durationMs",
        same => same,
    };
    let states = (!args.state.is_empty()).then(|| args.state.join(","));
    let flag = |flag: Option<bool>| flag.map(|flag| flag.to_string());
    let asked = [
        ("state", states),
        ("name", args.name.clone()),
        ("search", args.search.clone()),
        ("queue", args.queue.clone()),
        ("worker", args.worker.clone()),
        ("connectionId", args.connection.as_deref().map(|asked| connection_id(client, asked)).transpose()?),
        ("framework", args.framework.clone()),
        ("createdAfter", args.created_after.as_deref().map(moment).transpose()?),
        ("createdBefore", args.created_before.as_deref().map(moment).transpose()?),
        ("externalId", args.external_id.clone()),
        ("errorContains", args.error_contains.clone()),
        ("attemptAtLeast", args.attempt_at_least.map(|attempt| attempt.to_string())),
        ("tag", args.tag.clone()),
        ("lost", flag(args.lost)),
        ("stuck", flag(args.stuck)),
        ("waiting", flag(args.waiting)),
        ("sortBy", Some(sort_by.to_owned())),
        ("sortOrder", Some(if args.asc && !args.desc { "asc" } else { "desc" }.to_owned())),
    ];
    let given = asked.into_iter().filter_map(|(name, value)| Some((name, value?)));
    Ok(given.fold(String::new(), |mut query, (name, value)| {
        let _ = write!(query, "&{name}={}", segment(&value));
        query
    }))
}

/// The jobs of a connection outlive it, so an id need not be a known one.
fn connection_id(client: &Client, asked: &str) -> anyhow::Result<String> {
    if Uuid::try_parse(asked).is_ok() {
        return Ok(asked.to_owned());
    }
    let known = client.get("/api/connections")?.good()?;
    let mut known = known["data"].as_array().into_iter().flatten();
    let found = known.find(|connection| connection["name"] == asked).and_then(|connection| connection["id"].as_str());
    found.map(str::to_owned).with_context(|| format!("there is no connection named {}", short(asked, CELL)))
}

/// A time, or how long ago.
fn moment(text: &str) -> anyhow::Result<String> {
    if let Some(time) = Timestamp::parse(text) {
        return Ok(time.to_micros_text());
    }
    let Some(ago) = units::time(text) else {
        bail!("{} is no time: write one as 2026-02-27T10:30:00Z, or how long ago as 15m, 6h or 7d", short(text, CELL));
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = now.checked_sub(ago).unwrap_or(Duration::ZERO);
    Ok(Timestamp(i64::try_from(then.as_micros()).unwrap_or(i64::MAX)).to_micros_text())
}

fn listed(jobs: &[Job], total: u64, paint: Paint) -> String {
    if jobs.is_empty() {
        return "no job is like that\n".to_owned();
    }
    let headings = ["created", "state", "task", "id", "queue", "worker", "took", "error"];
    let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
    let mut text = table(&headings, &rows, paint);
    let shown = jobs.len() as u64;
    if shown < total {
        let _ = writeln!(text, "\n{shown} of {total} jobs: --limit shows more, --json and --csv write all of them");
    }
    text
}

fn row(job: &Job) -> Vec<String> {
    let cell = |text: Option<&str>| short(text.unwrap_or("-"), CELL);
    let signs = [(&job.lost, "lost"), (&job.stuck, "stuck"), (&job.waiting, "waits too long")];
    let signs: Vec<&str> = signs.iter().filter(|(sign, _)| sign.is_some()).map(|(_, name)| *name).collect();
    let state = job.state.as_str();
    vec![
        time(job.created_at),
        if signs.is_empty() { state.to_owned() } else { format!("{state} ({})", signs.join(", ")) },
        short(&job.name, CELL),
        short(&job.external_id, CELL),
        cell(job.queue.as_deref()),
        cell(job.worker_id.as_deref()),
        job.duration_ms.map_or_else(|| "-".to_owned(), duration),
        cell(job.error.as_deref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        assert_eq!(moment("2026-02-27T11:30:00+01:00").unwrap(), "2026-02-27T10:30:00.000000Z");
        let hour_ago = moment("1h").unwrap();
        assert!(Timestamp::parse(&hour_ago).is_some(), "{hour_ago}");
        assert!(moment("yesterday").unwrap_err().to_string().contains("15m, 6h or 7d"));
    }
}
