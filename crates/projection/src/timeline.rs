//! The states that a job went through: one step per item, in the order of [`crate::order`].

use proto_events::{Framework, JobState, Timestamp};

use crate::order::{Item, What};
use crate::record::Outcome;
use crate::seen::{Said, Seen};
use crate::stream::Run;

/// Where the worker is unknown, a new beginning this long after an end is a second execution; sooner it is noise.
const SECOND_RUN: i64 = 5 * 60 * 1_000_000;
/// The SDK reports the next attempt's `queued` up to a few milliseconds before the `retrying` that it follows from.
const EARLY_REQUEUE: i64 = 1_000_000;

/// What the record shows as its run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shown<'a> {
    /// Nothing: the job waits.
    Nothing,
    /// This execution.
    Run(usize),
    /// The job ended by this event without running.
    End(&'a Seen),
}

/// One entry of the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) state: JobState,
    pub(crate) at: Timestamp,
}

/// The life of a job, as far as it has been walked.
pub(crate) struct Timeline<'a> {
    pub(crate) runs: Vec<Run<'a>>,
    pub(crate) history: Vec<Entry>,
    pub(crate) shown: Shown<'a>,
    /// The ETA and the worker of the attempt that waits or runs.
    pub(crate) eta: Option<Timestamp>,
    pub(crate) worker: Option<&'a str>,
    pub(crate) attempt: u32,
    /// How often a report said that a worker took the job.
    pub(crate) reported_deliveries: u32,
    /// The executions in the order in which they began.
    pub(crate) begun: Vec<usize>,
    /// Which executions are over at this point of the walk.
    over: Vec<bool>,
    /// Whether a worker's own word decided between `queued` and `scheduled`.
    received: bool,
    /// Deliveries to other workers after the end, which count only when something comes of them.
    withheld: Vec<usize>,
    /// A message that was sent again after the end.
    sent_again: Option<&'a Seen>,
    /// A `queued` that was reported while the job ran.
    early: Option<&'a Seen>,
    /// One that was reported after the end, which counts only when something comes of it.
    reported_again: Option<&'a Seen>,
}

impl<'a> Timeline<'a> {
    pub(crate) fn new(runs: Vec<Run<'a>>) -> Self {
        Self {
            over: vec![false; runs.len()],
            runs,
            history: Vec::new(),
            shown: Shown::Nothing,
            eta: None,
            worker: None,
            attempt: 1,
            reported_deliveries: 0,
            begun: Vec::new(),
            received: false,
            withheld: Vec::new(),
            sent_again: None,
            early: None,
            reported_again: None,
        }
    }

    /// Takes one step, to the item at this place.
    pub(crate) fn step(&mut self, place: usize, items: &[Item<'a>]) {
        let seen = items[place].seen;
        match items[place].what {
            What::Waiting { attempt } => self.waiting(place, seen, attempt),
            What::Start { run } => self.start(run, seen, items),
            What::End { run } => self.end(run, seen),
            What::Lost { run } => self.lost(run),
            What::EndWithoutRun => self.end_without_run(seen),
            What::Report => self.report(seen),
            What::Fields => {}
        }
    }

    /// What a step can have moved: the length of the history, its last state, executions begun and over.
    pub(crate) fn progress(&self) -> (usize, Option<JobState>, usize, usize) {
        let over = self.over.iter().filter(|over| **over).count();
        (self.history.len(), self.state(), self.begun.len(), over)
    }

    pub(crate) fn state(&self) -> Option<JobState> {
        self.history.last().map(|entry| entry.state)
    }

    /// The event that the execution shown, or the job without one, ended by.
    pub(crate) fn shown_end(&self) -> Option<&'a Seen> {
        match self.shown {
            Shown::Run(run) => self.runs[run].ended,
            Shown::End(end) => Some(end),
            Shown::Nothing => None,
        }
    }

    /// The execution that started last: it alone moves the state.
    fn last(&self) -> Option<usize> {
        self.begun.last().copied()
    }

    /// The execution that started last, if it still runs.
    fn runs_now(&self) -> Option<usize> {
        self.last().filter(|run| !self.over[*run])
    }

    /// Enters a state; the same one again collapses into the entry that is there.
    fn enter(&mut self, state: JobState, at: Timestamp) {
        if self.state() != Some(state) {
            self.history.push(Entry { state, at });
        }
    }

    /// The job waits (again): a new attempt, or the same one anew.
    fn wait(&mut self, seen: &'a Seen, attempt: u32, at: Timestamp) {
        self.enter(seen.waiting_state(), at);
        self.shown = Shown::Nothing;
        self.eta = None;
        self.worker = None;
        self.received = false;
        self.sent_again = None;
        self.early = None;
        self.reported_again = None;
        self.attempt = self.attempt.max(attempt);
        self.learn_waiting(seen);
    }

    /// What a message of the attempt that waits adds to what is known of it.
    fn learn_waiting(&mut self, seen: &'a Seen) {
        self.eta = seen.scheduled_for.or(self.eta);
        self.worker = seen.worker.as_deref().or(self.worker);
        if let Some(entry) = self.history.last_mut() {
            entry.at = entry.at.min(seen.at);
            // The worker that holds the message knows whether its time has come; its publisher only when it was sent.
            if seen.said == Said::Received && !self.received && !entry.state.is_final() {
                entry.state = seen.waiting_state();
            }
        }
        self.received |= seen.said == Said::Received;
    }

    fn waiting(&mut self, place: usize, seen: &'a Seen, attempt: u32) {
        let is_next = attempt > self.attempt_of_last();
        match self.state() {
            None => self.wait(seen, attempt, seen.at),
            Some(JobState::Unknown | JobState::Queued | JobState::Scheduled) if attempt > self.attempt => {
                self.attempt = attempt;
                self.received = false;
                self.eta = None;
                self.learn_waiting(seen);
            }
            Some(JobState::Unknown | JobState::Queued | JobState::Scheduled) => self.learn_waiting(seen),
            Some(JobState::Active) => match self.runs_now() {
                // The retry itself was not seen (yet), but its message was.
                Some(run) if is_next => {
                    self.retried_unseen(run, seen.at);
                    self.wait(seen, attempt, seen.at);
                }
                Some(_) => {}
                None => self.wait(seen, attempt, seen.at),
            },
            Some(JobState::Retrying) if is_next => self.wait(seen, attempt, seen.at),
            Some(JobState::Retrying) => {}
            Some(JobState::Completed | JobState::Failed | JobState::Cancelled) => {
                self.waiting_after_end(place, seen, attempt);
            }
        }
    }

    /// A message after the end: sent alone proves nothing, and a delivery to another worker (whose clock may be minutes
    /// off) only when that worker runs it. On the worker that ended it, its own order decides.
    fn waiting_after_end(&mut self, place: usize, seen: &'a Seen, attempt: u32) {
        if seen.said == Said::Sent {
            self.sent_again = Some(seen);
            return;
        }
        let end = match self.shown {
            Shown::Run(run) => self.runs[run].ended.or(self.runs[run].begun),
            Shown::End(end) => Some(end),
            Shown::Nothing => None,
        };
        let ended_on = end.and_then(|end| end.host.as_deref());
        // What a worker gave up is delivered again, to whichever worker is there.
        let given_up = end.is_some_and(|end| end.said == Said::Cancelled);
        if given_up
            || attempt > self.attempt_of_last().max(self.attempt)
            || (ended_on.is_some() && ended_on == seen.host.as_deref())
        {
            let sent = self.sent_again.filter(|sent| self.history.last().is_some_and(|end| sent.at >= end.at));
            self.wait(seen, attempt, sent.map_or(seen.at, |sent| sent.at.min(seen.at)));
        } else {
            self.withheld.push(place);
        }
    }

    /// The attempt of the execution that started last; 0 before the first.
    fn attempt_of_last(&self) -> u32 {
        self.last().map_or(0, |run| self.runs[run].attempt)
    }

    fn retried_unseen(&mut self, run: usize, at: Timestamp) {
        self.over[run] = true;
        self.runs[run].outcome = Some(Outcome::Retrying);
        self.enter(JobState::Retrying, at);
    }

    fn start(&mut self, run: usize, seen: &'a Seen, items: &[Item<'a>]) {
        let attempt = self.runs[run].attempt;
        if let Some(before) = self.runs_now().filter(|before| attempt > self.runs[*before].attempt) {
            self.retried_unseen(before, seen.at);
        }
        if let Some(place) = self.runs[run].delivery.filter(|place| self.withheld.contains(place)) {
            let delivery = items[place].seen;
            self.wait(delivery, attempt, delivery.at);
        }
        self.begin(run, self.runs[run].start().unwrap_or(seen.at));
    }

    fn begin(&mut self, run: usize, at: Timestamp) {
        self.runs[run].assigned = self.worker;
        self.begun.push(run);
        self.shown = Shown::Run(run);
        self.attempt = self.attempt.max(self.runs[run].attempt);
        self.enter(JobState::Active, at);
        self.withheld.clear();
        self.sent_again = None;
    }

    fn end(&mut self, run: usize, seen: &'a Seen) {
        self.over[run] = true;
        if self.runs[run].begun.is_none() && !self.begun.contains(&run) {
            self.runs[run].assigned = self.worker;
            self.begun.push(run);
            self.attempt = self.attempt.max(self.runs[run].attempt);
        }
        // An earlier execution's outcome closes it and moves nothing.
        if self.last() != Some(run) {
            return;
        }
        self.shown = Shown::Run(run);
        let at = seen.completed_at.unwrap_or(seen.at);
        match self.runs[run].outcome {
            Some(Outcome::Completed) => self.enter(JobState::Completed, at),
            Some(Outcome::Retrying) => {
                self.enter(JobState::Retrying, at);
                self.requeue_early(seen.at);
            }
            Some(Outcome::Cancelled) => self.enter(JobState::Cancelled, at),
            Some(Outcome::Rejected) if seen.requeue == Some(true) => {
                self.enter(JobState::Queued, at);
                self.shown = Shown::Nothing;
                self.worker = None;
                self.received = false;
            }
            _ => self.enter(JobState::Failed, at),
        }
    }

    fn lost(&mut self, run: usize) {
        self.over[run] = true;
    }

    fn end_without_run(&mut self, seen: &'a Seen) {
        // What a worker announces is better known than what its backend said of the same end.
        if let Shown::End(end) = self.shown
            && (end.said, end.state) == (Said::Reconciled, seen.state)
            && let Some(entry) = self.history.last_mut()
        {
            entry.at = seen.at;
            self.shown = Shown::End(seen);
            return;
        }
        if self.runs_now().is_some() || self.state().is_some_and(JobState::is_final) {
            return;
        }
        self.enter(if seen.said == Said::Failed { JobState::Failed } else { seen.state }, seen.at);
        self.shown = Shown::End(seen);
    }

    /// What the result backend holds counts where no event tells the end.
    fn reconcile(&mut self, seen: &'a Seen) {
        let outcome = match seen.state {
            JobState::Completed => Outcome::Completed,
            JobState::Failed => Outcome::Failed,
            JobState::Retrying => Outcome::Retrying,
            JobState::Cancelled => Outcome::Cancelled,
            _ => return,
        };
        let is_active = self.state() == Some(JobState::Active);
        let known = self.last().map_or(self.attempt, |run| self.runs[run].attempt.max(self.attempt));
        if self.state().is_some_and(JobState::is_final) || seen.attempt.is_some_and(|attempt| attempt < known) {
            return;
        }
        // One whose process is gone may have stored its result before.
        let mut run = self.last().filter(|run| is_active && (!self.over[*run] || self.runs[*run].ended.is_none()));
        if run.is_some_and(|run| !self.over[run] && self.runs[run].ended.is_some()) {
            return;
        }
        if let Some(before) = run.filter(|run| seen.attempt.is_some_and(|attempt| attempt > self.runs[*run].attempt)) {
            self.retried_unseen(before, seen.at);
            run = None;
        }
        let run = match (run, outcome) {
            (Some(run), _) => run,
            (None, Outcome::Retrying) => return,
            (None, Outcome::Cancelled) => return self.end_without_run(seen),
            (None, _) => self.add_run(seen, None),
        };
        self.runs[run].ended = Some(seen);
        self.runs[run].outcome = Some(outcome);
        self.end(run, seen);
    }

    fn report(&mut self, seen: &'a Seen) {
        if seen.said == Said::Reconciled {
            return self.reconcile(seen);
        }
        self.attempt = self.attempt.max(seen.attempt.unwrap_or(0));
        match seen.state {
            JobState::Unknown | JobState::Queued | JobState::Scheduled => self.report_waiting(seen),
            JobState::Active => self.report_active(seen),
            JobState::Completed => self.report_end(seen, Outcome::Completed),
            JobState::Failed => self.report_end(seen, Outcome::Failed),
            JobState::Retrying => self.report_end(seen, Outcome::Retrying),
            JobState::Cancelled => self.report_end(seen, Outcome::Cancelled),
        }
    }

    fn report_waiting(&mut self, seen: &'a Seen) {
        let attempt = seen.attempt.unwrap_or_else(|| self.reported_attempt());
        let says_nothing = seen.state == JobState::Unknown && self.state().is_some();
        match self.state() {
            _ if says_nothing => {}
            Some(JobState::Active) if seen.before == Some(JobState::Active) && self.runs_now().is_some() => {
                self.given_back(seen);
                self.wait(seen, attempt, seen.at);
            }
            Some(JobState::Active) if self.runs_now().is_some() => {
                self.early = Some(seen);
                return;
            }
            Some(JobState::Completed | JobState::Failed | JobState::Cancelled) if !self.begins_anew(seen) => {
                // Celery's SDK tells things twice, and what it tells late is no message of its own.
                self.reported_again = Some(seen).filter(|seen| seen.framework != Framework::Celery);
                return;
            }
            // Its worker has it, and it is not due yet: the SDK calls that queued as well.
            Some(JobState::Scheduled)
                if seen.state == JobState::Queued && self.eta.is_some_and(|eta| eta > seen.at) =>
            {
                self.learn_waiting(seen);
            }
            Some(JobState::Queued | JobState::Scheduled | JobState::Unknown) => {
                self.enter(seen.waiting_state(), seen.at);
                self.learn_waiting(seen);
            }
            _ => self.wait(seen, attempt, seen.at),
        }
        self.reported_deliveries += u32::from(seen.state == JobState::Queued && seen.worker.is_some());
    }

    /// The attempt of a report that does not name it: the next one after a retry.
    fn reported_attempt(&self) -> u32 {
        match self.state() {
            Some(JobState::Retrying) => self.attempt.max(self.attempt_of_last() + 1),
            _ => self.attempt,
        }
    }

    /// Puts a `queued` that was reported a little too early behind the `retrying` that it follows from.
    fn requeue_early(&mut self, retried: Timestamp) {
        if let Some(early) = self.early.take()
            && retried.micros() - early.at.micros() <= EARLY_REQUEUE
        {
            self.wait(early, self.reported_attempt(), retried);
            self.reported_deliveries += u32::from(early.worker.is_some());
        }
    }

    /// Closes the execution whose job waits again without having ended: its worker gave it back (`BullMQ`'s parents wait
    /// so for their children), or is gone.
    fn given_back(&mut self, seen: &'a Seen) {
        if let Some(run) = self.runs_now() {
            self.over[run] = true;
            self.runs[run].outcome = Some(if seen.stalled { Outcome::Lost } else { Outcome::Rejected });
            self.runs[run].ended = (!seen.stalled).then_some(seen);
        }
    }

    /// Whether a report after the end is the beginning of a second execution. A higher attempt is, and a report that
    /// names an end as the state before. Where both workers are named, one worker's own order decides and another worker
    /// runs it again; else a long gap decides. Only Celery's SDK tells things twice: a start that another framework tells
    /// after an end is another start.
    fn begins_anew(&self, seen: &Seen) -> bool {
        let ended = self.history.last().map_or(seen.at, |entry| entry.at);
        let is_start = seen.state == JobState::Active && seen.progress.is_none() && seen.framework != Framework::Celery;
        let names_end = seen.before.is_some_and(|state| state.is_final() || state == JobState::Retrying);
        if names_end || is_start || seen.attempt.is_some_and(|attempt| attempt > self.attempt_of_last().max(1)) {
            return true;
        }
        let ended_by = match self.shown {
            Shown::Run(run) => self.runs[run].events().find_map(|event| event.worker.as_deref()),
            Shown::End(end) => end.worker.as_deref(),
            Shown::Nothing => None,
        };
        match (seen.worker.as_deref(), ended_by) {
            (Some(worker), Some(ended_by)) => worker == ended_by || seen.state == JobState::Active,
            _ => seen.at.micros() - ended.micros() >= SECOND_RUN,
        }
    }

    fn report_active(&mut self, seen: &'a Seen) {
        if let Some(run) = self.runs_now() {
            let running = &self.runs[run];
            let named = running.events().find_map(|event| event.worker.as_deref());
            let is_other = matches!((named, seen.worker.as_deref()), (Some(one), Some(other)) if one != other);
            let begun = running.start().unwrap_or(seen.at);
            let is_next = seen.attempt.is_some_and(|attempt| attempt > running.attempt);
            if !is_other && !is_next && seen.at.micros() - begun.micros() < SECOND_RUN {
                self.runs[run].also.push(seen);
                return;
            }
            if is_next {
                self.retried_unseen(run, seen.at);
            }
        } else if self.state().is_some_and(JobState::is_final) && !self.begins_anew(seen) {
            return;
        }
        if let Some(again) = self.reported_again.take().filter(|_| self.state().is_some_and(JobState::is_final)) {
            self.wait(again, seen.attempt.unwrap_or_else(|| self.reported_attempt()), again.at);
        }
        let run = self.add_run(seen, Some(seen));
        self.begin(run, seen.started_at.unwrap_or(seen.at));
    }

    /// An execution that a report speaks of; where it does not say which attempt, the retries so far tell.
    fn add_run(&mut self, seen: &'a Seen, begun: Option<&'a Seen>) -> usize {
        let retried =
            self.runs.iter().zip(&self.over).filter(|(run, over)| **over && run.outcome == Some(Outcome::Retrying));
        let attempt = seen.attempt.unwrap_or(1 + retried.count() as u32);
        self.runs.push(Run::new(attempt, begun));
        self.over.push(false);
        self.runs.len() - 1
    }

    fn report_end(&mut self, seen: &'a Seen, outcome: Outcome) {
        let run = match self.runs_now() {
            Some(run) => run,
            None if self.is_said_again(seen, outcome) => return,
            None if outcome == Outcome::Cancelled && seen.started_at.is_none() => {
                return self.end_without_run(seen);
            }
            // Its beginning was not reported; the end alone still proves that the code ran.
            None => self.add_run(seen, None),
        };
        self.runs[run].ended = Some(seen);
        self.runs[run].outcome = Some(outcome);
        self.end(run, seen);
    }

    /// Whether the end of the execution that ended last is reported once more, or something that an end excludes.
    fn is_said_again(&mut self, seen: &'a Seen, outcome: Outcome) -> bool {
        if matches!(self.state(), Some(state) if state.is_final())
            && outcome == Outcome::Retrying
            && !self.begins_anew(seen)
        {
            return true;
        }
        let Some(last) = self.last() else { return false };
        let ended = self.runs[last].ended.map_or(seen.at, |ended| ended.at);
        let waits_since = !matches!(self.shown, Shown::Run(run) if run == last);
        let again = self.runs[last].outcome == Some(outcome)
            && seen.attempt.is_none_or(|attempt| attempt <= self.runs[last].attempt)
            && seen.at.micros() - ended.micros() < if waits_since { EARLY_REQUEUE } else { SECOND_RUN };
        if again {
            self.runs[last].also.push(seen);
        }
        again
    }
}
