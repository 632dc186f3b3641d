//! `GET /api/tasks` and `GET /api/tasks/{name}`: task names, what became of their jobs, and how often they run.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use proto_events::limits;
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;
use views::{Range, SortOrder, TaskStats};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::consistency;
use crate::errors::ApiError;
use crate::figures::{OTHERS, Paging, Work, WorkBucket, page_of, range_name};
use crate::http::Call;
use crate::jobs::{ONE_ERRORS, encoded, read, readable};
use crate::operation::{Access, Answer, NOT_MODIFIED, Operation, READ_ERRORS, READ_HEADERS};
use crate::params::jobs::{CONNECTION_ID, SEARCH};
use crate::params::kinds::{Choice, Text};
use crate::params::pages::{LIMIT, PAGE, SORT_ORDER, TIME_RANGE, ordered};
use crate::params::{AT_LEAST, Asked, Defaulted, MAX_STALENESS, Param, Params};
use crate::times::{Millis, now};

/// What tasks can be ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Name,
    Completed,
    Failed,
    FailureRate,
    RetryRate,
    Throughput,
    Runtime,
    Wait,
    LastRun,
}

const SORT_BY: Defaulted<Choice<By>> = Param::new(
    "sortBy",
    Choice(&[
        ("name", By::Name),
        ("completed", By::Completed),
        ("failed", By::Failed),
        ("failureRate", By::FailureRate),
        ("retryRate", By::RetryRate),
        ("throughput", By::Throughput),
        ("runtimeP95", By::Runtime),
        ("waitP95", By::Wait),
        ("lastRunAt", By::LastRun),
    ]),
    "By what to order; equals are ordered by name.",
)
.or(By::Name);

const LIST: Params =
    &[&PAGE, &LIMIT, &TIME_RANGE, &CONNECTION_ID, &SEARCH, &SORT_BY, &SORT_ORDER, &AT_LEAST, &MAX_STALENESS];
const ONE: Params = &[&TIME_RANGE, &CONNECTION_ID, &AT_LEAST, &MAX_STALENESS];
const NAME: Param<Text> = Param::new("name", Text::of(1, limits::NAME), "The task name.");

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        about: "All task names that anything is known of, whether or not they ran in the range of time. 5,000 names are \
                told by name, those that came first into the log; all others together are called `(other)`.",
        query: LIST,
        answers: &[Answer::json::<TaskList>(StatusCode::OK, "A page of tasks.").with(READ_HEADERS), NOT_MODIFIED],
        errors: READ_ERRORS,
        ..Operation::get(
            "/api/tasks",
            "listTasks",
            "tasks",
            "Task names, with what became of their jobs",
            Access::Reader,
        )
    },
    Operation {
        in_path: &[&NAME],
        query: ONE,
        answers: &[Answer::json::<OneTask>(StatusCode::OK, "The task.").with(READ_HEADERS), NOT_MODIFIED],
        errors: ONE_ERRORS,
        ..Operation::get("/api/tasks/{name}", "getTask", "tasks", "One task name, with buckets to plot", Access::Reader)
    },
];

/// A page of tasks.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TaskList {
    data: Vec<Task>,
    /// The range of time that was asked for.
    time_range: &'static str,
    pagination: Paging,
}

/// What is known of one task name, of each connection that has it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OneTask {
    name: String,
    /// The range of time that was asked for.
    time_range: &'static str,
    data: Vec<Plotted>,
}

/// A task of one connection with its buckets.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Plotted {
    #[serde(flatten)]
    task: Task,
    /// The range in parts, the oldest first.
    buckets: Vec<WorkBucket>,
}

/// A task name of one connection.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Task {
    pub(crate) name: String,
    /// Whether it is one name, and not all those together that there is no room to tell by name.
    admitted: bool,
    connection_id: Uuid,
    #[serde(flatten)]
    work: Work,
    /// When a run last began.
    last_run_at: Option<Millis>,
    /// How often it usually runs; null where it ran too seldom to tell.
    every_seconds: Option<u64>,
    /// Whether it runs at regular times and should have run long ago: more than twice its longest gap.
    overdue: bool,
}

impl From<&TaskStats> for Task {
    fn from(stats: &TaskStats) -> Self {
        Self {
            name: stats.name.as_deref().unwrap_or(OTHERS).to_owned(),
            admitted: stats.name.is_some(),
            connection_id: stats.connection,
            work: Work::from(&stats.totals),
            last_run_at: stats.last_run_at.map(Millis),
            every_seconds: stats.every_seconds,
            overdue: stats.overdue,
        }
    }
}

pub(crate) async fn list(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let asked = Asked::of(LIST, &call.query)?;
    let list = async {
        let (range, connection) = (asked.get_or(&TIME_RANGE), asked.get(&CONNECTION_ID));
        let mut tasks = tasks(parts, connection, range).await?;
        if let Some(search) = asked.get(&SEARCH) {
            let search = search.to_lowercase();
            tasks.retain(|task| task.name.as_deref().unwrap_or(OTHERS).to_lowercase().contains(&search));
        }
        sort(&mut tasks, asked.get_or(&SORT_BY), asked.get_or(&SORT_ORDER));
        let (data, pagination) = page_of(tasks, asked.get_or(&PAGE), asked.get_or(&LIMIT));
        let data = data.iter().map(Task::from).collect();
        encoded(&TaskList { data, time_range: range_name(range), pagination })
    };
    Ok(consistency::answer(parts, &call.headers, asked.wanted(), list).await)
}

/// `name` is as it stands in the path: encoded, and perhaps with slashes.
pub(crate) async fn get(name: String, app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let asked = Asked::of(ONE, &call.query)?;
    let one = async {
        let name = percent_decode_str(&name).decode_utf8().map_err(|_| NO_TASK)?.into_owned();
        let (range, connection) = (asked.get_or(&TIME_RANGE), asked.get(&CONNECTION_ID));
        let (of, wanted) = (name.clone(), connection.map(|id| [id]));
        let found = read(&parts.reader, move |reader| {
            Ok(reader.task(wanted.as_ref().map(<[Uuid; 1]>::as_slice), &of, range, now()))
        });
        let found = found.await?;
        if found.is_empty() {
            return Err(NO_TASK);
        }
        let plotted = |stats: &TaskStats| Plotted {
            task: Task::from(stats),
            buckets: stats.buckets.iter().map(WorkBucket::from).collect(),
        };
        encoded(&OneTask { name, time_range: range_name(range), data: found.iter().map(plotted).collect() })
    };
    Ok(consistency::answer(parts, &call.headers, asked.wanted(), one).await)
}

const NO_TASK: ApiError = ApiError::NotFound(
    "Task not found: nothing is known of any run or end of its jobs, or so many names came before it that it is counted \
     with all others, which `GET /api/tasks` shows together.",
);

/// All tasks, of one connection where it is named.
pub(crate) async fn tasks(parts: &Parts, connection: Option<Uuid>, range: Range) -> Result<Vec<TaskStats>, ApiError> {
    let wanted = connection.map(|id| [id]);
    read(&parts.reader, move |reader| Ok(reader.tasks(wanted.as_ref().map(<[Uuid; 1]>::as_slice), range, now()))).await
}

fn sort(tasks: &mut [TaskStats], by: By, order: SortOrder) {
    let value = |task: &TaskStats| {
        let totals = &task.totals;
        let ms = |ms: Option<u64>| ms.map(|ms| ms as f64);
        match by {
            By::Name => None,
            By::Completed => Some(totals.completed as f64),
            By::Failed => Some(totals.failed as f64),
            By::FailureRate => totals.failure_rate(),
            By::RetryRate => totals.retry_rate(),
            By::Throughput => Some(totals.throughput()),
            By::Runtime => ms(totals.runtime.p95),
            By::Wait => ms(totals.wait.p95),
            By::LastRun => task.last_run_at.map(|at| at.micros() as f64),
        }
    };
    tasks.sort_by(|a, b| {
        let names = ordered(a.name.as_deref(), b.name.as_deref(), order);
        let ids = a.connection.cmp(&b.connection);
        ordered(value(a), value(b), order).then(names).then(ids)
    });
}
