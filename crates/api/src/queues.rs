//! `GET /api/queues`: the queues as they were described last, and what their jobs tell of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use projector::{Listed, LiveQueue, LiveState};
use proto_events::{Framework, queue_id};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;
use views::{Bucket, QueueStats, Range, Reader, SortOrder, Totals, Waiting};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::consistency;
use crate::errors::ApiError;
use crate::figures::{Paging, ends, page_of, range_name};
use crate::http::Call;
use crate::jobs::{encoded, read, readable};
use crate::operation::{Access, Answer, NOT_MODIFIED, Operation, READ_ERRORS, READ_HEADERS};
use crate::params::jobs::{CONNECTION_ID, FRAMEWORK};
use crate::params::kinds::Choice;
use crate::params::pages::{LIMIT, PAGE, SORT_ORDER, TIME_RANGE, ordered};
use crate::params::{AT_LEAST, Asked, Defaulted, MAX_STALENESS, Param, Params};
use crate::times::{Millis, now};

/// What queues can be ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Name,
    Depth,
    Consumers,
    Throughput,
    FailureRate,
}

const SORT_BY: Defaulted<Choice<By>> = Param::new(
    "sortBy",
    Choice(&[
        ("name", By::Name),
        ("depth", By::Depth),
        ("consumers", By::Consumers),
        ("throughput", By::Throughput),
        ("failureRate", By::FailureRate),
    ]),
    "By what to order; equals are ordered by name.",
)
.or(By::Name);

const LIST: Params =
    &[&PAGE, &LIMIT, &CONNECTION_ID, &FRAMEWORK, &SORT_BY, &SORT_ORDER, &TIME_RANGE, &AT_LEAST, &MAX_STALENESS];

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    query: LIST,
    answers: &[Answer::json::<QueueList>(StatusCode::OK, "A page of queues.").with(READ_HEADERS), NOT_MODIFIED],
    errors: READ_ERRORS,
    ..Operation::get(
        "/api/queues",
        "listQueues",
        "queues",
        "The queues, and what their jobs tell of them",
        Access::Reader,
    )
}];

/// A page of queues.
#[derive(Debug, Serialize, JsonSchema)]
struct QueueList {
    data: Vec<Item>,
    pagination: Paging,
    /// There were more than are remembered, so that some are missing here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// A queue.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ListedQueue")]
struct Item {
    id: Uuid,
    name: String,
    framework: Framework,
    connection_id: Uuid,
    /// Jobs waiting: as its own system says, else as their events tell.
    depth: u64,
    /// Workers that consume it: as its own system says, else those that are there and ran jobs of it in the last hour.
    consumers: u64,
    /// Jobs that completed or failed, per second.
    throughput: f64,
    /// How long runs had waited, on average, that began in the range; null where that is not known.
    avg_latency_ms: Option<f64>,
    /// Jobs that failed, of those that completed or failed: 0 to 1.
    failure_rate: f64,
    health_bar: HealthBar,
    #[schemars(with = "Map<String, Value>")]
    extensions: Arc<Map<String, Value>>,
    /// When it was first heard of by this server; null where only jobs tell of it.
    created_at: Option<Millis>,
    /// When the job was created that waits longest.
    oldest_queued_at: Option<Millis>,
    /// When its own system last said how many jobs wait.
    depth_at: Option<Millis>,
}

/// How jobs ended, in parts of the range.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct HealthBar {
    time_range: &'static str,
    /// The oldest first.
    buckets: Vec<HealthBucket>,
}

/// How jobs ended in a part of the range.
#[derive(Debug, Serialize, JsonSchema)]
struct HealthBucket {
    start: Millis,
    end: Millis,
    succeeded: u64,
    failed: u64,
}

/// What the jobs tell of a queue.
#[derive(Clone, Debug)]
struct Figures {
    framework: Framework,
    totals: Totals,
    buckets: Vec<Bucket>,
    waiting: Waiting,
    consumers: u64,
}

/// By connection and name.
type Known = HashMap<(Uuid, String), Figures>;

/// What to show.
struct Asking {
    connection: Option<Uuid>,
    framework: Option<Framework>,
    range: Range,
    by: By,
    order: SortOrder,
    page: u64,
    limit: u64,
}

/// What is known of a queue from either side.
struct Row {
    id: Uuid,
    connection: Uuid,
    name: String,
    framework: Framework,
    live: Option<LiveQueue>,
    figures: Figures,
}

pub(crate) async fn list(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let asked = Asked::of(LIST, &call.query)?;
    let list = async {
        let asking = Asking {
            connection: asked.get(&CONNECTION_ID),
            framework: asked.get(&FRAMEWORK),
            range: asked.get_or(&TIME_RANGE),
            by: asked.get_or(&SORT_BY),
            order: asked.get_or(&SORT_ORDER),
            page: asked.get_or(&PAGE),
            limit: asked.get_or(&LIMIT),
        };
        let live = parts.projector.live();
        let there = live.workers().rows.into_iter().filter(|worker| worker.state != LiveState::Offline);
        let there: HashSet<(Uuid, String)> = there.map(|worker| (worker.connection, worker.external_id)).collect();
        let range = asking.range;
        let known = read(&parts.reader, move |reader| Ok(known(reader, range, &there))).await?;
        encoded(&page(live.queues(), known, &asking))
    };
    Ok(consistency::answer(parts, &call.headers, asked.wanted(), list).await)
}

/// How full each of Celery's queues is, by name: those of one name in several connections together.
pub(crate) async fn depths(parts: &Parts) -> Result<BTreeMap<String, u64>, ApiError> {
    let known = read(&parts.reader, |reader| Ok(known(reader, Range::Hour, &HashSet::new()))).await?;
    let mut depths = BTreeMap::<_, u64>::new();
    for row in rows(parts.projector.live().queues(), known, Range::Hour) {
        if row.framework == Framework::Celery {
            let depth = depths.entry(row.name.clone()).or_default();
            // Senders may say anything.
            *depth = depth.saturating_add(row.depth());
        }
    }
    Ok(depths)
}

/// What the jobs tell of each queue, given the workers that are there.
fn known(reader: &Reader, range: Range, there: &HashSet<(Uuid, String)>) -> Known {
    let mut known = Known::new();
    let load = reader.load(None);
    for ((connection, queue), framework) in load.frameworks {
        let figures = Figures { framework, ..Figures::none(range) };
        known.insert((connection, queue.to_string()), figures);
    }
    for ((connection, queue), waiting) in load.waiting {
        if let Some(figures) = known.get_mut(&(connection, queue.to_string())) {
            figures.waiting = waiting;
        }
    }
    for QueueStats { connection, name, totals, buckets } in reader.queues(None, range, now()) {
        let Some(figures) = name.and_then(|name| known.get_mut(&(connection, name.to_string()))) else { continue };
        (figures.totals, figures.buckets) = (totals, buckets);
    }
    for rate in reader.worker_rates(None, now()) {
        let is_there = |worker: &Arc<str>| there.contains(&(rate.connection, worker.to_string()));
        for queue in rate.queues.iter().filter(|_| rate.worker.as_ref().is_some_and(is_there)) {
            if let Some(figures) = known.get_mut(&(rate.connection, queue.to_string())) {
                figures.consumers += 1;
            }
        }
    }
    known
}

impl Figures {
    /// Of a queue that no job is known of.
    fn none(range: Range) -> Self {
        let seconds = range.span(now());
        let seconds = (seconds.end().micros() - seconds.start().micros()) as f64 / 1e6;
        Self {
            framework: Framework::Celery,
            totals: Totals { seconds, ..Totals::default() },
            buckets: Vec::new(),
            waiting: Waiting::default(),
            consumers: 0,
        }
    }
}

/// What is known from either side, in no order.
fn rows(live: Listed<LiveQueue>, mut known: Known, range: Range) -> Vec<Row> {
    let described = live.rows.into_iter().map(|live| {
        let figures = known.remove(&(live.connection, live.name.clone()));
        let (id, connection, name, framework) = (live.id, live.connection, live.name.clone(), live.framework);
        let figures = figures.unwrap_or_else(|| Figures::none(range));
        Row { id, connection, name, framework, live: Some(live), figures }
    });
    let mut rows: Vec<Row> = described.collect();
    rows.extend(known.into_iter().map(|((connection, name), figures)| Row {
        id: queue_id(connection, &name),
        connection,
        name,
        framework: figures.framework,
        live: None,
        figures,
    }));
    rows
}

fn page(live: Listed<LiveQueue>, known: Known, asking: &Asking) -> QueueList {
    let truncated = live.truncated;
    let mut rows = rows(live, known, asking.range);
    rows.retain(|row| {
        asking.connection.is_none_or(|connection| row.connection == connection)
            && asking.framework.is_none_or(|framework| row.framework == framework)
    });
    rows.sort_by(|a, b| {
        let by = match asking.by {
            By::Name => ordered(Some(&a.name), Some(&b.name), asking.order),
            By::Depth => ordered(Some(a.depth()), Some(b.depth()), asking.order),
            By::Consumers => ordered(Some(a.consumers()), Some(b.consumers()), asking.order),
            By::Throughput => {
                ordered(Some(a.figures.totals.throughput()), Some(b.figures.totals.throughput()), asking.order)
            }
            By::FailureRate => ordered(Some(a.failure_rate()), Some(b.failure_rate()), asking.order),
        };
        by.then_with(|| a.name.cmp(&b.name)).then(a.id.cmp(&b.id))
    });
    let (rows, pagination) = page_of(rows, asking.page, asking.limit);
    let data = rows.into_iter().map(|row| row.item(asking.range)).collect();
    QueueList { data, pagination, truncated }
}

impl Row {
    fn depth(&self) -> u64 {
        let told = self.live.as_ref().and_then(|live| live.depth);
        told.unwrap_or(self.figures.waiting.queued + self.figures.waiting.scheduled)
    }

    fn consumers(&self) -> u64 {
        self.live.as_ref().and_then(|live| live.consumers).unwrap_or(self.figures.consumers)
    }

    fn failure_rate(&self) -> f64 {
        self.figures.totals.failure_rate().unwrap_or_default()
    }

    fn item(self, range: Range) -> Item {
        let (depth, consumers, failure_rate) = (self.depth(), self.consumers(), self.failure_rate());
        let bucket = |bucket: &Bucket| {
            let (start, end) = ends(bucket.span);
            HealthBucket { start, end, succeeded: bucket.totals.completed, failed: bucket.totals.failed }
        };
        // Of a queue whose jobs all lie before the range nothing is kept.
        let known = self.figures.buckets;
        let parts = if known.is_empty() { Bucket::empty(range, now()) } else { known };
        let buckets = parts.iter().map(bucket).collect();
        let (totals, live) = (self.figures.totals, self.live);
        Item {
            id: self.id,
            name: self.name,
            framework: self.framework,
            connection_id: self.connection,
            depth,
            consumers,
            throughput: totals.throughput(),
            avg_latency_ms: totals.mean_wait_ms(),
            failure_rate,
            health_bar: HealthBar { time_range: range_name(range), buckets },
            created_at: live.as_ref().map(|live| Millis(live.first_seen)),
            oldest_queued_at: self.figures.waiting.oldest_queued_at.map(Millis),
            depth_at: live.as_ref().filter(|live| live.depth.is_some()).map(|live| Millis(live.depth_at)),
            extensions: live.map(|live| live.extensions).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_events::Timestamp;
    use serde_json::json;

    fn live(name: &str, depth: Option<u64>) -> LiveQueue {
        LiveQueue {
            id: queue_id(Uuid::nil(), name),
            connection: Uuid::nil(),
            name: name.to_owned(),
            framework: Framework::Celery,
            depth,
            consumers: None,
            depth_at: Timestamp(9_000_000),
            first_seen: Timestamp(5_000_000),
            extensions: Arc::default(),
        }
    }

    fn known(completed: u64, consumers: u64) -> Figures {
        let totals = Totals { completed, failed: 1, seconds: 2.0, ..Totals::default() };
        let waiting = Waiting { queued: 7, scheduled: 1, oldest_queued_at: Some(Timestamp(2_000_000)) };
        Figures { framework: Framework::Sidekiq, totals, waiting, consumers, ..Figures::none(Range::Week) }
    }

    #[test]
    fn queues_that_are_described_and_those_of_jobs_make_one_list() {
        let described = Listed { rows: vec![live("both", Some(3)), live("described", None)], truncated: false };
        let of_jobs = Known::from([
            ((Uuid::nil(), "both".to_owned()), known(3, 4)),
            ((Uuid::nil(), "jobs".to_owned()), known(1, 0)),
            ((Uuid::max(), "both".to_owned()), known(7, 2)),
        ]);
        let page = |by, order, framework| {
            let asking = Asking { connection: None, framework, range: Range::Week, by, order, page: 1, limit: 50 };
            serde_json::to_value(page(described.clone(), of_jobs.clone(), &asking)).unwrap()
        };
        let names = |answer: &Value| -> Vec<String> {
            answer["data"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
        };
        let by_throughput = page(By::Throughput, SortOrder::Descending, None);
        assert_eq!(names(&by_throughput), ["both", "both", "jobs", "described"]);
        assert_eq!(by_throughput["pagination"], json!({ "page": 1, "limit": 50, "total": 4, "totalPages": 1 }));
        let both = json!({
            "id": queue_id(Uuid::nil(), "both"), "name": "both", "framework": "celery", "connectionId": Uuid::nil(),
            "depth": 3, "consumers": 4, "throughput": 2.0, "avgLatencyMs": null, "failureRate": 0.25,
            "healthBar": { "timeRange": "7d", "buckets": [] },
            "extensions": {}, "createdAt": "1970-01-01T00:00:05.000Z",
            "oldestQueuedAt": "1970-01-01T00:00:02.000Z", "depthAt": "1970-01-01T00:00:09.000Z",
        });
        let mut told = by_throughput["data"][1].clone();
        let bar = told["healthBar"]["buckets"].take();
        told["healthBar"]["buckets"] = json!([]);
        assert_eq!(told, both);
        let parts = bar.as_array().unwrap();
        assert_eq!(parts.len(), 168, "an hour each, though nothing ran");
        assert!(parts.iter().all(|part| (&part["succeeded"], &part["failed"]) == (&json!(0), &json!(0))), "{parts:?}");
        assert_eq!(by_throughput["data"][2]["depth"], 8, "as the jobs tell");
        let described = &by_throughput["data"][3];
        assert_eq!((&described["depth"], &described["depthAt"]), (&json!(0), &Value::Null));
        let sidekiq = page(By::Depth, SortOrder::Ascending, Some(Framework::Sidekiq));
        assert_eq!(names(&sidekiq), ["both", "jobs"]);
    }
}
