//! The task that decodes what was drained and hands it to the log.

use std::sync::Arc;

use event_log::Batcher;
use tokio::time::MissedTickBehavior;

use super::queue::{Item, Queue};
use crate::celery::Normaliser;
use crate::hearing::Hearing;

/// Bytes decoded between two chances for other tasks: less than a millisecond of work.
const TURN: usize = 64 * 1_024;

pub(super) struct Decode {
    pub(super) normaliser: Normaliser,
    pub(super) queue: Arc<Queue>,
    pub(super) batcher: Batcher,
    pub(super) hearing: Hearing,
}

impl Decode {
    /// Until the queue is closed and empty, and all of it is in the log.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(self.hearing.tick());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                items = self.queue.take(TURN) => match items {
                    Some(items) => self.items(items).await,
                    None => break,
                },
                _ = tick.tick() => self.hearing.advise(),
            }
            // A flood keeps the queue filled, and a task that never waits keeps its thread.
            tokio::task::yield_now().await;
        }
        self.batcher.flush().await;
    }

    async fn items(&mut self, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Message(payload) => {
                    for event in self.hearing.hear(self.normaliser.message(&payload)) {
                        self.batcher.push(event).await;
                    }
                }
                Item::Change(event) => self.batcher.push(*event).await,
            }
        }
    }
}
