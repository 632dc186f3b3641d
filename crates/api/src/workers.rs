//! `GET /api/workers`: the workers as they are now.

use std::collections::HashMap;
use std::sync::Arc;

use projector::{Listed, LiveState, LiveWorker};
use proto_events::{Framework, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::consistency;
use crate::errors::ApiError;
use crate::http::Call;
use crate::jobs::{Millis, encoded, readable};
use crate::pages::{Asked, Field, Key, Page, one_of};

/// Figures about a worker that come from the jobs that it ran.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerFigures {
    /// The queues from which it took jobs in the last hour.
    pub(crate) queues: Vec<String>,
    /// Jobs that it ended in the last hour, per minute.
    pub(crate) task_rate: Option<f64>,
    /// When the first job was seen that it had.
    pub(crate) first_seen: Option<Timestamp>,
}

/// By connection and the framework's name of the worker.
type Figures = HashMap<(Uuid, String), WorkerFigures>;

/// What is known from jobs of each worker.
fn figures(_parts: &Parts) -> Figures {
    Figures::new()
}

#[derive(Clone, Copy, Debug)]
enum By {
    Hostname,
    State,
    ActiveJobs,
    LastHeartbeat,
    TaskRate,
}

impl Field for By {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("hostname", Self::Hostname),
        ("state", Self::State),
        ("activeJobs", Self::ActiveJobs),
        ("lastHeartbeat", Self::LastHeartbeat),
        ("taskRate", Self::TaskRate),
    ];
}

/// A worker in the list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    id: Uuid,
    external_id: String,
    framework: Framework,
    connection_id: Uuid,
    hostname: String,
    pid: Option<i64>,
    state: LiveState,
    last_heartbeat: Option<Millis>,
    concurrency: Option<u64>,
    active_jobs: Option<u64>,
    queues: Vec<String>,
    metadata: Map<String, Value>,
    task_rate: Option<f64>,
    processed_total: Option<u64>,
    extensions: Arc<Map<String, Value>>,
    created_at: Millis,
    // Beyond the documentation.
    last_online_at: Option<Millis>,
    last_offline_at: Option<Millis>,
    restarted_at: Option<Millis>,
}

struct Row {
    worker: LiveWorker,
    figures: WorkerFigures,
}

pub(crate) async fn list(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let mut state = None;
    let asked = Asked::<By>::read(&call.query, |name, value| {
        if name == "state" {
            state = Some(one_of("state", value, &LiveState::ALL.map(|state| (state.as_str(), state)))?);
        }
        Ok(name == "state")
    })?;
    let list = async { encoded(&page(parts.projector.live().workers(), figures(parts), &asked, state)) };
    Ok(consistency::answer(parts, &call.headers, asked.wanted, list).await)
}

fn page(live: Listed<LiveWorker>, mut figures: Figures, asked: &Asked<By>, state: Option<LiveState>) -> Page<Item> {
    let wanted = |worker: &LiveWorker| {
        asked.takes(worker.connection, worker.framework) && state.is_none_or(|state| worker.state == state)
    };
    let rows = live.rows.into_iter().filter(wanted).map(|worker| {
        let figures = figures.remove(&(worker.connection, worker.external_id.clone())).unwrap_or_default();
        Row { worker, figures }
    });
    let rows = rows.collect();
    asked
        .page(rows, live.truncated, |row| key(row, asked.sort_by), |row| (&row.worker.hostname, row.worker.id))
        .map(item)
}

fn key(row: &Row, by: By) -> Option<Key<'_>> {
    let worker = &row.worker;
    match by {
        By::Hostname => Some(Key::Text(&worker.hostname)),
        By::State => Some(Key::Text(worker.state.as_str())),
        By::ActiveJobs => worker.active_jobs.map(|jobs| Key::Number(jobs as f64)),
        By::LastHeartbeat => worker.last_heartbeat.map(|at| Key::Number(at.micros() as f64)),
        By::TaskRate => row.figures.task_rate.map(Key::Number),
    }
}

fn item(Row { worker, figures }: Row) -> Item {
    let metadata = metadata(&worker);
    let first_seen = figures.first_seen.map_or(worker.first_seen, |first| first.min(worker.first_seen));
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
        active_jobs: worker.active_jobs,
        queues: figures.queues,
        metadata,
        task_rate: figures.task_rate,
        processed_total: worker.processed_total,
        extensions: worker.extensions,
        created_at: Millis(first_seen),
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
        let rate = |rate: f64| WorkerFigures {
            queues: vec!["mail".to_owned()],
            task_rate: Some(rate),
            first_seen: Some(Timestamp(1_000_000)),
        };
        let known = Figures::from([
            ((Uuid::nil(), "c".to_owned()), rate(2.5)),
            ((Uuid::nil(), "b".to_owned()), rate(0.5)),
            ((Uuid::max(), "a".to_owned()), rate(9.0)),
        ]);
        let page = |query: &str| {
            let asked = Asked::read(query, |_, _| Ok(false)).unwrap();
            serde_json::to_value(page(live.clone(), known.clone(), &asked, None)).unwrap()
        };
        let names = |answer: &Value| -> Vec<String> {
            answer["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|row| row["externalId"].as_str().unwrap().to_owned())
                .collect()
        };
        let answer = page("sortBy=taskRate");
        assert_eq!((names(&answer), &answer["truncated"]), (["b", "c", "a"].map(str::to_owned).to_vec(), &json!(true)));
        let (first, last) = (&answer["data"][0], &answer["data"][2]);
        assert_eq!((&first["queues"], &first["taskRate"]), (&json!(["mail"]), &json!(0.5)));
        assert_eq!(
            (&first["createdAt"], &last["createdAt"]),
            (&json!("1970-01-01T00:00:01.000Z"), &json!("1970-01-01T00:00:05.000Z"))
        );
        assert_eq!((&last["queues"], &last["taskRate"]), (&json!([]), &Value::Null));
        assert_eq!(names(&page("sortBy=taskRate&sortOrder=desc")), ["c", "b", "a"]);
        assert_eq!(names(&page("sortBy=activeJobs")), ["c", "b", "a"]);
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
