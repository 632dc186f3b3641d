//! `GET /api/queues`: the queues as they were described last, and what their jobs tell of them.

use std::collections::HashMap;
use std::sync::Arc;

use projector::{Listed, LiveQueue};
use proto_events::{Framework, Timestamp, queue_id};
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

/// How far back the figures of a queue reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) enum TimeRange {
    #[serde(rename = "1h")]
    Hour,
    #[serde(rename = "6h")]
    SixHours,
    #[default]
    #[serde(rename = "24h")]
    Day,
    #[serde(rename = "7d")]
    Week,
}

impl TimeRange {
    const NAMES: [(&'static str, Self); 4] =
        [("1h", Self::Hour), ("6h", Self::SixHours), ("24h", Self::Day), ("7d", Self::Week)];
}

/// Figures about a queue that come from its jobs, over the range asked for.
#[derive(Clone, Debug)]
pub(crate) struct QueueFigures {
    pub(crate) framework: Framework,
    /// When its first job was seen.
    pub(crate) first_seen: Timestamp,
    /// Jobs that ended, per second.
    pub(crate) throughput: Option<f64>,
    /// How long jobs ran, on average.
    pub(crate) avg_latency_ms: Option<f64>,
    /// The share of jobs that failed, from 0 to 1.
    pub(crate) failure_rate: Option<f64>,
    /// In the order of time.
    pub(crate) buckets: Vec<Bucket>,
    /// Since when the job waits that waits longest.
    pub(crate) oldest_queued_at: Option<Timestamp>,
    /// Workers that are there and ran jobs of it in the last hour.
    pub(crate) consumers: Option<u64>,
}

/// How jobs ended in a stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
}

/// By connection and name.
type Figures = HashMap<(Uuid, String), QueueFigures>;

/// What is known from jobs of each queue.
fn figures(_parts: &Parts, _range: TimeRange) -> Figures {
    Figures::new()
}

#[derive(Clone, Copy, Debug)]
enum By {
    Name,
    Depth,
    Consumers,
    Throughput,
    FailureRate,
}

impl Field for By {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("name", Self::Name),
        ("depth", Self::Depth),
        ("consumers", Self::Consumers),
        ("throughput", Self::Throughput),
        ("failureRate", Self::FailureRate),
    ];
}

/// A queue in the list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    id: Uuid,
    name: String,
    framework: Framework,
    connection_id: Uuid,
    depth: Option<u64>,
    consumers: Option<u64>,
    throughput: Option<f64>,
    avg_latency_ms: Option<f64>,
    failure_rate: Option<f64>,
    health_bar: HealthBar,
    extensions: Arc<Map<String, Value>>,
    created_at: Millis,
    // Beyond the documentation.
    oldest_queued_at: Option<Millis>,
    depth_at: Option<Millis>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthBar {
    time_range: TimeRange,
    buckets: Vec<ShownBucket>,
}

#[derive(Serialize)]
struct ShownBucket {
    start: Millis,
    end: Millis,
    succeeded: u64,
    failed: u64,
}

/// What is known of a queue from either side.
struct Row {
    id: Uuid,
    connection: Uuid,
    name: String,
    framework: Framework,
    live: Option<LiveQueue>,
    figures: Option<QueueFigures>,
}

pub(crate) async fn list(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let mut range = TimeRange::default();
    let asked = Asked::<By>::read(&call.query, |name, value| {
        if name == "timeRange" {
            range = one_of("timeRange", value, &TimeRange::NAMES)?;
        }
        Ok(name == "timeRange")
    })?;
    let list = async { encoded(&page(parts.projector.live().queues(), figures(parts, range), &asked, range)) };
    Ok(consistency::answer(parts, &call.headers, asked.wanted, list).await)
}

fn page(live: Listed<LiveQueue>, mut figures: Figures, asked: &Asked<By>, range: TimeRange) -> Page<Item> {
    let mut rows: Vec<Row> = live.rows.into_iter().map(|live| Row::new(live, &mut figures)).collect();
    rows.extend(figures.into_iter().map(|((connection, name), figures)| Row {
        id: queue_id(connection, &name),
        connection,
        name,
        framework: figures.framework,
        live: None,
        figures: Some(figures),
    }));
    rows.retain(|row| asked.takes(row.connection, row.framework));
    asked.page(rows, live.truncated, |row| row.key(asked.sort_by), |row| (&row.name, row.id)).map(|row| row.item(range))
}

impl Row {
    fn new(live: LiveQueue, figures: &mut Figures) -> Self {
        let figures = figures.remove(&(live.connection, live.name.clone()));
        let (connection, name, framework) = (live.connection, live.name.clone(), live.framework);
        Self { id: live.id, connection, name, framework, live: Some(live), figures }
    }

    fn depth(&self) -> Option<u64> {
        self.live.as_ref().and_then(|live| live.depth)
    }

    /// What the queue's own system says, else what follows from jobs.
    fn consumers(&self) -> Option<u64> {
        let told = self.live.as_ref().and_then(|live| live.consumers);
        told.or_else(|| self.figures.as_ref().and_then(|figures| figures.consumers))
    }

    fn figure<T>(&self, of: impl FnOnce(&QueueFigures) -> Option<T>) -> Option<T> {
        self.figures.as_ref().and_then(of)
    }

    fn key(&self, by: By) -> Option<Key<'_>> {
        match by {
            By::Name => Some(Key::Text(&self.name)),
            By::Depth => self.depth().map(|depth| Key::Number(depth as f64)),
            By::Consumers => self.consumers().map(|consumers| Key::Number(consumers as f64)),
            By::Throughput => self.figure(|figures| figures.throughput).map(Key::Number),
            By::FailureRate => self.figure(|figures| figures.failure_rate).map(Key::Number),
        }
    }

    fn item(self, range: TimeRange) -> Item {
        let seen = self.live.as_ref().map(|live| live.first_seen);
        let first_seen = seen.into_iter().chain(self.figure(|figures| Some(figures.first_seen))).min();
        let buckets = self.figures.iter().flat_map(|figures| &figures.buckets).map(|bucket| ShownBucket {
            start: Millis(bucket.start),
            end: Millis(bucket.end),
            succeeded: bucket.succeeded,
            failed: bucket.failed,
        });
        Item {
            id: self.id,
            framework: self.framework,
            connection_id: self.connection,
            depth: self.depth(),
            consumers: self.consumers(),
            throughput: self.figure(|figures| figures.throughput),
            avg_latency_ms: self.figure(|figures| figures.avg_latency_ms),
            failure_rate: self.figure(|figures| figures.failure_rate),
            health_bar: HealthBar { time_range: range, buckets: buckets.collect() },
            extensions: self.live.as_ref().map(|live| Arc::clone(&live.extensions)).unwrap_or_default(),
            // Whatever is in the list was seen by one of the two.
            created_at: Millis(first_seen.unwrap_or_default()),
            oldest_queued_at: self.figure(|figures| figures.oldest_queued_at).map(Millis),
            depth_at: self.live.as_ref().map(|live| Millis(live.depth_at)),
            name: self.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn known(throughput: f64, consumers: Option<u64>) -> QueueFigures {
        let bucket = Bucket { start: Timestamp(0), end: Timestamp(60_000_000), succeeded: 3, failed: 1 };
        QueueFigures {
            framework: Framework::Sidekiq,
            first_seen: Timestamp(1_000_000),
            throughput: Some(throughput),
            avg_latency_ms: Some(12.5),
            failure_rate: Some(0.25),
            buckets: vec![bucket],
            oldest_queued_at: Some(Timestamp(2_000_000)),
            consumers,
        }
    }

    #[test]
    fn queues_that_are_described_and_those_of_jobs_make_one_list() {
        let described = Listed { rows: vec![live("both", Some(3)), live("described", None)], truncated: false };
        let of_jobs = Figures::from([
            ((Uuid::nil(), "both".to_owned()), known(2.0, Some(4))),
            ((Uuid::nil(), "jobs".to_owned()), known(1.0, None)),
            ((Uuid::max(), "both".to_owned()), known(7.0, None)),
        ]);
        let page = |query: &str| {
            let asked = Asked::read(query, |_, _| Ok(false)).unwrap();
            serde_json::to_value(page(described.clone(), of_jobs.clone(), &asked, TimeRange::Week)).unwrap()
        };
        let names = |answer: &Value| -> Vec<String> {
            answer["data"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
        };
        let by_throughput = page("sortBy=throughput&sortOrder=desc");
        assert_eq!(names(&by_throughput), ["both", "both", "jobs", "described"]);
        assert_eq!(by_throughput["pagination"], json!({ "page": 1, "limit": 50, "total": 4, "totalPages": 1 }));
        let both = json!({
            "id": queue_id(Uuid::nil(), "both"), "name": "both", "framework": "celery", "connectionId": Uuid::nil(),
            "depth": 3, "consumers": 4, "throughput": 2.0, "avgLatencyMs": 12.5, "failureRate": 0.25,
            "healthBar": { "timeRange": "7d", "buckets": [{
                "start": "1970-01-01T00:00:00.000Z", "end": "1970-01-01T00:01:00.000Z", "succeeded": 3, "failed": 1,
            }] },
            "extensions": {}, "createdAt": "1970-01-01T00:00:01.000Z",
            "oldestQueuedAt": "1970-01-01T00:00:02.000Z", "depthAt": "1970-01-01T00:00:09.000Z",
        });
        assert_eq!(by_throughput["data"][1], both);
        let described = &by_throughput["data"][3];
        let unknown = ["depth", "consumers", "throughput", "avgLatencyMs", "failureRate", "oldestQueuedAt"];
        assert!(unknown.iter().all(|name| described[*name].is_null()), "{described}");
        assert_eq!(described["createdAt"], "1970-01-01T00:00:05.000Z");
        let framework = page("framework=sidekiq&sortBy=depth");
        assert_eq!(
            (names(&framework), &framework["data"][0]["depthAt"]),
            (vec!["both".to_owned(), "jobs".to_owned()], &Value::Null)
        );
    }
}
