//! Celery's events over RabbitMQ.
//!
//! # Layout
//! - [`AmqpSource::spawn`] starts a source
//! - [`AmqpUrl`]: where it is
//! - `topology`: the queues that we have there, which keep the events while we are away
//! - `listen`: the task that hands events to the log and acknowledges what the log has
//! - `unacked`: which messages may be acknowledged; `message`: how one is opened
//! - `network`: how lapin reaches the broker, with TLS or without
//! - `depths`: how full the queues of tasks are; `control`: asks workers to send the events of their tasks
//! - `failure`: what is wrong, in one line
//!
//! # Invariants
//! - A message is acknowledged once the log has all its events, and not before: whatever reached the queue reaches the
//!   record at least once, and the fold knows what it has seen already.
//! - While the log is away nothing is dropped here: a bounded amount waits in memory, the rest at RabbitMQ.
//! - What we leave at RabbitMQ is bounded, and goes away by itself.

mod control;
mod depths;
mod failure;
mod listen;
mod message;
mod network;
mod topology;
mod unacked;
mod url;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use event_log::{Batcher, EventLog};
use proto_events::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::celery::Normaliser;
use crate::depths::Teller;
use crate::enabling::Enabling;
use crate::hearing::Hearing;
use crate::heartbeats::Heartbeats;
use crate::redact::Redaction;
use crate::source::{LAST_WORDS, Running, SourceHandle};
use crate::status::Figures;
use control::Control;
use depths::{Depths, Names};
use listen::{Listen, Order};
pub use topology::Bounds;
pub use url::{AmqpUrl, QueueKind};
pub(crate) use url::{is_scheme, read};

/// For what is said to the broker at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a source is to do.
#[derive(Clone, Debug)]
pub struct AmqpConfig {
    /// The source's name, in the status and in the log.
    pub name: String,
    /// The broker.
    pub url: AmqpUrl,
    /// Whose events these are.
    pub connection: Uuid,
    /// What is kept out of the log.
    pub redaction: Redaction,
    /// Ask workers that do not to send the events of their tasks.
    pub enable_events: bool,
    /// Since when nobody listened, where the process before this one was killed.
    pub away_since: Option<Timestamp>,
    /// Queues whose depth is asked for, beside those that events and the URL name.
    pub queues: Vec<String>,
    /// How much of events of tasks the broker keeps for us while we are away.
    pub tasks: Bounds,
    /// The same, of events of workers.
    pub workers: Bounds,
    /// How long workers may be heard without their tasks before it is said what to do.
    pub hint_after: Duration,
    /// How long the broker may be silent, in whole seconds, and how long it may take to let us in.
    pub patience: Duration,
    /// How often the depth of the queues is asked for.
    pub depths_every: Duration,
}

impl AmqpConfig {
    /// The usual settings.
    pub fn new(name: impl Into<String>, url: AmqpUrl, connection: Uuid) -> Self {
        Self {
            name: name.into(),
            url,
            connection,
            redaction: Redaction::default(),
            enable_events: false,
            away_since: None,
            queues: Vec::new(),
            tasks: Bounds { messages: 1_000_000, bytes: 512 << 20 },
            workers: Bounds { messages: 20_000, bytes: 16 << 20 },
            // With the two seconds between heartbeats, within half a minute of the start.
            hint_after: Duration::from_secs(25),
            patience: Duration::from_secs(10),
            depths_every: Duration::from_secs(5),
        }
    }
}

/// Celery's events from one RabbitMQ.
#[derive(Debug)]
pub struct AmqpSource;

impl AmqpSource {
    /// Starts to listen; from now on it keeps itself going. Must be called within a tokio runtime.
    pub fn spawn(config: AmqpConfig, log: &EventLog) -> SourceHandle {
        let figures = Arc::new(Figures::new());
        let heartbeats = Arc::new(Heartbeats::default());
        let names = Arc::new(Names::new(config.url.queues().iter().chain(&config.queues)));
        let enabling = config.enable_events.then(Arc::<Enabling>::default);
        let (batcher, receipts) = log.batcher_with_receipts(config.connection);
        let (order, orders) = watch::channel(Order::Run);
        let (link, linked) = watch::channel(None);
        let listen = Listen {
            name: config.name.clone(),
            url: config.url.clone(),
            queues: topology::own_queues(&config.url, config.connection, config.tasks, config.workers),
            patience: config.patience,
            normaliser: Normaliser { redaction: config.redaction },
            hearing: Hearing::new(
                config.name.clone(),
                Arc::clone(&figures),
                Arc::clone(&heartbeats),
                enabling.clone(),
                config.hint_after,
            ),
            figures: Arc::clone(&figures),
            names: Arc::clone(&names),
            enabling: enabling.clone(),
            batcher: batcher.clone(),
            receipts,
            unacked: unacked::Unacked::default(),
            link,
            orders,
            away_since: config.away_since,
            is_over: false,
        };
        let teller = Teller::new(log.into(), config.connection);
        let depths = Depths { every: config.depths_every, names, link: linked.clone(), teller };
        let mut beside =
            vec![tokio::spawn(heartbeats.publish(log.clone(), config.connection)), tokio::spawn(depths.run())];
        if let Some(enabling) = enabling {
            let (name, url, figures) = (config.name.clone(), config.url.clone(), Arc::clone(&figures));
            beside.push(tokio::spawn(Control { name, url, figures, link: linked }.run(enabling)));
        }
        let running = Tasks { order, batcher, listen: tokio::spawn(listen.run()), beside };
        let masked = config.url.masked().to_owned();
        SourceHandle::new(config.name, "celery-rabbitmq", masked, figures, Box::new(running))
    }
}

/// What does the work.
struct Tasks {
    order: watch::Sender<Order>,
    batcher: Batcher,
    listen: JoinHandle<()>,
    beside: Vec<JoinHandle<()>>,
}

impl Tasks {
    fn end(mut self: Box<Self>, order: Order) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            self.order.send_replace(order);
            // While the log is away it may wait for room; then it ends without a word, and RabbitMQ keeps the rest.
            let _ = tokio::time::timeout(LAST_WORDS + PATIENCE, &mut self.listen).await;
        })
    }
}

impl Running for Tasks {
    /// What RabbitMQ drops from a full queue it tells nobody.
    fn dropped(&self) -> u64 {
        0
    }

    fn queue_bytes(&self) -> u64 {
        self.batcher.stats().pending_bytes
    }

    fn has_ended(&self) -> bool {
        self.listen.is_finished()
    }

    fn stop(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.end(Order::Stop)
    }

    fn remove(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.end(Order::Remove)
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.listen.abort();
        for task in &self.beside {
            task.abort();
        }
    }
}
