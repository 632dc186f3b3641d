//! How full the queues of a broker are, told beside the log: only the latest of each is of interest.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_log::Outlet;
use proto_events::{Event, EventType, Framework, Queue};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::status::now;

/// A depth that stays as it is is told again after so long, so that everybody knows that it is still true.
const AGAIN: Duration = Duration::from_secs(30);

/// What is known of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) messages: u64,
    pub(crate) consumers: Option<u64>,
}

impl Depth {
    /// That of a broker that does not know who listens.
    pub(crate) fn of(messages: u64) -> Self {
        Self { messages, consumers: None }
    }
}

/// What tells of changes, and now and then of what stays as it is.
pub(crate) struct Teller {
    outlet: Outlet,
    connection: Uuid,
    told: HashMap<String, (Depth, Instant)>,
}

impl Teller {
    pub(crate) fn new(outlet: Outlet, connection: Uuid) -> Self {
        Self { outlet, connection, told: HashMap::new() }
    }

    /// Takes what one round brought: all queues that there are.
    pub(crate) async fn tell<'a>(
        &mut self,
        depths: impl Iterator<Item = (&'a str, Depth)>,
        unacked_of_all: Option<u64>,
    ) {
        let before = std::mem::take(&mut self.told);
        let mut is_away = false;
        for (name, depth) in depths {
            let known = before.get(name).copied().filter(|(known, at)| *known == depth && at.elapsed() < AGAIN);
            let at = match known {
                Some((_, at)) => at,
                // What did not get through is told in the next round: the log is away, and says so itself.
                None if is_away || !self.publish(name, depth, unacked_of_all).await => {
                    is_away = true;
                    continue;
                }
                None => Instant::now(),
            };
            self.told.insert(name.to_owned(), (depth, at));
        }
    }

    async fn publish(&self, name: &str, depth: Depth, unacked: Option<u64>) -> bool {
        let payload = Bytes::from(proto_events::encode(&[snapshot(name, depth, unacked)]));
        let Some(log) = self.outlet.log_now() else { return false };
        let published = log.publish_status(self.connection, "queue", name, payload).await;
        if let Err(error) = &published {
            tracing::debug!(%error, "depths not published");
        }
        published.is_ok()
    }
}

fn snapshot(name: &str, depth: Depth, unacked: Option<u64>) -> Event {
    let extensions = unacked.map(|unacked| ("unackedOfAllQueues".to_owned(), Value::from(unacked)));
    let extensions: Map<String, Value> = extensions.into_iter().collect();
    let Depth { messages, consumers } = depth;
    let queue = Queue { name: name.to_owned(), depth: Some(messages), consumers, extensions };
    Event { queue: Some(Box::new(queue)), ..Event::bare(EventType::QueueSnapshot, now(), Framework::Celery) }
}
