//! What we have at RabbitMQ: two queues of our own, bound to the exchange of Celery's events.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind};
use uuid::Uuid;

use super::failure::{Failure, Step, id_of};
use super::url::{AmqpUrl, QueueKind};

/// A queue that nobody listens to goes away by itself after a day.
const EXPIRES_MS: i64 = 24 * 60 * 60 * 1_000;
/// Messages that are delivered again and again are given up after so many times; 4.0 and later do so after 20 unless told.
const DELIVERIES: i64 = 1_000_000;
const NOT_FOUND: u16 = 404;

/// How much a queue may hold; beyond it, the oldest messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Messages; each carries one event or an array of them.
    pub messages: u32,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// A queue of our own.
#[derive(Clone, Debug)]
pub(super) struct OwnQueue {
    pub(super) name: ShortString,
    pub(super) bounds: Bounds,
    /// The consumer's name.
    pub(super) tag: ShortString,
    /// Messages that are delivered ahead of their acknowledgement.
    pub(super) prefetch: u16,
    binding: &'static str,
    arguments: FieldTable,
}

/// Both queues, that of tasks and that of workers.
pub(super) fn own_queues(url: &AmqpUrl, connection: Uuid, tasks: Bounds, workers: Bounds) -> [OwnQueue; 2] {
    [
        OwnQueue::new(url, connection, "tasks", "task.#", tasks, 2_000),
        OwnQueue::new(url, connection, "workers", "worker.#", workers, 200),
    ]
}

impl OwnQueue {
    fn new(
        url: &AmqpUrl,
        connection: Uuid,
        of: &'static str,
        binding: &'static str,
        bounds: Bounds,
        prefetch: u16,
    ) -> Self {
        let mut arguments = FieldTable::default();
        arguments
            .insert("x-max-length".into(), AMQPValue::LongLongInt(bounds.messages.into()))
            .insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bounds.bytes.try_into().unwrap_or(i64::MAX)))
            .insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()))
            .insert("x-expires".into(), AMQPValue::LongLongInt(EXPIRES_MS));
        if url.queue_kind() == QueueKind::Quorum {
            arguments
                .insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()))
                .insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERIES));
        }
        // Declared with other arguments, a queue of the same name would be refused for ever.
        let version = Uuid::new_v5(&connection, format!("{} {binding} {arguments:?}", url.exchange()).as_bytes());
        let version = &version.simple().to_string()[..8];
        Self {
            // Of fixed length, and far shorter than a name may be.
            name: ShortString::from(format!("forebay.{connection}.{of}.{version}")),
            bounds,
            tag: ShortString::from(format!("forebay-{of}")),
            prefetch,
            binding,
            arguments,
        }
    }

    /// Declares and binds it; tells how many messages wait in it.
    pub(super) async fn declare(&self, channel: &Channel, url: &AmqpUrl) -> Result<u32, Failure> {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(self.name.clone(), options, self.arguments.clone()).await;
        let queue = queue.map_err(|error| Failure::at(Step::Declare, url, &error))?;
        let bound = channel.queue_bind(
            self.name.clone(),
            ShortString::from(url.exchange()),
            self.binding.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await.map_err(|error| Failure::at(Step::Bind, url, &error))?;
        Ok(queue.message_count())
    }

    /// Deletes it, with what is in it.
    pub(super) async fn delete(&self, channel: &Channel) -> lapin::Result<()> {
        channel.queue_delete(self.name.clone(), QueueDeleteOptions::default()).await.map(|_| ())
    }
}

/// Sees to it that the exchange of the events is there. Only where it is not, it is made, just as Celery makes it: asking
/// takes no permission, and making does.
pub(super) async fn ensure_exchange(connection: &Connection, url: &AmqpUrl) -> Result<(), Failure> {
    let declare = async |passive| {
        // A refusal closes the channel.
        let channel = connection.create_channel().await?;
        let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
        let name = ShortString::from(url.exchange());
        channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default()).await?;
        channel.close(200, "done".into()).await
    };
    match declare(true).await {
        Err(error) if id_of(&error) == Some(NOT_FOUND) => {}
        Err(error) => return Err(Failure::at(Step::Exchange, url, &error)),
        Ok(()) => return Ok(()),
    }
    declare(false).await.map_err(|error| Failure::at(Step::Exchange, url, &error))
}
