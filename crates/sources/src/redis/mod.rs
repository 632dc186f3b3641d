//! Celery's events over Redis pub/sub.
//!
//! # Layout
//! - [`RedisSource::spawn`] starts a source, [`SourceHandle`] watches and stops it
//! - `drain`: one thread that only empties the socket
//! - `queue`: what it empties it into, bounded by bytes
//! - `decode`: the task that makes events of it and appends them to the log
//! - `heartbeats`: the latest of each worker, beside the log
//! - `depths`: how full the queues are, beside the log too
//!
//! # Invariants
//! - The drainer never waits for the log: Redis cuts off who reads too slowly, and keeps nothing for them.
//! - Whatever is lost is counted: messages dropped, seconds not connected, events not readable.

mod decode;
mod depths;
mod drain;
mod heartbeats;
mod queue;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use event_log::EventLog;
use proto_events::SourceState as Heard;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::celery::Normaliser;
use crate::spec::BrokerUrl;
use crate::status::{Figures, Identity, SourceState, SourceStatus, now};
use decode::{Advice, Decode};
use depths::{Asker, Depths};
use drain::Drain;
use heartbeats::Heartbeats;
use queue::Queue;

/// How long a stop waits for the log to take what was heard.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What a source is to do.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// The source's name, in the status and in the log.
    pub name: String,
    /// The broker.
    pub url: BrokerUrl,
    /// Whose events these are.
    pub connection: Uuid,
    /// Drop `args`, `kwargs` and `result`.
    pub redact_args: bool,
    /// The pattern of the event channels; without one it follows from the URL.
    pub channels: Option<String>,
    /// Bytes that may wait to be decoded.
    pub queue_bytes: usize,
    /// How long workers may be heard without their tasks before it is said what to do.
    pub hint_after: Duration,
    /// How long the broker may be silent before it is asked whether it is there, and how long it may take to answer.
    pub patience: Duration,
    /// How often the depth of the queues is asked for.
    pub depths_every: Duration,
}

impl RedisConfig {
    /// The usual settings.
    pub fn new(name: impl Into<String>, url: BrokerUrl, connection: Uuid) -> Self {
        Self {
            name: name.into(),
            url,
            connection,
            redact_args: false,
            channels: None,
            queue_bytes: 64 << 20,
            // With the two seconds between heartbeats, within half a minute of the start.
            hint_after: Duration::from_secs(25),
            patience: Duration::from_secs(5),
            depths_every: Duration::from_secs(5),
        }
    }
}

/// Celery's events from one Redis.
#[derive(Debug)]
pub struct RedisSource;

impl RedisSource {
    /// Starts to listen; from now on it keeps itself going. Must be called within a tokio runtime. The error is that the
    /// system gives no thread.
    pub fn spawn(config: RedisConfig, log: &EventLog) -> std::io::Result<SourceHandle> {
        let queue = Arc::new(Queue::new(config.queue_bytes));
        let figures = Arc::new(Figures::new());
        let stop = Arc::new(AtomicBool::new(false));
        let drain = Drain {
            name: config.name.clone(),
            channels: config.channels.unwrap_or_else(|| config.url.channels().to_owned()),
            url: config.url.clone(),
            patience: config.patience,
            queue: Arc::clone(&queue),
            figures: Arc::clone(&figures),
            stop: Arc::clone(&stop),
        };
        let drain = std::thread::Builder::new().name("celery-redis".to_owned()).spawn(move || drain.run())?;
        let heartbeats = Arc::new(Heartbeats::default());
        let decode = Decode {
            name: config.name.clone(),
            normaliser: Normaliser { redact_args: config.redact_args },
            queue: Arc::clone(&queue),
            figures: Arc::clone(&figures),
            batcher: log.batcher(config.connection),
            heartbeats: Arc::clone(&heartbeats),
            advice: Advice::new(config.hint_after),
            warned: None,
        };
        let depths = Depths {
            name: config.name.clone(),
            connection: config.connection,
            every: config.depths_every,
            figures: Arc::clone(&figures),
            log: log.clone(),
            asker: Asker::new(config.url.clone(), config.patience),
        };
        Ok(SourceHandle {
            name: config.name,
            url: config.url,
            queue,
            figures,
            stop,
            drain,
            decode: tokio::spawn(decode.run()),
            heartbeats: tokio::spawn(heartbeats.publish(log.clone(), config.connection)),
            depths: tokio::spawn(depths.run()),
        })
    }
}

/// A running source. It stops when this is dropped; [`SourceHandle::stop`] also sees to it that nothing heard is lost.
pub struct SourceHandle {
    name: String,
    url: BrokerUrl,
    queue: Arc<Queue>,
    figures: Arc<Figures>,
    stop: Arc<AtomicBool>,
    drain: std::thread::JoinHandle<()>,
    decode: JoinHandle<()>,
    heartbeats: JoinHandle<()>,
    depths: JoinHandle<()>,
}

impl SourceHandle {
    /// How it is.
    pub fn status(&self) -> SourceStatus {
        let mut status = self.figures.status(&Identity {
            name: &self.name,
            kind: "celery-redis",
            url_masked: self.url.masked(),
            dropped: self.queue.dropped(),
            queue_bytes: self.queue.bytes() as u64,
        });
        // Neither ends by itself; if one does all the same, that must not look like a quiet broker.
        if self.drain.is_finished() || self.decode.is_finished() {
            status.state = SourceState::Down;
            status.reason = Some("the source has failed and needs a restart of Forebay; the log says why".to_owned());
        }
        status
    }

    /// Stops listening, and waits until the log has what was heard.
    pub async fn stop(mut self) {
        self.hang_up();
        if self.figures.is_connected() {
            let stopped = drain::change(&self.name, Heard::Disconnected, now(), Some("Forebay stopped".to_owned()));
            self.queue.push_change(stopped);
        }
        self.queue.close();
        if tokio::time::timeout(LAST_WORDS, &mut self.decode).await.is_err() {
            let waiting = self.queue.len();
            tracing::warn!(source = self.name, waiting, "stopped while the log was away: the last messages are lost");
        }
    }

    fn hang_up(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.drain.thread().unpark();
    }
}

impl Drop for SourceHandle {
    fn drop(&mut self) {
        self.hang_up();
        self.decode.abort();
        self.heartbeats.abort();
        self.depths.abort();
    }
}

impl fmt::Debug for SourceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceHandle").field("name", &self.name).field("url", &self.url).finish_non_exhaustive()
    }
}
