//! Heartbeats of workers: only the latest of each is of interest, and never the history.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use event_log::EventLog;
use parking_lot::Mutex;
use proto_events::Event;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

/// Workers beat every two seconds; more often than this nobody needs to know.
const INTERVAL: Duration = Duration::from_secs(1);
/// Workers kept between two rounds. Anyone who may publish can make names up.
const MOST: usize = 10_000;

#[derive(Default)]
pub(crate) struct Heartbeats {
    latest: Mutex<HashMap<String, Event>>,
}

impl Heartbeats {
    pub(crate) fn note(&self, event: Event) {
        let Some(worker) = event.worker.as_deref() else { return };
        let mut latest = self.latest.lock();
        if latest.len() < MOST || latest.contains_key(&worker.external_id) {
            latest.insert(worker.external_id.clone(), event);
        }
    }

    /// Publishes what came since the last round, for ever.
    pub(crate) async fn publish(self: Arc<Self>, log: EventLog, connection: Uuid) {
        let mut rounds = tokio::time::interval(INTERVAL);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let latest = std::mem::take(&mut *self.latest.lock());
            for (name, event) in latest {
                let payload = Bytes::from(proto_events::encode(&[event]));
                // A heartbeat that did not get through is replaced by the next: the log is away, and says so itself.
                if let Err(error) = log.publish_status(connection, "worker", &name, payload).await {
                    tracing::debug!(%error, "heartbeats not published");
                    break;
                }
            }
        }
    }
}
