//! Reading the log in order, for ever.
//!
//! The client library has an ordered consumer of its own, but one that can rewind to the first message when its
//! consumer is lost while idle, and a plain consumer without acknowledgements loses messages in silence when its
//! reader is slow. So the loop is ours: one throw-away consumer at a time, every delivery checked to follow the last,
//! and on any doubt a new consumer from the last message that was handed out.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull::{self, MessagesError, MessagesErrorKind};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, ReplayPolicy};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{self, Context, ErrorCode};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;
use uuid::Uuid;

use crate::connect::Link;
use crate::error::{Anomaly, ReadError};
use crate::imported::Seal;
use crate::log::{self, EventLog};
use crate::message::{self, LogMessage};
use crate::streams::JOBS;

/// Messages asked for at a time.
const BATCH: usize = 1_000;
/// The client may have three and a half batches under way to a reader that stands still: one and a half as it goes,
/// and two more that it asks for when a request expires unanswered. What does not fit is lost in silence.
const CAPACITY: usize = 4 * BATCH;
/// Bytes asked for at a time; at least two of the largest message, or the server would never send that one.
const BATCH_BYTES: usize = 16 << 20;
/// A [`ReadBatch`] is complete when it holds so many messages or bytes.
const HANDED_OUT: usize = 1_000;
const HANDED_OUT_BYTES: usize = 4 << 20;

const EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(3);
/// After so long without us the server forgets the consumer.
const INACTIVE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A consumer that lasted so long was no failure.
const STEADY: Duration = Duration::from_secs(10);

/// Some messages, in order; never none.
#[derive(Clone, Debug)]
pub struct ReadBatch {
    /// The messages.
    pub messages: Vec<LogMessage>,
}

/// Reads the messages after a position, in order, each once, over a connection of its own, so that a slow reader
/// harms no publisher.
pub struct Reader {
    log: EventLog,
    closed: watch::Receiver<bool>,
    last: u64,
    link: Option<(Link, Context)>,
    source: Option<Source>,
    /// What interrupted us; told to the caller once reading stands again.
    interrupted: Option<Anomaly>,
    /// A hole in the log is told once; then it may be passed.
    hole_told: bool,
    failures: u32,
}

impl Reader {
    pub(crate) fn new(log: EventLog, after: u64) -> Self {
        let closed = log.closed();
        // The caller has asked the fence before it began, so a hole right at the start is known to it.
        let hole_told = true;
        Self { log, closed, last: after, link: None, source: None, interrupted: None, hole_told, failures: 0 }
    }

    /// The last position that was handed out, or the one where reading began.
    pub fn position(&self) -> u64 {
        self.last
    }

    /// Waits for messages and hands out all that are ready, up to 1,000 of them, or until they
    /// are 4 MB together.
    ///
    /// After an interruption it says so once, as soon as reading stands again; the caller then checks the fence and
    /// goes on calling. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<ReadBatch, ReadError> {
        let mut closed = self.closed.clone();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Err(ReadError::Closed),
            batch = self.read() => batch,
        }
    }

    async fn read(&mut self) -> Result<ReadBatch, ReadError> {
        loop {
            let Some(source) = &mut self.source else {
                self.source = Box::pin(self.open()).await?;
                continue;
            };
            if let Some(cause) = self.interrupted.take() {
                return Err(ReadError::Reconnected { cause });
            }
            let Taken { messages, anomaly } = source.take().await;
            if let Some(message) = messages.last() {
                self.last = message.sequence;
                self.hole_told = false;
                self.failures = 0;
            }
            if let Some(cause) = anomaly {
                tracing::info!(after = self.last, %cause, "reading the log was interrupted");
                self.hole_told |= matches!(cause, Anomaly::Hole { .. });
                self.interrupted = Some(cause);
                if source.opened.elapsed() > STEADY {
                    self.failures = 0;
                }
                self.source = None;
            }
            if !messages.is_empty() {
                return Ok(ReadBatch { messages });
            }
        }
    }

    /// Makes a consumer that starts after the last position; none when that should be tried again.
    async fn open(&mut self) -> Result<Option<Source>, ReadError> {
        self.pause().await;
        // Counted before it is tried: the future may be dropped in between.
        self.failures += 1;
        let (link, context) = match &self.link {
            Some(linked) => linked.clone(),
            None => match self.log.target().connect("forebay reader", CAPACITY).await {
                Ok(link) => self.link.insert((link.clone(), log::context(&link))).clone(),
                Err(error) => {
                    tracing::warn!(%error, "the reader cannot connect to the log");
                    return Ok(None);
                }
            },
        };
        link.wait_connected().await;
        match Source::open(link, &context, self.last, self.hole_told, self.log.seal()).await {
            Ok(source) => Ok(Some(source)),
            Err(Refusal::Missing) => Err(ReadError::Missing),
            Err(Refusal::Other(reason)) => {
                tracing::warn!(reason, "the log cannot be read yet");
                Ok(None)
            }
        }
    }

    /// The first try is made at once, the next ones after ever longer pauses.
    async fn pause(&self) {
        if let Some(doublings) = self.failures.checked_sub(1) {
            let pause = Duration::from_millis(10 << doublings.min(10)).min(LONGEST_PAUSE);
            tokio::time::sleep(pause).await;
        }
    }
}

/// Why there is no consumer.
enum Refusal {
    Missing,
    Other(String),
}

impl From<ConsumerError> for Refusal {
    fn from(error: ConsumerError) -> Self {
        match error.kind() {
            ConsumerErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Self::Missing,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// What one round of reading brought: the messages are good even when there is an anomaly after them.
#[derive(Default)]
struct Taken {
    messages: Vec<LogMessage>,
    anomaly: Option<Anomaly>,
}

/// One consumer, and how far it has come.
struct Source {
    link: Link,
    generation: u64,
    opened: Instant,
    messages: pull::Stream,
    delivered: u64,
    last: u64,
    hole_told: bool,
    seal: Seal,
}

impl Source {
    async fn open(link: Link, context: &Context, last: u64, hole_told: bool, seal: Seal) -> Result<Self, Refusal> {
        let generation = link.generation();
        let config = pull::Config {
            name: Some(format!("forebay-reader-{}", Uuid::new_v4().simple())),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer: PullConsumer = context.create_consumer_on_stream(config, JOBS).await?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .max_bytes_per_batch(BATCH_BYTES.max(2 * link.client.max_payload()))
            .expires(EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| Refusal::Other(error.to_string()))?;
        Ok(Self { link, generation, opened: Instant::now(), messages, delivered: 0, last, hole_told, seal })
    }

    /// Waits for one message, then takes what has come already. The only wait is the first, so that nothing is lost
    /// when the future is dropped.
    async fn take(&mut self) -> Taken {
        let mut taken = Taken::default();
        let mut next = tokio::select! {
            biased;
            () = self.link.wait_lost(self.generation) => {
                taken.anomaly = Some(Anomaly::Disconnected);
                return taken;
            }
            message = self.messages.next() => message,
        };
        let mut bytes = 0;
        loop {
            match self.accept(next) {
                Ok(message) => {
                    bytes += message.payload.len();
                    taken.messages.push(message);
                }
                Err(anomaly) => {
                    taken.anomaly = Some(anomaly);
                    return taken;
                }
            }
            if taken.messages.len() >= HANDED_OUT || bytes >= HANDED_OUT_BYTES {
                return taken;
            }
            // Unconstrained, or tokio's budget would end every round after a hundred messages.
            match tokio::task::unconstrained(self.messages.next()).now_or_never() {
                Some(message) => next = message,
                None => return taken,
            }
        }
    }

    /// A message is accepted only as the direct successor of the one before.
    fn accept(&mut self, next: Option<Result<jetstream::Message, MessagesError>>) -> Result<LogMessage, Anomaly> {
        let message = match next {
            Some(Ok(message)) => message,
            Some(Err(error)) if error.kind() == MessagesErrorKind::MissingHeartbeat => {
                return Err(Anomaly::HeartbeatMissed);
            }
            Some(Err(error)) => return Err(Anomaly::ConsumerLost(error.to_string())),
            None => return Err(Anomaly::ConsumerLost("its stream ended".to_owned())),
        };
        let info = message.info().map_err(|error| Anomaly::ConsumerLost(error.to_string()))?;
        let (delivery, sequence) = (info.consumer_sequence, info.stream_sequence);
        if delivery != self.delivered + 1 {
            return Err(Anomaly::DeliveryGap { expected: self.delivered + 1, found: delivery });
        }
        if sequence <= self.last {
            return Err(Anomaly::Rewound { found: sequence, last: self.last });
        }
        if sequence != self.last + 1 && !self.hole_told {
            return Err(Anomaly::Hole { after: self.last, next: sequence });
        }
        let stored = message::timestamp(info.published.unix_timestamp_nanos());
        self.delivered = delivery;
        self.last = sequence;
        self.hole_told = false;
        let message = message.message;
        let (payload, headers) = (message.payload, message.headers.as_ref());
        Ok(LogMessage::received(sequence, message.subject, stored, payload, headers, &self.seal))
    }
}
