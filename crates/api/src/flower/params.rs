//! What the list of tasks may be asked, by Flower's names.

use proto_events::{Framework, JobState, Timestamp, limits};
use serde_json::{Value, json};
use views::{Filter, Query, SortBy, SortOrder};

use super::search::Search;
use crate::errors::ApiError;
use crate::params::kinds::{Integer, Kind, Text};
use crate::params::{Asked, Defaulted, Param, Params};
use crate::walk::Walk;

/// Tasks of an answer where no limit is given: as many as Flower remembers by itself.
const MOST: usize = 100_000;
/// Tasks that can be passed over, or asked for.
const FARTHEST: u64 = 1_000_000;

/// The states that Celery has names for, in their order, and which jobs are in them: in which of our states, and whether
/// a worker has them.
const STATES: [(&str, &[JobState], Option<bool>); 7] = [
    ("FAILURE", &[JobState::Failed], None),
    ("PENDING", WAITING, Some(false)),
    ("RECEIVED", WAITING, Some(true)),
    ("RETRY", &[JobState::Retrying], None),
    ("REVOKED", &[JobState::Cancelled], None),
    ("STARTED", &[JobState::Active], None),
    ("SUCCESS", &[JobState::Completed], None),
];
const WAITING: &[JobState] = &[JobState::Queued, JobState::Scheduled, JobState::Unknown];
/// Others, in which no job is here.
const NEVER: [&str; 2] = ["REJECTED", "IGNORED"];

/// A text, or `All`, which asks for nothing.
struct Named(usize);

impl Kind for Named {
    type Value = Option<String>;

    fn read(&self, text: &str) -> Result<Self::Value, String> {
        let text = Text::of(0, self.0).read(text)?;
        Ok(Some(text).filter(|text| !text.is_empty() && text != "All"))
    }

    fn schema(&self) -> Value {
        json!({ "type": "string", "maxLength": self.0 })
    }
}

/// A state by Celery's name, whatever its case, or `All`.
struct State;

impl Kind for State {
    type Value = Option<String>;

    fn read(&self, text: &str) -> Result<Self::Value, String> {
        let name = text.to_ascii_uppercase();
        if ["", "ALL"].contains(&name.as_str()) {
            return Ok(None);
        }
        let names = || STATES.iter().map(|(name, ..)| *name).chain(NEVER);
        if names().any(|known| known == name) {
            return Ok(Some(name));
        }
        Err(format!("must be one of {}", names().collect::<Vec<_>>().join(", ")))
    }

    fn schema(&self) -> Value {
        json!({ "type": "string" })
    }
}

/// `YYYY-MM-DD HH:MM`, of UTC.
struct Minute;

impl Kind for Minute {
    type Value = Timestamp;

    fn read(&self, text: &str) -> Result<Timestamp, String> {
        let time = text.split_once(' ').and_then(|(day, minute)| Timestamp::parse(&format!("{day}T{minute}:00Z")));
        time.ok_or_else(|| "must be a time of UTC such as 2026-02-27 10:30".to_owned())
    }

    fn schema(&self) -> Value {
        json!({ "type": "string" })
    }
}

/// A field, with a dash before it where the largest comes first.
struct Order;

impl Kind for Order {
    type Value = (By, SortOrder);

    fn read(&self, text: &str) -> Result<Self::Value, String> {
        let (name, order) = match text.strip_prefix('-') {
            Some(name) => (name, SortOrder::Descending),
            None => (text, SortOrder::Ascending),
        };
        let by = match name {
            "name" => By::Field(SortBy::Name),
            "received" => By::Field(SortBy::CreatedAt),
            "started" => By::Field(SortBy::StartedAt),
            "state" => By::State,
            _ => return Err("must be name, state, received or started, with a dash before it to turn it".to_owned()),
        };
        Ok((by, order))
    }

    fn schema(&self) -> Value {
        json!({ "type": "string" })
    }
}

#[derive(Clone, Copy)]
enum By {
    Field(SortBy),
    State,
}

/// A query of the search.
struct Searched;

impl Kind for Searched {
    type Value = Search;

    fn read(&self, text: &str) -> Result<Search, String> {
        Search::of(text)
    }

    fn schema(&self) -> Value {
        json!({ "type": "string" })
    }
}

const LIMIT: Param<Integer> = Param::new("limit", Integer::between(0, FARTHEST), "How many tasks at most.");
const OFFSET: Defaulted<Integer> =
    Param::new("offset", Integer::between(0, FARTHEST), "How many tasks to pass over.").or(0);
const SORT_BY: Param<Order> = Param::new("sort_by", Order, "By what to order.");
const WORKER: Param<Named> = Param::new("workername", Named(limits::WORKER_ID), "Only of this worker.");
const TASK: Param<Named> = Param::new("taskname", Named(limits::NAME), "Only of this name.");
const STATE: Param<State> = Param::new("state", State, "Only in this state.");
const RECEIVED_START: Param<Minute> = Param::new("received_start", Minute, "Only from this minute on.");
const RECEIVED_END: Param<Minute> = Param::new("received_end", Minute, "Only up to this minute.");
const SEARCH: Param<Searched> = Param::new("search", Searched, "Only what is searched for.");

const LIST: Params = &[&LIMIT, &OFFSET, &SORT_BY, &WORKER, &TASK, &STATE, &RECEIVED_START, &RECEIVED_END, &SEARCH];

/// Which tasks are asked for.
pub(super) fn asked(raw: &str) -> Result<Walk, ApiError> {
    let asked = Asked::of(LIST, raw)?;
    let search = asked.get(&SEARCH).unwrap_or_default();
    let (by, sort_order) = asked.get(&SORT_BY).unwrap_or((By::Field(SortBy::CreatedAt), SortOrder::Descending));
    let worker = asked.get(&WORKER).flatten();
    let states = [asked.get(&STATE).flatten(), search.state];
    let filter = Filter {
        framework: Some(Framework::Celery),
        name: asked.get(&TASK).flatten(),
        search: search.text,
        external_id: search.id,
        worker: worker.clone().or(search.worker.clone()),
        created_after: asked.get(&RECEIVED_START),
        // The end belongs to it.
        created_before: asked.get(&RECEIVED_END).map(|end| Timestamp(end.micros() + 1)),
        ..Filter::default()
    };
    let query = Query { filter, sort_by: SortBy::CreatedAt, sort_order, limit: 0, cursor: None };
    let is_wanted = |name: &str| states.iter().flatten().all(|wanted| wanted == name);
    let of_state = |(name, states, taken): &(&str, &[JobState], Option<bool>)| {
        let filter = Filter { states: Some(states.to_vec()), taken: *taken, ..query.filter.clone() };
        is_wanted(name).then(|| Query { filter, ..query.clone() })
    };
    let mut queries: Vec<Query> = match by {
        By::Field(sort_by) if states == [None, None] => vec![Query { sort_by, ..query.clone() }],
        By::Field(sort_by) => STATES.iter().filter_map(of_state).map(|query| Query { sort_by, ..query }).collect(),
        By::State => STATES.iter().filter_map(of_state).collect(),
    };
    if matches!(by, By::State) && sort_order == SortOrder::Descending {
        queries.reverse();
    }
    // Nobody is two workers.
    if worker.zip(search.worker).is_some_and(|(one, other)| one != other) {
        queries.clear();
    }
    let limit = asked.get(&LIMIT).map_or(MOST, |limit| limit as usize);
    Ok(Walk { queries: queries.into(), skip: asked.get_or(&OFFSET) as usize, limit })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn states(raw: &str) -> Vec<(Vec<JobState>, Option<bool>)> {
        let walk = asked(raw).unwrap();
        walk.queries.into_iter().map(|query| (query.filter.states.unwrap_or_default(), query.filter.taken)).collect()
    }

    #[test]
    fn each_parameter_asks_for_its_own_thing() {
        let whole = asked("").unwrap();
        let first = &whole.queries[0];
        assert_eq!((whole.queries.len(), whole.skip, whole.limit), (1, 0, MOST));
        assert_eq!((first.sort_by, first.sort_order), (SortBy::CreatedAt, SortOrder::Descending));
        let walk = asked("limit=7&offset=3&sort_by=-started&workername=celery@a&taskname=All").unwrap();
        let first = &walk.queries[0];
        assert_eq!((walk.skip, walk.limit, first.sort_by), (3, 7, SortBy::StartedAt));
        assert_eq!((first.filter.worker.as_deref(), first.filter.name.as_deref()), (Some("celery@a"), None));
        let walk = asked("received_start=2026-02-27+10:30&received_end=2026-02-27%2010:31&taskname=a").unwrap();
        let filter = &walk.queries[0].filter;
        assert_eq!(filter.created_after, Timestamp::parse("2026-02-27T10:30:00Z"));
        assert_eq!(filter.created_before, Timestamp::parse("2026-02-27T10:31:00.000001Z"));
        assert_eq!(states("state=failure"), [(vec![JobState::Failed], None)]);
        assert_eq!(states("state=RECEIVED"), [(WAITING.to_vec(), Some(true))]);
        assert_eq!(states("state=PENDING&search=state:PENDING&sort_by=name"), [(WAITING.to_vec(), Some(false))]);
        let by_state = states("sort_by=state");
        assert_eq!(
            (by_state.len(), &by_state[0].0, &by_state[6].0),
            (7, &vec![JobState::Failed], &vec![JobState::Completed])
        );
        assert_eq!(states("sort_by=-state")[0].0, [JobState::Completed]);
        for nothing in ["state=REJECTED", "state=SUCCESS&search=state:FAILURE", "workername=a&search=worker:bbb"] {
            assert!(states(nothing).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn the_rest_is_refused_by_name() {
        for (raw, field) in [
            ("limit=-1", "limit"),
            ("offset=x", "offset"),
            ("sort_by=runtime", "sort_by"),
            ("sort_by=--name", "sort_by"),
            ("state=DONE", "state"),
            ("received_start=2026-02-27", "received_start"),
            ("received_end=yesterday", "received_end"),
            ("search=a", "search"),
            ("page=1", "page"),
        ] {
            match asked(raw) {
                Err(ApiError::Validation { details: Some(details), .. }) => {
                    assert!(details[field].is_string(), "{raw}: {details}");
                }
                other => panic!("{raw}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_as_of_flower_it_is_read_or_refused_by_name(
            pairs in prop::collection::vec((any::<prop::sample::Index>(), "\\PC{0,40}|[0-9A-Za-z:. +-]{0,30}|[0-9]{1,7}|-?(name|state|received|started)|2026-02-27 10:30"), 0..5),
            raw in prop_oneof![3 => Just(String::new()), 1 => "[ -~]{0,60}"],
        ) {
            let query = pairs.iter().fold(raw, |query, (which, value)| {
                let name = LIST[which.index(LIST.len())].name();
                let pair = form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
                format!("{query}&{pair}")
            });
            match asked(&query) {
                Ok(walk) => prop_assert!(walk.limit as u64 <= FARTHEST && walk.skip as u64 <= FARTHEST),
                Err(error) => {
                    let named = matches!(&error, ApiError::Validation { details: Some(it), .. } if it.as_object().is_some_and(|it| it.len() == 1));
                    prop_assert!(named, "{error:?}");
                }
            }
        }
    }
}
