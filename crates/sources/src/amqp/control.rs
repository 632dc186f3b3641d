//! Asks workers over RabbitMQ to send the events of their tasks.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Connection};
use tokio::sync::watch;

use super::failure::{id_of, is_refusal};
use super::url::AmqpUrl;
use crate::enabling::{Asked, Enabling, NotSent, message};
use crate::status::Figures;

const NOT_FOUND: u16 = 404;
/// A broker that is short of memory or disk takes no messages.
const PATIENCE: Duration = Duration::from_secs(10);

/// What publishes on the exchange of Celery's remote control.
pub(super) struct Control {
    pub(super) name: String,
    pub(super) url: AmqpUrl,
    pub(super) figures: Arc<Figures>,
    pub(super) link: watch::Receiver<Option<Arc<Connection>>>,
}

impl Control {
    /// For ever.
    pub(super) async fn run(self, enabling: Arc<Enabling>) {
        loop {
            let asked = enabling.next().await;
            let sent = match tokio::time::timeout(PATIENCE, self.send(&asked)).await {
                Ok(sent) => sent,
                Err(_) => Err(NotSent::Failed("RabbitMQ does not take it".to_owned())),
            };
            enabling.sent(&self.name, &asked, sent).await;
        }
    }

    async fn send(&self, asked: &Asked) -> Result<(), NotSent> {
        let Some(connection) = self.link.borrow().clone() else {
            return Err(NotSent::Failed("there is no connection".to_owned()));
        };
        match self.publish(&connection, asked).await {
            Ok(()) => {
                self.figures.control_hint.lock().take();
                Ok(())
            }
            // No worker has made the exchange yet: then none is there to be asked.
            Err(error) if id_of(&error) == Some(NOT_FOUND) => Ok(()),
            Err(error) if is_refusal(&error) => {
                let (user, exchange) = (self.url.user(), self.url.control_exchange());
                let hint = format!(
                    "the RabbitMQ user {user} may not ask workers for their events (--enable-events): \
                     it lacks the permission to write ^{}$ in the virtual host {}",
                    exchange.replace('.', "\\."),
                    self.url.virtual_host(),
                );
                tracing::warn!(source = self.name, "{hint}");
                *self.figures.control_hint.lock() = Some(hint);
                Err(NotSent::Refused)
            }
            Err(error) => Err(NotSent::Failed(error.to_string())),
        }
    }

    async fn publish(&self, connection: &Connection, asked: &Asked) -> lapin::Result<()> {
        let channel = connection.create_channel().await?;
        // Only the confirmation says that it was not refused.
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_delivery_mode(1);
        let exchange = ShortString::from(self.url.control_exchange());
        let payload = message(asked).to_string();
        let options = BasicPublishOptions::default();
        let confirm = channel.basic_publish(exchange, "".into(), options, payload.as_bytes(), properties).await?;
        confirm.await?;
        channel.close(200, "done".into()).await
    }
}
