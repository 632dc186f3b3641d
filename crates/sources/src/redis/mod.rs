//! Celery's events over Redis pub/sub.
//!
//! # Layout
//! - [`RedisSource::spawn`] starts a source
//! - [`RedisUrl`]: where it is
//! - `drain`: two threads that only empty a socket each; `sides`: which of them stand
//! - `queue`: what it empties it into, bounded by bytes
//! - `decode`: the task that makes events of it and appends them to the log
//! - `control`: asks workers to send the events of their tasks
//! - `depths`: how full the queues are, beside the log too
//!
//! # Invariants
//! - The drainer never waits for the log: Redis cuts off who reads too slowly, and keeps nothing for them.
//! - Whatever is lost is counted: messages dropped, seconds not connected, events not readable.

mod control;
mod decode;
mod depths;
mod drain;
mod queue;
mod sides;
mod url;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use event_log::{Outlet, SpoolDepth};
use proto_events::{SourceState as Heard, Timestamp};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::celery::Normaliser;
use crate::depths::Teller;
use crate::enabling::Enabling;
use crate::hearing::Hearing;
use crate::heartbeats::Heartbeats;
use crate::redact::Redaction;
use crate::source::{LAST_WORDS, Running, SourceHandle, change, was_away};
use crate::status::{Figures, now};
use control::Control;
use decode::Decode;
use depths::{Asker, Depths};
use drain::Drain;
use queue::Queue;
use sides::{Side, Sides};
use url::Channels;
pub use url::RedisUrl;
pub(crate) use url::escape;
pub(crate) use url::{is_scheme, read};

/// What a source is to do.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// The source's name, in the status and in the log.
    pub name: String,
    /// The broker.
    pub url: RedisUrl,
    /// Whose events these are.
    pub connection: Uuid,
    /// What is kept out of the log.
    pub redaction: Redaction,
    /// Ask workers that do not to send the events of their tasks.
    pub enable_events: bool,
    /// Since when nobody listened, where the process before this one was killed.
    pub away_since: Option<Timestamp>,
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
    pub fn new(name: impl Into<String>, url: RedisUrl, connection: Uuid) -> Self {
        Self {
            name: name.into(),
            url,
            connection,
            redaction: Redaction::default(),
            enable_events: false,
            away_since: None,
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
    pub fn spawn(config: RedisConfig, outlet: &Outlet) -> std::io::Result<SourceHandle> {
        let queue = Arc::new(Queue::new(config.queue_bytes));
        // Behind what waits in the spool, and before anything that is heard now.
        if let Some(since) = config.away_since {
            queue.push_change(was_away(&config.name, since));
        }
        let figures = Arc::new(Figures::new());
        let stop = Arc::new(AtomicBool::new(false));
        let enabling = config.enable_events.then(Arc::<Enabling>::default);
        let sides = Arc::new(Sides::default());
        let drain = |side, channels, instead| {
            let drain = Drain {
                name: config.name.clone(),
                channels,
                instead,
                side,
                sides: Arc::clone(&sides),
                url: config.url.clone(),
                patience: config.patience,
                queue: Arc::clone(&queue),
                figures: Arc::clone(&figures),
                enabling: enabling.clone(),
                stop: Arc::clone(&stop),
            };
            std::thread::Builder::new().name("celery-redis".to_owned()).spawn(move || drain.run())
        };
        let channels = config.channels.map_or_else(|| config.url.event_channels().clone(), Channels::just);
        let drains = match channels.apart {
            Some((tasks, workers)) => {
                vec![drain(Side::Tasks, tasks, Some(channels.whole))?, drain(Side::Workers, workers, None)?]
            }
            None => vec![drain(Side::All, channels.whole, None)?],
        };
        let heartbeats = Arc::new(Heartbeats::default());
        let decode = Decode {
            normaliser: Normaliser { redaction: config.redaction },
            queue: Arc::clone(&queue),
            batcher: outlet.batcher(config.connection),
            hearing: Hearing::new(
                config.name.clone(),
                Arc::clone(&figures),
                Arc::clone(&heartbeats),
                enabling.clone(),
                config.hint_after,
            ),
        };
        let depths = Depths {
            name: config.name.clone(),
            every: config.depths_every,
            figures: Arc::clone(&figures),
            teller: Teller::new(outlet.clone(), config.connection),
            asker: Asker::new(config.url.clone(), config.patience),
        };
        let control = enabling.map(|enabling| {
            let control = Control::new(config.name.clone(), config.url.clone(), config.patience, Arc::clone(&figures));
            tokio::spawn(control.run(enabling))
        });
        let masked = config.url.masked().to_owned();
        let running = Threads {
            name: config.name.clone(),
            connection: config.connection,
            outlet: outlet.clone(),
            queue,
            figures: Arc::clone(&figures),
            stop,
            drains,
            decode: tokio::spawn(decode.run()),
            heartbeats: tokio::spawn({
                let (outlet, connection) = (outlet.clone(), config.connection);
                async move { heartbeats.publish(outlet.log().await, connection).await }
            }),
            depths: tokio::spawn(depths.run()),
            control,
        };
        Ok(SourceHandle::new(config.name, "celery-redis", masked, figures, Box::new(running)))
    }
}

/// What does the work.
struct Threads {
    name: String,
    connection: Uuid,
    outlet: Outlet,
    queue: Arc<Queue>,
    figures: Arc<Figures>,
    stop: Arc<AtomicBool>,
    drains: Vec<std::thread::JoinHandle<()>>,
    decode: JoinHandle<()>,
    heartbeats: JoinHandle<()>,
    depths: JoinHandle<()>,
    control: Option<JoinHandle<()>>,
}

impl Running for Threads {
    fn dropped(&self) -> u64 {
        self.queue.dropped()
    }

    fn queue_bytes(&self) -> u64 {
        self.queue.bytes() as u64
    }

    fn spool(&self) -> Option<SpoolDepth> {
        self.outlet.spool().map(|spool| spool.depth(self.connection))
    }

    fn has_ended(&self) -> bool {
        self.drains.iter().any(std::thread::JoinHandle::is_finished) || self.decode.is_finished()
    }

    fn stop(mut self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            self.hang_up();
            if self.figures.is_connected() {
                let stopped = change(&self.name, Heard::Disconnected, now(), Some("Forebay stopped".to_owned()));
                self.queue.push_change(stopped);
            }
            self.queue.close();
            if tokio::time::timeout(LAST_WORDS, &mut self.decode).await.is_err() {
                let waiting = self.queue.len();
                tracing::warn!(
                    source = self.name,
                    waiting,
                    "stopped while the log was away: the last messages are lost"
                );
            }
        })
    }
}

impl Threads {
    fn hang_up(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.drains.iter().for_each(|drain| drain.thread().unpark());
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.hang_up();
        self.decode.abort();
        self.heartbeats.abort();
        self.depths.abort();
        if let Some(control) = &self.control {
            control.abort();
        }
    }
}
