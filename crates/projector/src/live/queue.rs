//! One queue, as it was last described.

use std::sync::Arc;

use proto_events::{Framework, Queue, Timestamp, queue_id};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{LiveQueue, bounded};

/// A depth that was told longer ago says nothing about now.
const FRESH: i64 = 5 * 60 * 1_000_000;

/// What is known of one queue.
#[derive(Debug)]
pub(super) struct Known {
    id: Uuid,
    framework: Framework,
    first_seen: Timestamp,
    /// When the last description was stored.
    described: Timestamp,
    depth: Option<u64>,
    consumers: Option<u64>,
    extensions: Arc<Map<String, Value>>,
}

impl Known {
    pub(super) fn new(connection: Uuid, queue: &Queue, framework: Framework, stored: Timestamp) -> Self {
        let mut known = Self {
            id: queue_id(connection, &queue.name),
            framework,
            first_seen: stored,
            described: stored,
            depth: None,
            consumers: None,
            extensions: Arc::default(),
        };
        known.set(queue);
        known
    }

    /// Takes a description in, if it is a newer one.
    pub(super) fn take(&mut self, queue: &Queue, framework: Framework, stored: Timestamp) -> bool {
        self.first_seen = self.first_seen.min(stored);
        if stored <= self.described {
            return false;
        }
        (self.framework, self.described) = (framework, stored);
        self.set(queue);
        true
    }

    fn set(&mut self, queue: &Queue) {
        (self.depth, self.consumers) = (queue.depth, queue.consumers);
        if *self.extensions != queue.extensions {
            self.extensions = bounded(queue.extensions.clone());
        }
    }

    pub(super) fn described(&self) -> Timestamp {
        self.described
    }

    pub(super) fn row(&self, connection: Uuid, name: &str, now: Timestamp) -> LiveQueue {
        let is_fresh = now.micros() - self.described.micros() <= FRESH;
        LiveQueue {
            id: self.id,
            connection,
            name: name.to_owned(),
            framework: self.framework,
            depth: self.depth.filter(|_| is_fresh),
            consumers: self.consumers.filter(|_| is_fresh),
            depth_at: self.described,
            first_seen: self.first_seen,
            extensions: Arc::clone(&self.extensions),
        }
    }
}
