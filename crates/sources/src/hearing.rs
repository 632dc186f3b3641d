//! What is done with messages of any broker once they are heard: counted, looked at, passed on to the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto_events::{CeleryKind, Event, WorkerState};
use tokio::time::Instant;

use crate::celery::{EnvelopeError, Message};
use crate::enabling::Enabling;
use crate::heartbeats::Heartbeats;
use crate::status::Figures;

/// The advice is looked at so often.
const TICK: Duration = Duration::from_secs(1);
const WARN_AGAIN: Duration = Duration::from_secs(60);
/// So many events of workers without one of a task are enough to give advice before its time.
const MANY: u64 = 200;

const HINT: &str = "workers are heard, but no events of their tasks: start the workers with -E \
                    (or set worker_send_task_events = True), or start Forebay with --enable-events, \
                    which asks them to send these events; and set task_send_sent_event = True \
                    so that queues and waiting tasks are known";
const HINT_ASKED: &str = "workers are heard, but no events of their tasks, although they were asked to send them \
                          (--enable-events): perhaps they have nothing to do, or their remote control is off; \
                          start them with -E (or set worker_send_task_events = True)";

/// What a source hears with.
pub(crate) struct Hearing {
    name: String,
    figures: Arc<Figures>,
    heartbeats: Arc<Heartbeats>,
    enabling: Option<Arc<Enabling>>,
    advice: Advice,
    /// When something unreadable was last logged.
    warned: Option<Instant>,
}

impl Hearing {
    pub(crate) fn new(
        name: String,
        figures: Arc<Figures>,
        heartbeats: Arc<Heartbeats>,
        enabling: Option<Arc<Enabling>>,
        hint_after: Duration,
    ) -> Self {
        Self { name, figures, heartbeats, enabling, advice: Advice::new(hint_after), warned: None }
    }

    /// How often [`advise`](Self::advise) is to be called.
    pub(crate) fn tick(&self) -> Duration {
        (self.advice.after / 4).clamp(Duration::from_millis(10), TICK)
    }

    /// Looks at one message, and gives those of its events that belong into the log.
    pub(crate) fn hear(&mut self, message: Result<Message, EnvelopeError>) -> Vec<Event> {
        self.figures.batches.fetch_add(1, Ordering::Relaxed);
        let mut message = match message {
            Ok(message) => message,
            Err(error) => {
                self.unreadable(1, &error);
                return Vec::new();
            }
        };
        self.figures.heard();
        self.figures.events.fetch_add(message.events.len() as u64, Ordering::Relaxed);
        if let Some(refused) = message.first_refused {
            self.unreadable(message.refused, &refused);
        }
        // Most messages are about tasks, and all of it goes on as it is.
        if message.events.iter().all(|event| !is_heartbeat(event)) {
            for event in &message.events {
                self.note(event);
            }
            return message.events;
        }
        let (beats, events): (Vec<_>, Vec<_>) = message.events.drain(..).partition(is_heartbeat);
        for event in beats.iter().chain(&events) {
            self.note(event);
        }
        for beat in beats {
            self.heartbeats.note(beat);
        }
        events
    }

    fn note(&mut self, event: &Event) {
        if let Some(worker) = event.worker.as_deref() {
            self.figures.worker_events.fetch_add(1, Ordering::Relaxed);
            self.advice.worker_heard();
            if let Some(enabling) = &self.enabling {
                enabling.worker_heard(worker);
            }
        } else if let Some(worker) = event.job.as_deref().and_then(worker_of) {
            if self.advice.task_heard() {
                *self.figures.hint.lock() = None;
            }
            if let Some(enabling) = &self.enabling {
                enabling.task_heard(worker);
            }
        }
    }

    /// Counted each time, said in the status, and logged now and then: whoever publishes nonsense may publish a lot.
    fn unreadable(&mut self, count: u64, reason: &dyn std::error::Error) {
        let reason = reason.to_string();
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_AGAIN) {
            self.warned = Some(Instant::now());
            tracing::warn!(source = self.name, reason, "a message on Celery's event channels cannot be read");
        }
        self.figures.unreadable(count, reason);
    }

    /// Says what is missing, when it is time.
    pub(crate) fn advise(&mut self) {
        if self.advice.is_due(self.figures.is_connected()) {
            let hint = if self.enabling.is_some() { HINT_ASKED } else { HINT };
            tracing::warn!(source = self.name, "{hint}");
            *self.figures.hint.lock() = Some(hint.to_owned());
        }
    }
}

fn is_heartbeat(event: &Event) -> bool {
    event.worker.as_deref().is_some_and(|worker| worker.state == WorkerState::Heartbeat)
}

/// The worker that sent this event of a task. A publisher's event does not show that the workers send theirs, nor does
/// one that the task's own code sends.
fn worker_of(job: &proto_events::Job) -> Option<&str> {
    let facts = job.celery.as_ref()?;
    if matches!(facts.event, CeleryKind::Sent | CeleryKind::Custom) { None } else { job.worker_id.as_deref() }
}

/// When to say what is missing: workers are heard for a while, or many of them, and no task event of theirs ever came.
struct Advice {
    after: Duration,
    state: State,
}

enum State {
    Nothing,
    /// Only workers: since then, and so often.
    Workers(Instant, u64),
    Advised,
    Tasks,
}

impl Advice {
    fn new(after: Duration) -> Self {
        Self { after, state: State::Nothing }
    }

    fn worker_heard(&mut self) {
        match &mut self.state {
            State::Nothing => self.state = State::Workers(Instant::now(), 1),
            State::Workers(_, heard) => *heard += 1,
            State::Advised | State::Tasks => {}
        }
    }

    /// Tells whether this is news.
    fn task_heard(&mut self) -> bool {
        let news = !matches!(self.state, State::Tasks);
        self.state = State::Tasks;
        news
    }

    /// Once, and only of time in which something could be heard.
    fn is_due(&mut self, connected: bool) -> bool {
        match self.state {
            State::Workers(..) if !connected => {
                self.state = State::Nothing;
                false
            }
            State::Workers(since, heard) if since.elapsed() >= self.after || heard >= MANY => {
                self.state = State::Advised;
                true
            }
            _ => false,
        }
    }
}
