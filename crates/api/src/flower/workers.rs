//! Workers, as far as their events tell of them, and how full queues are.

use std::collections::BTreeMap;
use std::sync::Arc;

use projector::LiveState;
use serde::Serialize;
use serde_json::{Value, json};
use warp::reply::Response;

use super::info::Seconds;
use crate::app::App;
use crate::consistency::{self, Wanted};
use crate::errors::ApiError;
use crate::http::Call;
use crate::jobs::{encoded, readable};
use crate::params::kinds::{Kind, Text};
use crate::params::{self, Asked, Param, Params};
use crate::queues;
use crate::workers::{Told, told};

/// True of everything but what Python's Tornado takes for nothing.
struct Switch;

impl Kind for Switch {
    type Value = bool;

    fn read(&self, text: &str) -> Result<bool, String> {
        match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "t" | "yes" | "y" | "on" => Ok(true),
            "" | "0" | "false" | "f" | "no" | "n" | "off" => Ok(false),
            _ => Err("must be 1 or 0, or true or false".to_owned()),
        }
    }

    fn schema(&self) -> Value {
        json!({ "type": "string" })
    }
}

/// What is told is always as it is now.
const REFRESH: Param<Switch> = Param::new("refresh", Switch, "Asked for anew or not: it is the same here.");
const STATUS: Param<Switch> = Param::new("status", Switch, "Only whether each worker is there.");
const NAME: Param<Text> =
    Param::new("workername", Text::of(0, proto_events::limits::WORKER_ID), "Only of this worker.");
const LIST: Params = &[&REFRESH, &STATUS, &NAME];

/// A worker. What only the worker itself could say if it was asked is left out.
#[derive(Serialize)]
struct Info {
    active_queues: Vec<Queue>,
    stats: Stats,
    /// When it was last heard.
    timestamp: Option<Seconds>,
}

#[derive(Serialize)]
struct Queue {
    name: String,
}

#[derive(Serialize)]
struct Stats {
    pid: Option<i64>,
    pool: Pool,
    /// Runs that it ended since it came, of all tasks together.
    processed: Option<u64>,
}

#[derive(Serialize)]
struct Pool {
    #[serde(rename = "max-concurrency")]
    max_concurrency: Option<u64>,
}

/// `GET api/workers`.
pub(super) async fn list(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let asked = Asked::of(LIST, &call.query)?;
    let name = asked.get(&NAME).filter(|name| !name.is_empty());
    let list = async {
        let workers = told(parts).await?;
        if asked.get(&STATUS) == Some(true) {
            // One name may be that of a worker of each connection.
            let mut there: BTreeMap<String, bool> = BTreeMap::new();
            for Told { worker, .. } in workers {
                *there.entry(worker.external_id).or_default() |= worker.state != LiveState::Offline;
            }
            return encoded(&there);
        }
        let mut known: BTreeMap<String, Info> = BTreeMap::new();
        for told in workers.into_iter().filter(|told| name.as_ref().is_none_or(|name| told.worker.external_id == *name))
        {
            let (name, info) = (told.worker.external_id.clone(), Info::of(told));
            let is_newer = known.get(&name).is_none_or(|other| other.heard() < info.heard());
            if is_newer {
                known.insert(name, info);
            }
        }
        if name.is_some() && known.is_empty() {
            return Err(ApiError::NotFound("Unknown worker."));
        }
        encoded(&known)
    };
    Ok(consistency::answer(parts, &call.headers, Wanted::default(), list).await)
}

impl Info {
    fn of(Told { worker, queues }: Told) -> Self {
        Self {
            active_queues: queues.into_iter().map(|name| Queue { name }).collect(),
            stats: Stats {
                pid: worker.pid,
                pool: Pool { max_concurrency: worker.concurrency },
                processed: worker.processed_total,
            },
            timestamp: worker.last_heartbeat.or(worker.last_online).map(Seconds),
        }
    }

    fn heard(&self) -> Option<proto_events::Timestamp> {
        self.timestamp.map(|Seconds(at)| at)
    }
}

/// `GET api/queues/length`.
pub(super) async fn queues(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    params::none(&call.query)?;
    let lengths = async {
        let depths = queues::depths(parts).await?;
        let queue = |(name, messages): (String, u64)| json!({ "name": name, "messages": messages });
        encoded(&json!({ "active_queues": depths.into_iter().map(queue).collect::<Vec<_>>() }))
    };
    Ok(consistency::answer(parts, &call.headers, Wanted::default(), lengths).await)
}
