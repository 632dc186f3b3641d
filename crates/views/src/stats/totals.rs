//! How much there was of everything for as long as anything is known of it: what counters are made of that somebody reads
//! again and again, such as Prometheus. Unlike other statistics these sums have no place in time.
//!
//! Celery's jobs alone: the names under which this is told are those that its users know.

use std::collections::BTreeMap;
use std::sync::Arc;

use projection::{FailureKind, Outcome};
use proto_events::{Framework, JobState, Position};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::BETWEEN;
use super::series::{Group, Series};
use crate::codec::Head;
use crate::shared::UNKNOWN_NAME;

/// The upper bounds of the buckets for how long runs took, in milliseconds: those of Prometheus' own client library.
pub const RUNTIME_BOUNDS: [u64; BOUNDS] = [5, 10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000];
/// Of those for how long they had waited.
pub const WAIT_BOUNDS: [u64; BOUNDS] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000];
/// How many there are of them.
const BOUNDS: usize = 14;

/// No run or wait counts for more milliseconds: what somebody makes up must not be all that is left of the sum.
const LONGEST: u64 = 100 * 365 * 86_400_000;

/// The queue of a job of which nobody told it: what Celery calls its queue unless it is told otherwise. Most are in it, so
/// that few counts move when it is told late.
const USUAL_QUEUE: &str = "celery";
/// The name of a job of which nobody told it.
const NO_NAME: &str = "None";
/// The host of whoever sends, where totals are told apart by hosts: any host may send.
pub const ANY_SENDER: &str = "generic";
/// The class of an error that does not say its own.
const NO_CLASS: &str = "UnknownException";

/// How much there was of something, field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sums([i64; FIELDS]);

const SENT: usize = 0;
const RECEIVED: usize = 1;
const STARTED: usize = 2;
const SUCCEEDED: usize = 3;
const REJECTED: usize = 4;
const REVOKED: usize = 5;
const RETRIED: usize = 6;
/// A bucket for each bound, one for what is above all of them, and the sum in milliseconds.
const RUNTIME: usize = 7;
const WAIT: usize = RUNTIME + TIMES;
const TIMES: usize = BOUNDS + 2;
const FIELDS: usize = WAIT + TIMES;

impl Default for Sums {
    fn default() -> Self {
        Self([0; FIELDS])
    }
}

impl Series for Sums {
    fn is_empty(&self) -> bool {
        self.0.iter().all(|count| *count == 0)
    }
}

/// How many runs failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Failures(i64);

impl Series for Failures {
    fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

impl Sums {
    fn time(&mut self, at: usize, bounds: &[u64; BOUNDS], ms: u64) {
        let ms = ms.min(LONGEST);
        let bucket = bounds.iter().position(|bound| ms <= *bound).unwrap_or(BOUNDS);
        self.0[at + bucket] += 1;
        let sum = &mut self.0[at + BOUNDS + 1];
        *sum = sum.wrapping_add(ms.cast_signed());
    }

    fn add(&mut self, other: &Self, sign: i64) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.wrapping_add(more.wrapping_mul(sign));
        }
    }
}

/// What a total is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct TotalKey {
    pub(crate) connection: Uuid,
    /// Whether it counts failures, which are told apart by their class, too.
    pub(crate) failed: bool,
    /// Task, queue, host and, of failures, the class; empty for all beyond the limit together.
    pub(crate) text: Arc<str>,
}

/// Totals by what they are of, field by field.
pub(crate) type TotalMap = BTreeMap<TotalKey, Vec<i64>>;

/// What a job adds to totals.
#[derive(Default)]
struct Shares {
    done: Vec<(String, Sums)>,
    failed: Vec<(String, i64)>,
}

impl Shares {
    fn of(head: &Head<'_>, by_host: bool) -> Self {
        let mut shares = Self::default();
        if head.framework != Framework::Celery {
            return shares;
        }
        let name = if head.name == UNKNOWN_NAME { NO_NAME } else { head.name };
        let queue = head.queue.unwrap_or(USUAL_QUEUE);
        let text = |host: Option<&str>| {
            let host = host.filter(|_| by_host).unwrap_or_default();
            format!("{}{BETWEEN}{}{BETWEEN}{}", plain(name), plain(queue), plain(host))
        };
        // One text for most jobs: this is done for each change of each.
        let of_job = shares.place(text(head.worker.map(host_of)));
        if head.sent > 0 {
            let of_sender = if by_host { shares.place(text(Some(ANY_SENDER))) } else { of_job };
            shares.done[of_sender].1.0[SENT] += i64::from(head.sent);
        }
        let (mut ends_well, mut ends_badly, mut is_revoked) = (false, false, false);
        for run in head.runs() {
            let of_run = if by_host { shares.place(text(run.worker.map(host_of))) } else { of_job };
            let sums = &mut shares.done[of_run].1;
            if run.started_at.is_some() {
                sums.0[STARTED] += 1;
                if let Some(wait) = run.wait_ms {
                    sums.time(WAIT, &WAIT_BOUNDS, wait);
                }
            }
            match run.outcome {
                Some(Outcome::Completed) => {
                    ends_well = true;
                    sums.0[SUCCEEDED] += 1;
                    if let Some(runtime) = run.runtime_ms {
                        sums.time(RUNTIME, &RUNTIME_BOUNDS, runtime);
                    }
                }
                Some(Outcome::Retrying) => sums.0[RETRIED] += 1,
                // Counted below: most who are refused are told to have failed, too.
                Some(Outcome::Rejected) => ends_badly = true,
                Some(Outcome::Cancelled) => {
                    is_revoked = true;
                    sums.0[REVOKED] += 1;
                }
                Some(Outcome::Failed) => {
                    ends_badly = true;
                    shares.fail(of_run, run.error);
                }
                Some(Outcome::Lost | Outcome::Replaced) | None => {}
            }
        }
        let sums = &mut shares.done[of_job].1;
        sums.0[RECEIVED] += i64::from(head.received);
        sums.0[REJECTED] += head.rare.as_deref().map_or(0, |rare| i64::from(rare.rejected));
        // Who was retried and then revoked, or found to be of no known task, ended without a run.
        match head.state {
            JobState::Completed if !ends_well => sums.0[SUCCEEDED] += 1,
            JobState::Cancelled if !is_revoked => sums.0[REVOKED] += 1,
            JobState::Failed if !ends_badly => {
                let error = head.rare.as_deref().and_then(|rare| rare.error.as_deref());
                shares.fail(of_job, error);
            }
            _ => {}
        }
        shares
    }

    /// Where the share of these names is.
    fn place(&mut self, names: String) -> usize {
        self.done.iter().position(|(known, _)| *known == names).unwrap_or_else(|| {
            self.done.push((names, Sums::default()));
            self.done.len() - 1
        })
    }

    fn fail(&mut self, place: usize, error: Option<&str>) {
        let class = FailureKind::of(error.unwrap_or_default()).class;
        let text = format!("{}{BETWEEN}{}", self.done[place].0, plain(class.as_deref().unwrap_or(NO_CLASS)));
        match self.failed.iter_mut().find(|(known, _)| *known == text) {
            Some((_, count)) => *count += 1,
            None => self.failed.push((text, 1)),
        }
    }
}

/// All totals.
#[derive(Clone, Debug)]
pub(super) struct Totals {
    by_host: bool,
    done: Group<Sums>,
    failed: Group<Failures>,
}

impl Totals {
    pub(super) fn new(limit: usize, by_host: bool) -> Self {
        Self { by_host, done: Group::new(limit), failed: Group::new(limit) }
    }

    /// Nothing yet, but with those admitted that stand first in the log.
    pub(super) fn admitting(self) -> Self {
        Self { by_host: self.by_host, done: self.done.admitting(), failed: self.failed.admitting() }
    }

    pub(super) fn is_unsettled(&self) -> bool {
        self.done.unsettled || self.failed.unsettled
    }

    /// A job that was so is so from now on.
    pub(super) fn replace(&mut self, before: Option<&Head<'_>>, after: Option<&Head<'_>>) {
        let shares = |head: Option<&Head<'_>>| head.map_or_else(Shares::default, |head| Shares::of(head, self.by_host));
        let (old, new) = (shares(before), shares(after));
        let place = |head: &Head<'_>| (head.connection, head.first);
        let (of_old, of_new) = (before.map(place), after.map(place));
        let subtract = |sums: &mut Sums, share: &Sums| sums.add(share, -1);
        let add = |sums: &mut Sums, share: &Sums| sums.add(share, 1);
        exchange(&mut self.done, (of_old, old.done.as_slice()), (of_new, new.done.as_slice()), subtract, add);
        let subtract = |failures: &mut Failures, share: &i64| failures.0 -= share;
        let add = |failures: &mut Failures, share: &i64| failures.0 += share;
        exchange(&mut self.failed, (of_old, old.failed.as_slice()), (of_new, new.failed.as_slice()), subtract, add);
    }

    /// All of them, with something in them.
    pub(super) fn all(&self) -> Vec<(TotalKey, Vec<i64>)> {
        let key = |failed: bool, connection: Uuid, text: Option<&Arc<str>>| TotalKey {
            connection,
            failed,
            text: text.map_or_else(|| Arc::from(""), Arc::clone),
        };
        let done = self.done.iter().map(|(id, text, sums)| (key(false, id, text), sums.0.to_vec()));
        let failed = self.failed.iter().map(|(id, text, failures)| (key(true, id, text), vec![failures.0]));
        done.chain(failed).collect()
    }
}

/// The connection of a job, and where it stands first in the log.
type Place = Option<(Uuid, Position)>;

/// Takes the shares that a job had out of a group, and puts those in that it has. What a series was is taken out before
/// anything else is put in, and the names stay meanwhile, as with all other sums.
fn exchange<S: Series, T>(
    group: &mut Group<S>,
    (of_old, old): (Place, &[(String, T)]),
    (of_new, new): (Place, &[(String, T)]),
    subtract: impl Fn(&mut S, &T),
    add: impl Fn(&mut S, &T),
) {
    let has = |shares: &[(String, T)], text: &str| of_old == of_new && shares.iter().any(|(known, _)| known == text);
    if let Some((connection, first)) = of_new {
        for (text, _) in new.iter().filter(|(text, _)| !has(old, text)) {
            group.join(connection, text, first);
        }
    }
    if let Some((connection, _)) = of_old {
        for (text, share) in old {
            subtract(group.get_mut(connection, text), share);
        }
    }
    if let Some((connection, _)) = of_new {
        for (text, share) in new {
            add(group.get_mut(connection, text), share);
        }
    }
    if let Some((connection, first)) = of_old {
        for (text, _) in old.iter().filter(|(text, _)| !has(new, text)) {
            group.leave(connection, text, first);
        }
    }
}

/// A text without what stands between texts.
fn plain(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains(BETWEEN) { text.replace(BETWEEN, " ").into() } else { text.into() }
}

/// The host of a worker's name, `celery@host`, as celery-exporter tells it.
fn host_of(worker: &str) -> &str {
    worker.split_once('@').map_or(worker, |(_, host)| host)
}

/// How much there was for as long as anything is known. None of it ever goes down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// Jobs and runs, by what they are of.
    pub totals: Vec<Total>,
    /// Runs that failed, by what they are of and by class.
    pub failures: Vec<FailureTotal>,
}

/// What a total is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TotalOf {
    /// Whose.
    pub connection: Uuid,
    /// Task, queue and host of the worker, the last empty where totals are not told apart by hosts; `None` stands for all
    /// beyond the limit together.
    pub names: Option<[Box<str>; 3]>,
}

/// How much there was of a task in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    /// What it is of.
    pub of: TotalOf,
    /// How often jobs were put into their queue.
    pub sent: u64,
    /// How often a worker took them from it.
    pub received: u64,
    /// Runs that began.
    pub started: u64,
    /// Runs that ended well.
    pub succeeded: u64,
    /// Runs whose message was given back or refused.
    pub rejected: u64,
    /// Jobs and runs that were revoked.
    pub revoked: u64,
    /// Runs that failed and were to be tried again.
    pub retried: u64,
    /// How long runs took that ended well.
    pub runtime: Times,
    /// How long runs had waited.
    pub wait: Times,
}

/// How many times lay within which bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// One for each bound, of those above the one before it, and one for those above all of them.
    pub buckets: [u64; BOUNDS + 1],
    /// Milliseconds, in all.
    pub sum_ms: u64,
}

/// How many runs failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureTotal {
    /// What it is of.
    pub of: TotalOf,
    /// The class of the error; empty for all beyond the limit together.
    pub exception: Box<str>,
    /// How many.
    pub count: u64,
}

impl From<TotalMap> for Lifetime {
    fn from(all: TotalMap) -> Self {
        let mut lifetime = Self::default();
        for (TotalKey { connection, failed, text }, fields) in all {
            let field = |at: usize| fields.get(at).copied().unwrap_or_default().max(0).cast_unsigned();
            let mut texts = text.split(BETWEEN).map(Box::from);
            let mut next = || texts.next().unwrap_or_default();
            let of = TotalOf { connection, names: (!text.is_empty()).then(|| [next(), next(), next()]) };
            if failed {
                lifetime.failures.push(FailureTotal { of, exception: next(), count: field(0) });
                continue;
            }
            let times = |at: usize| Times {
                buckets: std::array::from_fn(|bucket| field(at + bucket)),
                sum_ms: field(at + BOUNDS + 1),
            };
            lifetime.totals.push(Total {
                of,
                sent: field(SENT),
                received: field(RECEIVED),
                started: field(STARTED),
                succeeded: field(SUCCEEDED),
                rejected: field(REJECTED),
                revoked: field(REVOKED),
                retried: field(RETRIED),
                runtime: times(RUNTIME),
                wait: times(WAIT),
            });
        }
        lifetime
    }
}
