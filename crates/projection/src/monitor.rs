//! What the events of a job said last, kind by kind: what a monitor of Celery remembers of a task. It is told from the
//! evidence, beside the record, which says what the events mean.

use proto_events::{JobState, Timestamp};

use crate::evidence::Evidence;
use crate::seen::{Said, Seen};

/// What was said last of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Monitored {
    /// When it was sent.
    pub sent: Option<Timestamp>,
    /// When a worker took it.
    pub received: Option<Timestamp>,
    /// When it began to run.
    pub started: Option<Timestamp>,
    /// When it ended well.
    pub succeeded: Option<Timestamp>,
    /// When it failed for good.
    pub failed: Option<Timestamp>,
    /// When it failed and was to be tried again.
    pub retried: Option<Timestamp>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// When a worker refused it.
    pub rejected: Option<Timestamp>,
    /// The time of the last event that says more than what a task says of its own.
    pub timestamp: Option<Timestamp>,
    /// The logical clock of whoever spoke last.
    pub clock: Option<i64>,
    /// Seconds that the last run took that ended well, as its worker measured them.
    pub runtime: Option<f64>,
    /// How often it was tried again, by the last event that says so.
    pub retries: Option<u32>,
    /// The error that was told last, of whichever try.
    pub exception: Option<String>,
    /// The traceback that was told last, likewise.
    pub traceback: Option<String>,
    /// Who sent it.
    pub client: Option<String>,
    /// The framework's id of the job that dispatched it.
    pub parent: Option<String>,
    /// The framework's id of the first job of its workflow.
    pub root: Option<String>,
}

impl Evidence {
    /// What the events said last, by their own times.
    pub fn monitored(&self) -> Monitored {
        let mut told = Monitored::default();
        // In their order of time, so that the last one stays.
        self.events().iter().for_each(|seen| told.hear(seen));
        told
    }
}

impl Monitored {
    fn hear(&mut self, seen: &Seen) {
        let last = |known: &mut Option<String>, said: Option<&str>| {
            if let Some(said) = said {
                *known = Some(said.to_owned());
            }
        };
        last(&mut self.parent, seen.parent.as_deref());
        last(&mut self.root, seen.root.as_deref());
        self.clock = seen.clock.or(self.clock);
        if seen.said == Said::Custom {
            return;
        }
        self.timestamp = Some(seen.at);
        last(&mut self.exception, seen.error.as_deref());
        last(&mut self.traceback, seen.stacktrace.as_deref());
        self.runtime = seen.runtime.or(self.runtime);
        self.retries = seen.attempt.map(|attempt| attempt.saturating_sub(1)).or(self.retries);
        if seen.said == Said::Sent {
            last(&mut self.client, seen.host.as_deref());
        }
        if let Some(moment) = self.moment(seen) {
            *moment = Some(seen.at);
        }
    }

    /// The moment that an event is about.
    fn moment(&mut self, seen: &Seen) -> Option<&mut Option<Timestamp>> {
        Some(match (seen.said, seen.state) {
            (Said::Sent, _) => &mut self.sent,
            (Said::Received, _) => &mut self.received,
            (Said::Rejected, _) => &mut self.rejected,
            // Of all others the state says what they are about. Who reports a job that waits does not say whether a worker
            // has it.
            (_, JobState::Queued | JobState::Scheduled) if seen.worker.is_some() => &mut self.received,
            (_, JobState::Queued | JobState::Scheduled) => &mut self.sent,
            (_, JobState::Active) => &mut self.started,
            (_, JobState::Completed) => &mut self.succeeded,
            (_, JobState::Failed) => &mut self.failed,
            (_, JobState::Retrying) => &mut self.retried,
            (_, JobState::Cancelled) => &mut self.revoked,
            (_, JobState::Unknown) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_events::{CeleryFacts, CeleryKind, Event, Framework, Job, Position, Producer};

    fn event(kind: CeleryKind, state: JobState, seconds: i64, change: impl FnOnce(&mut Job)) -> Event {
        let mut job = Job::new("a".to_owned(), state);
        job.celery = Some(CeleryFacts::new(kind));
        change(&mut job);
        let producer = Producer { hostname: format!("host-{seconds}"), pid: None, clock: Some(seconds) };
        Event { producer: Some(producer), ..Event::job(Timestamp(seconds * 1_000_000), Framework::Celery, job) }
    }

    #[test]
    fn what_was_said_last_of_each_stays_whatever_the_order_of_arrival() {
        let retries = |number| move |job: &mut Job| job.celery.as_mut().unwrap().retries = Some(number);
        let events = [
            event(CeleryKind::Sent, JobState::Queued, 1, retries(0)),
            event(CeleryKind::Received, JobState::Queued, 2, retries(0)),
            event(CeleryKind::Started, JobState::Active, 3, |_| {}),
            event(CeleryKind::Retried, JobState::Retrying, 4, |job| job.error = Some("OSError()".to_owned())),
            event(CeleryKind::Received, JobState::Queued, 5, retries(1)),
            event(CeleryKind::Started, JobState::Active, 6, |_| {}),
            event(CeleryKind::Custom, JobState::Unknown, 7, |_| {}),
            event(CeleryKind::Succeeded, JobState::Completed, 8, |job| {
                job.celery.as_mut().unwrap().runtime = Some(0.5);
            }),
        ];
        let told = |order: &mut dyn Iterator<Item = usize>| {
            let mut evidence = Evidence::default();
            for (place, number) in order.enumerate() {
                evidence.add(Position::new(place as u64 + 1, 0), &events[number]);
            }
            evidence.monitored()
        };
        let at = |seconds: i64| Some(Timestamp(seconds * 1_000_000));
        let expected = Monitored {
            sent: at(1),
            received: at(5),
            started: at(6),
            retried: at(4),
            succeeded: at(8),
            timestamp: at(8),
            clock: Some(8),
            runtime: Some(0.5),
            retries: Some(1),
            exception: Some("OSError()".to_owned()),
            client: Some("host-1".to_owned()),
            ..Monitored::default()
        };
        assert_eq!(told(&mut (0..8)), expected);
        assert_eq!(told(&mut (0..8).rev()), expected);
        assert_eq!(told(&mut (0..7)).timestamp, at(6), "what a task says of its own changes no state");
    }
}
