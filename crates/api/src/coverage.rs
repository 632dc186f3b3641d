//! `GET /api/coverage`: what is missing in what is heard, as far as it can be proven.
//!
//! Celery's logical clock is no help: it jumps whenever a process hears another one, so that a gap in it proves nothing.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use projection::{JsonText, Record};
use proto_events::{Framework, JobState, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;
use views::{Filter, Query, Reader, Signs, ViewError};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::consistency;
use crate::errors::ApiError;
use crate::http::Call;
use crate::jobs::{encoded, read, readable};
use crate::operation::{Access, Answer, NOT_MODIFIED, Operation, READ_ERRORS, READ_HEADERS};
use crate::params::{self, read_params};
use crate::times::{Millis, now};

/// The latest jobs of a connection that are looked at.
const JOBS: usize = 300;
/// Milliseconds that jobs may be old to be looked at.
const LATELY: i64 = 24 * 3_600_000;
/// Milliseconds within which all that was said of a job's beginning has come.
const MOMENT: i64 = 10_000;
/// Milliseconds after which a job that a worker received should have been heard of again.
const SETTLED: i64 = 10 * 60_000;
/// From so many received jobs without a word of any of them on, it is the worker and not the jobs.
const ENOUGH: usize = 5;
/// Celery cuts what it displays of arguments at so many characters, and marks the cut.
const CUT_FROM: usize = 1_000;
/// How long what was found is believed.
const BELIEVED: Duration = Duration::from_secs(15);
/// How long health waits for it.
const WARNINGS_TIME: Duration = Duration::from_millis(500);

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    about: "Only what can be proven is told: gaps in Celery's logical clock prove nothing, since it jumps whenever a \
            process hears another one. Jobs are judged by the latest 300 of each connection, of the last 24 hours.",
    query: params::READ,
    answers: &[Answer::json::<Coverage<'static>>(StatusCode::OK, "What is missing.").with(READ_HEADERS), NOT_MODIFIED],
    errors: READ_ERRORS,
    ..Operation::get("/api/coverage", "getCoverage", "workers", "What is missing in what is heard", Access::Reader)
}];

/// What is missing.
#[derive(Serialize, JsonSchema)]
struct Coverage<'a> {
    data: &'a [Missing],
}

/// Something that is missing.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Missing {
    what: What,
    connection_id: Uuid,
    /// The worker whose jobs show it, where it is one's.
    worker_id: Option<String>,
    /// The source that did not listen.
    source: Option<String>,
    /// Jobs that show it.
    jobs: Option<usize>,
    /// Of so many that were looked at.
    of: Option<usize>,
    /// When it began.
    from: Option<Millis>,
    /// When it ended; null while it lasts.
    to: Option<Millis>,
    /// Why, where that is known.
    reason: Option<String>,
    /// What it means and what to do, for people.
    message: String,
}

/// What can be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MissingWhat")]
pub(crate) enum What {
    /// Nobody says that jobs were sent, so that queue and wait are unknown.
    SentEvents,
    /// A worker receives jobs, and says no more of any.
    Outcomes,
    /// Arguments are cut.
    Arguments,
    /// A source of ours did not listen.
    Listening,
}

impl What {
    const fn message(self) -> &'static str {
        match self {
            Self::SentEvents => {
                "nobody said that these jobs were sent: their queue and how long they waited are unknown; set \
                 task_send_sent_event = True in the app that sends them"
            }
            Self::Outcomes => {
                "jobs were received and no more was heard of any: the SDK in a prefork worker is silent; start the worker \
                 with -E and give Forebay its broker with --celery"
            }
            Self::Arguments => {
                "Celery cut the arguments that it shows at 1,024 characters: the rest was never sent; argsrepr and \
                 kwargsrepr of apply_async say what is shown"
            }
            Self::Listening => {
                "Redis keeps nothing for who does not listen, and what it was sent meanwhile is lost; RabbitMQ keeps it in \
                 our queue, within the bounds of that"
            }
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SentEvents => "no sent events, so that queues and waits are unknown",
            Self::Outcomes => "workers that receive jobs and tell no outcome",
            Self::Arguments => "arguments that Celery cut",
            Self::Listening => "times at which a source did not listen",
        })
    }
}

/// What was found, looked at now and then.
#[derive(Default)]
pub(crate) struct Looked(Mutex<Option<(Instant, Arc<Vec<Missing>>)>>);

impl Looked {
    /// What is missing in these connections. Blocks while it is looked at.
    fn missing(
        &self,
        reader: &Reader,
        connections: &[Uuid],
        sources: &Sources,
    ) -> Result<Arc<Vec<Missing>>, ViewError> {
        let mut known = self.0.lock();
        if let Some((at, missing)) = &*known
            && at.elapsed() < BELIEVED
        {
            return Ok(Arc::clone(missing));
        }
        let now = now();
        let mut missing = Vec::new();
        for connection in connections {
            of_jobs(reader, *connection, now, &mut missing)?;
        }
        gaps(reader, sources, &mut missing);
        let missing = Arc::new(missing);
        *known = Some((Instant::now(), Arc::clone(&missing)));
        Ok(missing)
    }
}

/// What is missing, from whoever looked last or by looking.
async fn look(app: &App, parts: &Parts) -> Result<Arc<Vec<Missing>>, ApiError> {
    let (looked, connections) = (Arc::clone(&app.coverage), parts.connections.ids());
    let sources =
        app.fleet().map(|fleet| fleet.list().into_iter().map(|it| (it.connection_id, it.status.name)).collect());
    read(&parts.reader, move |reader| looked.missing(reader, &connections, &sources)).await
}

/// The sources that there are, where that is known.
type Sources = Option<HashSet<(Uuid, String)>>;

pub(crate) async fn get(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let wanted = read_params(&call.query)?;
    let answer = async { encoded(&Coverage { data: &look(&app, parts).await? }) };
    Ok(consistency::answer(parts, &call.headers, wanted, answer).await)
}

/// One line for each kind of thing that is missing, without names: whoever asks for health need not be known.
pub(crate) async fn warnings(app: &App, parts: &Parts) -> Vec<String> {
    // Health is told whatever ails the views, which it tells itself, and waits for nobody: a look that takes longer is
    // there for who asks next.
    let Ok(Ok(missing)) = tokio::time::timeout(WARNINGS_TIME, look(app, parts)).await else { return Vec::new() };
    let mut counts: BTreeMap<What, usize> = BTreeMap::new();
    missing.iter().for_each(|missing| *counts.entry(missing.what).or_default() += 1);
    counts.iter().map(|(what, count)| format!("{what} ({count}): GET /api/coverage says more")).collect()
}

fn of_jobs(reader: &Reader, connection: Uuid, now: Timestamp, missing: &mut Vec<Missing>) -> Result<(), ViewError> {
    let since = |ago: i64| Timestamp(now.micros() - ago * 1_000);
    let latest = |before: Timestamp| {
        let filter = Filter {
            connections: Some(vec![connection]),
            framework: Some(Framework::Celery),
            created_after: Some(since(LATELY)),
            created_before: Some(before),
            ..Filter::default()
        };
        let query = Query { filter, limit: JOBS, ..Query::default() };
        reader.list(&query, &Signs::default()).map(|page| page.jobs)
    };
    // The event of the sender may come a moment after that of the worker.
    let jobs = latest(since(MOMENT))?;
    tell(missing, What::SentEvents, connection, &jobs, |job| job.queue.is_none());
    tell(missing, What::Arguments, connection, &jobs, has_cut_arguments);
    // What was received lately may still be under way.
    let settled = latest(since(SETTLED))?;
    let is_unheard = |job: &Record| job.executions.is_empty() && matches!(job.state, JobState::Queued);
    for (worker, jobs) in by_worker(&settled) {
        let unheard = jobs.iter().filter(|job| is_unheard(job)).count();
        if worker.is_some() && unheard >= ENOUGH && unheard == jobs.len() {
            missing.push(Missing::of_jobs(What::Outcomes, connection, worker, unheard, jobs.len()));
        }
    }
    Ok(())
}

/// Tells of each worker whose jobs show it.
fn tell(missing: &mut Vec<Missing>, what: What, connection: Uuid, jobs: &[Record], is_so: impl Fn(&Record) -> bool) {
    for (worker, jobs) in by_worker(jobs) {
        let so = jobs.iter().filter(|job| is_so(job)).count();
        if so > 0 {
            missing.push(Missing::of_jobs(what, connection, worker, so, jobs.len()));
        }
    }
}

fn by_worker(jobs: &[Record]) -> BTreeMap<Option<&str>, Vec<&Record>> {
    let mut by_worker: BTreeMap<Option<&str>, Vec<&Record>> = BTreeMap::new();
    for job in jobs {
        by_worker.entry(job.worker_id.as_deref()).or_default().push(job);
    }
    by_worker
}

/// Celery marks where it cut; a text that is as long as that and has the mark was most likely cut.
fn has_cut_arguments(job: &Record) -> bool {
    let is_cut = |text: &JsonText| match text.value() {
        Value::String(text) => text.chars().count() >= CUT_FROM && text.contains("..."),
        _ => false,
    };
    job.args.iter().chain(&job.kwargs).any(is_cut)
}

fn gaps(reader: &Reader, sources: &Sources, missing: &mut Vec<Missing>) {
    let mut gaps: Vec<Missing> = reader.fleet(|fleet| {
        let of_source = fleet.gaps().flat_map(|((connection, source), gaps)| {
            // Nobody misses what a source would hear that was taken away.
            let is_there = sources.as_ref().is_none_or(|there| there.contains(&(connection, source.to_owned())));
            gaps.into_iter().filter(move |gap| is_there || gap.to.is_some()).map(move |gap| Missing {
                source: Some(source.to_owned()),
                jobs: None,
                of: None,
                from: Some(Millis(gap.from)),
                to: gap.to.map(Millis),
                reason: gap.reason.map(Into::into),
                ..Missing::of_jobs(What::Listening, connection, None, 0, 0)
            })
        });
        of_source.collect()
    });
    gaps.sort_by_key(|gap| (gap.connection_id, gap.source.clone(), gap.from.map(|from| from.0)));
    missing.extend(gaps);
}

impl Missing {
    fn of_jobs(what: What, connection_id: Uuid, worker: Option<&str>, jobs: usize, of: usize) -> Self {
        Self {
            what,
            connection_id,
            worker_id: worker.map(str::to_owned),
            source: None,
            jobs: Some(jobs),
            of: Some(of),
            from: None,
            to: None,
            reason: None,
            message: what.message().to_owned(),
        }
    }
}
