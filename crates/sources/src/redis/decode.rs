//! The task that decodes what was drained and hands it to the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use event_log::Batcher;
use proto_events::{CeleryKind, Event, WorkerState};
use tokio::time::{Instant, MissedTickBehavior};

use super::queue::{Item, Queue};
use crate::celery::Normaliser;
use crate::heartbeats::Heartbeats;
use crate::status::Figures;

/// Bytes decoded between two chances for other tasks: less than a millisecond of work.
const TURN: usize = 64 * 1_024;

/// The advice is looked at so often.
const TICK: Duration = Duration::from_secs(1);
const WARN_AGAIN: Duration = Duration::from_secs(60);

const HINT: &str = "workers are heard, but no events of their tasks: start the workers with -E \
                    (or set worker_send_task_events = True), and set task_send_sent_event = True \
                    so that queues and waiting tasks are known";

pub(super) struct Decode {
    pub(super) name: String,
    pub(super) normaliser: Normaliser,
    pub(super) queue: Arc<Queue>,
    pub(super) figures: Arc<Figures>,
    pub(super) batcher: Batcher,
    pub(super) heartbeats: Arc<Heartbeats>,
    pub(super) advice: Advice,
    /// When something unreadable was last logged.
    pub(super) warned: Option<Instant>,
}

impl Decode {
    /// Until the queue is closed and empty, and all of it is in the log.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval((self.advice.after / 4).clamp(Duration::from_millis(10), TICK));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                items = self.queue.take(TURN) => match items {
                    Some(items) => self.items(items).await,
                    None => break,
                },
                _ = tick.tick() => self.advise(),
            }
            // A flood keeps the queue filled, and a task that never waits keeps its thread.
            tokio::task::yield_now().await;
        }
        self.batcher.flush().await;
    }

    async fn items(&mut self, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Message(payload) => self.message(&payload).await,
                Item::Change(event) => self.batcher.push(*event).await,
            }
        }
    }

    async fn message(&mut self, payload: &[u8]) {
        self.figures.batches.fetch_add(1, Ordering::Relaxed);
        let message = match self.normaliser.message(payload) {
            Ok(message) => message,
            Err(error) => return self.unreadable(1, &error),
        };
        self.figures.heard();
        self.figures.events.fetch_add(message.events.len() as u64, Ordering::Relaxed);
        if let Some(refused) = message.first_refused {
            self.unreadable(message.refused, &refused);
        }
        for event in message.events {
            self.event(event).await;
        }
    }

    async fn event(&mut self, event: Event) {
        if let Some(worker) = event.worker.as_deref() {
            self.figures.worker_events.fetch_add(1, Ordering::Relaxed);
            self.advice.worker_heard();
            if worker.state == WorkerState::Heartbeat {
                self.heartbeats.note(event);
                return;
            }
        } else if event.job.as_deref().is_some_and(is_from_a_worker) && self.advice.task_heard() {
            *self.figures.hint.lock() = None;
        }
        self.batcher.push(event).await;
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

    fn advise(&mut self) {
        if self.advice.is_due(self.figures.is_connected()) {
            tracing::warn!(source = self.name, "{HINT}");
            *self.figures.hint.lock() = Some(HINT.to_owned());
        }
    }
}

/// A publisher's event does not show that the workers send theirs.
fn is_from_a_worker(job: &proto_events::Job) -> bool {
    job.celery.as_ref().is_some_and(|facts| facts.event != CeleryKind::Sent)
}

/// When to say what is missing: workers are heard for a while, and no task event of theirs ever came.
pub(super) struct Advice {
    after: Duration,
    state: Hearing,
}

enum Hearing {
    Nothing,
    /// Only workers, since then.
    Workers(Instant),
    Advised,
    Tasks,
}

impl Advice {
    pub(super) fn new(after: Duration) -> Self {
        Self { after, state: Hearing::Nothing }
    }

    fn worker_heard(&mut self) {
        if matches!(self.state, Hearing::Nothing) {
            self.state = Hearing::Workers(Instant::now());
        }
    }

    /// Tells whether this is news.
    fn task_heard(&mut self) -> bool {
        let news = !matches!(self.state, Hearing::Tasks);
        self.state = Hearing::Tasks;
        news
    }

    /// Once, and only of time in which something could be heard.
    fn is_due(&mut self, connected: bool) -> bool {
        match self.state {
            Hearing::Workers(_) if !connected => {
                self.state = Hearing::Nothing;
                false
            }
            Hearing::Workers(since) if since.elapsed() >= self.after => {
                self.state = Hearing::Advised;
                true
            }
            _ => false,
        }
    }
}
