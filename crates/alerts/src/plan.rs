//! Rules and webhooks, as they are meant.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use globset::{Glob, GlobMatcher};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::watch::Limits;

/// What is watched, and who is told.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// How often the rules are looked at.
    pub every: Duration,
    /// Where notices go to, by name.
    pub webhooks: BTreeMap<String, Webhook>,
    /// The rules, each with a name of its own.
    pub rules: Vec<Rule>,
}

/// Where notices go to.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its address: whoever knows it may write there, so that it is a secret.
    pub(crate) url: String,
    pub(crate) secret: Option<String>,
    pub(crate) format: Format,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_url(&self.url))
    }
}

/// What a notice looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "WebhookFormat"))]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// All that is known, as JSON.
    #[default]
    Forebay,
    /// A text, as Slack and those who took it over from there take it.
    Slack,
}

/// What a rule measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AlertKind"))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The failed of the jobs of the worst task that completed or failed within the window.
    FailureRate,
    /// For how long the job has waited for a worker that waits longest.
    OldestQueued,
    /// Jobs whose worker is gone.
    Lost,
    /// Jobs that run for far longer than their task usually does.
    Stuck,
    /// Tasks that run at regular times and should have run long ago.
    Overdue,
    /// Brokers that are not heard.
    SourceDown,
    /// For how long within the window the worst source did not hear its broker.
    CoverageGap,
    /// How far the views are behind the log.
    Lag,
    /// How full the disk of the views is.
    Disk,
}

impl Kind {
    /// What its values are.
    pub fn unit(self) -> Unit {
        match self {
            Self::FailureRate | Self::Disk => Unit::Share,
            Self::OldestQueued | Self::CoverageGap | Self::Lag => Unit::Seconds,
            Self::Lost | Self::Stuck | Self::Overdue | Self::SourceDown => Unit::Count,
        }
    }

    pub(crate) fn asks_for_tasks(self) -> bool {
        matches!(self, Self::FailureRate | Self::Lost | Self::Stuck | Self::Overdue)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FailureRate => "failure-rate",
            Self::OldestQueued => "oldest-queued",
            Self::Lost => "lost",
            Self::Stuck => "stuck",
            Self::Overdue => "overdue",
            Self::SourceDown => "source-down",
            Self::CoverageGap => "coverage-gap",
            Self::Lag => "lag",
            Self::Disk => "disk",
        })
    }
}

/// What values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AlertUnit"))]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// From 0 to 1.
    Share,
    /// Seconds.
    Seconds,
    /// So many.
    Count,
}

impl Unit {
    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Share => "a share such as 0.2 or \"20%\"",
            Self::Seconds => "a time such as \"30s\" or \"10m\"",
            Self::Count => "a whole number",
        }
    }

    /// A value for people.
    pub(crate) fn shown(self, value: f64) -> String {
        match self {
            Self::Share => format!("{:.1} %", value * 100.0),
            Self::Seconds => humantime::format_duration(Duration::from_secs(value.max(0.0) as u64)).to_string(),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique.
    pub name: String,
    /// What it measures.
    pub kind: Kind,
    pub(crate) task: Pattern,
    pub(crate) queue: Pattern,
    pub(crate) connection: Pattern,
    pub(crate) window: Duration,
    pub(crate) min_jobs: u64,
    pub(crate) limits: Limits,
    pub(crate) to: Vec<String>,
}

impl Rule {
    /// What it asks. A rule that asks something else is another one, whatever its name.
    pub(crate) fn question(&self) -> String {
        let Self { kind, task, queue, connection, window, min_jobs, .. } = self;
        format!("{kind} {:?} {:?} {:?} {window:?} {min_jobs}", task.text, queue.text, connection.text)
    }
}

/// Names that are meant: `shop.*`.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    pub(crate) text: String,
    matcher: GlobMatcher,
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let glob = Glob::new(text).map_err(|error| error.kind().to_string())?;
        Ok(Self { text: text.to_owned(), matcher: glob.compile_matcher() })
    }

    pub(crate) fn all() -> Self {
        Self::new("*").expect("an asterisk is a pattern")
    }

    pub(crate) fn is_all(&self) -> bool {
        self.text == "*"
    }

    pub(crate) fn holds(&self, name: &str) -> bool {
        self.is_all() || self.text == name || self.matcher.is_match(name)
    }

    /// The one name that it means, where it can mean no other.
    pub(crate) fn only(&self) -> Option<&str> {
        let is_plain = !self.text.contains(['*', '?', '[', ']', '{', '}', '!', '\\']);
        is_plain.then_some(&*self.text)
    }
}

/// An address of which nothing is shown but where it leads: of most webhooks the rest is the secret.
pub fn mask_url(url: &str) -> String {
    let Ok(parsed) = Url::parse(url) else { return "***".to_owned() };
    let Some(host) = parsed.host_str() else { return "***".to_owned() };
    let port = parsed.port().map(|port| format!(":{port}")).unwrap_or_default();
    let rest = if parsed.path().len() > 1 || parsed.query().is_some() { "/***" } else { "" };
    format!("{}://{host}{port}{rest}", parsed.scheme())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_address_only_the_host_is_shown() {
        for (url, masked) in [
            ("https://hooks.slack.com/services/T0/B0/s3cret", "https://hooks.slack.com/***"),
            ("http://u:s3cret@host:8080", "http://host:8080"),
            ("https://host/?key=s3cret", "https://host/***"),
            ("s3cret", "***"),
        ] {
            assert_eq!(mask_url(url), masked);
        }
    }

    #[test]
    fn patterns_mean_names() {
        let holds = |pattern, name| Pattern::new(pattern).is_ok_and(|pattern| pattern.holds(name));
        assert!(holds("*", "a/b.c") && holds("shop.*", "shop.pay.card") && holds("shop.{pay,mail}", "shop.mail"));
        assert!(!holds("shop.*", "shopping") && !holds("shop.pay", "shop.payment"));
        assert_eq!(Pattern::new("shop.pay").map(|it| it.only().map(str::to_owned)), Ok(Some("shop.pay".to_owned())));
    }
}
