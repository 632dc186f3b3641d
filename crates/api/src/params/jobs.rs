//! What `GET /api/jobs` may be asked.

use proto_events::{Framework, JobState, limits};
use views::{Cursor, Filter, Query, SortBy, SortOrder};

use super::kinds::{Choice, Choices, Flag, Id, Integer, Kind as _, PassedOn, SAFE_INTEGER, Tag, Text, Time};
use super::{AT_LEAST, Asked, Defaulted, MAX_STALENESS, Param, Params};
use crate::consistency::Wanted;
use crate::errors::ApiError;

/// Characters of a label with its value that can be asked for.
const TAG: usize = 1_024;

const STATES: [(&str, JobState); JobState::ALL.len()] = {
    let mut states = [("", JobState::Unknown); JobState::ALL.len()];
    let mut place = 0;
    while place < states.len() {
        states[place] = (JobState::ALL[place].as_str(), JobState::ALL[place]);
        place += 1;
    }
    states
};

const FRAMEWORKS: [(&str, Framework); 3] = [
    (Framework::Celery.as_str(), Framework::Celery),
    (Framework::Bullmq.as_str(), Framework::Bullmq),
    (Framework::Sidekiq.as_str(), Framework::Sidekiq),
];

const ORDERS: [(&str, SortBy); 7] = [
    ("createdAt", SortBy::CreatedAt),
    ("name", SortBy::Name),
    ("state", SortBy::State),
    ("durationMs", SortBy::DurationMs),
    ("queue", SortBy::Queue),
    ("startedAt", SortBy::StartedAt),
    ("worker", SortBy::Worker),
];

const CURSOR: Param<PassedOn<Cursor>> = Param::new(
    "cursor",
    PassedOn::new("must be the nextCursor of an earlier answer", 1_000),
    "Where to go on: the `nextCursor` of the page before. The other parameters stay the same from page to page.",
);
const LIMIT: Defaulted<Integer> = Param::new(
    "limit",
    Integer::between(1, 100),
    "How many jobs at most. Of the whole list, as CSV or JSON lines, any number, and all where it is left out.",
)
.or(50);
/// Of the whole list.
const WHOLE_LIMIT: Param<Integer> =
    Param::new("limit", Integer::between(1, SAFE_INTEGER), "How many jobs at most; all where it is left out.");
const FORMAT: Param<Choice<Format>> = Param::new(
    "format",
    Choice(&[("json", Format::Json), ("csv", Format::Csv), ("jsonl", Format::Lines)]),
    "A page of JSON; or the whole list from there on, as CSV with a line of names or as JSON lines. Where it is left out, \
     the header `Accept` says it: `application/json`, `text/csv` or `application/x-ndjson`.",
);
pub(crate) const SEARCH: Param<Text> = Param::new(
    "search",
    Text::of(0, 500),
    "Only where the task name contains this text, whatever the case of its letters. An empty one asks for nothing.",
);
const STATE: Param<Choices<JobState>> =
    Param::new("state", Choices(Choice(&STATES)), "Only in this state, or in one of several with commas between.");
pub(crate) const NAME: Param<Text> = Param::new("name", Text::of(1, limits::NAME), "Only of exactly this task name.");
pub(crate) const QUEUE: Param<Text> = Param::new("queue", Text::of(1, limits::QUEUE), "Only of this queue.");
const WORKER: Param<Text> =
    Param::new("worker", Text::of(1, limits::WORKER_ID), "Only of this worker, by its `workerId`.");
pub(crate) const CONNECTION_ID: Param<Id> = Param::new("connectionId", Id, "Only of this connection.");
pub(crate) const FRAMEWORK: Param<Choice<Framework>> =
    Param::new("framework", Choice(&FRAMEWORKS), "Only of this framework.");
const CREATED_AFTER: Param<Time> = Param::new("createdAfter", Time, "Only created at this time or later.");
const CREATED_BEFORE: Param<Time> = Param::new("createdBefore", Time, "Only created before this time.");
const EXTERNAL_ID: Param<Text> =
    Param::new("externalId", Text::of(1, limits::EXTERNAL_ID), "Only the jobs of this external id.");
const ERROR_CONTAINS: Param<Text> = Param::new(
    "errorContains",
    Text::of(1, projection::ERROR_CHARACTERS),
    "Only where the first 256 characters of the error contain this text, whatever the case of its letters.",
);
const ATTEMPT_AT_LEAST: Param<Integer> =
    Param::new("attemptAtLeast", Integer::between(1, u32::MAX as u64), "Only at this try or a later one.");
const TAGGED: Param<Tag> = Param::new(
    "tag",
    Tag { max: TAG },
    "Only with this label, `key`, or with this label of this value, `key:value`. The first colon ends the key.",
);
const LOST: Param<Flag> =
    Param::new("lost", Flag, "Only jobs whose worker is gone and never said how they ended, or only the others.");
const STUCK: Param<Flag> =
    Param::new("stuck", Flag, "Only jobs that run for far longer than their task usually does, or only the others.");
const WAITING: Param<Flag> = Param::new(
    "waiting",
    Flag,
    "Only jobs that wait for far longer than others in their queue, or far beyond their ETA, or only the others.",
);
const SORT_BY: Defaulted<Choice<SortBy>> = Param::new(
    "sortBy",
    Choice(&ORDERS),
    "By what to order. Jobs that have no value come last, whatever the order; equals are ordered by id.",
)
.or(SortBy::CreatedAt);
const SORT_ORDER: Defaulted<Choice<SortOrder>> = Param::new(
    "sortOrder",
    Choice(&[("asc", SortOrder::Ascending), ("desc", SortOrder::Descending)]),
    "Which way: the smallest first, or the largest.",
)
.or(SortOrder::Descending);

/// All of them, with this limit.
macro_rules! list {
    ($limit:expr) => {
        &[
            &CURSOR,
            $limit,
            &FORMAT,
            &SEARCH,
            &STATE,
            &QUEUE,
            &WORKER,
            &CONNECTION_ID,
            &FRAMEWORK,
            &SORT_BY,
            &SORT_ORDER,
            &NAME,
            &CREATED_AFTER,
            &CREATED_BEFORE,
            &EXTERNAL_ID,
            &ERROR_CONTAINS,
            &ATTEMPT_AT_LEAST,
            &TAGGED,
            &LOST,
            &STUCK,
            &WAITING,
            &AT_LEAST,
            &MAX_STALENESS,
        ]
    };
}

/// Of pages.
pub(crate) const LIST: Params = list!(&LIMIT);
/// Of the whole list.
const WHOLE: Params = list!(&WHOLE_LIMIT);

/// How the list is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// A page of JSON.
    #[default]
    Json,
    /// All of it as CSV.
    Csv,
    /// All of it as JSON lines.
    Lines,
}

/// What was asked.
#[derive(Debug)]
pub(crate) struct ListParams {
    /// Of the whole list its limit is that of all, and the largest number where none was given.
    pub(crate) query: Query,
    pub(crate) format: Format,
    pub(crate) wanted: Wanted,
}

/// `accepted` is what the client takes, where no parameter says it.
pub(crate) fn list_params(raw: &str, accepted: Format) -> Result<ListParams, ApiError> {
    // Which limits there are depends on it; what is wrong with it is said with the rest.
    let named = form_urlencoded::parse(raw.as_bytes()).find(|(name, _)| name == FORMAT.name);
    let format = named.map_or(accepted, |(_, value)| FORMAT.kind.read(&value).unwrap_or_default());
    let asked = Asked::of(if format == Format::Json { LIST } else { WHOLE }, raw)?;
    let filter = Filter {
        connections: asked.get(&CONNECTION_ID).map(|id| vec![id]),
        states: asked.get(&STATE),
        search: asked.get(&SEARCH).filter(|text| !text.is_empty()),
        name: asked.get(&NAME),
        queue: asked.get(&QUEUE),
        worker: asked.get(&WORKER),
        taken: None,
        framework: asked.get(&FRAMEWORK),
        created_after: asked.get(&CREATED_AFTER),
        created_before: asked.get(&CREATED_BEFORE),
        external_id: asked.get(&EXTERNAL_ID),
        error_contains: asked.get(&ERROR_CONTAINS),
        attempt_at_least: asked.get(&ATTEMPT_AT_LEAST).map(|attempt| attempt as u32),
        tag: asked.get(&TAGGED),
        lost: asked.get(&LOST),
        stuck: asked.get(&STUCK),
        waiting: asked.get(&WAITING),
    };
    let (sort_by, cursor) = (asked.get_or(&SORT_BY), asked.get(&CURSOR));
    if cursor.as_ref().is_some_and(|cursor: &Cursor| cursor.sort_by() != sort_by) {
        return Err(ApiError::field("cursor", "must be of a list with the same sortBy"));
    }
    let limit = match format {
        Format::Json => asked.get_or(&LIMIT) as usize,
        Format::Csv | Format::Lines => asked.get(&WHOLE_LIMIT).map_or(usize::MAX, |limit| limit as usize),
    };
    let sort_order = asked.get_or(&SORT_ORDER);
    let query = Query { filter, sort_by, sort_order, limit, cursor };
    Ok(ListParams { query, format, wanted: asked.wanted() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proto_events::Timestamp;
    use serde_json::Value;

    const ID: &str = "550e8400-e29b-41d4-a716-446655440000";

    /// After a job of that id, created seven milliseconds after the epoch.
    const CURSOR_TEXT: &str =
        "eyJpZCI6IjU1MGU4NDAwLWUyOWItNDFkNC1hNzE2LTQ0NjY1NTQ0MDAwMCIsImJ5IjoiY3JlYXRlZEF0IiwidmFsdWUiOjd9";

    type Change = fn(&mut Query);

    fn refused(raw: &str) -> (String, Option<Value>) {
        match list_params(raw, Format::Json) {
            Err(ApiError::Validation { message, details }) => (message, details),
            other => panic!("{raw}: {other:?}"),
        }
    }

    #[test]
    fn each_parameter_asks_for_its_own_thing() {
        let cursor: Cursor = CURSOR_TEXT.parse().unwrap();
        let cases: Vec<(String, Change)> = vec![
            ("limit=100".into(), |query| query.limit = 100),
            (format!("cursor={cursor}"), |query| {
                query.cursor = Some(CURSOR_TEXT.parse().unwrap());
            }),
            ("search=send%20mail+%2F".into(), |query| query.filter.search = Some("send mail /".into())),
            ("search=".into(), |_| {}),
            ("state=failed".into(), |query| query.filter.states = Some(vec![JobState::Failed])),
            ("state=failed,active".into(), |query| {
                query.filter.states = Some(vec![JobState::Failed, JobState::Active]);
            }),
            ("queue=high%2Clow".into(), |query| query.filter.queue = Some("high,low".into())),
            ("worker=celery@worker-1".into(), |query| query.filter.worker = Some("celery@worker-1".into())),
            (format!("connectionId={ID}"), |query| query.filter.connections = Some(vec![ID.parse().unwrap()])),
            ("framework=sidekiq".into(), |query| query.filter.framework = Some(Framework::Sidekiq)),
            ("name=app.tasks.a".into(), |query| query.filter.name = Some("app.tasks.a".into())),
            ("createdAfter=2026-02-27T11:30:02%2B01:00".into(), |query| {
                query.filter.created_after = Timestamp::parse("2026-02-27T10:30:02Z");
            }),
            ("createdBefore=2026-02-27T10:30:02.000001Z".into(), |query| {
                query.filter.created_before = Timestamp::parse("2026-02-27T10:30:02.000001Z");
            }),
            ("externalId=a%2Fb".into(), |query| query.filter.external_id = Some("a/b".into())),
            ("errorContains=KeyError(".into(), |query| query.filter.error_contains = Some("KeyError(".into())),
            ("attemptAtLeast=4294967295".into(), |query| query.filter.attempt_at_least = Some(u32::MAX)),
            ("tag=team".into(), |query| query.filter.tag = Some(("team".into(), None))),
            ("tag=team:a:b".into(), |query| query.filter.tag = Some(("team".into(), Some("a:b".into())))),
            ("lost=true".into(), |query| query.filter.lost = Some(true)),
            ("stuck=false".into(), |query| query.filter.stuck = Some(false)),
            ("waiting=true".into(), |query| query.filter.waiting = Some(true)),
            ("sortBy=durationMs".into(), |query| query.sort_by = SortBy::DurationMs),
            ("sortOrder=asc".into(), |query| query.sort_order = SortOrder::Ascending),
            ("sortBy=createdAt&sortOrder=desc".into(), |_| {}),
            ("format=json".into(), |_| {}),
        ];
        for (raw, change) in &cases {
            let mut expected = Query::default();
            change(&mut expected);
            let asked = list_params(raw, Format::Json).unwrap();
            assert_eq!(format!("{:?}", asked.query), format!("{expected:?}"), "{raw}");
            assert_eq!(asked.wanted, Wanted::default(), "{raw}");
        }
        let asked: Vec<&str> = cases.iter().filter_map(|(raw, _)| raw.split(['=', '&']).next()).collect();
        for param in LIST.iter().map(|param| param.name()).filter(|name| !["atLeast", "maxStaleness"].contains(name)) {
            assert!(param == "sortOrder" || asked.contains(&param), "{param} was not asked");
        }
        let all = cases.iter().map(|(raw, _)| raw.as_str()).filter(|raw| !raw.contains('&') && *raw != "search=");
        // A cursor is a place in one order.
        let all = all.filter(|raw| !raw.starts_with("sortBy"));
        let mut seen = std::collections::HashSet::new();
        let all: Vec<&str> = all.filter(|raw| seen.insert(raw.split('=').next())).collect();
        let query = list_params(&all.join("&"), Format::Json).unwrap().query;
        assert_eq!(query.filter.tag, Some(("team".into(), None)), "and all of them at once");
        assert_eq!((query.limit, query.cursor), (100, Some(cursor)));
        let wanted = Wanted { at_least: Some(7), max_staleness: Some(Duration::from_millis(250)) };
        assert_eq!(list_params("atLeast=7.3&maxStaleness=250", Format::Json).unwrap().wanted, wanted);
    }

    #[test]
    fn the_whole_list_has_the_filters_of_a_page_and_a_limit_of_its_own() {
        let asked = |raw: &str, accepted| {
            let ListParams { query, format, .. } = list_params(raw, accepted).unwrap();
            (format, query.limit, query.filter.queue)
        };
        let mail = Some("mail".to_owned());
        assert_eq!(asked("queue=mail&format=csv", Format::Json), (Format::Csv, usize::MAX, mail.clone()));
        assert_eq!(asked("queue=mail&limit=101", Format::Lines), (Format::Lines, 101, mail.clone()));
        assert_eq!(asked("queue=mail&format=json", Format::Csv), (Format::Json, 50, mail));
    }

    #[test]
    fn the_rest_is_refused_by_name() {
        let long = |name: &str, characters: usize| format!("{name}={}", "é".repeat(characters));
        let too_long = [
            (long("search", 501), "search"),
            (long("cursor", 1_001), "cursor"),
            (long("name", 1_025), "name"),
            (long("queue", 256), "queue"),
            (long("worker", 513), "worker"),
            (long("externalId", 513), "externalId"),
            (long("errorContains", 257), "errorContains"),
            (long("tag", 1_025), "tag"),
        ];
        let cases = [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=-1", "limit"),
            ("limit=1.5", "limit"),
            ("limit=%2B5", "limit"),
            ("limit=", "limit"),
            ("state=Failed", "state"),
            ("state=stuck", "state"),
            ("state=failed,", "state"),
            ("state=", "state"),
            ("cursor=abc", "cursor"),
            ("cursor=%FF", "cursor"),
            ("connectionId=default", "connectionId"),
            ("framework=rq", "framework"),
            ("queue=", "queue"),
            ("name=", "name"),
            ("worker=", "worker"),
            ("externalId=", "externalId"),
            ("errorContains=", "errorContains"),
            ("createdAfter=2026-02-27", "createdAfter"),
            ("createdBefore=2026-02-27T11:30:02+01:00", "createdBefore"),
            ("attemptAtLeast=0", "attemptAtLeast"),
            ("attemptAtLeast=4294967296", "attemptAtLeast"),
            ("tag=", "tag"),
            ("tag=:value", "tag"),
            ("lost=1", "lost"),
            ("stuck=", "stuck"),
            ("waiting=yes", "waiting"),
            ("sortBy=created_at", "sortBy"),
            ("sortOrder=up", "sortOrder"),
            ("atLeast=-1", "atLeast"),
            ("maxStaleness=-1", "maxStaleness"),
            ("asOf=1", "asOf"),
            ("after=1", "after"),
            ("limit=5&limit=5", "limit"),
            (&format!("sortBy=name&cursor={CURSOR_TEXT}"), "cursor"),
            ("stat=failed", "stat"),
            ("format=xml", "format"),
            ("format=json&limit=101", "limit"),
            ("format=csv&limit=0", "limit"),
        ];
        for (raw, field) in cases.into_iter().chain(too_long.iter().map(|(raw, field)| (raw.as_str(), *field))) {
            let (message, details) = refused(raw);
            assert!(details.is_some_and(|details| details[field].is_string()), "{raw}: {message}");
            assert!(message.starts_with(&format!("Invalid {field}: ")) && message.ends_with('.'), "{message}");
        }
    }
}
