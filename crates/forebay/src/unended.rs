//! The jobs without an end, page by page out of the views: what the result backend is asked for.

use projector::Phase;
use proto_events::{Framework, JobState};
use sources::backend::{PAGE, Part, Unended, Walk, Walks};
use uuid::Uuid;
use views::{Cursor, Filter, Query, Reader, Signs, SortBy, SortOrder};

/// Walks through the jobs of a connection that have not ended, the oldest first.
pub(crate) fn walks(reader: Reader, projector: projector::Handle, connection: Uuid) -> Walks {
    let mut cursors: [Option<Cursor>; 2] = [None, None];
    Box::new(move |walk| {
        // Before all that the log held at the start is applied, jobs seem to run that have long ended.
        if projector.status().phase != Phase::Following {
            return None;
        }
        let (place, states) = match walk {
            Walk::Running => (0, vec![JobState::Active, JobState::Retrying]),
            Walk::Waiting => (1, vec![JobState::Queued, JobState::Scheduled, JobState::Unknown]),
        };
        let query = Query {
            filter: Filter {
                connections: Some(vec![connection]),
                states: Some(states),
                framework: Some(Framework::Celery),
                ..Filter::default()
            },
            sort_by: SortBy::CreatedAt,
            sort_order: SortOrder::Ascending,
            limit: PAGE,
            cursor: cursors[place].take(),
        };
        match reader.list(&query, &Signs::default()) {
            Ok(page) => {
                cursors[place].clone_from(&page.next);
                Some(Part { jobs: page.jobs.into_iter().map(unended).collect(), is_last: page.next.is_none() })
            }
            Err(error) => {
                tracing::debug!(%error, "jobs without an end cannot be listed");
                None
            }
        }
    })
}

fn unended(record: projection::Record) -> Unended {
    Unended {
        since: record.scheduled_for.map_or(record.state_changed_at, |due| due.max(record.state_changed_at)),
        external_id: record.external_id,
        state: record.state,
        attempt: record.attempt,
        started_at: record.started_at,
    }
}
