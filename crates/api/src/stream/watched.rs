//! What a client wants to be told of.

use projector::Happening;
use uuid::Uuid;

use crate::errors::ApiError;
use crate::jobs::job_ids;
use crate::params::{pairs, parsed, unknown};

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
        let mut params = Self { watched: Watched::default(), last_event_id: None };
        let mut job = None;
        for (name, value) in pairs(raw)? {
            let watched = &mut params.watched;
            match name.as_str() {
                "connectionId" => watched.connection = Some(parsed("connectionId", &value, "must be a UUID")?),
                "types" => watched.kinds = Some(Kinds::parse(&value)?),
                "name" => watched.name = Some(value),
                "queue" => watched.queue = Some(value),
                "jobId" => job = Some(value),
                "lastEventId" => params.last_event_id = Some(value).filter(|id| !id.is_empty()),
                _ => return Err(unknown(&name)),
            }
        }
        if let Some(job) = job {
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
    fn parse(list: &str) -> Result<Self, ApiError> {
        let mut kinds = Self::default();
        for kind in list.split(',') {
            match kind {
                "job" => kinds.job = true,
                "worker" => kinds.worker = true,
                "queue" => kinds.queue = true,
                _ => return Err(ApiError::field("types", "must be a comma list of job, worker and queue")),
            }
        }
        Ok(kinds)
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
        let params = Params::parse("types=queue,job&lastEventId=&name=", &[]).unwrap();
        assert_eq!(params.watched.kinds, Some(Kinds { job: true, worker: false, queue: true }));
        assert_eq!((params.last_event_id, params.watched.name.as_deref()), (None, Some("")));
    }
}
