//! What is kept out of the log: arguments and results altogether, or whatever fits a pattern in what a job was given, gave
//! or said. It is done before anything is stored, so that nothing that comes later needs to know of it.

use std::borrow::Cow;
use std::sync::Arc;

use parking_lot::RwLock;
use proto_events::{Event, Job};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

/// What stands in the place of what was taken out.
pub const REDACTED: &str = "[redacted]";
/// Bytes that a pattern may take when it is compiled.
const SIZE: usize = 1 << 20;

/// What is kept out of the log. All clones of one follow each change of its patterns.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    /// Whether `args`, `kwargs` and `result` are dropped.
    arguments: bool,
    patterns: Arc<RwLock<Arc<[Pattern]>>>,
}

/// A regular expression, each match of which is taken out. Matching takes a time that grows with the text alone,
/// whatever the expression.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// It is no regular expression, or one that is too large.
    #[error("is no regular expression: {0}")]
    Malformed(String),
    /// It would be found between any two letters.
    #[error("fits the empty text, and so everywhere")]
    Empty,
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let regex = RegexBuilder::new(text).size_limit(SIZE).build().map_err(|error| {
            // It points at the place over several lines, of which the last one says what is wrong.
            let said = error.to_string();
            let last = said.lines().last().unwrap_or_default();
            PatternError::Malformed(last.strip_prefix("error: ").unwrap_or(last).to_owned())
        })?;
        // One that fits between letters may need some to be found.
        let fits_nothing = |text: &str| regex.find_iter(text).any(|found| found.is_empty());
        if ["", "a a", "0-0"].into_iter().any(fits_nothing) { Err(PatternError::Empty) } else { Ok(Self(regex)) }
    }
}

impl Redaction {
    /// Drops arguments and results or not, and takes out what fits one of these patterns.
    pub fn new(arguments: bool, patterns: Vec<Pattern>) -> Self {
        Self { arguments, patterns: Arc::new(RwLock::new(patterns.into())) }
    }

    /// Whether `args`, `kwargs` and `result` are dropped.
    pub fn drops_arguments(&self) -> bool {
        self.arguments
    }

    /// Goes by the patterns of the other one from now on, as do all clones.
    pub fn take_over(&self, other: &Self) {
        let patterns = Arc::clone(&other.patterns.read());
        *self.patterns.write() = patterns;
    }

    /// Takes out of an event what is not to be stored.
    pub(crate) fn apply(&self, event: &mut Event) {
        let patterns = Arc::clone(&self.patterns.read());
        if patterns.is_empty() {
            return;
        }
        if let Some(job) = event.job.as_deref_mut() {
            redact(job, &patterns);
        }
        if let Some(worker) = event.worker.as_deref_mut() {
            of_map(&mut worker.metadata, &patterns);
            of_map(&mut worker.extensions, &patterns);
        }
        if let Some(queue) = event.queue.as_deref_mut() {
            of_map(&mut queue.extensions, &patterns);
        }
    }

    /// Takes it out of a value that is still to be cut, so that no half of it is left.
    pub(crate) fn apply_to(&self, value: &mut Value) {
        let patterns = Arc::clone(&self.patterns.read());
        of_value(value, &patterns);
    }
}

/// What a job was given, gave and said, and what was not understood of it. What it is called and where it runs stays: by
/// that it is told from others.
fn redact(job: &mut Job, patterns: &[Pattern]) {
    for value in [&mut job.args, &mut job.kwargs, &mut job.result].into_iter().flatten() {
        of_value(value, patterns);
    }
    for text in [&mut job.error, &mut job.stacktrace].into_iter().flatten() {
        of_text(text, patterns);
    }
    of_map(&mut job.tags, patterns);
    of_map(&mut job.extensions, patterns);
}

fn of_text(text: &mut String, patterns: &[Pattern]) {
    for Pattern(regex) in patterns {
        let redacted = match regex.replace_all(text, regex::NoExpand(REDACTED)) {
            Cow::Owned(redacted) => redacted,
            Cow::Borrowed(_) => continue,
        };
        *text = redacted;
    }
}

fn of_value(value: &mut Value, patterns: &[Pattern]) {
    match value {
        Value::String(text) => of_text(text, patterns),
        Value::Array(values) => values.iter_mut().for_each(|value| of_value(value, patterns)),
        Value::Object(map) => of_map(map, patterns),
        // The digits of a card may come as a number.
        Value::Number(number) => {
            let mut text = number.to_string();
            of_text(&mut text, patterns);
            if text.contains(REDACTED) {
                *value = Value::String(text);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn of_map(map: &mut Map<String, Value>, patterns: &[Pattern]) {
    map.values_mut().for_each(|value| of_value(value, patterns));
    if map.keys().any(|key| patterns.iter().any(|Pattern(regex)| regex.is_match(key))) {
        for (mut key, value) in std::mem::take(map) {
            of_text(&mut key, patterns);
            // Two that are the same now were two values.
            let alike = (2..).map(|number| format!("{key} {number}"));
            let free = std::iter::once(key.clone()).chain(alike).find(|key| !map.contains_key(key));
            map.insert(free.unwrap_or(key), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_events::{Framework, JobState, Timestamp};
    use serde_json::json;

    fn redaction(patterns: &[&str]) -> Redaction {
        Redaction::new(false, patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())
    }

    fn event() -> Event {
        let mut job = Job::new("4111-1111".to_owned(), JobState::Failed);
        job.name = Some("pay".to_owned());
        job.args = Some(json!("('4111-1111', 'x')"));
        job.kwargs = Some(json!({ "card": ["4111-1111", 4_111_222], "4111-2222": true, "n": 7 }));
        job.result = Some(json!({ "token=abc": null, "of": "token=abc more" }));
        job.error = Some("KeyError('token=abc')".to_owned());
        job.stacktrace = Some("line\ntoken=abc\n".to_owned());
        job.tags = json!({ "4111-1": "a", "4111-2": "4111-3" }).as_object().unwrap().clone();
        job.extensions =
            json!({ "celeryEvent": "task-paid", "note": { "card": "4111-1111" } }).as_object().unwrap().clone();
        Event::job(Timestamp(0), Framework::Celery, job)
    }

    #[test]
    fn what_fits_is_taken_out_wherever_a_job_says_it_and_the_rest_stays() {
        let mut event = event();
        redaction(&[r"4111-?\d+", "token=[a-z]+"]).apply(&mut event);
        let job = event.job.as_deref().unwrap();
        assert_eq!((job.external_id.as_str(), job.name.as_deref()), ("4111-1111", Some("pay")), "by these it is known");
        assert_eq!(job.args, Some(json!("('[redacted]', 'x')")));
        assert_eq!(job.kwargs, Some(json!({ "card": ["[redacted]", "[redacted]"], "[redacted]": true, "n": 7 })));
        assert_eq!(job.result, Some(json!({ "[redacted]": null, "of": "[redacted] more" })));
        assert_eq!(job.error.as_deref(), Some("KeyError('[redacted]')"));
        assert_eq!(job.stacktrace.as_deref(), Some("line\n[redacted]\n"));
        assert_eq!(Value::from(job.tags.clone()), json!({ "[redacted]": "a", "[redacted] 2": "[redacted]" }));
        assert_eq!(job.extensions["note"], json!({ "card": "[redacted]" }));
        assert_eq!(job.extensions["celeryEvent"], "task-paid");
    }

    #[test]
    fn what_workers_and_queues_say_beside_their_names_is_redacted_too() {
        let map = || json!({ "argv": "worker --token abc" }).as_object().unwrap().clone();
        let mut event = event();
        let worker = json!({
            "externalId": "w", "hostname": "w", "state": "online", "metadata": map(), "extensions": map(),
        });
        event.worker = Some(serde_json::from_value(worker).unwrap());
        event.queue = Some(serde_json::from_value(json!({ "name": "abc", "extensions": map() })).unwrap());
        redaction(&["abc"]).apply(&mut event);
        let redacted = json!({ "argv": "worker --token [redacted]" });
        let (worker, queue) = (event.worker.unwrap(), event.queue.unwrap());
        for map in [worker.metadata, worker.extensions, queue.extensions] {
            assert_eq!(Value::from(map), redacted);
        }
        assert_eq!(queue.name, "abc");
    }

    #[test]
    fn all_clones_go_by_the_patterns_that_hold_now() {
        let one = redaction(&["abc"]);
        let other = one.clone();
        one.take_over(&redaction(&["4111"]));
        let mut event = event();
        other.apply(&mut event);
        let job = event.job.unwrap();
        assert_eq!(job.args, Some(json!("('[redacted]-1111', 'x')")));
        assert_eq!(job.error.as_deref(), Some("KeyError('token=abc')"));
    }

    #[test]
    fn what_is_no_pattern_is_refused_in_a_line() {
        let wrong = |text: &str| text.parse::<Pattern>().unwrap_err();
        for everywhere in ["a*", r"\b", r"\b(x)?", "$"] {
            assert_eq!(wrong(everywhere), PatternError::Empty);
        }
        for malformed in ["(", "[a-", r"\", "(?<n>a){99999999}"] {
            let PatternError::Malformed(said) = wrong(malformed) else { panic!("{malformed}") };
            assert!(!said.is_empty() && !said.contains('\n'), "{malformed}: {said}");
        }
    }
}
