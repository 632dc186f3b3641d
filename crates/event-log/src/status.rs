//! Following what workers and queues say of their present state: the latest of each, then what comes, for ever.
//!
//! It is no part of the log. Nothing here is ordered against the log's messages but by the time at which the server
//! stored them, and what is replaced before it is delivered is never seen.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, ReplayPolicy};
use bytes::Bytes;
use futures_util::StreamExt;
use proto_events::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use crate::connect::Link;
use crate::log::{self, EventLog, TIMEOUT};
use crate::message;
use crate::streams::{STATUS, STATUS_SUBJECTS};

/// Messages asked for at a time. What can be under way is a few times as much, and the shared connection keeps far more.
const BATCH: usize = 1_000;
const EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(3);
/// After so long without us the server forgets the consumer.
const INACTIVE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The present state of one named thing, as it was last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whose it is, said by the subject; nil when a foreign publisher used a subject that names nobody.
    pub connection: Uuid,
    /// What kind of thing, `worker` or `queue`, said by the subject.
    pub kind: String,
    /// What was said, which names the thing: an event, as [`proto_events::decode`] reads it. The subject holds no more
    /// than a hash of the name.
    pub payload: Bytes,
    /// When the server stored it.
    pub stored: Timestamp,
}

/// What following the statuses brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusChange {
    /// Following begins: the latest of each thing comes first, and what was told before an interruption comes again.
    Begun {
        /// The time by the clock of the server, which is what [`Status::stored`] is to be compared with.
        at: Timestamp,
    },
    /// The connection is lost, or something was. From now on nothing is heard until following begins anew.
    Interrupted,
    /// One thing said something.
    Said(Status),
}

/// Follows the statuses, for ever. See [`EventLog::statuses`].
pub struct Statuses {
    log: EventLog,
    closed: watch::Receiver<bool>,
    source: Option<Source>,
    /// What is to be told next.
    told: VecDeque<StatusChange>,
    failures: u32,
}

impl EventLog {
    /// Follows the present state of workers and queues: first the latest of each, then what comes.
    pub fn statuses(&self) -> Statuses {
        Statuses { log: self.clone(), closed: self.closed(), source: None, told: VecDeque::new(), failures: 0 }
    }
}

impl Statuses {
    /// Waits for what comes next; `None` once the log is closed. Whatever interrupts it, it begins anew by itself with
    /// the latest of each. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<StatusChange> {
        let mut closed = self.closed.clone();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => None,
            change = self.read() => Some(change),
        }
    }

    async fn read(&mut self) -> StatusChange {
        loop {
            if let Some(change) = self.told.pop_front() {
                return change;
            }
            let Some(source) = &mut self.source else {
                self.open().await;
                continue;
            };
            match source.next().await {
                Ok(status) => {
                    self.failures = 0;
                    return StatusChange::Said(status);
                }
                Err(reason) => {
                    tracing::debug!(reason, "following workers and queues anew");
                    self.source = None;
                    return StatusChange::Interrupted;
                }
            }
        }
    }

    async fn open(&mut self) {
        if let Some(doublings) = self.failures.checked_sub(1) {
            tokio::time::sleep(Duration::from_millis(10 << doublings.min(10)).min(LONGEST_PAUSE)).await;
        }
        // Counted before it is tried: the future may be dropped in between.
        self.failures += 1;
        let link = self.log.link().clone();
        link.wait_connected().await;
        match tokio::time::timeout(TIMEOUT, Box::pin(Source::open(link))).await {
            Ok(Ok((source, at))) => {
                self.source = Some(source);
                self.told.push_back(StatusChange::Begun { at });
            }
            Ok(Err(reason)) => tracing::debug!(reason, "workers and queues cannot be followed yet"),
            Err(_) => tracing::debug!("workers and queues cannot be followed yet: no answer"),
        }
    }
}

/// One consumer, and how far it has come.
struct Source {
    link: Link,
    generation: u64,
    messages: pull::Stream,
    delivered: u64,
}

impl Source {
    /// Makes a consumer; tells when the server made it.
    async fn open(link: Link) -> Result<(Self, Timestamp), String> {
        let generation = link.generation();
        let config = pull::Config {
            name: Some(format!("forebay-status-{}", Uuid::new_v4().simple())),
            deliver_policy: DeliverPolicy::LastPerSubject,
            // The server insists on one with this policy.
            filter_subject: STATUS_SUBJECTS.to_owned(),
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let context = log::context(&link);
        let consumer: PullConsumer =
            context.create_consumer_on_stream(config, STATUS).await.map_err(|error| error.to_string())?;
        let at = message::timestamp(consumer.cached_info().created.unix_timestamp_nanos());
        let messages = consumer.stream().max_messages_per_batch(BATCH).expires(EXPIRES).heartbeat(HEARTBEAT);
        let messages = messages.messages().await.map_err(|error| error.to_string())?;
        Ok((Self { link, generation, messages, delivered: 0 }, at))
    }

    async fn next(&mut self) -> Result<Status, String> {
        let next = tokio::select! {
            biased;
            () = self.link.wait_lost(self.generation) => return Err("the connection was lost".to_owned()),
            next = self.messages.next() => next,
        };
        let message = match next {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the consumer ended".to_owned()),
        };
        self.accept(message)
    }

    /// A message is accepted only as the direct successor of the one before: what the client library drops when it is
    /// full is told by nobody.
    fn accept(&mut self, message: jetstream::Message) -> Result<Status, String> {
        let info = message.info().map_err(|error| error.to_string())?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err(format!("delivery {} came where {} was due", info.consumer_sequence, self.delivered + 1));
        }
        self.delivered = info.consumer_sequence;
        let stored = message::timestamp(info.published.unix_timestamp_nanos());
        let kind = message.subject.split('.').nth(4).unwrap_or_default().to_owned();
        let connection = message::connection_of(&message.subject);
        Ok(Status { connection, kind, payload: message.message.payload, stored })
    }
}
