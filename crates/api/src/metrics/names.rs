//! Every metric: its name, its type and what it is of. Those of the first family have the names, types, labels and buckets
//! of celery-exporter, so that what was made for it goes on working; `tests/it/golden/metrics.txt` pins them all.

/// A metric, as it is declared above its samples.
pub(super) struct Metric {
    /// As it is asked for: a counter ends with `_total`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// The base unit that its name says, too.
    pub(super) unit: Option<&'static str>,
    pub(super) help: &'static str,
    /// Whether a counter or histogram goes on where it was when the server starts again.
    pub(super) is_kept: bool,
}

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only goes up, or begins anew.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many values lay below which bounds.
    Histogram,
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, unit: None, help, is_kept: false }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, unit: None, help, is_kept: false }
}

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Histogram, unit: None, help, is_kept: false }
}

impl Metric {
    const fn seconds(self) -> Self {
        Self { unit: Some("seconds"), ..self }
    }

    const fn bytes(self) -> Self {
        Self { unit: Some("bytes"), ..self }
    }

    const fn kept(self) -> Self {
        Self { is_kept: true, ..self }
    }
}

// As celery-exporter has them.
pub(super) const TASK_SENT: Metric = counter("celery_task_sent_total", "Tasks that were put into a queue.").kept();
pub(super) const TASK_RECEIVED: Metric = counter("celery_task_received_total", "Tasks that a worker took.").kept();
pub(super) const TASK_STARTED: Metric = counter("celery_task_started_total", "Runs of tasks that began.").kept();
pub(super) const TASK_SUCCEEDED: Metric =
    counter("celery_task_succeeded_total", "Runs of tasks that ended well.").kept();
pub(super) const TASK_FAILED: Metric =
    counter("celery_task_failed_total", "Runs of tasks that failed, by exception.").kept();
pub(super) const TASK_REJECTED: Metric =
    counter("celery_task_rejected_total", "Tasks whose message a worker gave back or refused.").kept();
pub(super) const TASK_REVOKED: Metric = counter("celery_task_revoked_total", "Tasks that were revoked.").kept();
pub(super) const TASK_RETRIED: Metric =
    counter("celery_task_retried_total", "Runs of tasks that failed and are tried again.").kept();
pub(super) const TASK_RUNTIME: Metric =
    histogram("celery_task_runtime", "How long runs of tasks took that ended well, in seconds.").kept();
pub(super) const TASK_WAIT: Metric = histogram(
    "celery_task_queue_wait_time",
    "How long tasks waited since they were sent, or since their ETA, until a worker began them, in seconds.",
)
.kept();
pub(super) const WORKER_UP: Metric = gauge("celery_worker_up", "Whether a worker of the host is heard.");
pub(super) const WORKER_TASKS_ACTIVE: Metric =
    gauge("celery_worker_tasks_active", "Tasks that the workers of the host run now.");
pub(super) const QUEUE_LENGTH: Metric = gauge("celery_queue_length", "Messages that wait in the queue.");
pub(super) const ACTIVE_CONSUMERS: Metric =
    gauge("celery_active_consumer_count", "Consumers of the queue, as its broker says.");
pub(super) const ACTIVE_WORKERS: Metric =
    gauge("celery_active_worker_count", "Workers that are there and ran tasks of the queue within the last hour.");
pub(super) const ACTIVE_PROCESSES: Metric =
    gauge("celery_active_process_count", "Processes of these workers, where they say how many they have.");

// Of Forebay itself.
pub(super) const BUILD_INFO: Metric = gauge("forebay_build_info", "Always 1, with what is running.");
pub(super) const FOLLOWING: Metric = gauge("forebay_projector_following", "Whether the views follow the log.");
pub(super) const APPLIED_POSITION: Metric =
    gauge("forebay_projector_applied_position", "All of the log up to this position is in the views.");
pub(super) const EVENTS_APPLIED: Metric =
    counter("forebay_projector_events_applied_total", "Events of jobs that were applied to the views.");
pub(super) const LAG_EVENTS: Metric =
    gauge("forebay_projector_lag_messages", "Messages of the log that are not in the views yet.");
pub(super) const LAG_SECONDS: Metric = gauge("forebay_projector_lag_seconds", "Age of the oldest of them.").seconds();
pub(super) const QUARANTINED: Metric = gauge("forebay_quarantined_events", "Events of the log that cannot be used.");
pub(super) const REBUILDING: Metric = gauge("forebay_rebuild_running", "Whether views are made anew.");
pub(super) const REBUILD_PROGRESS: Metric =
    gauge("forebay_rebuild_progress_ratio", "How much of that is done, 0 to 1.");
pub(super) const LOG_UP: Metric = gauge("forebay_log_up", "Whether the log answers.");
pub(super) const LOG_FIRST: Metric = gauge("forebay_log_first_position", "Where the log begins.");
pub(super) const LOG_LAST: Metric = gauge("forebay_log_last_position", "Where it ends.");
pub(super) const LOG_MESSAGES: Metric = gauge("forebay_log_messages", "Messages in the log.");
pub(super) const LOG_BYTES: Metric =
    gauge("forebay_log_bytes", "What they take, before the log compresses it.").bytes();
pub(super) const LOG_DISK: Metric = gauge("forebay_log_disk_bytes", "What the files of the log take.").bytes();
pub(super) const VIEWS_DISK: Metric = gauge("forebay_views_disk_bytes", "What the files of the views take.").bytes();
pub(super) const DISK_FREE: Metric = gauge("forebay_disk_free_bytes", "What is free on the disk of the views.").bytes();
pub(super) const DISK_SIZE: Metric = gauge("forebay_disk_size_bytes", "How large that disk is.").bytes();
pub(super) const LIST_MEMORY: Metric =
    gauge("forebay_list_memory_bytes", "Memory that the list of all jobs takes, roughly.").bytes();
pub(super) const JOBS: Metric = gauge("forebay_jobs", "Jobs in the views, by state.");
pub(super) const JOBS_LOST: Metric =
    gauge("forebay_jobs_lost", "Active jobs whose process is gone and never said how they ended.");
pub(super) const JOBS_STUCK: Metric =
    gauge("forebay_jobs_stuck", "Active jobs that run far longer than their task usually does.");
pub(super) const JOBS_WAITING: Metric = gauge(
    "forebay_jobs_overlong_waiting",
    "Jobs that wait far longer than others in their queue, or far beyond their ETA.",
);
pub(super) const TASKS_OVERDUE: Metric =
    gauge("forebay_tasks_overdue", "Tasks that usually run at regular times and should have run long ago.");
pub(super) const SOURCE_UP: Metric = gauge("forebay_source_up", "Whether a broker is heard.");
pub(super) const SOURCE_EVENTS: Metric =
    counter("forebay_source_events_total", "Events heard, about tasks and workers.");
pub(super) const SOURCE_WORKER_EVENTS: Metric =
    counter("forebay_source_worker_events_total", "Those of them that are about workers.");
pub(super) const SOURCE_DECODE_ERRORS: Metric =
    counter("forebay_source_decode_errors_total", "Messages and events heard that could not be read.");
pub(super) const SOURCE_DROPPED: Metric =
    counter("forebay_source_dropped_messages_total", "Messages that neither the log nor the spool took in time.");
pub(super) const SOURCE_RECONNECTS: Metric =
    counter("forebay_source_reconnects_total", "How often a broker was connected to again.");
pub(super) const SOURCE_UNHEARD: Metric =
    counter("forebay_source_unheard_seconds_total", "For how long a broker was not heard.").seconds();
pub(super) const SOURCE_QUEUE: Metric =
    gauge("forebay_source_queue_bytes", "What is heard and waits in memory for the log.").bytes();
pub(super) const BACKEND_UP: Metric = gauge("forebay_backend_up", "Whether a result backend can be asked.");
pub(super) const SPOOL_EVENTS: Metric = gauge("forebay_spool_events", "Events on disk that the log has not taken yet.");
pub(super) const SPOOL_BYTES: Metric = gauge("forebay_spool_bytes", "What they take.").bytes();
pub(super) const SPOOL_DROPPED: Metric = counter(
    "forebay_spool_dropped_events_total",
    "Events that were dropped because the spool was full, or that the log never takes.",
)
.kept();
pub(super) const INGEST_REQUESTS: Metric =
    counter("forebay_ingest_requests_total", "Batches of events that were stored.");
pub(super) const INGEST_EVENTS: Metric =
    counter("forebay_ingest_events_total", "Their events, by what became of them.");
pub(super) const HTTP_REQUESTS: Metric = counter("forebay_http_requests_total", "Requests that were answered.");
pub(super) const HTTP_DURATION: Metric =
    histogram("forebay_http_request_duration_seconds", "How long it took to answer them, without sending the answer.")
        .seconds();
pub(super) const STREAMS: Metric = gauge("forebay_event_streams", "Streams of events that are open.");
pub(super) const ALERT_FIRING: Metric = gauge("forebay_alert_firing", "Whether a rule has an incident.");
pub(super) const PROCESS_CPU: Metric =
    counter("process_cpu_seconds_total", "Processor time of this process.").seconds();
pub(super) const PROCESS_RESIDENT: Metric =
    gauge("process_resident_memory_bytes", "Memory that it has in use.").bytes();
pub(super) const PROCESS_VIRTUAL: Metric = gauge("process_virtual_memory_bytes", "Memory that it has mapped.").bytes();
pub(super) const PROCESS_START: Metric =
    gauge("process_start_time_seconds", "When it began, in seconds since the epoch.").seconds();
pub(super) const PROCESS_FDS: Metric = gauge("process_open_fds", "Files and sockets that it has open.");
pub(super) const PROCESS_MAX_FDS: Metric = gauge("process_max_fds", "How many it may have.");
