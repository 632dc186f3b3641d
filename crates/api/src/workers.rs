//! `GET /api/workers`: the workers as they are now.

use std::collections::HashMap;
use std::sync::Arc;

use projector::{Listed, LiveState, LiveWorker};
use proto_events::Framework;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;
use views::{Reader, SortOrder};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::consistency;
use crate::errors::ApiError;
use crate::figures::{Paging, page_of};
use crate::http::Call;
use crate::jobs::{encoded, read, readable};
use crate::operation::{Access, Answer, NOT_MODIFIED, Operation, READ_ERRORS, READ_HEADERS};
use crate::params::jobs::{CONNECTION_ID, FRAMEWORK};
use crate::params::kinds::Choice;
use crate::params::pages::{LIMIT, PAGE, SORT_ORDER, ordered};
use crate::params::{AT_LEAST, Asked, Defaulted, MAX_STALENESS, Param, Params};
use crate::times::{Millis, now};

/// What workers can be ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Hostname,
    State,
    ActiveJobs,
    LastHeartbeat,
    TaskRate,
}

const SORT_BY: Defaulted<Choice<By>> = Param::new(
    "sortBy",
    Choice(&[
        ("hostname", By::Hostname),
        ("state", By::State),
        ("activeJobs", By::ActiveJobs),
        ("lastHeartbeat", By::LastHeartbeat),
        ("taskRate", By::TaskRate),
    ]),
    "By what to order; equals are ordered by hostname.",
)
.or(By::Hostname);
const STATE: Param<Choice<LiveState>> = Param::new(
    "state",
    Choice(&[
        ("online", LiveState::Online),
        ("busy", LiveState::Busy),
        ("idle", LiveState::Idle),
        ("offline", LiveState::Offline),
    ]),
    "Only in this state. Offline are those who took their leave or were silent for too long.",
);

const LIST: Params =
    &[&PAGE, &LIMIT, &CONNECTION_ID, &FRAMEWORK, &STATE, &SORT_BY, &SORT_ORDER, &AT_LEAST, &MAX_STALENESS];

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    query: LIST,
    answers: &[Answer::json::<WorkerList>(StatusCode::OK, "A page of workers.").with(READ_HEADERS), NOT_MODIFIED],
    errors: READ_ERRORS,
    ..Operation::get("/api/workers", "listWorkers", "workers", "The workers as they are now", Access::Reader)
}];

/// A page of workers.
#[derive(Debug, Serialize, JsonSchema)]
struct WorkerList {
    data: Vec<Item>,
    pagination: Paging,
    /// There were more than are remembered, so that some are missing here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// A worker.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ListedWorker")]
struct Item {
    id: Uuid,
    /// The framework's name of it.
    external_id: String,
    framework: Framework,
    connection_id: Uuid,
    hostname: String,
    pid: Option<i64>,
    #[schemars(with = "String", extend("enum" = ["online", "busy", "idle", "offline"]))]
    state: LiveState,
    last_heartbeat: Option<Millis>,
    concurrency: Option<u64>,
    /// Jobs that it runs: as it says, else as their events tell.
    active_jobs: u64,
    /// The queues of the jobs that it ran in the last hour.
    queues: Vec<String>,
    metadata: Map<String, Value>,
    /// Runs that it ended, per minute, over the last hour.
    task_rate: Option<f64>,
    processed_total: Option<u64>,
    #[schemars(with = "Map<String, Value>")]
    extensions: Arc<Map<String, Value>>,
    /// When it was first seen.
    created_at: Millis,
    /// When it last said that it came.
    last_online_at: Option<Millis>,
    /// When it last said that it goes.
    last_offline_at: Option<Millis>,
    /// When the process that there is now took the place of another one.
    restarted_at: Option<Millis>,
}

/// What the jobs tell of a worker.
#[derive(Clone, Debug, Default)]
struct Figures {
    queues: Vec<String>,
    task_rate: Option<f64>,
    active_jobs: u64,
}

/// By connection and the framework's name of the worker.
type Known = HashMap<(Uuid, String), Figures>;

/// What to show.
struct Asking {
    connection: Option<Uuid>,
    framework: Option<Framework>,
    state: Option<LiveState>,
    by: By,
    order: SortOrder,
    page: u64,
    limit: u64,
}

struct Row {
    worker: LiveWorker,
    figures: Figures,
}

pub(crate) async fn list(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let asked = Asked::of(LIST, &call.query)?;
    let list = async {
        let asking = Asking {
            connection: asked.get(&CONNECTION_ID),
            framework: asked.get(&FRAMEWORK),
            state: asked.get(&STATE),
            by: asked.get_or(&SORT_BY),
            order: asked.get_or(&SORT_ORDER),
            page: asked.get_or(&PAGE),
            limit: asked.get_or(&LIMIT),
        };
        let known = read(&parts.reader, |reader| Ok(known(reader))).await?;
        encoded(&page(parts.projector.live().workers(), known, &asking))
    };
    Ok(consistency::answer(parts, &call.headers, asked.wanted(), list).await)
}

/// A worker, and the queues of the jobs that it ran in the last hour.
pub(crate) struct Told {
    pub(crate) worker: LiveWorker,
    pub(crate) queues: Vec<String>,
}

/// All of Celery's workers.
pub(crate) async fn told(parts: &Parts) -> Result<Vec<Told>, ApiError> {
    let mut known = read(&parts.reader, |reader| Ok(known(reader))).await?;
    let workers = parts.projector.live().workers().rows.into_iter();
    let told = workers.filter(|worker| worker.framework == Framework::Celery).map(|worker| {
        let figures = known.remove(&(worker.connection, worker.external_id.clone())).unwrap_or_default();
        Told { worker, queues: figures.queues }
    });
    Ok(told.collect())
}

/// What the jobs tell of each worker.
fn known(reader: &Reader) -> Known {
    let mut known = Known::new();
    for rate in reader.worker_rates(None, now()) {
        let Some(worker) = rate.worker else { continue };
        let figures = known.entry((rate.connection, worker.to_string())).or_default();
        figures.task_rate = Some(rate.per_minute);
        figures.queues = rate.queues.iter().map(ToString::to_string).collect();
    }
    for ((connection, worker), active) in reader.load(None).active {
        known.entry((connection, worker.to_string())).or_default().active_jobs = active;
    }
    known
}

fn page(live: Listed<LiveWorker>, mut known: Known, asking: &Asking) -> WorkerList {
    let is_wanted = |worker: &LiveWorker| {
        asking.connection.is_none_or(|connection| worker.connection == connection)
            && asking.framework.is_none_or(|framework| worker.framework == framework)
            && asking.state.is_none_or(|state| worker.state == state)
    };
    let rows = live.rows.into_iter().filter(is_wanted).map(|worker| {
        let figures = known.remove(&(worker.connection, worker.external_id.clone())).unwrap_or_default();
        Row { worker, figures }
    });
    let mut rows: Vec<Row> = rows.collect();
    rows.sort_by(|a, b| {
        let (one, other) = (&a.worker, &b.worker);
        let by = match asking.by {
            By::Hostname => ordered(Some(&one.hostname), Some(&other.hostname), asking.order),
            By::State => ordered(Some(one.state.as_str()), Some(other.state.as_str()), asking.order),
            By::ActiveJobs => ordered(Some(a.active_jobs()), Some(b.active_jobs()), asking.order),
            By::LastHeartbeat => ordered(one.last_heartbeat, other.last_heartbeat, asking.order),
            By::TaskRate => ordered(a.figures.task_rate, b.figures.task_rate, asking.order),
        };
        by.then_with(|| one.hostname.cmp(&other.hostname)).then(one.id.cmp(&other.id))
    });
    let (rows, pagination) = page_of(rows, asking.page, asking.limit);
    WorkerList { data: rows.into_iter().map(item).collect(), pagination, truncated: live.truncated }
}

impl Row {
    fn active_jobs(&self) -> u64 {
        self.worker.active_jobs.unwrap_or(self.figures.active_jobs)
    }
}

fn item(row: Row) -> Item {
    let active_jobs = row.active_jobs();
    let Row { worker, figures } = row;
    let metadata = metadata(&worker);
    Item {
        id: worker.id,
        external_id: worker.external_id,
        framework: worker.framework,
        connection_id: worker.connection,
        hostname: worker.hostname,
        pid: worker.pid,
        state: worker.state,
        last_heartbeat: worker.last_heartbeat.map(Millis),
        concurrency: worker.concurrency,
        active_jobs,
        queues: figures.queues,
        metadata,
        task_rate: figures.task_rate,
        processed_total: worker.processed_total,
        extensions: worker.extensions,
        created_at: Millis(worker.first_seen),
        last_online_at: worker.last_online.map(Millis),
        last_offline_at: worker.last_offline.map(Millis),
        restarted_at: worker.restarted_at.map(Millis),
    }
}

/// What was announced, under the names of the SDK, whichever way it came.
fn metadata(worker: &LiveWorker) -> Map<String, Value> {
    let mut metadata = Map::clone(&worker.metadata);
    if let Some(software) = software(&metadata) {
        metadata.insert("software".to_owned(), software.into());
    }
    if let Some(processed) = worker.processed_total {
        metadata.insert("processedTotal".to_owned(), processed.into());
    }
    if let Some(freq) = worker.heartbeat_freq {
        metadata.insert("heartbeatFreq".to_owned(), freq.into());
    }
    metadata
}

/// Name and version in one, as the documentation shows them. Celery calls itself `py-celery`.
fn software(metadata: &Map<String, Value>) -> Option<String> {
    let name = metadata.get("software")?.as_str()?;
    let name = if name == "py-celery" { "celery" } else { name };
    let version = metadata.get("softwareVersion").and_then(Value::as_str).filter(|version| !name.contains(version));
    Some(version.map_or_else(|| name.to_owned(), |version| format!("{name} {version}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_events::Timestamp;
    use serde_json::json;

    fn worker(name: &str, active: Option<u64>) -> LiveWorker {
        LiveWorker {
            id: Uuid::from_u128(u128::from(name.as_bytes()[0])),
            connection: Uuid::nil(),
            external_id: name.to_owned(),
            framework: Framework::Celery,
            hostname: "host".to_owned(),
            pid: None,
            state: LiveState::Online,
            first_seen: Timestamp(5_000_000),
            last_heartbeat: None,
            last_online: None,
            last_offline: None,
            restarted_at: None,
            heartbeat_freq: None,
            active_jobs: active,
            processed_total: None,
            concurrency: None,
            metadata: Arc::default(),
            extensions: Arc::default(),
        }
    }

    #[test]
    fn what_is_known_from_jobs_stands_beside_what_the_worker_says() {
        let live =
            Listed { rows: vec![worker("a", None), worker("b", Some(1)), worker("c", Some(0))], truncated: true };
        let figures = |rate: f64| Figures { queues: vec!["mail".to_owned()], task_rate: Some(rate), active_jobs: 3 };
        let known = Known::from([
            ((Uuid::nil(), "c".to_owned()), figures(2.5)),
            ((Uuid::nil(), "b".to_owned()), figures(0.5)),
            ((Uuid::max(), "a".to_owned()), figures(9.0)),
        ]);
        let page = |by, order| {
            let asking = Asking { connection: None, framework: None, state: None, by, order, page: 1, limit: 50 };
            serde_json::to_value(page(live.clone(), known.clone(), &asking)).unwrap()
        };
        let names = |answer: &Value| -> Vec<String> {
            let rows = answer["data"].as_array().unwrap().iter();
            rows.map(|row| row["externalId"].as_str().unwrap().to_owned()).collect()
        };
        let answer = page(By::TaskRate, SortOrder::Ascending);
        assert_eq!((names(&answer), &answer["truncated"]), (["b", "c", "a"].map(str::to_owned).to_vec(), &json!(true)));
        let (first, last) = (&answer["data"][0], &answer["data"][2]);
        assert_eq!((&first["queues"], &first["taskRate"]), (&json!(["mail"]), &json!(0.5)));
        assert_eq!((&first["activeJobs"], &last["activeJobs"]), (&json!(1), &json!(0)));
        assert_eq!((&last["queues"], &last["taskRate"]), (&json!([]), &Value::Null));
        assert_eq!(names(&page(By::TaskRate, SortOrder::Descending)), ["c", "b", "a"]);
        assert_eq!(names(&page(By::ActiveJobs, SortOrder::Descending)), ["b", "a", "c"]);
    }

    #[test]
    fn software_is_shown_as_documented() {
        for (announced, shown) in [
            (json!({ "software": "py-celery", "softwareVersion": "5.6.2" }), Some("celery 5.6.2")),
            (json!({ "software": "py-celery" }), Some("celery")),
            (
                json!({ "software": "celery 5.6.2 (dawn-chorus)", "softwareVersion": "5.6.2" }),
                Some("celery 5.6.2 (dawn-chorus)"),
            ),
            (json!({ "software": "bullmq", "softwareVersion": "5.1" }), Some("bullmq 5.1")),
            (json!({ "softwareVersion": "5.1" }), None),
            (json!({ "software": 7 }), None),
        ] {
            assert_eq!(software(announced.as_object().unwrap()).as_deref(), shown, "{announced}");
        }
    }
}
