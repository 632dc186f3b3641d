//! The task that listens: connects, consumes, hands events to the log, and acknowledges what the log has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_rs::Runtime;
use event_log::{Batcher, Receipts};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use proto_events::{SourceState, Timestamp};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::depths::Names;
use super::failure::{Failure, Step};
use super::message::open;
use super::network::Network;
use super::topology::{OwnQueue, ensure_exchange};
use super::unacked::Unacked;
use super::url::AmqpUrl;
use crate::celery::Normaliser;
use crate::enabling::Enabling;
use crate::hearing::Hearing;
use crate::source::{LAST_WORDS, change, was_away};
use crate::status::{Figures, Lost, now};

/// The waits between attempts to connect; only where somebody must change something first there is no hurry.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT_REFUSED: Duration = Duration::from_secs(30);
/// A connection that held for so long was a good one: the waits begin anew.
const GOOD: Duration = Duration::from_secs(10);
/// For each of the last things that are said to the broker.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the source is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Run,
    Stop,
    /// Stop, and leave nothing behind.
    Remove,
}

pub(super) struct Listen {
    pub(super) name: String,
    pub(super) url: AmqpUrl,
    pub(super) queues: [OwnQueue; 2],
    /// How long the broker may be silent, and how long it may take to let us in.
    pub(super) patience: Duration,
    pub(super) normaliser: Normaliser,
    pub(super) hearing: Hearing,
    pub(super) figures: Arc<Figures>,
    pub(super) names: Arc<Names>,
    pub(super) enabling: Option<Arc<Enabling>>,
    pub(super) batcher: Batcher,
    pub(super) receipts: Receipts,
    pub(super) unacked: Unacked,
    /// The connection that there is, for those who ask and tell beside us.
    pub(super) link: watch::Sender<Option<Arc<Connection>>>,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) away_since: Option<Timestamp>,
    /// Whether the last words are spoken.
    pub(super) is_over: bool,
}

/// A connection with its consumers.
struct Session {
    connection: Arc<Connection>,
    channel: Channel,
    tasks: Consumer,
    workers: Consumer,
}

impl Listen {
    /// Until it is told to stop.
    pub(super) async fn run(mut self) {
        if let Some(since) = self.away_since {
            self.batcher.push(was_away(&self.name, since)).await;
        }
        let (mut wait, mut attempt) = (FIRST_WAIT, 0);
        while self.runs() {
            let began = Instant::now();
            let ended = self.session(attempt).await;
            self.link.send_replace(None);
            self.unacked.reset();
            let Err(failure) = ended else { break };
            self.lost(&failure).await;
            if began.elapsed() >= GOOD {
                wait = FIRST_WAIT;
            }
            attempt += 1;
            // Jitter, so that many clients do not come back to a restarted broker in step.
            let pause = wait.mul_f64(rand::random_range(0.5..=1.0));
            let _ = tokio::time::timeout(pause, told_to_end(&mut self.orders)).await;
            wait = (wait * 2).min(if failure.refused { LONGEST_WAIT_REFUSED } else { LONGEST_WAIT });
        }
        self.last_words().await;
        if *self.orders.borrow() == Order::Remove {
            self.remove(attempt).await;
        }
    }

    fn runs(&self) -> bool {
        *self.orders.borrow() == Order::Run
    }

    /// One connection, from its making to its end. `Ok` when it was told to stop.
    async fn session(&mut self, attempt: usize) -> Result<(), Failure> {
        let mut orders = self.orders.clone();
        let mut session = tokio::select! {
            session = self.open(attempt) => session?,
            () = told_to_end(&mut orders) => return Ok(()),
        };
        let ended = self.listen(&mut session).await;
        if ended.is_ok() {
            self.leave(&mut session).await;
        }
        // Closed in any case, so that RabbitMQ gives at once to the next what this one has not acknowledged.
        let _ = tokio::time::timeout(GOODBYE, session.connection.close(200, "Forebay goes on elsewhere".into())).await;
        ended
    }

    async fn open(&self, attempt: usize) -> Result<Session, Failure> {
        let connection = Arc::new(self.connect(attempt).await?);
        ensure_exchange(&connection, &self.url).await?;
        let channel = connection.create_channel().await.map_err(|error| self.failure(Step::Listen, &error))?;
        let mut consumers = Vec::new();
        for queue in &self.queues {
            let waiting = queue.declare(&channel, &self.url).await?;
            if waiting >= queue.bounds.messages {
                tracing::warn!(
                    source = self.name, queue = %queue.name, waiting,
                    "the queue of Celery's events was full: RabbitMQ has dropped the oldest of them while Forebay was away"
                );
            }
            channel
                .basic_qos(queue.prefetch, BasicQosOptions::default())
                .await
                .map_err(|error| self.failure(Step::Consume, &error))?;
            let options = BasicConsumeOptions::default();
            let consumer =
                channel.basic_consume(queue.name.clone(), queue.tag.clone(), options, FieldTable::default()).await;
            consumers.push(consumer.map_err(|error| self.failure(Step::Consume, &error))?);
        }
        let (Some(workers), Some(tasks)) = (consumers.pop(), consumers.pop()) else {
            return Err(Failure::new("there are no queues", false));
        };
        Ok(Session { connection, channel, tasks, workers })
    }

    async fn connect(&self, attempt: usize) -> Result<Connection, Failure> {
        let unusable =
            |error: &dyn std::fmt::Display| Failure::new(format!("the broker URL cannot be used: {error}"), true);
        let mut broker = self.url.broker(attempt);
        broker.query.heartbeat = Some(u16::try_from(self.patience.as_secs().max(1)).unwrap_or(u16::MAX));
        let network = Network::of(&mut broker, self.url.tls()).map_err(|error| unusable(&error))?;
        let properties = ConnectionProperties::default().with_connection_name(format!("forebay {}", self.name).into());
        let connecting = Connection::connect_uri_with_runtime(broker, properties, Runtime::new(network));
        match tokio::time::timeout(self.patience, connecting).await {
            Ok(connected) => connected.map_err(|error| self.failure(Step::Connect, &error)),
            Err(_) => Err(Failure::new("RabbitMQ does not answer", false)),
        }
    }

    async fn listen(&mut self, session: &mut Session) -> Result<(), Failure> {
        self.figures.connected();
        let exchange = self.url.exchange();
        tracing::info!(source = self.name, broker = %self.url, exchange, "listening to Celery's events");
        self.batcher.push(change(&self.name, SourceState::Connected, now(), None)).await;
        self.link.send_replace(Some(Arc::clone(&session.connection)));
        if let Some(enabling) = &self.enabling {
            enabling.connected();
        }
        let mut advise = tokio::time::interval(self.hearing.tick());
        advise.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                delivery = session.tasks.next() => self.delivered(delivery).await?,
                delivery = session.workers.next() => self.delivered(delivery).await?,
                Some(numbers) = self.receipts.recv() => self.settle(&numbers),
                _ = advise.tick() => self.hearing.advise(),
                () = told_to_end(&mut self.orders) => return Ok(()),
            }
            self.acknowledge(&session.channel).await?;
        }
    }

    /// Looks at one message. Waits while the log is away and as much waits as may: then RabbitMQ delivers no more.
    async fn delivered(&mut self, delivery: Option<lapin::Result<Delivery>>) -> Result<(), Failure> {
        let delivery = match delivery {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return Err(self.failure(Step::Listen, &error)),
            None => return Err(Failure::new("RabbitMQ has taken the queue of the events away", false)),
        };
        let message = open(&delivery.properties, &delivery.data).and_then(|body| self.normaliser.body(body));
        let events = self.hearing.hear(message);
        let number = self.unacked.delivered(delivery.delivery_tag, events.len());
        for event in events {
            if let Some(queue) = event.job.as_deref().and_then(|job| job.queue.as_deref()) {
                self.names.note(queue);
            }
            self.batcher.push_numbered(event, number).await;
        }
        Ok(())
    }

    fn settle(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.unacked.settled(*number);
        }
        while let Ok(numbers) = self.receipts.try_recv() {
            for number in numbers {
                self.unacked.settled(number);
            }
        }
    }

    async fn acknowledge(&mut self, channel: &Channel) -> Result<(), Failure> {
        let Some(tag) = self.unacked.acknowledge() else { return Ok(()) };
        let acked = channel.basic_ack(tag, BasicAckOptions { multiple: true }).await;
        acked.map_err(|error| self.failure(Step::Listen, &error))
    }

    /// Takes no more, and acknowledges what the log takes within the time there is.
    async fn leave(&mut self, session: &mut Session) {
        for queue in &self.queues {
            let cancelled = session.channel.basic_cancel(queue.tag.clone(), BasicCancelOptions::default());
            let _ = tokio::time::timeout(GOODBYE, cancelled).await;
        }
        self.last_words().await;
        self.settle(&[]);
        let _ = self.acknowledge(&session.channel).await;
    }

    /// Once: that we go, and all that is on its way to the log.
    async fn last_words(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let is_connected = self.figures.is_connected();
        let stopped = change(&self.name, SourceState::Disconnected, now(), Some("Forebay stopped".to_owned()));
        let spoken = tokio::time::timeout(LAST_WORDS, async {
            if is_connected {
                self.batcher.push(stopped).await;
            }
            self.batcher.flush().await;
        });
        if spoken.await.is_err() {
            tracing::warn!(source = self.name, "stopped while the log was away: RabbitMQ keeps what it has not taken");
        }
    }

    /// Deletes the queues. Where that cannot be done they go away by themselves, a day later.
    async fn remove(&self, attempt: usize) {
        let mut reasons = Vec::new();
        // Any broker of the cluster will do; the one that was heard last is the likeliest to be there.
        for attempt in attempt..attempt + self.url.brokers() {
            match self.remove_at(attempt).await {
                Ok(()) => return,
                Err(reason) => reasons.push(reason),
            }
        }
        let queues = self.queues.each_ref().map(|queue| queue.name.as_str());
        tracing::warn!(source = self.name, ?queues, ?reasons, "queues are left at RabbitMQ and expire within a day");
    }

    async fn remove_at(&self, attempt: usize) -> Result<(), String> {
        let removed = tokio::time::timeout(self.patience, async {
            let connection = self.connect(attempt).await?;
            let channel = connection.create_channel().await.map_err(|error| self.failure(Step::Listen, &error))?;
            for queue in &self.queues {
                queue.delete(&channel).await.map_err(|error| self.failure(Step::Declare, &error))?;
            }
            let _ = connection.close(200, "Forebay goes".into()).await;
            Ok::<_, Failure>(())
        });
        match removed.await {
            Ok(removed) => removed.map_err(|failure| failure.reason),
            Err(_) => Err("RabbitMQ does not answer".to_owned()),
        }
    }

    async fn lost(&mut self, failure: &Failure) {
        let Failure { reason, refused, heard } = failure;
        let Lost { was_connected, news } = self.figures.lost(*heard, *refused, reason);
        if was_connected {
            let ago = i64::try_from(heard.elapsed().as_micros()).unwrap_or(0);
            let at = Timestamp(now().micros() - ago);
            self.batcher.push(change(&self.name, SourceState::Disconnected, at, Some(reason.clone()))).await;
        }
        if was_connected || news {
            tracing::warn!(
                source = self.name, broker = %self.url, reason,
                "not listening to Celery's events; what is published meanwhile waits in the queue at RabbitMQ, once there is one"
            );
        }
    }

    fn failure(&self, step: Step, error: &lapin::Error) -> Failure {
        Failure::at(step, &self.url, error)
    }
}

/// Waits for another order than to go on. Whoever may give one lives as long as we do.
async fn told_to_end(orders: &mut watch::Receiver<Order>) {
    let _ = orders.wait_for(|order| *order != Order::Run).await;
}
