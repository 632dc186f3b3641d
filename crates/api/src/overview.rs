//! `GET /api/overview`: everything on one page.

use std::sync::Arc;

use projector::LiveState;
use proto_events::JobState;
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;
use views::{Filter, Overview, Page, Query, Range, SortBy, SortOrder, TaskStats};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::consistency;
use crate::errors::ApiError;
use crate::figures::{Work, WorkBucket, range_name};
use crate::http::Call;
use crate::jobs::{Item, encoded, read, readable};
use crate::operation::{Access, Answer, NOT_MODIFIED, Operation, READ_ERRORS, READ_HEADERS};
use crate::params::jobs::CONNECTION_ID;
use crate::params::pages::TIME_RANGE;
use crate::params::{AT_LEAST, Asked, MAX_STALENESS, Params};
use crate::signs::Found;
use crate::tasks::Task;
use crate::times::now;

/// Tasks and jobs of each kind that are shown.
const SHOWN: usize = 5;

const PARAMS: Params = &[&TIME_RANGE, &CONNECTION_ID, &AT_LEAST, &MAX_STALENESS];

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    query: PARAMS,
    answers: &[Answer::json::<Everything<'static>>(StatusCode::OK, "The overview.").with(READ_HEADERS), NOT_MODIFIED],
    errors: READ_ERRORS,
    ..Operation::get("/api/overview", "getOverview", "overview", "Everything on one page", Access::Reader)
}];

/// Everything on one page.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Overview")]
struct Everything<'a> {
    /// The range of time that was asked for.
    time_range: &'static str,
    /// How many jobs there are now, in all and in each state.
    jobs: States,
    /// What ran in the range.
    work: Work,
    /// The range in parts, the oldest first.
    buckets: Vec<WorkBucket>,
    /// Those tasks of which 95 of 100 runs took longest.
    slowest_tasks: Vec<Task>,
    /// Those of which most jobs failed.
    most_failing_tasks: Vec<Task>,
    /// Those that run at regular times and should have run long ago.
    overdue_tasks: Vec<Task>,
    /// Jobs that run for far longer than their task usually does.
    stuck: Candidates<'a>,
    /// Jobs whose worker is gone and never said how they ended.
    lost: Candidates<'a>,
    /// Jobs that wait for far longer than others in their queue, or far beyond their ETA.
    waiting: Candidates<'a>,
    /// How many workers there are, by what they do.
    workers: Workers,
    /// How far the projector is behind the log.
    projector: Behind,
}

/// How many jobs there are.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "StateCounts")]
struct States {
    total: u64,
    unknown: u64,
    queued: u64,
    scheduled: u64,
    active: u64,
    completed: u64,
    failed: u64,
    retrying: u64,
    cancelled: u64,
}

/// Jobs that something may be wrong with.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Candidates")]
struct Candidates<'a> {
    /// How many there are.
    count: u64,
    /// Those of them that began first.
    jobs: Vec<Item<'a>>,
}

/// How many workers there are.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "WorkerCounts")]
struct Workers {
    online: u64,
    busy: u64,
    idle: u64,
    offline: u64,
}

/// How far the projector is behind the log.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ProjectorLag")]
struct Behind {
    /// The last position of the log that is in this answer, or one before it.
    applied: u64,
    /// Messages of the log that are not applied yet.
    lag_events: u64,
    /// Age of the oldest of them, 0 when there is none.
    lag_seconds: f64,
}

pub(crate) async fn get(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    let parts = readable(&app, &call)?;
    let asked = Asked::of(PARAMS, &call.query)?;
    let (range, connection) = (asked.get_or(&TIME_RANGE), asked.get(&CONNECTION_ID));
    let overview = everything(&app, parts, connection, range);
    Ok(consistency::answer(parts, &call.headers, asked.wanted(), overview).await)
}

async fn everything(app: &App, parts: &Parts, connection: Option<Uuid>, range: Range) -> Result<Vec<u8>, ApiError> {
    let habits = Arc::clone(&app.habits);
    let found = read(&parts.reader, move |reader| {
        let wanted = connection.map(|id| [id]);
        let wanted = wanted.as_ref().map(<[Uuid; 1]>::as_slice);
        let now = now();
        let signs = habits.signs(reader);
        let first = |states: &[JobState], sort_by: SortBy, filter: Filter| {
            let states = Some(states.to_vec());
            let filter = Filter { connections: wanted.map(<[Uuid]>::to_vec), states, ..filter };
            Query { filter, sort_by, sort_order: SortOrder::Ascending, limit: SHOWN, cursor: None }
        };
        let (run, wait) = ([JobState::Active], [JobState::Queued, JobState::Scheduled]);
        let lists = [
            first(&run, SortBy::StartedAt, Filter { stuck: Some(true), ..Filter::default() }),
            first(&run, SortBy::StartedAt, Filter { lost: Some(true), ..Filter::default() }),
            first(&wait, SortBy::CreatedAt, Filter { waiting: Some(true), ..Filter::default() }),
        ];
        let [stuck, lost, waiting] = reader.lists(&lists, &signs)?.map(|page| {
            let found = page.jobs.iter().map(|record| habits.of(reader, record)).collect();
            (page, found)
        });
        Ok(Shown {
            stuck,
            lost,
            waiting,
            tasks: reader.tasks(wanted, range, now),
            overview: reader.overview(wanted, range, now),
            counts: reader.counts(wanted),
        })
    });
    let Shown { stuck, lost, waiting, tasks, overview, counts } = found.await?;
    let named = || tasks.iter().filter(|task| task.name.is_some());
    let status = parts.projector.status();
    let of = |state| counts.of(state);
    encoded(&Everything {
        time_range: range_name(range),
        jobs: States {
            total: counts.total(),
            unknown: of(JobState::Unknown),
            queued: of(JobState::Queued),
            scheduled: of(JobState::Scheduled),
            active: of(JobState::Active),
            completed: of(JobState::Completed),
            failed: of(JobState::Failed),
            retrying: of(JobState::Retrying),
            cancelled: of(JobState::Cancelled),
        },
        work: Work::from(&overview.totals),
        buckets: overview.buckets.iter().map(WorkBucket::from).collect(),
        slowest_tasks: top(named(), |task| task.totals.runtime.p95),
        most_failing_tasks: top(named(), |task| Some(task.totals.failed).filter(|failed| *failed > 0)),
        overdue_tasks: named().filter(|task| task.overdue).map(Task::from).collect(),
        stuck: Candidates::of(&stuck.0, stuck.1),
        lost: Candidates::of(&lost.0, lost.1),
        waiting: Candidates::of(&waiting.0, waiting.1),
        workers: workers(parts, connection),
        projector: Behind { applied: status.applied, lag_events: status.lag_events, lag_seconds: status.lag_seconds },
    })
}

/// What the views know.
struct Shown {
    stuck: (Page, Vec<Found>),
    lost: (Page, Vec<Found>),
    waiting: (Page, Vec<Found>),
    tasks: Vec<TaskStats>,
    overview: Overview,
    counts: views::Counts,
}

impl<'a> Candidates<'a> {
    fn of(page: &'a Page, found: Vec<Found>) -> Self {
        let jobs = page.jobs.iter().zip(found).map(|(record, found)| Item::new(record, found)).collect();
        Self { count: page.total, jobs }
    }
}

/// The tasks with the highest values, those first.
fn top<'a>(tasks: impl Iterator<Item = &'a TaskStats>, value: impl Fn(&TaskStats) -> Option<u64>) -> Vec<Task> {
    let mut found: Vec<_> = tasks.filter_map(|task| Some((value(task)?, task))).collect();
    found.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.name.cmp(&other.name)));
    found.into_iter().take(SHOWN).map(|(_, task)| Task::from(task)).collect()
}

fn workers(parts: &Parts, connection: Option<Uuid>) -> Workers {
    let mut counts = Workers::default();
    for worker in parts.projector.live().workers().rows {
        if connection.is_some_and(|wanted| worker.connection != wanted) {
            continue;
        }
        match worker.state {
            LiveState::Online => counts.online += 1,
            LiveState::Busy => counts.busy += 1,
            LiveState::Idle => counts.idle += 1,
            LiveState::Offline => counts.offline += 1,
        }
    }
    counts
}
