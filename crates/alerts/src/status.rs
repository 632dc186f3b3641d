//! What is told of alerts.

use proto_events::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::book::{Book, Event, Fate, Incident, Notice, Subject};
use crate::measure::Reading;
use crate::plan::{Format, Kind, Plan, Rule, Unit, Webhook, mask_url};

/// Incidents that are over, and notices, of which is told.
const SHOWN: usize = 50;

/// Rules, incidents and notices.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "Alerts"))]
#[serde(rename_all = "camelCase")]
pub struct AlertsStatus {
    /// The rules, as they stand in the file.
    pub rules: Vec<RuleStatus>,
    /// The latest incidents that are over, the latest first.
    pub incidents: Vec<Incident>,
    /// Where notices go to.
    pub webhooks: Vec<WebhookStatus>,
    /// The latest notices, those first that still wait.
    pub deliveries: Vec<Delivery>,
}

/// A rule.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AlertRule"))]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// Its name.
    pub name: String,
    /// What it measures.
    pub kind: Kind,
    /// What its values are.
    pub unit: Unit,
    /// How it is.
    pub state: RuleState,
    /// What was measured last; null where nothing could be told.
    pub value: Option<f64>,
    /// Why nothing could be told.
    pub unknown: Option<String>,
    /// When it was measured last.
    pub measured_at: Option<Timestamp>,
    /// What the value is of, the worst first; five at most.
    pub subjects: Vec<Subject>,
    /// The value at which an incident begins.
    pub trigger: f64,
    /// The value at which it ends.
    pub resolve: f64,
    /// Of which tasks.
    pub task: String,
    /// Of which queues.
    pub queue: String,
    /// Of which connections or sources.
    pub connection: String,
    /// Seconds until now that are looked at, where the kind looks back.
    pub window_seconds: f64,
    /// Seconds for which the value must be at the trigger.
    pub for_seconds: f64,
    /// Seconds after an incident in which no other one begins.
    pub cooldown_seconds: f64,
    /// The webhooks that are told.
    pub to: Vec<String>,
    /// The incident that lasts.
    pub incident: Option<Incident>,
}

/// How a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AlertRuleState"))]
#[serde(rename_all = "lowercase")]
pub enum RuleState {
    /// There is an incident.
    Firing,
    /// The value is at the trigger, and not for long enough.
    Pending,
    /// The last incident ended so short a time ago that none may begin.
    Cooling,
    /// Nothing is the matter.
    Quiet,
    /// Nothing can be told, or was not measured yet.
    Unknown,
}

/// Where notices go to.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AlertWebhook"))]
#[serde(rename_all = "camelCase")]
pub struct WebhookStatus {
    /// Its name.
    pub name: String,
    /// Where it is, without what is secret.
    pub url_masked: String,
    /// What notices look like.
    pub format: Format,
    /// Whether they are signed.
    pub signed: bool,
    /// Notices that wait.
    pub waiting: usize,
}

/// A notice.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AlertDelivery"))]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// What the receiver knows it by: the same however often it is sent.
    pub id: Uuid,
    /// Who is told.
    pub webhook: String,
    /// What.
    pub event: Event,
    /// Of which incident.
    pub incident_id: Uuid,
    /// Of which rule.
    pub rule: String,
    /// Since when it is on its way.
    pub at: Timestamp,
    /// What became of it.
    pub state: DeliveryState,
    /// How often it was sent.
    pub attempts: u32,
    /// When it was sent last; null also after a restart, which sends what waits at once.
    pub last_attempt_at: Option<Timestamp>,
    /// Why it did not arrive.
    pub last_error: Option<String>,
}

/// What became of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AlertDeliveryState"))]
#[serde(rename_all = "camelCase")]
pub enum DeliveryState {
    /// It is tried again.
    Waiting,
    /// It arrived.
    Delivered,
    /// It did not, for too long.
    GivenUp,
}

/// What came of a test.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AlertTest"))]
#[serde(rename_all = "camelCase")]
pub struct Tested {
    /// The webhook.
    pub webhook: String,
    /// Whether it took the notice.
    pub delivered: bool,
    /// Why not.
    pub error: Option<String>,
}

impl AlertsStatus {
    pub(crate) fn of<'a>(
        plan: &Plan,
        book: &Book,
        present: impl Fn(&str) -> Option<(&'a Reading, Timestamp)>,
        now: Timestamp,
    ) -> Self {
        let rule = |rule: &Rule| RuleStatus::of(rule, book, present(&rule.name), now);
        let over = book.incidents().filter(|incident| incident.resolved_at.is_some());
        Self {
            rules: plan.rules.iter().map(rule).collect(),
            incidents: over.take(SHOWN).cloned().collect(),
            webhooks: plan.webhooks.iter().map(|(name, webhook)| WebhookStatus::of(name, webhook, book)).collect(),
            deliveries: book.notices().take(SHOWN).map(Delivery::from).collect(),
        }
    }
}

impl RuleStatus {
    fn of(rule: &Rule, book: &Book, present: Option<(&Reading, Timestamp)>, now: Timestamp) -> Self {
        let (watch, reading) = (book.watch(&rule.name), present.map(|(reading, _)| reading));
        let value = reading.and_then(|reading| reading.value);
        let state = match () {
            () if watch.is_open => RuleState::Firing,
            () if value.is_none() => RuleState::Unknown,
            () if watch.is_cooling(&rule.limits, now) => RuleState::Cooling,
            () if watch.above_since.is_some() => RuleState::Pending,
            () => RuleState::Quiet,
        };
        Self {
            name: rule.name.clone(),
            kind: rule.kind,
            unit: rule.kind.unit(),
            state,
            value,
            unknown: reading.and_then(|reading| reading.unknown).map(str::to_owned),
            measured_at: present.map(|(_, at)| at),
            subjects: reading.map(|reading| reading.subjects.clone()).unwrap_or_default(),
            trigger: rule.limits.trigger,
            resolve: rule.limits.resolve,
            task: rule.task.text.clone(),
            queue: rule.queue.text.clone(),
            connection: rule.connection.text.clone(),
            window_seconds: rule.window.as_secs_f64(),
            for_seconds: rule.limits.hold.as_secs_f64(),
            cooldown_seconds: rule.limits.cooldown.as_secs_f64(),
            to: rule.to.clone(),
            incident: book.incident(&rule.name).cloned(),
        }
    }
}

impl WebhookStatus {
    fn of(name: &str, webhook: &Webhook, book: &Book) -> Self {
        let waits = |notice: &&Notice| notice.webhook == name && notice.fate == Fate::Waiting;
        Self {
            name: name.to_owned(),
            url_masked: mask_url(&webhook.url),
            format: webhook.format,
            signed: webhook.secret.is_some(),
            waiting: book.notices().filter(waits).count(),
        }
    }
}

impl From<&Notice> for Delivery {
    fn from(notice: &Notice) -> Self {
        Self {
            id: notice.id,
            webhook: notice.webhook.clone(),
            event: notice.event,
            incident_id: notice.incident.id,
            rule: notice.incident.rule.clone(),
            at: notice.at,
            state: match notice.fate {
                Fate::Waiting => DeliveryState::Waiting,
                Fate::Delivered => DeliveryState::Delivered,
                Fate::GivenUp => DeliveryState::GivenUp,
            },
            attempts: notice.attempts,
            last_attempt_at: notice.last_attempt_at,
            last_error: notice.last_error.clone(),
        }
    }
}
