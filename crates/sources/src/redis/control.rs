//! Asks workers over Redis to send the events of their tasks.

use std::sync::Arc;
use std::time::Duration;

use ::redis::{RedisError, cmd};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use uuid::Uuid;

use super::url::RedisUrl;
use crate::enabling::{Asked, Enabling, NotSent, message};
use crate::status::Figures;

/// What publishes on the channel of Celery's remote control, now and then and so on a connection that is made for it.
pub(super) struct Control {
    name: String,
    url: RedisUrl,
    patience: Duration,
    figures: Arc<Figures>,
}

impl Control {
    pub(super) fn new(name: String, url: RedisUrl, patience: Duration, figures: Arc<Figures>) -> Self {
        Self { name, url, patience, figures }
    }

    /// For ever.
    pub(super) async fn run(self, enabling: Arc<Enabling>) {
        loop {
            let asked = enabling.next().await;
            let sent = self.send(&asked).await;
            enabling.sent(&self.name, &asked, sent).await;
        }
    }

    async fn send(&self, asked: &Asked) -> Result<(), NotSent> {
        let (url, patience, payload) = (self.url.clone(), self.patience, envelope(asked, self.url.control_exchange()));
        let sent = tokio::task::spawn_blocking(move || {
            let mut connection = url.client(patience)?.get_connection_with_timeout(patience)?;
            connection.set_read_timeout(Some(patience))?;
            connection.set_write_timeout(Some(patience))?;
            cmd("PUBLISH").arg(url.control_channel()).arg(payload).exec(&mut connection)
        });
        let sent: Result<(), RedisError> = sent.await.map_err(|error| NotSent::Failed(error.to_string()))?;
        match sent {
            Ok(()) => {
                self.figures.control_hint.lock().take();
                Ok(())
            }
            Err(error) if error.code() == Some("NOPERM") => {
                let (user, channel) = (self.url.user(), self.url.control_channel());
                let hint = format!(
                    "the Redis user {user} may not ask workers for their events (--enable-events): \
                     allow it with  ACL SETUSER {user} +publish &{channel}"
                );
                tracing::warn!(source = self.name, "{hint}");
                *self.figures.control_hint.lock() = Some(hint);
                Err(NotSent::Refused)
            }
            Err(error) => Err(NotSent::Failed(error.to_string())),
        }
    }
}

/// The message as kombu writes it.
fn envelope(asked: &Asked, exchange: &str) -> String {
    json!({
        "body": STANDARD.encode(message(asked).to_string()),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": exchange, "routing_key": ""},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": Uuid::new_v4(),
        },
    })
    .to_string()
}
