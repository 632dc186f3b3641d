//! Forebay's own family: how the server is.

use event_log::LogInfo;
use projector::{Phase, RebuildState, Status};
use proto_events::JobState;
use sources::{SourceState, SourceStatus};
use views::{Filter, Query, Reader, Signs, ViewError};

use super::names::{
    ALERT_FIRING, APPLIED_POSITION, BACKEND_UP, BUILD_INFO, DISK_FREE, DISK_SIZE, EVENTS_APPLIED, FOLLOWING, JOBS,
    JOBS_LOST, JOBS_STUCK, JOBS_WAITING, LAG_EVENTS, LAG_SECONDS, LIST_MEMORY, LOG_BYTES, LOG_DISK, LOG_FIRST,
    LOG_LAST, LOG_MESSAGES, LOG_UP, Metric, QUARANTINED, REBUILD_PROGRESS, REBUILDING, SOURCE_DECODE_ERRORS,
    SOURCE_DROPPED, SOURCE_EVENTS, SOURCE_QUEUE, SOURCE_RECONNECTS, SOURCE_UNHEARD, SOURCE_UP, SOURCE_WORKER_EVENTS,
    SPOOL_BYTES, SPOOL_DROPPED, SPOOL_EVENTS, STREAMS, TASKS_OVERDUE, VIEWS_DISK,
};
use super::sink::{Labels, Sink};
use super::{Names, process};
use crate::app::{App, Parts};
use crate::times::now;

/// What needs nothing of the views.
pub(super) fn tell(to: &mut dyn Sink, app: &App, parts: &Parts, info: Option<LogInfo>, names: &Names) {
    let version = parts.reader.fold_version().to_string();
    to.of(&BUILD_INFO).add(&Labels::of(&[("version", app.version), ("fold_version", &version)]), true);
    let status = parts.projector.status();
    projector(to, parts, &status, info);
    rebuilds(to, parts);
    log(to, info);
    if let Some(disk) = parts.maintenance.disk() {
        if let Some(bytes) = disk.log_bytes {
            to.one(&LOG_DISK, bytes);
        }
        to.one(&VIEWS_DISK, disk.views_bytes);
        to.one(&DISK_FREE, disk.free_bytes);
        to.one(&DISK_SIZE, disk.total_bytes);
    }
    sources(to, app, names);
    let backends = (parts.backends)();
    let mut up = to.of(&BACKEND_UP);
    for backend in &backends {
        up.add(&Labels::of(&[("backend", &backend.name)]), backend.state == SourceState::Connected);
    }
    app.ingested.tell(to);
    app.requests.tell(to);
    to.one(&STREAMS, app.streams.open());
    if let Some(alerts) = app.alerts.get() {
        let mut firing = to.of(&ALERT_FIRING);
        for rule in alerts.status().rules {
            firing.add(&Labels::of(&[("rule", &rule.name)]), rule.incident.is_some());
        }
    }
    process::tell(to);
}

fn projector(to: &mut dyn Sink, parts: &Parts, status: &Status, info: Option<LogInfo>) {
    to.one(&FOLLOWING, status.phase == Phase::Following);
    to.one(&APPLIED_POSITION, status.applied);
    to.one(&EVENTS_APPLIED, parts.projector.events_applied());
    // What the log says now is newer than what the projector has heard of it.
    let last = info.map_or(status.log_last, |info| info.last_sequence.max(status.log_last));
    to.one(&LAG_EVENTS, last.saturating_sub(status.applied));
    to.one(&LAG_SECONDS, status.lag_seconds);
    to.one(&QUARANTINED, status.quarantined.max(parts.reader.quarantine_len() as u64));
}

fn rebuilds(to: &mut dyn Sink, parts: &Parts) {
    let running = parts.maintenance.rebuilds().into_iter().find(|rebuild| rebuild.state == RebuildState::Running);
    to.one(&REBUILDING, running.is_some());
    if let Some(rebuild) = running {
        let share = rebuild.events_done as f64 / rebuild.events_total.max(1) as f64;
        to.one(&REBUILD_PROGRESS, share.min(1.0));
    }
}

fn log(to: &mut dyn Sink, info: Option<LogInfo>) {
    to.one(&LOG_UP, info.is_some());
    if let Some(info) = info {
        to.one(&LOG_FIRST, info.first_sequence);
        to.one(&LOG_LAST, info.last_sequence);
        to.one(&LOG_MESSAGES, info.messages);
        to.one(&LOG_BYTES, info.bytes);
    }
}

/// A number of a source.
type Count = fn(&SourceStatus) -> u64;

fn sources(to: &mut dyn Sink, app: &App, names: &Names) {
    let Some(fleet) = app.fleet() else { return };
    let sources: Vec<_> = fleet
        .list()
        .into_iter()
        .map(|source| {
            let connection = names.of(source.connection_id);
            let labels = [("source", &*source.status.name), ("kind", source.status.kind), ("connection", &connection)];
            (Labels::of(&labels), source.status)
        })
        .collect();
    let is_up = |status: &SourceStatus| status.state == SourceState::Connected;
    to.of(&SOURCE_UP).all(sources.iter().map(|(labels, status)| (labels, is_up(status))));
    let counts: [(&'static Metric, Count); 6] = [
        (&SOURCE_EVENTS, |status| status.events),
        (&SOURCE_WORKER_EVENTS, |status| status.worker_events),
        (&SOURCE_DECODE_ERRORS, |status| status.decode_errors),
        (&SOURCE_DROPPED, |status| status.dropped),
        (&SOURCE_RECONNECTS, |status| status.reconnects),
        (&SOURCE_QUEUE, |status| status.queue_bytes),
    ];
    for (metric, of) in counts {
        to.of(metric).all(sources.iter().map(|(labels, status)| (labels, of(status))));
    }
    to.of(&SOURCE_UNHEARD).all(sources.iter().map(|(labels, status)| (labels, status.missed)));
    if let Some(spool) = fleet.spool() {
        to.one(&SPOOL_EVENTS, spool.events);
        to.one(&SPOOL_BYTES, spool.bytes);
        let mut dropped = to.of(&SPOOL_DROPPED);
        dropped.add(&Labels::of(&[("about", "task")]), spool.dropped_task_events);
        dropped.add(&Labels::of(&[("about", "worker")]), spool.dropped_worker_events);
    }
}

/// What the views say of jobs: looked up in sums, and in the list of those that have not ended.
pub(super) fn tell_jobs(to: &mut dyn Sink, reader: &Reader, signs: &Signs) -> Result<(), ViewError> {
    let counts = reader.counts(None);
    let mut jobs = to.of(&JOBS);
    for state in JobState::ALL {
        jobs.add(&Labels::of(&[("state", state.as_str())]), counts.of(state));
    }
    let count = |filter: Filter| {
        let query = Query { filter, limit: 1, ..Query::default() };
        Ok::<_, ViewError>(reader.list(&query, signs)?.total)
    };
    let active = || Some(vec![JobState::Active]);
    let waiting = Some(vec![JobState::Queued, JobState::Scheduled]);
    to.one(&JOBS_LOST, count(Filter { states: active(), lost: Some(true), ..Filter::default() })?);
    to.one(&JOBS_STUCK, count(Filter { states: active(), stuck: Some(true), ..Filter::default() })?);
    to.one(&JOBS_WAITING, count(Filter { states: waiting, waiting: Some(true), ..Filter::default() })?);
    to.one(&TASKS_OVERDUE, reader.overdue(now()));
    to.one(&LIST_MEMORY, reader.list_bytes());
    Ok(())
}
