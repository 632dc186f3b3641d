//! What the configuration file says of alerts, and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use crate::plan::{Format, Kind, Pattern, Plan, Rule, Unit, Webhook, mask_url};
use crate::watch::Limits;

const EVERY: Duration = Duration::from_secs(15);
const WINDOW: Duration = Duration::from_secs(10 * 60);
const GAP_WINDOW: Duration = Duration::from_secs(60 * 60);
const COOLDOWN: Duration = Duration::from_secs(15 * 60);
/// Fewer jobs say too little: one of one is all of them.
const MIN_JOBS: u64 = 10;
/// Rules are evaluated one after the other.
const MOST_RULES: usize = 200;
/// Each may wait for an answer at the same time.
const MOST_WEBHOOKS: usize = 20;
/// What the views tell by the minute; longer windows are of whole hours.
const LONGEST_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The table `[alerts]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Settings {
    /// How often rules are looked at.
    pub every: Option<String>,
    /// Where notices go to, by name.
    pub webhook: BTreeMap<String, WebhookSettings>,
    /// The rules.
    pub rule: Vec<RuleSettings>,
}

/// A table `[alerts.webhook.NAME]`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WebhookSettings {
    /// Where.
    pub url: String,
    /// What notices are signed with.
    pub secret: Option<String>,
    /// What they look like.
    pub format: Option<Format>,
}

impl fmt::Debug for WebhookSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_url(&self.url))
    }
}

/// A table of `[[alerts.rule]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RuleSettings {
    /// Unique.
    pub name: String,
    /// What is measured.
    pub kind: Kind,
    /// Of which tasks.
    pub task: Option<String>,
    /// Of which queues.
    pub queue: Option<String>,
    /// Of which connections or sources.
    pub connection: Option<String>,
    /// Within which time until now.
    pub window: Option<String>,
    /// Of how many jobs at least.
    pub min_jobs: Option<u64>,
    /// From which value on an incident begins.
    pub trigger: Option<Amount>,
    /// At which value it ends.
    pub resolve: Option<Amount>,
    /// For how long the value must be there first.
    #[serde(rename = "for")]
    pub hold: Option<String>,
    /// For how long no other one begins.
    pub cooldown: Option<String>,
    /// The names of webhooks.
    #[serde(default)]
    pub to: Vec<String>,
}

/// A value as it is written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "no amount, expected a number or a text such as \"20%\" or \"10m\"")]
pub enum Amount {
    /// A number.
    Number(f64),
    /// A share or a time.
    Text(String),
}

impl Settings {
    /// What it means; otherwise all that is wrong with it.
    pub fn plan(&self) -> Result<Plan, Vec<String>> {
        let mut wrong = Vec::new();
        let every = match time(self.every.as_deref(), EVERY) {
            Ok(every) if every >= Duration::from_millis(100) => every,
            Ok(_) => kept(&mut wrong, "alerts.every must be 100ms or more".to_owned(), EVERY),
            Err(error) => kept(&mut wrong, format!("alerts.every {error}"), EVERY),
        };
        let mut webhooks = BTreeMap::new();
        for (name, settings) in &self.webhook {
            match settings.webhook(name) {
                Ok(webhook) => drop(webhooks.insert(name.clone(), webhook)),
                Err(error) => wrong.push(format!("alerts.webhook.{name}: {error}")),
            }
        }
        if self.webhook.len() > MOST_WEBHOOKS || self.rule.len() > MOST_RULES {
            wrong.push(format!("there may be {MOST_RULES} alert rules and {MOST_WEBHOOKS} webhooks at most"));
        }
        let mut rules: Vec<Rule> = Vec::new();
        for settings in &self.rule {
            if rules.iter().any(|rule| rule.name == settings.name) {
                wrong.push(format!(
                    "there are two alert rules named {:?}: a name says whose an incident is",
                    settings.name
                ));
            }
            match settings.rule(&self.webhook) {
                Ok(rule) => rules.push(rule),
                Err(errors) => {
                    wrong.extend(errors.iter().map(|error| format!("the alert rule {:?}: {error}", settings.name)));
                }
            }
        }
        if wrong.is_empty() { Ok(Plan { every, webhooks, rules }) } else { Err(wrong) }
    }
}

fn kept<T>(wrong: &mut Vec<String>, error: String, other: T) -> T {
    wrong.push(error);
    other
}

impl WebhookSettings {
    fn webhook(&self, name: &str) -> Result<Webhook, String> {
        if !is_name(name) {
            return Err(NAME.to_owned());
        }
        // Never with the address: whoever knows it may write there.
        let url = Url::parse(&self.url).map_err(|error| format!("url is no address ({error})"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err("url must begin with https:// or http:// and name a host".to_owned());
        }
        let secret = self.secret.clone().filter(|secret| !secret.is_empty());
        Ok(Webhook { url: url.into(), secret, format: self.format.unwrap_or_default() })
    }
}

const NAME: &str = "its name must have 1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit";

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

impl RuleSettings {
    fn rule(&self, webhooks: &BTreeMap<String, WebhookSettings>) -> Result<Rule, Vec<String>> {
        let mut wrong = Vec::new();
        if !is_name(&self.name) {
            wrong.push(NAME.to_owned());
        }
        self.refuse_what_is_not_asked(&mut wrong);
        for name in self.to.iter().filter(|name| !webhooks.contains_key(*name)) {
            wrong.push(format!("there is no webhook {name:?} for `to`: [alerts.webhook.{name}] declares one"));
        }
        let mut pattern = |key: &str, text: &Option<String>| {
            Pattern::new(text.as_deref().unwrap_or("*")).unwrap_or_else(|error| {
                wrong.push(format!("`{key}` is no pattern: {error}"));
                Pattern::all()
            })
        };
        let (task, queue) = (pattern("task", &self.task), pattern("queue", &self.queue));
        let connection = pattern("connection", &self.connection);
        let mut duration = |key: &str, text: &Option<String>, default| {
            time(text.as_deref(), default).unwrap_or_else(|error| kept(&mut wrong, format!("`{key}` {error}"), default))
        };
        let window = duration("window", &self.window, if self.kind == Kind::CoverageGap { GAP_WINDOW } else { WINDOW });
        let (hold, cooldown) =
            (duration("for", &self.hold, Duration::ZERO), duration("cooldown", &self.cooldown, COOLDOWN));
        if window < Duration::from_secs(60) || window > LONGEST_WINDOW {
            wrong.push("`window` must be 1m to 7d: less is not told apart, and more not kept".to_owned());
        }
        let limits = self.limits(&mut wrong, hold, cooldown);
        let Some(limits) = limits.filter(|_| wrong.is_empty()) else { return Err(wrong) };
        let (min_jobs, to) = (self.min_jobs.unwrap_or(MIN_JOBS), self.to.clone());
        Ok(Rule { name: self.name.clone(), kind: self.kind, task, queue, connection, window, min_jobs, limits, to })
    }

    /// What says nothing would be believed to say something.
    fn refuse_what_is_not_asked(&self, wrong: &mut Vec<String>) {
        let kind = self.kind;
        let given = [
            ("task", self.task.is_some(), kind.asks_for_tasks()),
            ("queue", self.queue.is_some(), kind == Kind::OldestQueued),
            ("connection", self.connection.is_some(), !matches!(kind, Kind::Lag | Kind::Disk)),
            ("window", self.window.is_some(), matches!(kind, Kind::FailureRate | Kind::CoverageGap)),
            ("min-jobs", self.min_jobs.is_some(), kind == Kind::FailureRate),
        ];
        for (key, _, _) in given.iter().filter(|(_, given, asked)| *given && !*asked) {
            wrong.push(format!("`{key}` means nothing where the kind is {kind}: leave it out"));
        }
    }

    fn limits(&self, wrong: &mut Vec<String>, hold: Duration, cooldown: Duration) -> Option<Limits> {
        let unit = self.kind.unit();
        let mut amount = |key: &str, amount: &Option<Amount>, default: Option<f64>| {
            let read = match amount {
                Some(amount) => value(amount, unit),
                None => default.ok_or_else(|| format!("is missing: it must be {}", unit.in_words())),
            };
            read.map_err(|error| wrong.push(format!("`{key}` {error}"))).ok()
        };
        let least = (unit == Unit::Count).then_some(1.0);
        let trigger = amount("trigger", &self.trigger, least)?;
        let resolve =
            amount("resolve", &self.resolve, Some(if unit == Unit::Count { trigger - 1.0 } else { trigger }))?;
        if trigger <= 0.0 {
            wrong.push("`trigger` must be more than 0, or there would always be an incident".to_owned());
        }
        if resolve > trigger {
            wrong.push("`resolve` must not be above `trigger`, or an incident would end where it begins".to_owned());
        }
        Some(Limits { trigger, resolve, hold, cooldown })
    }
}

fn time(text: Option<&str>, default: Duration) -> Result<Duration, String> {
    let Some(text) = text else { return Ok(default) };
    humantime::parse_duration(text).map_err(|_| "must be a time such as \"30s\", \"10m\" or \"2h\"".to_owned())
}

fn value(amount: &Amount, unit: Unit) -> Result<f64, String> {
    let read = match (unit, amount) {
        (Unit::Share, Amount::Number(share)) => Some(*share).filter(|share| (0.0..=1.0).contains(share)),
        (Unit::Share, Amount::Text(text)) => {
            let percent = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
            percent.map(|percent| percent / 100.0).filter(|share| (0.0..=1.0).contains(share))
        }
        (Unit::Seconds, Amount::Number(seconds)) => Some(*seconds).filter(|it| it.is_finite() && *it >= 0.0),
        (Unit::Seconds, Amount::Text(text)) => humantime::parse_duration(text).ok().map(|time| time.as_secs_f64()),
        (Unit::Count, Amount::Number(count)) => Some(*count).filter(|it| it.fract() == 0.0 && (0.0..1e15).contains(it)),
        (Unit::Count, Amount::Text(_)) => None,
    };
    read.ok_or_else(|| format!("must be {}", unit.in_words()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn settings(kind: Kind) -> RuleSettings {
        RuleSettings {
            name: "a".to_owned(),
            kind,
            task: None,
            queue: None,
            connection: None,
            window: None,
            min_jobs: None,
            trigger: None,
            resolve: None,
            hold: None,
            cooldown: None,
            to: Vec::new(),
        }
    }

    fn plan(rule: RuleSettings) -> Result<Rule, String> {
        let settings = Settings { rule: vec![rule], ..Settings::default() };
        settings.plan().map(|mut plan| plan.rules.remove(0)).map_err(|wrong| wrong.join("\n"))
    }

    #[test]
    fn amounts_are_read_as_their_kind_measures() {
        let text = |text: &str| Some(Amount::Text(text.to_owned()));
        let limits = |kind, trigger, resolve| {
            plan(RuleSettings { trigger, resolve, ..settings(kind) })
                .map(|rule| (rule.limits.trigger, rule.limits.resolve))
        };
        assert_eq!(limits(Kind::FailureRate, text("20%"), Some(Amount::Number(0.1))), Ok((0.2, 0.1)));
        assert_eq!(limits(Kind::OldestQueued, text("10m"), None), Ok((600.0, 600.0)));
        assert_eq!(limits(Kind::Lost, None, None), Ok((1.0, 0.0)));
        assert_eq!(limits(Kind::SourceDown, Some(Amount::Number(3.0)), None), Ok((3.0, 2.0)));
        for (kind, trigger, resolve) in [
            (Kind::FailureRate, None, None),
            (Kind::FailureRate, text("10m"), None),
            (Kind::FailureRate, Some(Amount::Number(20.0)), None),
            (Kind::FailureRate, Some(Amount::Number(0.1)), Some(Amount::Number(0.2))),
            (Kind::Disk, Some(Amount::Number(0.0)), None),
            (Kind::Lag, text("soon"), None),
            (Kind::Lost, Some(Amount::Number(1.5)), None),
            (Kind::Lost, text("3"), None),
        ] {
            assert!(limits(kind, trigger.clone(), resolve).is_err(), "{kind} {trigger:?}");
        }
    }

    #[test]
    fn every_mistake_is_named_and_no_address() {
        let url = "ftp://hooks.example.com/s3cret".to_owned();
        let webhook = WebhookSettings { url, secret: Some("s3cret".to_owned()), format: None };
        let rule = RuleSettings {
            queue: Some("q".to_owned()),
            window: Some("1s".to_owned()),
            hold: Some("soon".to_owned()),
            to: vec!["nobody".to_owned()],
            task: Some("[".to_owned()),
            ..settings(Kind::FailureRate)
        };
        let webhook = BTreeMap::from([("ops".to_owned(), webhook)]);
        let settings = Settings { every: Some("0s".to_owned()), webhook, rule: vec![rule.clone(), rule] };
        let wrong = settings.plan().unwrap_err();
        let text = format!("{}\n{settings:?}", wrong.join("\n"));
        for part in [
            "alerts.every",
            "url must begin",
            "`queue` means nothing",
            "`window`",
            "`for`",
            "nobody",
            "`task`",
            "`trigger` is missing",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
    }
}
