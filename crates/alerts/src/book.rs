//! All that is to be remembered: incidents, and notices that are on their way. Pure: it is kept in a file by `store`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto_events::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::measure::Reading;
use crate::plan::{Kind, Plan, Rule, Unit};
use crate::watch::{Turn, Watch};

/// Incidents that are over and still told of.
const PAST: usize = 100;
/// Notices that are done with and still told of.
const DONE: usize = 200;
/// Notices that may wait for one webhook; the oldest make room.
const WAITING: usize = 500;
/// After so long a notice is no news, and is given up.
const GIVE_UP: Duration = Duration::from_secs(24 * 60 * 60);
/// Before the second attempt; each further one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Ids are made of what they name, so that the same notice always has the same one.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1c_54c4_9f0d_4c0e_8a55_0b8f_0a6d_31e2);

/// Something that a value is of: a task, a queue, a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AlertSubject"))]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// The connection that it belongs to, where it belongs to one.
    pub connection_id: Option<Uuid>,
    /// What was measured of it alone.
    pub value: f64,
}

/// An incident: from when the value of a rule reached its trigger until it was back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// Its id.
    pub id: Uuid,
    /// The name of the rule.
    pub rule: String,
    /// What the rule measures.
    pub kind: Kind,
    /// What its values are.
    pub unit: Unit,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; null while it lasts.
    pub resolved_at: Option<Timestamp>,
    /// Why it ended.
    pub why: Option<Why>,
    /// What was measured when it began, or when it ended.
    pub value: f64,
    /// The value at which it began.
    pub trigger: f64,
    /// The value at which it ends.
    pub resolve: f64,
    /// What the value was of when it began, the worst first; five at most.
    pub subjects: Vec<Subject>,
    /// The same for people.
    pub summary: String,
    /// Whom it was told.
    pub to: Vec<String>,
}

/// Why an incident ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "IncidentEnd"))]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// The value was back.
    Resolved,
    /// There is no such rule any more.
    RuleRemoved,
    /// The rule asks something else now.
    RuleChanged,
}

/// What a notice tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AlertEvent"))]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// An incident began.
    Fired,
    /// It ended.
    Resolved,
    /// Nothing: somebody wants to know whether notices arrive.
    Test,
}

/// Something that a webhook is to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Notice {
    /// The same however often it is sent.
    pub(crate) id: Uuid,
    pub(crate) webhook: String,
    pub(crate) event: Event,
    pub(crate) at: Timestamp,
    /// As it was then.
    pub(crate) incident: Incident,
    pub(crate) attempts: u32,
    pub(crate) last_attempt_at: Option<Timestamp>,
    pub(crate) last_error: Option<String>,
    pub(crate) fate: Fate,
}

/// What became of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Fate {
    Waiting,
    Delivered,
    GivenUp,
}

/// What is kept of a rule.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    question: String,
    closed_at: Option<Timestamp>,
    incident: Option<Incident>,
    #[serde(skip)]
    above_since: Option<Timestamp>,
}

/// All that is to be remembered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Book {
    rules: BTreeMap<String, Kept>,
    past: VecDeque<Incident>,
    waiting: VecDeque<Notice>,
    done: VecDeque<Notice>,
}

impl Book {
    /// Goes on with these rules and webhooks: incidents of rules that are gone or ask something else end. Whether
    /// anything changed.
    pub(crate) fn adopt(&mut self, plan: &Plan, now: Timestamp) -> bool {
        let question = |name: &str| plan.rules.iter().find(|rule| rule.name == name).map(Rule::question);
        let over: Vec<(String, Why)> = self
            .rules
            .iter()
            .filter_map(|(name, kept)| match question(name) {
                None => Some((name.clone(), Why::RuleRemoved)),
                Some(asked) if asked != kept.question => Some((name.clone(), Why::RuleChanged)),
                Some(_) => None,
            })
            .collect();
        for (name, why) in &over {
            if let Some(incident) = self.rules.remove(name).and_then(|kept| kept.incident) {
                self.end(incident, *why, None, plan, now);
            }
        }
        let before = self.waiting.len();
        let (kept, gone): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|notice| plan.webhooks.contains_key(&notice.webhook));
        self.waiting = kept;
        for notice in gone {
            let last_error = Some("there is no such webhook any more".to_owned());
            self.settle(Notice { fate: Fate::GivenUp, last_error, ..notice });
        }
        !over.is_empty() || before != self.waiting.len()
    }

    /// Takes in what was measured of a rule. Whether there is anything new to be kept.
    pub(crate) fn observe(&mut self, rule: &Rule, reading: &Reading, plan: &Plan, now: Timestamp) -> bool {
        let kept = self.rules.entry(rule.name.clone()).or_default();
        if kept.question.is_empty() {
            kept.question = rule.question();
        }
        let mut watch =
            Watch { above_since: kept.above_since, is_open: kept.incident.is_some(), closed_at: kept.closed_at };
        let turn = watch.step(&rule.limits, reading.value, now);
        (kept.above_since, kept.closed_at) = (watch.above_since, watch.closed_at);
        match turn {
            None => return false,
            Some(Turn::Opens) => {
                let incident = Incident::of(rule, reading, now);
                kept.incident = Some(incident.clone());
                tracing::warn!(rule = rule.name, incident = %incident.id, "an alert fired: {}", incident.summary);
                self.tell(Event::Fired, &incident, plan, now);
            }
            Some(Turn::Closes) => {
                if let Some(incident) = kept.incident.take() {
                    self.end(incident, Why::Resolved, reading.value, plan, now);
                }
            }
        }
        true
    }

    fn end(&mut self, incident: Incident, why: Why, value: Option<f64>, plan: &Plan, now: Timestamp) {
        let value = value.unwrap_or(incident.value);
        let incident = Incident { resolved_at: Some(now), why: Some(why), value, ..incident };
        tracing::info!(rule = incident.rule, incident = %incident.id, ?why, "an alert is over");
        self.tell(Event::Resolved, &incident, plan, now);
        self.past.push_front(incident);
        self.past.truncate(PAST);
    }

    /// Puts a notice on its way to everybody who is to be told.
    fn tell(&mut self, event: Event, incident: &Incident, plan: &Plan, now: Timestamp) {
        for webhook in incident.to.iter().filter(|name| plan.webhooks.contains_key(*name)) {
            let full = self.waiting.iter().filter(|notice| notice.webhook == *webhook).count() >= WAITING;
            let oldest = self.waiting.iter().position(|notice| full && notice.webhook == *webhook);
            if let Some(oldest) = oldest.and_then(|at| self.waiting.remove(at)) {
                let last_error = oldest.last_error.or(Some("too many others waited".to_owned()));
                self.settle(Notice { fate: Fate::GivenUp, last_error, ..oldest });
            }
            self.waiting.push_back(Notice::new(webhook, event, incident, now));
        }
    }

    fn settle(&mut self, notice: Notice) {
        if notice.fate == Fate::GivenUp {
            let error = notice.last_error.as_deref().unwrap_or_default();
            tracing::error!(webhook = notice.webhook, notice = %notice.id, error, "a notice of an alert is given up");
        }
        self.done.push_front(notice);
        self.done.truncate(DONE);
    }

    /// The next notice of each webhook, with the time of the next attempt: one after the other, so that no end of an
    /// incident arrives before its beginning.
    pub(crate) fn next(&self) -> BTreeMap<&str, (&Notice, Timestamp)> {
        let mut next = BTreeMap::new();
        for notice in &self.waiting {
            next.entry(&*notice.webhook).or_insert((notice, notice.due_at()));
        }
        next
    }

    /// What came of an attempt to send a notice.
    pub(crate) fn tried(&mut self, id: Uuid, result: Result<(), String>, now: Timestamp) {
        let Some(at) = self.waiting.iter().position(|notice| notice.id == id) else { return };
        let Some(notice) = self.waiting.get_mut(at) else { return };
        notice.attempts += 1;
        notice.last_attempt_at = Some(now);
        notice.fate = match &result {
            Ok(()) => Fate::Delivered,
            Err(_) if now.micros() - notice.at.micros() > micros(GIVE_UP) => Fate::GivenUp,
            Err(_) => Fate::Waiting,
        };
        notice.last_error = result.err();
        if notice.fate != Fate::Waiting
            && let Some(notice) = self.waiting.remove(at)
        {
            self.settle(notice);
        }
    }

    /// Whoever starts again tries at once.
    pub(crate) fn hurry(&mut self) {
        self.waiting.iter_mut().for_each(|notice| notice.last_attempt_at = None);
    }

    pub(crate) fn incident(&self, rule: &str) -> Option<&Incident> {
        self.rules.get(rule)?.incident.as_ref()
    }

    pub(crate) fn watch(&self, rule: &str) -> Watch {
        let kept = self.rules.get(rule);
        Watch {
            above_since: kept.and_then(|kept| kept.above_since),
            is_open: kept.is_some_and(|kept| kept.incident.is_some()),
            closed_at: kept.and_then(|kept| kept.closed_at),
        }
    }

    /// Those that last, and those that are over, the latest first.
    pub(crate) fn incidents(&self) -> impl Iterator<Item = &Incident> {
        self.rules.values().filter_map(|kept| kept.incident.as_ref()).chain(&self.past)
    }

    /// Those that wait, the latest first, and those that are done with.
    pub(crate) fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.waiting.iter().rev().chain(&self.done)
    }
}

impl Incident {
    pub(crate) fn of(rule: &Rule, reading: &Reading, now: Timestamp) -> Self {
        let (value, unit) = (reading.value.unwrap_or_default(), rule.kind.unit());
        Self {
            id: Uuid::new_v5(&NAMESPACE, format!("{} {}", rule.name, now.micros()).as_bytes()),
            rule: rule.name.clone(),
            kind: rule.kind,
            unit,
            started_at: now,
            resolved_at: None,
            why: None,
            value,
            trigger: rule.limits.trigger,
            resolve: rule.limits.resolve,
            subjects: reading.subjects.clone(),
            summary: reading.summary(rule),
            to: rule.to.clone(),
        }
    }
}

impl Incident {
    /// One that never was, to be told in a test.
    pub(crate) fn example(kind: Kind, now: Timestamp) -> Self {
        Self {
            id: Uuid::nil(),
            rule: String::new(),
            kind,
            unit: kind.unit(),
            started_at: now,
            resolved_at: None,
            why: None,
            value: 0.0,
            trigger: 0.0,
            resolve: 0.0,
            subjects: Vec::new(),
            summary: "a test".to_owned(),
            to: Vec::new(),
        }
    }
}

impl Notice {
    pub(crate) fn new(webhook: &str, event: Event, incident: &Incident, now: Timestamp) -> Self {
        Self {
            id: Uuid::new_v5(&incident.id, format!("{webhook} {event:?}").as_bytes()),
            webhook: webhook.to_owned(),
            event,
            at: now,
            incident: incident.clone(),
            attempts: 0,
            last_attempt_at: None,
            last_error: None,
            fate: Fate::Waiting,
        }
    }

    /// When it is to be tried next.
    fn due_at(&self) -> Timestamp {
        let Some(last) = self.last_attempt_at else { return self.at };
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.attempts.saturating_sub(1).min(16));
        Timestamp(last.micros().saturating_add(micros(doubled.min(LONGEST_PAUSE))))
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const SECOND: i64 = 1_000_000;

    fn plan(text: &str) -> Plan {
        let mut settings = serde_json::json!({
            "webhook": { "ops": { "url": "http://ops" }, "chat": { "url": "http://chat" } },
            "rule": [{ "name": "full", "kind": "disk", "trigger": 0.9, "cooldown": "0s", "to": ["ops", "chat"] }],
        });
        let changes: serde_json::Value = serde_json::from_str(text).unwrap();
        for (key, value) in changes.as_object().unwrap() {
            settings[key] = value.clone();
        }
        serde_json::from_value::<Settings>(settings).unwrap().plan().unwrap()
    }

    fn observe(book: &mut Book, plan: &Plan, value: f64, second: i64) -> bool {
        let rule = plan.rules.first().unwrap();
        book.observe(rule, &Reading::of(value, Vec::new()), plan, Timestamp(second * SECOND))
    }

    fn waiting(book: &Book) -> Vec<(&str, Event)> {
        book.waiting.iter().map(|notice| (&*notice.webhook, notice.event)).collect()
    }

    #[test]
    fn what_is_read_back_goes_on_where_it_was() {
        let plan = plan("{}");
        let mut book = Book::default();
        assert!(observe(&mut book, &plan, 0.95, 1));
        assert_eq!(waiting(&book), [("ops", Event::Fired), ("chat", Event::Fired)]);
        let ids: Vec<_> = book.waiting.iter().map(|notice| notice.id).collect();
        let mut book: Book = serde_json::from_slice(&serde_json::to_vec(&book).unwrap()).unwrap();
        assert!(!book.adopt(&plan, Timestamp(2)), "nothing has changed");
        assert!(!observe(&mut book, &plan, 0.96, 2), "it has fired already");
        assert_eq!(book.waiting.iter().map(|notice| notice.id).collect::<Vec<_>>(), ids);
        assert!(observe(&mut book, &plan, 0.5, 3));
        // One after the other: the end waits for the beginning.
        assert!(book.next().values().all(|(notice, _)| notice.event == Event::Fired));
        book.tried(ids[0], Ok(()), Timestamp(4 * SECOND));
        assert_eq!(book.next()["ops"].0.event, Event::Resolved);
        assert_eq!(book.next()["chat"].0.event, Event::Fired);
    }

    #[test]
    fn a_rule_that_is_gone_or_asks_something_else_ends_its_incident_and_one_with_other_limits_does_not() {
        let fired = |changes: &str| {
            let mut book = Book::default();
            observe(&mut book, &plan("{}"), 0.95, 1);
            book.waiting.clear();
            book.adopt(&plan(changes), Timestamp(2 * SECOND));
            let ends = book.past.front().and_then(|incident| incident.why);
            (ends, waiting(&book).len())
        };
        let rule = |text: &str| format!(r#"{{ "rule": [{{ "name": "full", "to": ["ops"], {text} }}] }}"#);
        assert_eq!(fired("{}"), (None, 0));
        assert_eq!(fired(&rule(r#""kind": "disk", "trigger": 0.5"#)), (None, 0));
        assert_eq!(fired(&rule(r#""kind": "lag", "trigger": 1"#)), (Some(Why::RuleChanged), 2));
        assert_eq!(fired(r#"{ "rule": [] }"#), (Some(Why::RuleRemoved), 2));
        // Whoever is not there any more is told nothing.
        assert_eq!(
            fired(r#"{ "rule": [], "webhook": { "ops": { "url": "http://ops" } } }"#),
            (Some(Why::RuleRemoved), 1)
        );
    }

    #[test]
    fn attempts_come_more_and_more_seldom_and_have_an_end() {
        let plan = plan("{}");
        let mut book = Book::default();
        observe(&mut book, &plan, 0.95, 0);
        let id = book.waiting[0].id;
        let (mut now, mut pauses) = (Timestamp(0), Vec::new());
        while let Some((notice, due)) = book.next().get("ops").map(|(notice, due)| (notice.id, *due)) {
            assert_eq!(notice, id);
            pauses.push((due.micros() - now.micros()) / SECOND);
            now = due;
            book.tried(id, Err("no answer".to_owned()), now);
            assert!(pauses.len() < 1_000, "it has no end");
        }
        assert_eq!(pauses[..11], [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert!(now.micros() / SECOND > 24 * 3_600);
        let notice = book.done.front().unwrap();
        assert_eq!((notice.fate, notice.last_error.as_deref()), (Fate::GivenUp, Some("no answer")));
    }

    #[test]
    fn for_a_webhook_that_never_answers_only_so_many_wait() {
        let plan = plan("{}");
        let mut book = Book::default();
        for turn in 0..1_000 {
            let value = if turn % 2 == 0 { 1.0 } else { 0.0 };
            observe(&mut book, &plan, value, turn);
        }
        assert_eq!(book.waiting.len(), 2 * WAITING);
        assert_eq!((book.done.len(), book.past.len()), (DONE, PAST));
    }
}
