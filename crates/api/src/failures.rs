//! `GET /api/failures`: what went wrong, grouped by task, class of error and what it says.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;
use views::{Brief, FailureGroup, FailureTrend};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::app::App;
use crate::consistency;
use crate::errors::ApiError;
use crate::figures::{OTHERS, Paging, ends, page_of, range_name};
use crate::http::Call;
use crate::jobs::{encoded, read, readable};
use crate::operation::{Access, Answer, NOT_MODIFIED, Operation, READ_ERRORS, READ_HEADERS};
use crate::params::jobs::{CONNECTION_ID, NAME};
use crate::params::pages::{LIMIT, PAGE, TIME_RANGE};
use crate::params::{AT_LEAST, Asked, MAX_STALENESS, Params};
use crate::times::{Millis, now};

/// Jobs shown with each group.
const SAMPLES: usize = 5;

const LIST: Params = &[&PAGE, &LIMIT, &TIME_RANGE, &CONNECTION_ID, &NAME, &AT_LEAST, &MAX_STALENESS];

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    about: "Groups with anything in the range of time, those of most jobs first. Numbers, ids and addresses in a message \
            are written `#`. 5,000 groups are told by name, those that came first into the log; all others together are \
            called `(other)`.",
    query: LIST,
    answers: &[Answer::json::<FailureList>(StatusCode::OK, "A page of groups.").with(READ_HEADERS), NOT_MODIFIED],
    errors: READ_ERRORS,
    ..Operation::get("/api/failures", "listFailures", "failures", "Failures in groups, with samples", Access::Reader)
}];

/// A page of groups of failures.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct FailureList {
    data: Vec<Group>,
    /// The range of time that was asked for.
    time_range: &'static str,
    pagination: Paging,
}

/// Failures of one kind.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FailureGroup")]
struct Group {
    /// The task name.
    name: String,
    /// Whether it is one group, and not all those together that there is no room to tell by name.
    admitted: bool,
    connection_id: Uuid,
    /// The class of the error without its module; null where the error names none.
    error_class: Option<String>,
    /// What the error says, with numbers, ids and addresses written `#`.
    message: String,
    /// Jobs that failed so, and stay so.
    count: u64,
    /// Runs that failed so, those that were tried again included.
    attempts: u64,
    /// When it was first seen, of all that is known: the start of the minute, or of the hour where it is long ago.
    first_seen_at: Millis,
    /// When it was last seen, likewise.
    last_seen_at: Millis,
    /// The range in parts, the oldest first.
    trend: Vec<Part>,
    /// Some of the jobs that show it, the latest first.
    sample_jobs: Vec<Sample>,
}

/// Failures in a part of a range.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FailureTrend")]
struct Part {
    start: Millis,
    end: Millis,
    count: u64,
    attempts: u64,
}

/// A job that failed.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "FailedJob")]
struct Sample {
    id: Uuid,
    external_id: String,
    state: &'static str,
    created_at: Millis,
    completed_at: Option<Millis>,
    error: Option<String>,
}

impl Group {
    fn of(group: &FailureGroup, samples: Vec<Brief>) -> Self {
        Self {
            name: group.name.as_deref().unwrap_or(OTHERS).to_owned(),
            admitted: group.name.is_some(),
            connection_id: group.connection,
            error_class: group.class.as_deref().map(str::to_owned),
            message: group.message.to_string(),
            count: group.jobs,
            attempts: group.attempts,
            first_seen_at: Millis(group.first_seen),
            last_seen_at: Millis(group.last_seen),
            trend: group.trend.iter().map(Part::from).collect(),
            sample_jobs: samples.into_iter().map(Sample::from).collect(),
        }
    }
}

impl From<&FailureTrend> for Part {
    fn from(part: &FailureTrend) -> Self {
        let (start, end) = ends(part.span);
        Self { start, end, count: part.jobs, attempts: part.attempts }
    }
}

impl From<Brief> for Sample {
    fn from(job: Brief) -> Self {
        Self {
            id: job.id,
            external_id: job.external_id,
            state: job.state.as_str(),
            created_at: Millis(job.created_at),
            completed_at: job.completed_at.map(Millis),
            error: job.error,
        }
    }
}

pub(crate) async fn list(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let asked = Asked::of(LIST, &call.query)?;
    let list = async {
        let (range, name) = (asked.get_or(&TIME_RANGE), asked.get(&NAME));
        let (page, limit) = (asked.get_or(&PAGE), asked.get_or(&LIMIT));
        let wanted = asked.get(&CONNECTION_ID).map(|id| [id]);
        let found = read(&parts.reader, move |reader| {
            let wanted = wanted.as_ref().map(<[Uuid; 1]>::as_slice);
            let groups = reader.failures(wanted, name.as_deref(), range, now());
            let (groups, pagination) = page_of(groups, page, limit);
            let samples = reader.failing(&groups, SAMPLES)?;
            Ok((groups, samples, pagination))
        });
        let (groups, samples, pagination) = found.await?;
        let data = groups.iter().zip(samples).map(|(group, samples)| Group::of(group, samples)).collect();
        encoded(&FailureList { data, time_range: range_name(range), pagination })
    };
    Ok(consistency::answer(parts, &call.headers, asked.wanted(), list).await)
}
