//! The query parameters of the reads, strictly: what is not understood is refused by name, never ignored, since an
//! ignored filter is a wrong answer.

use std::str::FromStr;
use std::time::Duration;

use proto_events::{JobState, Position, Timestamp};
use uuid::Uuid;
use views::{Cursor, Query};

use crate::consistency::Wanted;
use crate::errors::ApiError;

const SEARCH_CHARACTERS: usize = 500;
const CURSOR_CHARACTERS: usize = 1_000;

/// What `GET /api/jobs` was asked.
#[derive(Debug)]
pub(crate) struct ListParams {
    pub(crate) query: Query,
    pub(crate) wanted: Wanted,
}

/// What `GET /api/jobs/{id}` was asked beside the id.
#[derive(Debug)]
pub(crate) struct JobParams {
    pub(crate) as_of: Option<AsOf>,
    pub(crate) wanted: Wanted,
}

/// A state of the log: as it was when it ended there, or at that time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum AsOf {
    /// Up to this event and with it.
    Position(Position),
    /// With what was published at this very time.
    Time(Timestamp),
}

impl AsOf {
    /// Whether an event at this position was there then.
    pub(crate) fn holds(self, position: Position, published: Timestamp) -> bool {
        match self {
            Self::Position(last) => position <= last,
            Self::Time(last) => published <= last,
        }
    }

    /// The same, where it is not known when it was published.
    pub(crate) fn may_hold(self, position: Position) -> bool {
        match self {
            Self::Position(last) => position <= last,
            Self::Time(_) => true,
        }
    }
}

pub(crate) fn job_params(raw: &str) -> Result<JobParams, ApiError> {
    let mut params = JobParams { as_of: None, wanted: Wanted::default() };
    for (name, value) in pairs(raw)? {
        match name.as_str() {
            "asOf" => params.as_of = Some(as_of(&value)?),
            _ => wanted(&mut params.wanted, &name, &value)?,
        }
    }
    Ok(params)
}

/// What `GET /api/jobs/{id}/events` was asked.
pub(crate) fn read_params(raw: &str) -> Result<Wanted, ApiError> {
    let mut asked = Wanted::default();
    pairs(raw)?.iter().try_for_each(|(name, value)| wanted(&mut asked, name, value))?;
    Ok(asked)
}

/// Where nothing can be asked for.
pub(crate) fn none(raw: &str) -> Result<(), ApiError> {
    pairs(raw)?.first().map_or(Ok(()), |(name, _)| Err(unknown(name)))
}

pub(crate) fn list_params(raw: &str) -> Result<ListParams, ApiError> {
    let mut params = ListParams { query: Query { limit: 50, ..Query::default() }, wanted: Wanted::default() };
    for (name, value) in pairs(raw)? {
        let query = &mut params.query;
        match name.as_str() {
            "limit" => query.limit = limit(&value)?,
            "state" => query.filter.states = Some(vec![state(&value)?]),
            "search" => query.filter.search = search(value)?,
            "cursor" => query.cursor = Some(cursor(&value)?),
            "connectionId" => {
                query.filter.connections = Some(vec![parsed::<Uuid>("connectionId", &value, "must be a UUID")?])
            }
            // The documented order is the only one there is yet.
            "sortBy" => only("sortBy", &value, "createdAt")?,
            "sortOrder" => only("sortOrder", &value, "desc")?,
            _ => wanted(&mut params.wanted, &name, &value)?,
        }
    }
    Ok(params)
}

/// The parameters that all reads have.
fn wanted(wanted: &mut Wanted, name: &str, value: &str) -> Result<(), ApiError> {
    match name {
        "atLeast" => {
            let rule = "must be a log position, SEQUENCE or SEQUENCE.INDEX, as ingest answers it in sequence";
            // A message is applied whole.
            wanted.at_least = Some(parsed::<Position>("atLeast", value, rule)?.sequence);
        }
        "maxStaleness" => {
            let millis = parsed("maxStaleness", value, "must be a whole number of milliseconds")?;
            wanted.max_staleness = Some(Duration::from_millis(millis));
        }
        _ => return Err(unknown(name)),
    }
    Ok(())
}

fn as_of(value: &str) -> Result<AsOf, ApiError> {
    let position = || {
        let position: Position = value.parse().ok()?;
        // Without an index the whole message is meant.
        let index = if value.contains('.') { position.index } else { u32::MAX };
        Some(AsOf::Position(Position { index, ..position }))
    };
    position().or_else(|| Timestamp::parse(value).map(AsOf::Time)).ok_or_else(|| {
        let rule =
            "must be a time as in RFC 3339 (in a URL, + is written %2B) or a log position, SEQUENCE or SEQUENCE.INDEX";
        ApiError::field("asOf", rule)
    })
}

pub(crate) fn pairs(raw: &str) -> Result<Vec<(String, String)>, ApiError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, value) in form_urlencoded::parse(raw.as_bytes()) {
        if pairs.iter().any(|(known, _)| *known == name) {
            return Err(ApiError::field(&shown(&name), "is given more than once"));
        }
        pairs.push((name.into_owned(), value.into_owned()));
    }
    Ok(pairs)
}

fn limit(value: &str) -> Result<usize, ApiError> {
    let limit = value.parse().ok().filter(|limit| (1..=100).contains(limit));
    limit.ok_or_else(|| ApiError::field("limit", "must be a whole number from 1 to 100"))
}

fn state(value: &str) -> Result<JobState, ApiError> {
    let state = JobState::ALL.into_iter().find(|state| state.as_str() == value);
    state.ok_or_else(|| {
        let names = JobState::ALL.map(JobState::as_str).join(", ");
        ApiError::field("state", format!("must be one of {names}"))
    })
}

fn search(value: String) -> Result<Option<String>, ApiError> {
    if value.chars().count() > SEARCH_CHARACTERS {
        return Err(ApiError::field("search", format!("must have at most {SEARCH_CHARACTERS} characters")));
    }
    Ok(Some(value).filter(|value| !value.is_empty()))
}

fn cursor(value: &str) -> Result<Cursor, ApiError> {
    if value.chars().count() > CURSOR_CHARACTERS {
        return Err(ApiError::field("cursor", format!("must have at most {CURSOR_CHARACTERS} characters")));
    }
    parsed("cursor", value, "must be the nextCursor of an earlier answer")
}

pub(crate) fn parsed<T: FromStr>(field: &str, value: &str, rule: &str) -> Result<T, ApiError> {
    value.parse().map_err(|_| ApiError::field(field, rule))
}

fn only(field: &str, value: &str, allowed: &str) -> Result<(), ApiError> {
    if value == allowed { Ok(()) } else { Err(ApiError::field(field, format!("must be {allowed}"))) }
}

pub(crate) fn unknown(name: &str) -> ApiError {
    ApiError::field(&shown(name), "is not a known parameter")
}

/// A name that the client made up, short enough to be repeated to it.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use views::Filter;

    fn refused(raw: &str) -> (String, Option<Value>) {
        match list_params(raw) {
            Err(ApiError::Validation { message, details }) => (message, details),
            other => panic!("{raw}: {other:?}"),
        }
    }

    #[test]
    fn takes_what_is_documented() {
        let id = "550e8400-e29b-41d4-a716-446655440000";
        let raw = format!(
            "state=failed&search=send%20mail+%2F&limit=100&connectionId={id}&sortBy=createdAt&atLeast=7.3&maxStaleness=250"
        );
        let params = list_params(&raw).unwrap();
        assert_eq!(params.query.filter.states, Some(vec![JobState::Failed]));
        assert_eq!(params.query.filter.search.as_deref(), Some("send mail /"));
        assert_eq!(params.query.limit, 100);
        let wanted = Wanted { at_least: Some(7), max_staleness: Some(Duration::from_millis(250)) };
        assert_eq!(params.wanted, wanted);
        assert_eq!(params.query.filter.connections, Some(vec![id.parse().unwrap()]));
        let params = list_params("").unwrap();
        assert_eq!((params.query.limit, params.query.filter), (50, Filter::default()));
        assert_eq!(params.wanted, Wanted::default());
        assert_eq!(read_params("maxStaleness=250&atLeast=7").unwrap(), wanted);
    }

    #[test]
    fn a_state_of_the_log_is_a_position_or_a_time() {
        let as_of = |text: &str| job_params(&format!("asOf={text}")).unwrap().as_of.unwrap();
        assert_eq!(as_of("12"), AsOf::Position(Position::new(12, u32::MAX)));
        assert_eq!(as_of("12.0"), AsOf::Position(Position::new(12, 0)));
        let time = Timestamp::parse("2026-02-27T10:30:02.000001Z").unwrap();
        assert_eq!(as_of("2026-02-27T10:30:02.000001Z"), AsOf::Time(time));
        assert_eq!(as_of("2026-02-27T11:30:02.000001%2B01:00"), AsOf::Time(time));
        for wrong in
            ["", "now", "1.", ".1", "-1", "1.2.3", "2026-02-27", "2026-02-27T11:30:02+01:00", "99999999999999999999"]
        {
            let error = job_params(&format!("asOf={wrong}")).unwrap_err();
            assert!(
                matches!(error, ApiError::Validation { details: Some(it), .. } if it["asOf"].is_string()),
                "{wrong}"
            );
        }
    }

    #[test]
    fn refuses_the_rest_by_name() {
        let long_search = format!("search={}", "x".repeat(501));
        let long_cursor = format!("cursor={}", "0".repeat(1_001));
        let cases = [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=-1", "limit"),
            ("limit=1.5", "limit"),
            ("limit=", "limit"),
            ("state=Failed", "state"),
            ("state=stuck", "state"),
            ("state=", "state"),
            ("cursor=abc", "cursor"),
            ("cursor=%FF", "cursor"),
            (&long_search, "search"),
            (&long_cursor, "cursor"),
            ("connectionId=default", "connectionId"),
            ("atLeast=-1", "atLeast"),
            ("atLeast=1.x", "atLeast"),
            ("atLeast=", "atLeast"),
            ("maxStaleness=-1", "maxStaleness"),
            ("maxStaleness=1.5", "maxStaleness"),
            ("maxStaleness=1s", "maxStaleness"),
            ("asOf=1", "asOf"),
            ("after=1", "after"),
            ("sortBy=name", "sortBy"),
            ("limit=5&limit=6", "limit"),
            ("stat=failed", "stat"),
            ("queue=default", "queue"),
        ];
        for (raw, field) in cases {
            let (message, details) = refused(raw);
            assert!(details.is_some_and(|details| details.get(field).is_some()), "{raw}: {message}");
        }
        assert!(job_params("state=failed").is_err());
        assert!(read_params("asOf=1").is_err());
    }
}
