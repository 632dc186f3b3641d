//! What rules are measured by: the views and the handles as they are now, as the dashboard shows them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use projector::{DiskStatus, Handle, Phase};
use proto_events::{JobState, Timestamp};
use sources::{Fleet, SourceState};
use uuid::Uuid;
use views::{Ended, Filter, Query, Range, Reader, Signs, ViewError};

use crate::book::Subject;
use crate::plan::{Kind, Rule};

/// Subjects that are named.
const NAMED: usize = 5;
/// Jobs of which it is asked whose they are, where a pattern does not mean all.
const LOOKED_AT: usize = 1_000;
/// Views that are further behind say nothing of the present.
const BEHIND: Duration = Duration::from_secs(60);

/// What can be told of the connections by their ids.
type Names = HashMap<Uuid, String>;

/// All that rules are measured by.
pub struct Sight {
    /// The views.
    pub reader: Reader,
    /// Whether they follow.
    pub projector: Handle,
    /// The sources.
    pub fleet: Arc<Fleet>,
    /// What tells lost and stuck jobs from others, just as the API does.
    pub signs: Arc<dyn Fn(&Reader) -> Signs + Send + Sync>,
    /// How the disk is, once it was looked at.
    pub disk: Arc<dyn Fn() -> Option<DiskStatus> + Send + Sync>,
    /// Whether the log can be heard.
    pub log_answers: Arc<dyn Fn() -> bool + Send + Sync>,
    /// The names of connections.
    pub connections: Arc<dyn Fn() -> Names + Send + Sync>,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// `None` where nothing can be told.
    pub(crate) value: Option<f64>,
    /// What it is of, the worst first.
    pub(crate) subjects: Vec<Subject>,
    /// How many there are of these.
    pub(crate) of: usize,
    /// Why nothing can be told.
    pub(crate) unknown: Option<&'static str>,
}

impl Reading {
    pub(crate) fn of(value: f64, subjects: Vec<Subject>) -> Self {
        Self { value: Some(value), of: subjects.len(), subjects, unknown: None }
    }

    fn unknown(why: &'static str) -> Self {
        Self { unknown: Some(why), ..Self::default() }
    }

    /// The worst of them, and who they are.
    fn worst(subjects: Vec<Subject>) -> Self {
        let worst = subjects.iter().map(|subject| subject.value).fold(0.0, f64::max);
        Self::of(worst, subjects).named()
    }

    /// How many there are in all, and who.
    fn sum(value: f64, subjects: Vec<Subject>) -> Self {
        Self::of(value, subjects).named()
    }

    fn named(mut self) -> Self {
        self.of = self.subjects.len();
        self.subjects.sort_by(|a, b| b.value.total_cmp(&a.value).then_with(|| a.name.cmp(&b.name)));
        self.subjects.truncate(NAMED);
        self
    }

    /// A sentence for people.
    pub(crate) fn summary(&self, rule: &Rule) -> String {
        let value = rule.kind.unit().shown(self.value.unwrap_or_default());
        let names: Vec<&str> = self.subjects.iter().map(|subject| &*subject.name).collect();
        let more = if self.of > names.len() { ", …" } else { "" };
        let of = names.join(", ") + more;
        let window = humantime::format_duration(rule.window);
        match rule.kind {
            Kind::FailureRate => format!("{value} of the jobs of {} failed within {window}", first(&names)),
            Kind::OldestQueued => format!("a job waits for {value} in {}", first(&names)),
            Kind::Lost => format!("{value} lost: {of}"),
            Kind::Stuck => format!("{value} stuck: {of}"),
            Kind::Overdue => format!("{value} overdue: {of}"),
            Kind::SourceDown => format!("{value} not heard: {of}"),
            Kind::CoverageGap => format!("{} was not heard for {value} within {window}", first(&names)),
            Kind::Lag => format!("the views are {value} behind the log"),
            Kind::Disk => format!("the disk is {value} full"),
        }
    }
}

fn first<'a>(names: &[&'a str]) -> &'a str {
    names.first().copied().unwrap_or("(none)")
}

/// What is asked once for all rules.
struct Look<'a> {
    sight: &'a Sight,
    now: Timestamp,
    names: Names,
    /// Why the views say nothing of the present.
    blind: Option<&'static str>,
}

impl Sight {
    /// What is measured of each of these rules now. Blocks.
    pub(crate) fn measure<'a>(&self, rules: impl Iterator<Item = &'a Rule>, now: Timestamp) -> Vec<Reading> {
        let look = Look { sight: self, now, names: (self.connections)(), blind: self.blind() };
        rules.map(|rule| look.measure(rule)).collect()
    }

    /// Why the views say nothing of the present.
    fn blind(&self) -> Option<&'static str> {
        let status = self.projector.status();
        match status.phase {
            Phase::Following => {}
            Phase::CatchingUp => return Some("the views are being brought up to date"),
            Phase::Upgrading { .. } => return Some("the views are frozen until those of this version are made"),
            Phase::Fenced(_) => return Some("the views are of another log"),
            Phase::Failed(_) => return Some("the projector has failed"),
        }
        if !(self.log_answers)() {
            return Some("the log does not answer");
        }
        (status.lag_seconds > BEHIND.as_secs_f64()).then_some("the views are too far behind the log")
    }
}

impl Look<'_> {
    fn measure(&self, rule: &Rule) -> Reading {
        match rule.kind {
            Kind::SourceDown => return self.sources_down(rule),
            Kind::Disk => return self.disk(),
            Kind::Lag => return self.lag(),
            _ => {}
        }
        if let Some(why) = self.blind {
            return Reading::unknown(why);
        }
        match rule.kind {
            Kind::FailureRate => self.failure_rate(rule),
            Kind::OldestQueued => self.oldest_queued(rule),
            Kind::Overdue => self.overdue(rule),
            Kind::CoverageGap => self.gaps(rule),
            _ => self.jobs(rule).unwrap_or_else(|error| {
                tracing::warn!(rule = rule.name, %error, "an alert rule cannot be measured");
                Reading::unknown("the views cannot be read")
            }),
        }
    }

    /// Whether a connection is meant, by its name or its id.
    fn is_of(&self, rule: &Rule, connection: Uuid) -> bool {
        rule.connection.is_all()
            || self.names.get(&connection).is_some_and(|name| rule.connection.holds(name))
            || rule.connection.holds(&connection.to_string())
    }

    fn failure_rate(&self, rule: &Rule) -> Reading {
        let ended = self.sight.reader.ended(rule.window, self.now);
        let mut judged = Vec::new();
        let mut too_few = false;
        for Ended { connection, name, completed, failed } in ended {
            let Some(name) = name.filter(|name| rule.task.holds(name)) else { continue };
            let all = completed + failed;
            if !self.is_of(rule, connection) || all == 0 {
                continue;
            }
            if all < rule.min_jobs {
                too_few = true;
                continue;
            }
            let value = failed as f64 / all as f64;
            judged.push(Subject { name: name.to_string(), connection_id: Some(connection), value });
        }
        // Where nothing ran, nothing fails; where a few jobs did, they say nothing yet.
        if judged.is_empty() && too_few {
            return Reading::unknown("too few jobs ended");
        }
        judged.retain(|subject| subject.value > 0.0);
        Reading::worst(judged)
    }

    fn oldest_queued(&self, rule: &Rule) -> Reading {
        let load = self.sight.reader.load(None);
        let waiting = load.waiting.into_iter().filter_map(|((connection, queue), waiting)| {
            let oldest = waiting.oldest_queued_at?;
            let is_meant = rule.queue.holds(&queue) && self.is_of(rule, connection);
            let value = seconds(oldest, self.now);
            is_meant.then(|| Subject { name: queue.to_string(), connection_id: Some(connection), value })
        });
        Reading::worst(waiting.collect())
    }

    fn overdue(&self, rule: &Rule) -> Reading {
        let tasks = self.sight.reader.tasks(None, Range::Hour, self.now);
        let overdue = tasks.into_iter().filter(|task| task.overdue && self.is_of(rule, task.connection));
        let named = overdue.filter_map(|task| {
            let name = task.name.filter(|name| rule.task.holds(name))?;
            Some(Subject { name: name.to_string(), connection_id: Some(task.connection), value: 1.0 })
        });
        let named: Vec<_> = named.collect();
        Reading::sum(named.len() as f64, named)
    }

    /// Lost and stuck ones.
    fn jobs(&self, rule: &Rule) -> Result<Reading, ViewError> {
        let reader = &self.sight.reader;
        let connections = self.names.keys().copied().filter(|connection| self.is_of(rule, *connection));
        let filter = Filter {
            states: Some(vec![JobState::Active]),
            name: rule.task.only().map(str::to_owned),
            connections: (!rule.connection.is_all()).then(|| connections.collect()),
            lost: (rule.kind == Kind::Lost).then_some(true),
            stuck: (rule.kind == Kind::Stuck).then_some(true),
            ..Filter::default()
        };
        let query = Query { filter, limit: LOOKED_AT, ..Query::default() };
        let page = reader.list(&query, &(self.sight.signs)(reader))?;
        let mut tasks: HashMap<(Uuid, &str), f64> = HashMap::new();
        for job in page.jobs.iter().filter(|job| rule.task.holds(&job.name)) {
            *tasks.entry((job.connection_id, &job.name)).or_default() += 1.0;
        }
        let seen: f64 = tasks.values().sum();
        // Where all are meant they are counted, however many there are.
        let is_counted = rule.task.is_all() || rule.task.only().is_some();
        let value = if is_counted { page.total as f64 } else { seen };
        let subject = |((id, name), value): ((Uuid, &str), f64)| Subject {
            name: name.to_owned(),
            connection_id: Some(id),
            value,
        };
        Ok(Reading::sum(value, tasks.into_iter().map(subject).collect()))
    }

    fn gaps(&self, rule: &Rule) -> Reading {
        let window = i64::try_from(rule.window.as_micros()).unwrap_or(i64::MAX);
        let begin = Timestamp(self.now.micros().saturating_sub(window));
        let there = self.sight.fleet.list();
        let subjects = self.sight.reader.fleet(|fleet| {
            let of_source = fleet.gaps().filter_map(|((connection, source), gaps)| {
                // Nobody misses what a source would hear that was taken away.
                let is_there = there.iter().any(|it| it.connection_id == connection && it.status.name == source);
                let gaps = gaps.iter().filter(|gap| is_there || gap.to.is_some());
                let within = gaps.map(|gap| seconds(gap.from.max(begin), gap.to.unwrap_or(self.now)));
                let value: f64 = within.sum();
                let is_meant = rule.connection.holds(source) || self.is_of(rule, connection);
                let subject = || Subject { name: source.to_owned(), connection_id: Some(connection), value };
                (is_meant && value > 0.0).then(subject)
            });
            of_source.collect()
        });
        Reading::worst(subjects)
    }

    fn sources_down(&self, rule: &Rule) -> Reading {
        let down = self.sight.fleet.list().into_iter().filter(|source| {
            let is_meant = rule.connection.holds(&source.status.name) || self.is_of(rule, source.connection_id);
            is_meant && matches!(source.status.state, SourceState::Down | SourceState::Refused)
        });
        let named: Vec<_> = down
            .map(|source| Subject { name: source.status.name, connection_id: Some(source.connection_id), value: 1.0 })
            .collect();
        Reading::sum(named.len() as f64, named)
    }

    fn lag(&self) -> Reading {
        let status = self.sight.projector.status();
        // Views that are only just made, or are not to be written, are behind and nobody's trouble.
        if status.phase != Phase::Following {
            return Reading::unknown(self.blind.unwrap_or("the views do not follow the log"));
        }
        Reading::of(status.lag_seconds, Vec::new())
    }

    fn disk(&self) -> Reading {
        match (self.sight.disk)() {
            Some(disk) if disk.total_bytes > 0 => {
                let free = disk.free_bytes.min(disk.total_bytes) as f64 / disk.total_bytes as f64;
                Reading::of(1.0 - free, Vec::new())
            }
            _ => Reading::unknown("the disk was not looked at yet"),
        }
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.micros().saturating_sub(from.micros()).max(0) as f64 / 1e6
}
