//! The query parameters of the reads, strictly: what is not understood is refused by name, never ignored, since an
//! ignored filter is a wrong answer.

use std::str::FromStr;

use proto_events::JobState;
use uuid::Uuid;
use views::{Cursor, Query};

use crate::errors::ApiError;

const SEARCH_CHARACTERS: usize = 500;
const CURSOR_CHARACTERS: usize = 1_000;

/// What `GET /api/jobs` was asked.
#[derive(Debug)]
pub(crate) struct ListParams {
    pub(crate) query: Query,
    pub(crate) after: Option<u64>,
}

/// What `GET /api/jobs/{id}` was asked beside the id: to wait until this log position is applied.
pub(crate) fn job_params(raw: &str) -> Result<Option<u64>, ApiError> {
    let mut after = None;
    for (name, value) in pairs(raw)? {
        match name.as_str() {
            "after" => after = Some(position(&value)?),
            _ => return Err(unknown(&name)),
        }
    }
    Ok(after)
}

/// What `GET /api/jobs` was asked.
pub(crate) fn list_params(raw: &str) -> Result<ListParams, ApiError> {
    let mut params = ListParams { query: Query { limit: 50, ..Query::default() }, after: None };
    for (name, value) in pairs(raw)? {
        let query = &mut params.query;
        match name.as_str() {
            "after" => params.after = Some(position(&value)?),
            "limit" => query.limit = limit(&value)?,
            "state" => query.state = Some(state(&value)?),
            "search" => query.search = search(value)?,
            "cursor" => query.cursor = Some(cursor(&value)?),
            "connectionId" => query.connections = Some(vec![parsed::<Uuid>("connectionId", &value, "must be a UUID")?]),
            // The documented order is the only one there is yet.
            "sortBy" => only("sortBy", &value, "createdAt")?,
            "sortOrder" => only("sortOrder", &value, "desc")?,
            _ => return Err(unknown(&name)),
        }
    }
    Ok(params)
}

fn pairs(raw: &str) -> Result<Vec<(String, String)>, ApiError> {
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

fn position(value: &str) -> Result<u64, ApiError> {
    parsed("after", value, "must be a log position, as ingest answers it in sequence")
}

fn parsed<T: FromStr>(field: &str, value: &str, rule: &str) -> Result<T, ApiError> {
    value.parse().map_err(|_| ApiError::field(field, rule))
}

fn only(field: &str, value: &str, allowed: &str) -> Result<(), ApiError> {
    if value == allowed { Ok(()) } else { Err(ApiError::field(field, format!("must be {allowed}"))) }
}

fn unknown(name: &str) -> ApiError {
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

    fn refused(raw: &str) -> (String, Option<Value>) {
        match list_params(raw) {
            Err(ApiError::Validation { message, details }) => (message, details),
            other => panic!("{raw}: {other:?}"),
        }
    }

    #[test]
    fn takes_what_is_documented() {
        let id = "550e8400-e29b-41d4-a716-446655440000";
        let raw = format!("state=failed&search=send%20mail+%2F&limit=100&connectionId={id}&after=7&sortBy=createdAt");
        let params = list_params(&raw).unwrap();
        assert_eq!(params.query.state, Some(JobState::Failed));
        assert_eq!(params.query.search.as_deref(), Some("send mail /"));
        assert_eq!((params.query.limit, params.after), (100, Some(7)));
        assert_eq!(params.query.connections, Some(vec![id.parse().unwrap()]));
        let params = list_params("").unwrap();
        assert_eq!((params.query.limit, params.query.state, params.query.connections), (50, None, None));
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
            ("after=-1", "after"),
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
    }
}
