//! `GET /api/jobs`, `GET /api/jobs/{id}` and `GET /api/jobs/{id}/events`.

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use projection::{Record, Row};
use proto_events::event::check_external_id;
use proto_events::{Framework, JobState, job_id, limits};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;
use views::{Brief, Filter, Reader, Signs, ViewError};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::errors::{ApiError, wrong_method};
use crate::http::Call;
use crate::operation::{Access, Answer, LONG_READ_HEADERS, NOT_MODIFIED, Operation, READ_ERRORS, READ_HEADERS};
use crate::params::jobs::{Format, LIST, ListParams, list_params};
use crate::params::kinds::Text;
use crate::params::{self, AsOf, Param, Params};
use crate::signs::{Found, Lost, Stuck, Waiting};
use crate::times::Millis;
use crate::tree::Tree;
use crate::{consistency, evidence, listed};

/// Other runs of the same task name shown with a job.
const RECENT: usize = 10;
/// How long the answer about an unknown job waits for the log.
const LOG_TIME: Duration = Duration::from_millis(200);

const ID: Param<Text> = Param::new(
    "id",
    Text::of(1, limits::EXTERNAL_ID),
    "Forebay's id of the job, or the id that its framework gave it.",
);

/// The path of everything about one job.
pub(crate) const IN_PATH: Params = &[&ID];
/// The errors of everything about one job.
pub(crate) const ONE_ERRORS: &[StatusCode] =
    &[StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE];

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        about: "Any parameters may be combined; `total` is the exact number of jobs that they leave. Jobs that are new \
                since the first page do not move those of the next. With `format` the whole list comes as a file: JSON \
                lines with the fields of a page, or CSV with a line of names, where `lost`, `stuck` and `waiting` are true \
                or false, null is empty, and a quote stands before a text that a spreadsheet would take for a formula. As \
                the whole list is read while it is sent, a job that changes meanwhile may be in it as it was or as it is; \
                ordered by what changed, twice or not at all.",
        query: LIST,
        answers: &[
            Answer::json::<List<'static>>(StatusCode::OK, "A page of jobs, or the whole list.")
                .or(&[listed::CSV, listed::NDJSON])
                .with(LONG_READ_HEADERS),
            NOT_MODIFIED,
        ],
        errors: READ_ERRORS,
        ..Operation::get("/api/jobs", "listJobs", "jobs", "Jobs, page by page", Access::Reader)
    },
    Operation {
        in_path: IN_PATH,
        query: params::JOB,
        answers: &[Answer::json::<Detail<'static>>(StatusCode::OK, "The job.").with(READ_HEADERS), NOT_MODIFIED],
        errors: ONE_ERRORS,
        ..Operation::get("/api/jobs/{id}", "getJob", "jobs", "A job in full", Access::Reader)
    },
];

/// A job in full.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "JobRecord")]
struct Detail<'a> {
    #[serde(flatten)]
    record: &'a Record,
    /// Why the job is lost; null where it is not, and with `asOf`.
    lost: Option<Lost>,
    /// Why it is stuck; null where it is not, and with `asOf`.
    stuck: Option<Stuck>,
    /// Why it waits for too long; null where it does not, and with `asOf`.
    waiting: Option<Waiting>,
    recent_executions: Vec<Recent<'a>>,
}

/// Another run of the same task name.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecentExecution")]
struct Recent<'a> {
    id: Uuid,
    external_id: &'a str,
    state: JobState,
    created_at: Millis,
    started_at: Option<Millis>,
    completed_at: Option<Millis>,
    duration_ms: Option<u64>,
    error: Option<&'a str>,
}

/// A job in the list.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ListedJob")]
pub(crate) struct Item<'a> {
    id: Uuid,
    external_id: &'a str,
    framework: Framework,
    connection_id: Uuid,
    name: &'a str,
    queue: Option<&'a str>,
    state: JobState,
    state_changed_at: Millis,
    scheduled_for: Option<Millis>,
    created_at: Millis,
    started_at: Option<Millis>,
    completed_at: Option<Millis>,
    duration_ms: Option<u64>,
    worker_id: Option<&'a str>,
    error: Option<&'a str>,
    /// Why it is lost; null where it is not.
    lost: Option<Lost>,
    /// Why it is stuck; null where it is not.
    stuck: Option<Stuck>,
    /// Why it waits for too long; null where it does not.
    waiting: Option<Waiting>,
}

/// A page of jobs.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobList")]
struct List<'a> {
    data: Vec<Item<'a>>,
    pagination: Pagination,
}

/// Where a page of a list stands.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "CursorPagination")]
struct Pagination {
    /// What to pass as `cursor` for the next page; null on the last.
    next_cursor: Option<String>,
    /// How many a page has at most.
    limit: usize,
    /// How many there are in all.
    total: u64,
}

impl<'a> Detail<'a> {
    fn new(record: &'a Record, Found { lost, stuck, waiting }: Found, others: impl Iterator<Item = &'a Brief>) -> Self {
        Self { record, lost, stuck, waiting, recent_executions: others.map(Recent::from).collect() }
    }
}

impl<'a> From<&'a Brief> for Recent<'a> {
    fn from(record: &'a Brief) -> Self {
        Self {
            id: record.id,
            external_id: &record.external_id,
            state: record.state,
            created_at: Millis(record.created_at),
            started_at: record.started_at.map(Millis),
            completed_at: record.completed_at.map(Millis),
            duration_ms: record.duration_ms,
            error: record.error.as_deref(),
        }
    }
}

impl<'a> Item<'a> {
    pub(crate) fn new(record: &'a Record, Found { lost, stuck, waiting }: Found) -> Self {
        Self {
            id: record.id,
            external_id: &record.external_id,
            framework: record.framework,
            connection_id: record.connection_id,
            name: &record.name,
            queue: record.queue.as_deref(),
            state: record.state,
            state_changed_at: Millis(record.state_changed_at),
            scheduled_for: record.scheduled_for.map(Millis),
            created_at: Millis(record.created_at),
            started_at: record.started_at.map(Millis),
            completed_at: record.completed_at.map(Millis),
            duration_ms: record.duration_ms,
            worker_id: record.worker_id.as_deref(),
            error: record.error.as_deref(),
            lost,
            stuck,
            waiting,
        }
    }
}

pub(crate) async fn list(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let ListParams { query, format, wanted } = list_params(&call.query, listed::accepted(&call.headers))?;
    let limit = query.limit;
    if format != Format::Json {
        let whole = async { listed::answer(&app, parts, call.hangup.clone(), format, query, limit) };
        return Ok(consistency::respond(parts, wanted, whole).await);
    }
    let list = async {
        let Filter { lost, stuck, waiting, .. } = &query.filter;
        let asks_for_signs = lost.or(*stuck).or(*waiting).is_some();
        let habits = Arc::clone(&app.habits);
        let page = read(&parts.reader, move |reader| {
            let signs = if asks_for_signs { habits.signs(reader) } else { Signs::default() };
            let page = reader.list(&query, &signs)?;
            let found: Vec<Found> = page.jobs.iter().map(|record| habits.of(reader, record)).collect();
            Ok((page, found))
        });
        let (page, found) = page.await?;
        let next_cursor = page.next.map(|cursor| cursor.to_string());
        let data = page.jobs.iter().zip(found).map(|(record, found)| Item::new(record, found)).collect();
        encoded(&List { data, pagination: Pagination { next_cursor, limit, total: page.total } })
    };
    Ok(consistency::answer(parts, &call.headers, wanted, list).await)
}

/// `path` is as it stands in the request: encoded, and perhaps with slashes, which an id may have, too. One that ends
/// in `/events` or `/tree` has to have its slash encoded.
pub(crate) async fn get(path: String, app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    if let Some((id, "events")) = path.rsplit_once('/') {
        let wanted = params::read_params(&call.query)?;
        return Ok(consistency::answer(parts, &call.headers, wanted, events(id, &app, parts)).await);
    }
    if let Some((id, "tree")) = path.rsplit_once('/') {
        let wanted = params::read_params(&call.query)?;
        return Ok(consistency::answer(parts, &call.headers, wanted, tree(id, parts)).await);
    }
    let params = params::job_params(&call.query)?;
    let read = async {
        match params.as_of {
            None => job(&path, &app, parts).await,
            Some(then) => job_as_of(&path, &app, parts, then).await,
        }
    };
    Ok(consistency::answer(parts, &call.headers, params.wanted, read).await)
}

async fn job(id: &str, app: &App, parts: &Parts) -> Result<Vec<u8>, ApiError> {
    let candidates = candidates(id, &parts.connections.ids());
    let habits = Arc::clone(&app.habits);
    let look = move |reader: &Reader| {
        let Some(record) = first(&candidates, |id| reader.job(id))? else { return Ok(None) };
        let others = reader.recent(record.connection_id, &record.name, RECENT, record.id)?;
        let found = habits.of(reader, &record);
        Ok(Some((record, others, found)))
    };
    // To have another thread do it costs more than it takes.
    let found = if parts.reader.is_quick() {
        look(&parts.reader).map_err(ApiError::internal)
    } else {
        read(&parts.reader, look).await
    };
    let Some((record, others, found)) = found? else { return Err(not_found(parts).await) };
    encoded(&Detail::new(&record, found, others.iter()))
}

/// Which other runs there were by then is not known without reading the whole log, so none are named.
async fn job_as_of(id: &str, app: &App, parts: &Parts, then: AsOf) -> Result<Vec<u8>, ApiError> {
    match then {
        AsOf::Position(last) => consistency::applied(parts, last.sequence).await?,
        AsOf::Time(_) => consistency::complete(parts).await?,
    }
    let record = evidence::as_of(app, parts, &row(id, parts).await?, then).await?;
    encoded(&Detail::new(&record, Found::default(), std::iter::empty()))
}

async fn events(id: &str, app: &App, parts: &Parts) -> Result<Vec<u8>, ApiError> {
    let row = row(id, parts).await?;
    encoded(&evidence::events(app, parts, &row).await?)
}

async fn tree(id: &str, parts: &Parts) -> Result<Vec<u8>, ApiError> {
    let candidates = candidates(id, &parts.connections.ids());
    let found = read(&parts.reader, move |reader| {
        let record = first(&candidates, |id| reader.job(id))?;
        record.map(|record| Tree::of(&record, reader)).transpose()
    });
    match found.await? {
        Some(tree) => encoded(&tree),
        None => Err(not_found(parts).await),
    }
}

async fn row(id: &str, parts: &Parts) -> Result<Arc<Row>, ApiError> {
    let candidates = candidates(id, &parts.connections.ids());
    match read(&parts.reader, move |reader| first(&candidates, |id| reader.row(id))).await? {
        Some(row) => Ok(row),
        None => Err(not_found(parts).await),
    }
}

pub(crate) fn encoded(body: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(body).map_err(ApiError::internal)
}

pub(crate) fn readable<'a>(app: &'a App, call: &Call) -> Result<&'a Parts, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    app.auth.require(call)?;
    app.readable()
}

/// Reads block for microseconds, and now and then for as long as the writer holds sled's lock.
pub(crate) async fn read<T: Send + 'static>(
    reader: &Reader,
    what: impl FnOnce(&Reader) -> Result<T, ViewError> + Send + 'static,
) -> Result<T, ApiError> {
    let reader = reader.clone();
    let read = tokio::task::spawn_blocking(move || what(&reader)).await.map_err(ApiError::internal)?;
    read.map_err(ApiError::internal)
}

/// The job ids that a path may mean: our own id, else an external id of any of the connections.
fn candidates(path: &str, connections: &[Uuid]) -> Vec<Uuid> {
    // What is not UTF-8 is no id of ours and no external id either.
    percent_decode_str(path).decode_utf8().map_or_else(|_| Vec::new(), |id| job_ids(&id, connections))
}

/// The job ids that a text may mean.
pub(crate) fn job_ids(id: &str, connections: &[Uuid]) -> Vec<Uuid> {
    let own = Uuid::try_parse(id).ok();
    let usable = check_external_id(id).is_ok();
    let foreign = connections.iter().filter(|_| usable).map(|connection| job_id(*connection, id));
    own.into_iter().chain(foreign).collect()
}

/// The first of them that there is.
fn first<T>(candidates: &[Uuid], get: impl Fn(Uuid) -> Result<Option<T>, ViewError>) -> Result<Option<T>, ViewError> {
    candidates.iter().find_map(|id| get(*id).transpose()).transpose()
}

/// Says since when the log reaches back, where it can tell at once.
async fn not_found(parts: &Parts) -> ApiError {
    let first = async {
        let info = parts.log.info().await.ok()?;
        // What is forgotten may still be there for a moment.
        parts.log.message(info.first_sequence.max(parts.reader.floor())).await.ok()?
    };
    let first = tokio::time::timeout(LOG_TIME, first).await.ok().flatten();
    ApiError::JobNotFound { details: first.map(|first| json!({ "logSince": first.published.to_millis_text() })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_our_id_before_anybody_elses() {
        let connections = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let id = "fbe08da7-0069-502f-90f8-dff3d29e3dc6";
        let foreign = |id: &str| connections.map(|connection| job_id(connection, id)).to_vec();
        let with_own = [vec![id.parse().unwrap()], foreign(id)].concat();
        assert_eq!(candidates(id, &connections), with_own);
        assert_eq!(candidates("a%2Fb", &connections), foreign("a/b"));
        assert_eq!(candidates("a/b", &connections), foreign("a/b"));
        assert_eq!(candidates("100%25", &connections), foreign("100%"));
        assert_eq!(candidates("100%", &connections), foreign("100%"));
        for nothing in ["%ff", "", &"x".repeat(5_000)] {
            assert!(candidates(nothing, &connections).is_empty());
        }
    }
}
