//! How full the queues of tasks are: asked of RabbitMQ now and then by declaring them passively, which changes nothing and
//! needs no permission.
//!
//! AMQP gives no list of queues, so that those are asked for that events name or named before the start, that the
//! broker URL names, and Celery's usual one. On a channel of its own: RabbitMQ closes it when there is no queue of that name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::depths::{Depth, Teller};

/// What Celery calls its queue unless it is told otherwise.
const USUAL: &str = "celery";
/// Queues of one broker. Anyone who may publish can make names up.
const MOST: usize = 5_000;
/// A queue that is not there is looked for again after so long: RabbitMQ writes each such question into its log.
const GONE: Duration = Duration::from_secs(300);
/// For one round of questions.
const PATIENCE: Duration = Duration::from_secs(10);

/// Names of queues that are known.
pub(super) struct Names(Mutex<BTreeSet<String>>);

impl Names {
    pub(super) fn new<'a>(named: impl Iterator<Item = &'a String>) -> Self {
        let usual = std::iter::once(USUAL.to_owned());
        Self(Mutex::new(usual.chain(named.cloned()).take(MOST).collect()))
    }

    /// A queue that an event names.
    pub(super) fn note(&self, name: &str) {
        let mut names = self.0.lock();
        if names.len() < MOST && !names.contains(name) {
            names.insert(name.to_owned());
        }
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

/// What asks, and tells the log.
pub(super) struct Depths {
    pub(super) every: Duration,
    pub(super) names: Arc<Names>,
    pub(super) link: watch::Receiver<Option<Arc<Connection>>>,
    pub(super) teller: Teller,
}

impl Depths {
    /// For ever.
    pub(super) async fn run(mut self) {
        let mut rounds = tokio::time::interval(self.every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gone = HashMap::new();
        loop {
            rounds.tick().await;
            // Why there is no connection is said by who listens.
            let Some(connection) = self.link.borrow().clone() else { continue };
            match tokio::time::timeout(PATIENCE, ask(&connection, &self.names.all(), &mut gone)).await {
                Ok(Ok(depths)) => {
                    self.teller.tell(depths.iter().map(|(name, depth)| (name.as_str(), *depth)), None).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "the depth of queues is not known"),
                Err(_) => tracing::debug!("the depth of queues is not known: RabbitMQ does not answer"),
            }
        }
    }
}

async fn ask(
    connection: &Connection,
    names: &[String],
    gone: &mut HashMap<String, Instant>,
) -> lapin::Result<BTreeMap<String, Depth>> {
    gone.retain(|_, since| since.elapsed() < GONE);
    let mut depths = BTreeMap::new();
    let mut open: Option<Channel> = None;
    for name in names {
        // A name that AMQP cannot carry is no queue's here.
        let Ok(queue) = ShortString::try_new(name.as_str()) else { continue };
        if gone.contains_key(name) {
            continue;
        }
        let channel = match open.take() {
            Some(channel) => channel,
            None => connection.create_channel().await?,
        };
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match channel.queue_declare(queue, options, FieldTable::default()).await {
            Ok(queue) => {
                let (messages, consumers) = (queue.message_count().into(), Some(queue.consumer_count().into()));
                depths.insert(name.clone(), Depth { messages, consumers });
                open = Some(channel);
            }
            // It is not there, or somebody's alone; the channel is closed.
            Err(error) if error.is_amqp_soft_error() => {
                gone.insert(name.clone(), Instant::now());
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(channel) = open {
        channel.close(200, "done".into()).await?;
    }
    Ok(depths)
}
