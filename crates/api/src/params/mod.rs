//! Query parameters, each declared once: from its declaration it is read, refused and described in the API's document.
//!
//! What is not understood is refused by name, never ignored, since an ignored filter is a wrong answer. An endpoint
//! declares its parameters in a table, such as [`jobs::LIST`]:
//!
//! ```ignore
//! const LIMIT: Defaulted<Integer> = Param::new("limit", Integer::between(1, 100), "How many at most.").or(50);
//! const QUEUE: Param<Text> = Param::new("queue", Text::of(1, 255), "Only of this queue.");
//! pub(crate) const TABLE: Params = &[&LIMIT, &QUEUE];
//! ```
//!
//! and then asks for what was given: `let asked = Asked::of(TABLE, &call.query)?` and `asked.get(&QUEUE)`,
//! `asked.get_or(&LIMIT)`. The kinds of values are those of [`kinds`].

pub(crate) mod jobs;
pub(crate) mod kinds;
pub(crate) mod pages;

use std::time::Duration;

use proto_events::{Position, Timestamp};
use serde_json::{Value, json};

use self::kinds::{Integer, Kind, LogPosition, Moment, SAFE_INTEGER, Shown};
use crate::consistency::Wanted;
use crate::errors::ApiError;

/// A parameter that may be left out.
pub(crate) struct Param<K> {
    name: &'static str,
    kind: K,
    about: &'static str,
}

/// A parameter that has a value also where it is left out.
pub(crate) struct Defaulted<K: Kind> {
    param: Param<K>,
    default: K::Value,
}

/// A parameter of whatever kind, as a table holds it.
pub(crate) trait Declared: Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Fails with what a value must be.
    fn check(&self, text: &str) -> Result<(), String>;
    /// The parameter object of OpenAPI, for a place such as `query`.
    fn described(&self, place: &str) -> Value;
}

/// The parameters of an endpoint.
pub(crate) type Params = &'static [&'static dyn Declared];

/// Of an endpoint that has none.
pub(crate) const NONE: Params = &[];

impl<K: Kind> Param<K> {
    /// One that may be left out; `about` is a line for people.
    pub(crate) const fn new(name: &'static str, kind: K, about: &'static str) -> Self {
        Self { name, kind, about }
    }

    /// The same with a value for where it is left out.
    pub(crate) const fn or(self, default: K::Value) -> Defaulted<K> {
        Defaulted { param: self, default }
    }
}

impl<K: Kind + Sync> Declared for Param<K> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn check(&self, text: &str) -> Result<(), String> {
        self.kind.read(text).map(drop)
    }

    fn described(&self, place: &str) -> Value {
        let mut described = json!({
            "name": self.name, "in": place, "description": self.about, "schema": self.kind.schema(),
        });
        if place == "path" {
            described["required"] = json!(true);
        }
        if K::IS_LIST {
            // With commas, not as the same parameter again.
            described["style"] = json!("form");
            described["explode"] = json!(false);
        }
        described
    }
}

impl<K: Shown + Sync> Declared for Defaulted<K>
where
    K::Value: Sync,
{
    fn name(&self) -> &'static str {
        self.param.name
    }

    fn check(&self, text: &str) -> Result<(), String> {
        self.param.check(text)
    }

    fn described(&self, place: &str) -> Value {
        let mut described = self.param.described(place);
        described["schema"]["default"] = self.param.kind.shown(&self.default);
        described
    }
}

/// What was given of a table of parameters: each known, good, and given once.
#[derive(Debug)]
pub(crate) struct Asked(Vec<(&'static str, String)>);

impl Asked {
    /// Reads a query as it stands in the request.
    pub(crate) fn of(declared: Params, raw: &str) -> Result<Self, ApiError> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(raw.as_bytes()) {
            let Some(param) = declared.iter().find(|param| param.name() == name) else {
                return Err(ApiError::field(&shown(&name), "is not a known parameter"));
            };
            if given.iter().any(|(known, _)| *known == name) {
                return Err(ApiError::field(param.name(), "is given more than once"));
            }
            param.check(&value).map_err(|rule| ApiError::field(param.name(), rule))?;
            given.push((param.name(), value.into_owned()));
        }
        Ok(Self(given))
    }

    /// The value of a parameter of the table, if it was given.
    pub(crate) fn get<K: Kind>(&self, param: &Param<K>) -> Option<K::Value> {
        let (_, text) = self.0.iter().find(|(name, _)| *name == param.name)?;
        // Whether it is good was asked before.
        param.kind.read(text).ok()
    }

    /// The value of a parameter of the table, or that for where it is left out.
    pub(crate) fn get_or<K: Kind>(&self, defaulted: &Defaulted<K>) -> K::Value
    where
        K::Value: Clone,
    {
        self.get(&defaulted.param).unwrap_or_else(|| defaulted.default.clone())
    }

    /// What all reads may ask.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            // A message is applied whole.
            at_least: self.get(&AT_LEAST).map(|position| position.sequence),
            max_staleness: self.get(&MAX_STALENESS).map(Duration::from_millis),
        }
    }
}

/// Refuses every parameter.
pub(crate) fn none(raw: &str) -> Result<(), ApiError> {
    Asked::of(NONE, raw).map(drop)
}

/// A name that the client made up, short enough to be repeated to it.
fn shown(name: &str) -> String {
    name.chars().take(64).collect()
}

pub(crate) const AT_LEAST: Param<LogPosition> = Param::new(
    "atLeast",
    LogPosition,
    "Waits up to 5 s until the log up to this position is in the answer; ingest answers it as `sequence`.",
);
pub(crate) const MAX_STALENESS: Param<Integer> = Param::new(
    "maxStaleness",
    Integer::between(0, SAFE_INTEGER),
    "Milliseconds: refuses to answer with less than all that the log held so long ago. 0 means now.",
);

/// Of a read that has no others.
pub(crate) const READ: Params = &[&AT_LEAST, &MAX_STALENESS];

const AS_OF: Param<Moment> = Param::new(
    "asOf",
    Moment,
    "The job as it was when the log ended at this position, or at this time. Other runs are not listed then.",
);

/// Of `GET /api/jobs/{id}`.
pub(crate) const JOB: Params = &[&AS_OF, &AT_LEAST, &MAX_STALENESS];

/// What `GET /api/jobs/{id}` was asked beside the id.
#[derive(Debug)]
pub(crate) struct JobParams {
    pub(crate) as_of: Option<AsOf>,
    pub(crate) wanted: Wanted,
}

pub(crate) fn job_params(raw: &str) -> Result<JobParams, ApiError> {
    let asked = Asked::of(JOB, raw)?;
    Ok(JobParams { as_of: asked.get(&AS_OF), wanted: asked.wanted() })
}

/// What a read without parameters of its own was asked.
pub(crate) fn read_params(raw: &str) -> Result<Wanted, ApiError> {
    Ok(Asked::of(READ, raw)?.wanted())
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_asked_of_whichever_endpoint_it_is_read_or_refused_by_name(
            pairs in prop::collection::vec(("\\PC{0,20}", "\\PC{0,40}|[0-9a-zA-Z.:,*-]{0,40}", any::<prop::sample::Index>()), 0..4),
            raw in "[ -~]{0,80}",
        ) {
            for operation in crate::openapi::all() {
                let query = pairs.iter().fold(raw.clone(), |query, (name, value, which)| {
                    // Half of the names are those that it knows.
                    let known = (!operation.query.is_empty()).then(|| operation.query[which.index(operation.query.len())].name());
                    let name = known.filter(|_| value.len() % 2 == 0).unwrap_or(name);
                    let pair = form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
                    format!("{query}&{pair}")
                });
                if let Err(error) = Asked::of(operation.query, &query) {
                    let named = matches!(&error, ApiError::Validation { details: Some(it), .. } if it.as_object().is_some_and(|it| it.len() == 1));
                    prop_assert!(named, "{error:?}");
                }
            }
        }
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
            ["", "now", "1.", ".1", "-1", "%2B1", "1.2.3", "2026-02-27", "2026-02-27T11:30:02+01:00", &"9".repeat(20)]
        {
            let error = job_params(&format!("asOf={wrong}")).unwrap_err();
            assert!(
                matches!(error, ApiError::Validation { details: Some(it), .. } if it["asOf"].is_string()),
                "{wrong}"
            );
        }
    }

    #[test]
    fn every_read_says_how_new_its_answer_must_be() {
        let wanted = Wanted { at_least: Some(7), max_staleness: Some(Duration::from_millis(250)) };
        assert_eq!(read_params("maxStaleness=250&atLeast=7").unwrap(), wanted);
        assert_eq!(job_params("atLeast=7.3&maxStaleness=250").unwrap().wanted, wanted);
        assert_eq!(read_params("").unwrap(), Wanted::default());
        for wrong in ["atLeast=", "atLeast=1.x", "maxStaleness=1s", "maxStaleness=1.5", "asOf=1", "atLeast=1&atLeast=1"]
        {
            assert!(read_params(wrong).is_err(), "{wrong}");
        }
        assert!(none("").is_ok() && none("atLeast=1").is_err());
    }
}
