//! What a client wants to be told of.

use projector::Happening;
use proto_events::limits;
use uuid::Uuid;

use crate::errors::ApiError;
use crate::jobs::job_ids;
use crate::params::jobs::{CONNECTION_ID, NAME, QUEUE};
use crate::params::kinds::{Choice, Choices, Text};
use crate::params::{self, Asked, Param};

/// What frames are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Job,
    Worker,
    Queue,
}

const TYPES: Param<Choices<Type>> = Param::new(
    "types",
    Choices(Choice(&[("job", Type::Job), ("worker", Type::Worker), ("queue", Type::Queue)])),
    "Only frames about these; without it, about all.",
);
const JOB_ID: Param<Text> =
    Param::new("jobId", Text::of(1, limits::EXTERNAL_ID), "Only of this job, by Forebay's id or its framework's.");
const LAST_EVENT_ID: Param<Text> = Param::new(
    "lastEventId",
    Text::of(0, 1_000),
    "Goes on after the frame of this id, as the header `Last-Event-ID` does, which wins where both are given.",
);

/// Of `GET /api/events/stream`.
pub(super) const PARAMS: params::Params = &[&CONNECTION_ID, &TYPES, &NAME, &QUEUE, &JOB_ID, &LAST_EVENT_ID];

/// The query of a stream.
#[derive(Debug)]
pub(super) struct Params {
    pub(super) watched: Watched,
    pub(super) last_event_id: Option<String>,
}

/// What passes: a frame that can be compared with every filter that is given, and agrees with it. So a filter by task
/// name lets nothing but jobs through, and one by queue jobs and the counts of that queue.
#[derive(Debug, Default)]
pub(super) struct Watched {
    connection: Option<Uuid>,
    kinds: Option<Kinds>,
    name: Option<String>,
    queue: Option<String>,
    /// Any of these: an external id may be that of a job of several connections.
    jobs: Option<Vec<Uuid>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kinds {
    job: bool,
    worker: bool,
    queue: bool,
}

impl Params {
    /// `connections` are those whose jobs an external id may mean.
    pub(super) fn parse(raw: &str, connections: &[Uuid]) -> Result<Self, ApiError> {
        let asked = Asked::of(PARAMS, raw)?;
        let watched = Watched {
            connection: asked.get(&CONNECTION_ID),
            kinds: asked.get(&TYPES).map(|kinds| Kinds::of(&kinds)),
            name: asked.get(&NAME),
            queue: asked.get(&QUEUE),
            jobs: None,
        };
        let mut params = Self { watched, last_event_id: asked.get(&LAST_EVENT_ID).filter(|id| !id.is_empty()) };
        if let Some(job) = asked.get(&JOB_ID) {
            let connections = params.watched.connection.as_ref().map_or(connections, std::slice::from_ref);
            let jobs = job_ids(&job, connections);
            if jobs.is_empty() {
                return Err(ApiError::field("jobId", "must be the id of a job, ours or the framework's"));
            }
            params.watched.jobs = Some(jobs);
        }
        Ok(params)
    }
}

impl Kinds {
    fn of(kinds: &[Type]) -> Self {
        Self {
            job: kinds.contains(&Type::Job),
            worker: kinds.contains(&Type::Worker),
            queue: kinds.contains(&Type::Queue),
        }
    }
}

impl Watched {
    /// Whether the client is told of this.
    pub(super) fn wants(&self, happening: &Happening) -> bool {
        let Self { connection, kinds, name, queue, jobs } = self;
        let of = |owner: &Uuid| connection.is_none_or(|connection| connection == *owner);
        let kind = |is: fn(&Kinds) -> bool| kinds.as_ref().is_none_or(is);
        match happening {
            Happening::Job(job) => {
                of(&job.connection)
                    && kind(|kinds| kinds.job)
                    && name.as_deref().is_none_or(|name| name == &*job.name)
                    && queue.as_deref().is_none_or(|queue| job.queue.as_deref() == Some(queue))
                    && jobs.as_ref().is_none_or(|jobs| jobs.contains(&job.id))
            }
            Happening::WorkerHeartbeat(worker) | Happening::WorkerState(worker) => {
                of(&worker.connection)
                    && kind(|kinds| kinds.worker)
                    && name.is_none()
                    && queue.is_none()
                    && jobs.is_none()
            }
            Happening::Queue(count) => {
                of(&count.connection)
                    && kind(|kinds| kinds.queue)
                    && queue.as_deref().is_none_or(|queue| queue == &*count.name)
                    && name.is_none()
                    && jobs.is_none()
            }
            // Whatever the client is told of may have changed.
            Happening::Replaced => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let long = format!("jobId={}", "x".repeat(5_000));
        let cases = [
            ("connectionId=default", "connectionId"),
            ("connectionId=", "connectionId"),
            ("types=", "types"),
            ("types=jobs", "types"),
            ("types=job,", "types"),
            ("types=job,%20worker", "types"),
            ("jobId=", "jobId"),
            ("name=", "name"),
            (&long, "jobId"),
            ("name=a&name=b", "name"),
            ("job=1", "job"),
            ("state=failed", "state"),
            ("atLeast=1", "atLeast"),
        ];
        for (raw, field) in cases {
            let Err(ApiError::Validation { details: Some(details), .. }) = Params::parse(raw, &[Uuid::nil()]) else {
                panic!("{raw} is taken");
            };
            assert!(details.get(field).is_some(), "{raw}: {details}");
        }
        let params = Params::parse("types=queue,job&lastEventId=&name=a", &[]).unwrap();
        assert_eq!(params.watched.kinds, Some(Kinds { job: true, worker: false, queue: true }));
        assert_eq!((params.last_event_id, params.watched.name.as_deref()), (None, Some("a")));
    }
}
