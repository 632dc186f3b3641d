//! Celery's own events: which deliveries and executions they testify to, and what must have come before what.
//!
//! A worker's main process stamps its events with a clock that counts up, so within one run of one process the order
//! is known. Between hosts only timestamps remain, and they may be minutes off. What holds everywhere is cause and
//! effect: a message is sent before it is received, an attempt is retried before the next one runs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use proto_events::Timestamp;

use crate::order::{Item, What};
use crate::record::Outcome;
use crate::seen::{Said, Seen};

/// A clock that goes back by more than this is another run of a process with the same id (containers often have pid 1);
/// less is a thread that stamped its event a little later than it counted.
const RESTART: i64 = 500_000;
/// How far from the start that its outcome counts back to a run may be announced to have begun.
const LATE_START: i64 = 100_000;
/// How much later than its start a task's ETA may seem to lie.
const ETA_SLACK: i64 = 1_000_000;
/// A hard time limit is announced twice within milliseconds.
const HARD_LIMIT: i64 = 1_000_000;
/// An outcome this soon after another one, with nothing to come of in between, speaks of the same execution.
const SAME_END: i64 = 5_000_000;

/// One run of the job's code, as far as it is known.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) attempt: u32,
    /// The event that it began with; `None` where that one was lost.
    pub(crate) begun: Option<&'a Seen>,
    /// The event that it ended with.
    pub(crate) ended: Option<&'a Seen>,
    pub(crate) outcome: Option<Outcome>,
    /// Other events about it, which fill in what the first two leave open.
    pub(crate) also: Vec<&'a Seen>,
    /// The item of the delivery that it came from.
    pub(crate) delivery: Option<usize>,
    /// The worker that had the job when it began; only reports leave it to be told by that.
    pub(crate) assigned: Option<&'a str>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(attempt: u32, begun: Option<&'a Seen>) -> Self {
        Self { attempt, begun, ended: None, outcome: None, also: Vec::new(), delivery: None, assigned: None }
    }

    /// The event that names its process.
    pub(crate) fn witness(&self) -> Option<&'a Seen> {
        self.begun.or(self.ended)
    }

    /// When it began, by report or by the time of the event.
    pub(crate) fn start(&self) -> Option<Timestamp> {
        self.events().find_map(|seen| seen.started_at).or(self.begun.map(|seen| seen.at))
    }

    /// When it ended; `None` while it runs and when its end was never told.
    pub(crate) fn end(&self) -> Option<Timestamp> {
        let ended = self.ended?;
        Some(self.events().find_map(|seen| seen.completed_at).unwrap_or(ended.at))
    }

    /// Its worker.
    pub(crate) fn worker(&self) -> Option<&'a str> {
        self.events().find_map(|seen| seen.worker.as_deref()).or(self.assigned)
    }

    /// Its error; a message that was refused for good has at least that.
    pub(crate) fn error(&self) -> Option<&'a str> {
        let said = self.events().find_map(|seen| seen.error.as_deref());
        let refused = self.outcome == Some(Outcome::Rejected)
            && self.ended.is_some_and(|ended| ended.requeue != Some(true) && !ended.said.is_by_word());
        said.or(refused.then_some("Rejected (requeue=false)"))
    }

    /// Its events, those that count most first.
    pub(crate) fn events(&self) -> impl Iterator<Item = &'a Seen> + '_ {
        self.ended.into_iter().chain(self.begun).chain(self.also.iter().copied())
    }
}

/// What Celery's own events say, taken together.
pub(crate) struct Stream<'a> {
    pub(crate) runs: Vec<Run<'a>>,
    pub(crate) items: Vec<Item<'a>>,
    pub(crate) deliveries: u32,
}

/// Reads the events of Celery's own stream, in the order of the evidence.
pub(crate) fn read(events: &[Seen]) -> Stream<'_> {
    let mut reader = Reader { runs: Vec::new(), items: Vec::new(), deliveries: 0, events };
    let mut hosts: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    let mut known = HashSet::new();
    for seen in events {
        // The same event through two sources may differ in its texts, never in who said it and when.
        let time = if seen.clock.is_some() { 0 } else { seen.at.micros() };
        let is_repeat = !seen.said.is_by_word() && !known.insert((seen.said, &seen.host, seen.pid, seen.clock, time));
        match seen.said {
            Said::Reported | Said::Reconciled => {}
            _ if is_repeat => {
                reader.push(seen, What::Fields);
            }
            Said::Sent => {
                reader.push(seen, What::Waiting { attempt: seen.attempt.unwrap_or(1) });
            }
            Said::Custom => {
                reader.push(seen, What::Fields);
            }
            _ => hosts.entry(seen.host.as_deref().unwrap_or("")).or_default().push(seen),
        }
    }
    for (_, events) in hosts {
        reader.read_host(events);
    }
    reader.spare_retried();
    reader.link_attempts();
    Stream { runs: reader.runs, items: reader.items, deliveries: reader.deliveries }
}

struct Reader<'a> {
    runs: Vec<Run<'a>>,
    items: Vec<Item<'a>>,
    deliveries: u32,
    events: &'a [Seen],
}

/// What is going on in one run of one worker process.
#[derive(Default)]
struct Process {
    /// Items of deliveries that nothing has come of yet, oldest first.
    waiting: Vec<usize>,
    /// Executions without an outcome, oldest first.
    open: Vec<usize>,
    /// Executions with an outcome, oldest first.
    closed: Vec<usize>,
}

impl<'a> Reader<'a> {
    fn push(&mut self, seen: &'a Seen, what: What) -> usize {
        self.items.push(Item::new(seen, what));
        self.items.len() - 1
    }

    /// Reads all that one hostname's processes said, one run of a process after the other.
    fn read_host(&mut self, events: Vec<&'a Seen>) {
        let mut open_before: Vec<usize> = Vec::new();
        // The last item of each attempt on this host: the host's own order, as far as it binds.
        let mut latest: BTreeMap<u32, usize> = BTreeMap::new();
        for process in split_processes(events) {
            // Any sign of work in a new process means that what the old one was doing is lost.
            let sign = process.iter().copied().find(|seen| matches!(seen.said, Said::Received | Said::Started));
            if let Some(sign) = sign {
                for run in std::mem::take(&mut open_before) {
                    self.runs[run].outcome = Some(Outcome::Lost);
                    let item = self.push(sign, What::Lost { run });
                    self.follow(item, self.runs[run].attempt, &mut latest);
                }
            }
            let mut state = Process::default();
            for seen in process {
                self.read_worker_event(seen, &mut state, &mut latest);
            }
            open_before.append(&mut state.open);
        }
    }

    fn read_worker_event(&mut self, seen: &'a Seen, process: &mut Process, latest: &mut BTreeMap<u32, usize>) {
        let (item, attempt) = match seen.said {
            Said::Received => {
                let attempt = seen.attempt.unwrap_or(1);
                let item = self.push(seen, What::Waiting { attempt });
                process.waiting.push(item);
                self.deliveries += 1;
                (item, attempt)
            }
            Said::Started => {
                let delivery = self.take_delivery(seen, process);
                let attempt = delivery.map_or_else(|| self.guess_attempt(seen, process), |(_, attempt)| attempt);
                let run = self.new_run(attempt, Some(seen), delivery.map(|(item, _)| item));
                process.open.push(run);
                (self.push(seen, What::Start { run }), attempt)
            }
            _ => self.read_outcome(seen, process),
        };
        self.follow(item, attempt, latest);
    }

    /// Puts an item behind what its host did before, within its own attempt and the lower ones: a worker announces the
    /// receipt of the next attempt before the retry of this one, so higher attempts bind nothing.
    fn follow(&mut self, item: usize, attempt: u32, latest: &mut BTreeMap<u32, usize>) {
        self.items[item].after.extend(latest.range(..=attempt).map(|(_, before)| *before));
        latest.insert(attempt, item);
    }

    fn new_run(&mut self, attempt: u32, begun: Option<&'a Seen>, delivery: Option<usize>) -> usize {
        self.runs.push(Run { delivery, ..Run::new(attempt, begun) });
        self.runs.len() - 1
    }

    /// The delivery that a start belongs to: the oldest one whose time has come.
    fn take_delivery(&self, seen: &Seen, process: &mut Process) -> Option<(usize, u32)> {
        let due = |item: &usize| {
            let eta = self.items[*item].seen.scheduled_for;
            eta.is_none_or(|eta| eta.micros() <= seen.at.micros() + ETA_SLACK)
        };
        let place = process.waiting.iter().position(due)?;
        let item = process.waiting.remove(place);
        Some((item, self.items[item].seen.attempt.unwrap_or(1)))
    }

    /// The attempt of a start whose receipt was not seen.
    fn guess_attempt(&self, seen: &Seen, process: &Process) -> u32 {
        if let Some(last) = process.open.iter().chain(&process.closed).max() {
            let run = &self.runs[*last];
            return run.attempt + u32::from(run.outcome == Some(Outcome::Retrying));
        }
        let (before, after): (Vec<_>, Vec<_>) = self.messages().partition(|other| other.at <= seen.at);
        let highest = before.iter().filter_map(|other| other.attempt).max();
        highest.or_else(|| after.iter().filter_map(|other| other.attempt).min()).unwrap_or(1)
    }

    fn read_outcome(&mut self, seen: &'a Seen, process: &mut Process) -> (usize, u32) {
        let outcome = match seen.said {
            Said::Succeeded => Outcome::Completed,
            Said::Retried => Outcome::Retrying,
            Said::Rejected => Outcome::Rejected,
            Said::Revoked | Said::Cancelled => Outcome::Cancelled,
            _ => Outcome::Failed,
        };
        // A task that is revoked while it waits has no execution to end.
        let ends_waiting = seen.said == Said::Revoked && seen.terminated != Some(true) && !process.waiting.is_empty();
        if !ends_waiting && let Some(run) = self.take_open(seen, process) {
            return self.end(run, seen, outcome, process);
        }
        if let Some((run, is_correction)) = self.find_closed(seen, process) {
            let attempt = self.runs[run].attempt;
            if is_correction {
                return self.end(run, seen, outcome, process);
            }
            // A success without a runtime that follows a termination is gevent's, and not true.
            if seen.said != Said::Succeeded {
                self.runs[run].also.push(seen);
            }
            return (self.push(seen, What::Fields), attempt);
        }
        let delivery = self.take_delivery(seen, process);
        let attempt = delivery.map_or_else(|| self.guess_attempt(seen, process), |(_, attempt)| attempt);
        let never_ran = seen.said == Said::Revoked
            || seen.said == Said::Cancelled
            || seen.error.as_deref().is_some_and(|error| error.starts_with("NotRegistered("));
        if never_ran {
            return (self.push(seen, What::EndWithoutRun), attempt);
        }
        // The start was lost on the way; the outcome alone still proves that the code ran.
        let run = self.new_run(attempt, None, delivery.map(|(item, _)| item));
        self.end(run, seen, outcome, process)
    }

    fn end(&mut self, run: usize, seen: &'a Seen, outcome: Outcome, process: &mut Process) -> (usize, u32) {
        self.runs[run].ended = Some(seen);
        self.runs[run].outcome = Some(outcome);
        if !process.closed.contains(&run) {
            process.closed.push(run);
        }
        (self.push(seen, What::End { run }), self.runs[run].attempt)
    }

    /// The open execution that an outcome closes: the one that began a runtime ago, or that the next attempt's message
    /// follows; else one of the highest attempt.
    fn take_open(&self, seen: &Seen, process: &mut Process) -> Option<usize> {
        let distance = |run: usize| match begun_at(seen) {
            Some(begun) => {
                self.runs[run].begun.map_or(i64::MAX, |start| start.at.micros().saturating_sub(begun).saturating_abs())
            }
            None if seen.said == Said::Retried => self.nearest_message(self.runs[run].attempt + 1, seen.at),
            None => 0,
        };
        // What a later attempt has left behind was retried, seen or not, and nothing else can still become of it, but for
        // the run that began just when the outcome says.
        let asked_for = match begun_at(seen) {
            Some(begun) => {
                self.messages().filter(|seen| seen.at.micros() <= begun).filter_map(|seen| seen.attempt).max()
            }
            None => process.waiting.iter().map(|item| self.items[*item].seen.attempt.unwrap_or(1)).max(),
        };
        let run_before = process.open.iter().chain(&process.closed).map(|run| self.runs[*run].attempt);
        let latest = run_before.chain(asked_for).max();
        let may_end = |run: usize| {
            let began_then = begun_at(seen).is_some() && distance(run) <= LATE_START;
            began_then || seen.said == Said::Retried || Some(self.runs[run].attempt) == latest
        };
        // Two runs of one attempt are a message that was delivered twice, and the first is likely to end first. Where that
        // was not seen, the second is a later try, of which nothing but its start was told.
        let is_later_try = |run: usize| process.open.last() == Some(&run) && self.runs[run].delivery.is_none();
        let preference = |run: usize| (distance(run), Reverse(self.runs[run].attempt), !is_later_try(run));
        let open = process.open.iter().enumerate().filter(|(_, run)| may_end(**run));
        let (place, _) = open.min_by_key(|(_, run)| preference(**run))?;
        Some(process.open.remove(place))
    }

    /// The messages that were sent or received, each of which names its attempt.
    fn messages(&self) -> impl Iterator<Item = &'a Seen> + use<'a> {
        self.events.iter().filter(|seen| matches!(seen.said, Said::Sent | Said::Received))
    }

    /// How far in time the nearest message of an attempt is.
    fn nearest_message(&self, attempt: u32, at: Timestamp) -> i64 {
        let of_attempt = self.messages().filter(|seen| seen.attempt == Some(attempt));
        of_attempt.map(|seen| (seen.at.micros() - at.micros()).abs()).min().unwrap_or(i64::MAX)
    }

    /// The execution that has ended already and that this outcome speaks of again; and whether it corrects the first.
    fn find_closed(&self, seen: &Seen, process: &Process) -> Option<(usize, bool)> {
        let run = *process.closed.last()?;
        let ended = self.runs[run].ended?;
        let soon = seen.at.micros() - ended.at.micros() <= SAME_END;
        match (seen.said, begun_at(seen)) {
            (Said::Succeeded, Some(begun)) => {
                // It ran to its end after all, in the moment in which it was revoked.
                let starts_there = |start: &Seen| start.at.micros().saturating_sub(begun).saturating_abs() <= ETA_SLACK;
                let cancelled = self.runs[run].outcome == Some(Outcome::Cancelled);
                (cancelled && self.runs[run].begun.is_some_and(starts_there)).then_some((run, true))
            }
            (Said::Succeeded, None) => Some((run, false)),
            (Said::Failed, _)
                if self.runs[run].outcome == Some(Outcome::Failed)
                    && seen.at.micros() - ended.at.micros() <= HARD_LIMIT =>
            {
                Some((run, false))
            }
            _ => (soon && process.waiting.is_empty()).then_some((run, false)),
        }
    }

    /// An execution that the next attempt came of was retried, not lost, even when its retry was never announced: of
    /// those that seem lost the last one, where no other can have been its cause.
    fn spare_retried(&mut self) {
        let attempts: HashSet<u32> = self.messages().filter_map(|seen| seen.attempt).collect();
        for next in attempts {
            let causes = (0..self.runs.len()).filter(|run| self.runs[*run].attempt + 1 == next);
            let (lost, other): (Vec<_>, Vec<_>) =
                causes.partition(|run| self.runs[*run].outcome == Some(Outcome::Lost));
            if other.iter().any(|run| matches!(self.runs[*run].outcome, None | Some(Outcome::Retrying))) {
                continue;
            }
            let Some(spared) = lost.into_iter().max_by_key(|run| self.runs[*run].begun.map(Seen::key)) else {
                continue;
            };
            self.runs[spared].outcome = None;
            for item in &mut self.items {
                if item.what == (What::Lost { run: spared }) {
                    item.what = What::Fields;
                }
            }
        }
    }

    /// Adds what must be so between attempts and hosts.
    fn link_attempts(&mut self) {
        let waiting: Vec<(usize, u32)> = (0..self.items.len())
            .filter_map(|item| match self.items[item].what {
                What::Waiting { attempt } => Some((item, attempt)),
                _ => None,
            })
            .collect();
        self.link_first_sent(&waiting);
        for (item, attempt) in &waiting {
            if let Some(cause) = self.cause(*attempt, self.items[*item].seen.at) {
                self.items[*item].after.extend(cause);
            }
        }
        for item in 0..self.items.len() {
            if let What::Start { run } = self.items[item].what
                && self.runs[run].delivery.is_none()
                && let Some(cause) = self.cause(self.runs[run].attempt, self.items[item].seen.at)
            {
                self.items[item].after.extend(cause);
            }
        }
        self.link_lower_attempts(&waiting);
    }

    /// The first message of an attempt was sent before anything else happened in it, whatever its sender's clock says.
    fn link_first_sent(&mut self, waiting: &[(usize, u32)]) {
        let mut first: BTreeMap<u32, usize> = BTreeMap::new();
        for (item, attempt) in waiting {
            if self.items[*item].seen.said == Said::Sent {
                let sooner =
                    first.get(attempt).is_none_or(|held| self.items[*item].seen.key() < self.items[*held].seen.key());
                if sooner {
                    first.insert(*attempt, *item);
                }
            }
        }
        for item in 0..self.items.len() {
            let attempt = match self.items[item].what {
                What::Waiting { attempt } => attempt,
                What::Start { run } | What::End { run } => self.runs[run].attempt,
                What::EndWithoutRun => 1,
                _ => continue,
            };
            if let Some(sent) =
                first.get(&attempt).filter(|sent| **sent != item && self.items[item].seen.said != Said::Sent)
            {
                self.items[item].after.push(*sent);
            }
        }
    }

    /// What the attempt came of: the items of the execution of the one before that was retried, the nearest in time;
    /// where no retry was seen, of the nearest one that has no known end.
    fn cause(&self, attempt: u32, at: Timestamp) -> Option<Vec<usize>> {
        let before = attempt.checked_sub(1).filter(|before| *before > 0)?;
        let nearest = |outcome: Option<Outcome>| {
            let candidates = (0..self.runs.len())
                .filter(|run| self.runs[*run].attempt == before && self.runs[*run].outcome == outcome);
            let distance = |run: &usize| {
                let event = if outcome.is_some() { self.runs[*run].ended } else { self.runs[*run].begun };
                event.map_or(i64::MAX, |event| (event.at.micros() - at.micros()).abs())
            };
            candidates.min_by_key(distance)
        };
        let cause = nearest(Some(Outcome::Retrying)).or_else(|| nearest(None))?;
        let is_of_cause = |item: &usize| match self.items[*item].what {
            What::Start { run } | What::End { run } => run == cause,
            _ => false,
        };
        Some((0..self.items.len()).filter(is_of_cause).collect())
    }

    /// An attempt is asked for after the one before was.
    fn link_lower_attempts(&mut self, waiting: &[(usize, u32)]) {
        let mut first: BTreeMap<u32, usize> = BTreeMap::new();
        for (item, attempt) in waiting {
            let sooner =
                first.get(attempt).is_none_or(|held| self.items[*item].seen.key() < self.items[*held].seen.key());
            if sooner {
                first.insert(*attempt, *item);
            }
        }
        for (item, attempt) in waiting {
            if let Some((_, before)) = first.range(..attempt).next_back() {
                self.items[*item].after.push(*before);
            }
        }
    }
}

/// When the execution that an outcome ends began, by the runtime it reports.
fn begun_at(seen: &Seen) -> Option<i64> {
    seen.runtime.map(|runtime| seen.at.micros().saturating_sub((runtime * 1e6) as i64))
}

/// The runs of the processes behind one hostname, in the order of their first events; each in the order of its clock.
fn split_processes(events: Vec<&Seen>) -> Vec<Vec<&Seen>> {
    let mut by_pid: BTreeMap<Option<i64>, Vec<&Seen>> = BTreeMap::new();
    for seen in events {
        by_pid.entry(seen.pid).or_default().push(seen);
    }
    let mut processes: Vec<Vec<&Seen>> = by_pid.into_values().flat_map(split_restarts).collect();
    processes.sort_by_key(|process| process.iter().map(|seen| seen.key()).min());
    processes
}

/// Cuts the events of one process id, in order of time, where its clock began anew.
fn split_restarts(events: Vec<&Seen>) -> Vec<Vec<&Seen>> {
    let mut processes: Vec<Vec<&Seen>> = Vec::new();
    let mut highest: Option<(i64, Timestamp)> = None;
    for seen in events {
        let restarted = match (seen.clock, highest) {
            (Some(clock), Some((high, at))) => clock < high && seen.at.micros() - at.micros() > RESTART,
            _ => false,
        };
        if restarted || processes.is_empty() {
            processes.push(Vec::new());
            highest = None;
        }
        if let Some(clock) = seen.clock
            && highest.is_none_or(|(high, _)| clock > high)
        {
            highest = Some((clock, seen.at));
        }
        processes.last_mut().expect("a process was pushed above").push(seen);
    }
    for process in &mut processes {
        // Events without a clock stay where their time puts them.
        if process.iter().all(|seen| seen.clock.is_some()) {
            process.sort_by_key(|seen| (seen.clock, seen.at, seen.said, seen.id));
        } else {
            process.sort_by_key(|seen| (seen.at, seen.said, seen.id));
        }
    }
    processes
}
