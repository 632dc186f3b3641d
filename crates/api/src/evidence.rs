//! The events behind a record: `GET /api/jobs/{id}/events`, and the record as it was, `GET /api/jobs/{id}?asOf=`.
//!
//! The views know which events a record was folded from and where they stand; the events themselves are read from the
//! log, each by its position. What stands there counts only if it is that very event: the log may have dropped it, or
//! be another log by now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use event_log::{EventLog, LogMessage};
use futures_util::{StreamExt as _, stream};
use projection::{Evidence, Record, Row, Testimony, Verdict};
use proto_events::wire::encoded_len;
use proto_events::{Event, EventId, Position, Timestamp};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use uuid::Uuid;
use warp::http::StatusCode;

use crate::app::{App, Parts};
use crate::errors::{ApiError, LOG_AWAY};
use crate::ingest::wait_connected;
use crate::jobs;
use crate::operation::{Access, Answer, NOT_MODIFIED, Operation, READ_HEADERS};
use crate::params::{self, AsOf};

/// Messages that are asked for at once; each has half a megabyte at most.
const AT_ONCE: usize = 16;
/// For all that one request reads from the log.
const LOG_TIME: Duration = Duration::from_secs(10);
/// For saying when a job was first heard of.
const FIRST_TIME: Duration = Duration::from_millis(200);
/// Of events in one answer. A job has a thousand at most, of hardly a kilobyte each; but a hostile sender's may have 128.
const ANSWER_BYTES: usize = 32 * 1_024 * 1_024;

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    about: "Where each stands in the log, and whether it counted, said what another one says already, or was refused, \
            and why.",
    in_path: jobs::IN_PATH,
    query: params::READ,
    answers: &[
        Answer::json::<Events<'static>>(StatusCode::OK, "The events, in the order in which the fold takes them.")
            .with(READ_HEADERS),
        NOT_MODIFIED,
    ],
    errors: jobs::ONE_ERRORS,
    ..Operation::get(
        "/api/jobs/{id}/events",
        "listJobEvents",
        "jobs",
        "The events that a job's record was made from",
        Access::Reader,
    )
}];

/// The events that a record was folded from.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "JobEvents")]
pub(crate) struct Events<'a> {
    id: Uuid,
    external_id: &'a str,
    connection_id: Uuid,
    /// Whether there were more than are kept: too many, or such as the log has forgotten.
    truncated: bool,
    /// In the order in which the fold takes them.
    data: Vec<Item>,
}

/// One event, and what the fold made of it. Its times are those of the log, to the microsecond.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "JobEvent")]
struct Item {
    /// Where it stands in the log.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String", regex(pattern = r"^[0-9]+\.[0-9]+$"))]
    position: Position,
    /// When the log took it.
    published_at: Option<Timestamp>,
    /// When it happened, by its own word.
    timestamp: Timestamp,
    /// What the fold made of it.
    verdict: Verdict,
    /// Why, where it did not simply count.
    reason: Option<&'static str>,
    /// As the log has it.
    event: Option<Event>,
    /// Why the event is not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<Missing>,
}

#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EventMissing")]
enum Missing {
    /// The log does not hold it any more.
    Gone,
    /// The answer would become too large.
    Large,
}

fn as_text<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(position)
}

/// An event that was found in the log.
struct Found {
    published: Timestamp,
    event: Event,
}

/// The events of a job with the fold's verdicts.
pub(crate) async fn events<'a>(app: &App, parts: &Parts, row: &'a Arc<Row>) -> Result<Events<'a>, ApiError> {
    let testimonies = explained(row).await?;
    let item = |it: &Testimony| Item {
        position: it.position,
        published_at: None,
        timestamp: it.at,
        verdict: it.verdict,
        reason: it.reason,
        event: None,
        missing: Some(Missing::Gone),
    };
    let mut data: Vec<Item> = testimonies.iter().map(item).collect();
    let places = testimonies.iter().map(|it| (it.position, it.id)).collect();
    let mut bytes = 0;
    read(app, &parts.log, row, places, |place, found| {
        let Some(Found { published, event }) = found else { return };
        let item = &mut data[place];
        bytes += encoded_len(&event);
        item.published_at = Some(published);
        (item.event, item.missing) =
            if bytes > ANSWER_BYTES { (None, Some(Missing::Large)) } else { (Some(event), None) };
    })
    .await?;
    let record = &row.record;
    Ok(Events {
        id: record.id,
        external_id: &record.external_id,
        connection_id: record.connection_id,
        truncated: record.truncated,
        data,
    })
}

/// The record of a job as the log stood then.
pub(crate) async fn as_of(app: &App, parts: &Parts, row: &Arc<Row>, then: AsOf) -> Result<Record, ApiError> {
    let places: Vec<(Position, EventId)> =
        explained(row).await?.iter().map(|it| (it.position, it.id)).filter(|(at, _)| then.may_hold(*at)).collect();
    let positions: Vec<Position> = places.iter().map(|(position, _)| *position).collect();
    let mut evidence = Evidence::default();
    let mut gone = false;
    read(app, &parts.log, row, places, |place, found| match found {
        Some(found) if then.holds(positions[place], found.published) => {
            evidence.add(positions[place], &found.event);
        }
        Some(_) => {}
        None => gone = true,
    })
    .await?;
    let known = Arc::clone(row);
    let record = blocking(move || {
        let Record { connection_id, external_id, .. } = &known.record;
        projection::fold(*connection_id, external_id, &evidence)
    })
    .await?;
    let Some(record) = record else { return Err(unknown_then(parts, row, then, gone).await) };
    let truncated = record.truncated || row.record.truncated || gone;
    Ok(Record { truncated, ..record })
}

async fn unknown_then(parts: &Parts, row: &Row, then: AsOf, gone: bool) -> ApiError {
    if gone || row.evidence.is_trimmed() || is_forgotten(parts, then).await {
        let message = "The log does not hold any more what was known of this job by then.";
        return ApiError::JobNotFound { details: Some(json!({ "asOf": message })) };
    }
    let position = row.first_position();
    let first = tokio::time::timeout(FIRST_TIME, parts.log.message(position.sequence)).await;
    let published = first.ok().and_then(Result::ok).flatten().map(|first| first.published);
    let details = json!({
        "asOf": "Nothing was known of this job by then.",
        "firstPosition": position.to_string(),
        "firstPublishedAt": published.map_or(Value::Null, |time| time.to_micros_text().into()),
    });
    ApiError::JobNotFound { details: Some(details) }
}

/// Whether all that the log held then is forgotten, or that cannot be told. The job may have been another one then, all of
/// whose events are gone.
async fn is_forgotten(parts: &Parts, then: AsOf) -> bool {
    let floor = parts.reader.floor();
    match then {
        _ if floor <= 1 => false,
        AsOf::Position(last) => last.sequence < floor,
        AsOf::Time(last) => {
            let begins = tokio::time::timeout(FIRST_TIME, parts.log.next_stored(floor)).await;
            begins.ok().and_then(Result::ok).flatten().is_none_or(|(_, stored)| last < stored)
        }
    }
}

async fn explained(row: &Arc<Row>) -> Result<Vec<Testimony>, ApiError> {
    let row = Arc::clone(row);
    blocking(move || projection::explain(&row.evidence)).await
}

/// Reads the events at these places; tells of each, by its number in the list, in the order of the log.
async fn read(
    app: &App,
    log: &EventLog,
    row: &Row,
    places: Vec<(Position, EventId)>,
    mut tell: impl FnMut(usize, Option<Found>),
) -> Result<(), ApiError> {
    let _one_of_few = app.evidence.acquire().await.map_err(ApiError::internal)?;
    wait_connected(log).await?;
    let connection = row.record.connection_id;
    let mut messages: BTreeMap<u64, Vec<Wanted>> = BTreeMap::new();
    for (number, (position, id)) in places.into_iter().enumerate() {
        messages.entry(position.sequence).or_default().push(Wanted { number, index: position.index, id });
    }
    let reading = stream::iter(messages).map(|(sequence, wanted)| async move {
        let message = log.message(sequence).await.map_err(|error| {
            tracing::debug!(%error, sequence, "an event cannot be read");
            LOG_AWAY
        })?;
        blocking(move || pick(message.filter(|message| message.connection == connection), wanted)).await
    });
    let mut reading = reading.buffered(AT_ONCE);
    let telling = async {
        while let Some(found) = reading.next().await {
            found?.into_iter().for_each(|(number, found)| tell(number, found));
        }
        Ok(())
    };
    tokio::time::timeout(LOG_TIME, telling).await.unwrap_or(Err(LOG_AWAY))
}

/// An event that is looked for in a message.
struct Wanted {
    number: usize,
    index: u32,
    id: EventId,
}

/// The events that are wanted of a message, where they are in it.
fn pick(message: Option<LogMessage>, wanted: Vec<Wanted>) -> Vec<(usize, Option<Found>)> {
    let elements = message.as_ref().and_then(|message| proto_events::decode(&message.payload).ok());
    let mut elements: Vec<Option<Event>> = elements.into_iter().flatten().map(Result::ok).collect();
    let published = message.map(|message| message.published).unwrap_or_default();
    let find = |it: Wanted| {
        let event = elements.get_mut(it.index as usize).and_then(Option::take);
        let found = event.filter(|event| EventId::of(event) == it.id).map(|event| Found { published, event });
        (it.number, found)
    };
    wanted.into_iter().map(find).collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)
}
