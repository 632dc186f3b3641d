//! A source of any kind as the rest of the house sees it: started, watched, stopped.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use event_log::{Outlet, SpoolDepth};
use proto_events::{Event, EventType, Framework, Source, SourceState as Heard, Timestamp};
use uuid::Uuid;

use crate::amqp::{AmqpConfig, AmqpSource};
use crate::redact::Redaction;
use crate::redis::{RedisConfig, RedisSource};
use crate::spec::BrokerUrl;
use crate::status::{Figures, Identity, SourceState, SourceStatus, SpoolStatus};

/// How long a stop waits for the log to take what was heard.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(10);

/// What a source is to do, whatever its broker.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// The source's name, in the status and in the log.
    pub name: String,
    /// The broker.
    pub url: BrokerUrl,
    /// Whose events these are.
    pub connection: Uuid,
    /// What is kept out of the log.
    pub redaction: Redaction,
    /// Ask workers that do not to send the events of their tasks.
    pub enable_events: bool,
    /// Queues of tasks that are known from earlier; a broker that can list its queues needs none.
    pub queues: Vec<String>,
    /// Since when nobody listened, where the process before this one was killed: the first thing that is told.
    pub away_since: Option<Timestamp>,
}

impl SourceConfig {
    /// Starts to listen; from now on the source keeps itself going. Must be called within a tokio runtime. The error is
    /// that the system gives no thread.
    pub fn spawn(self, outlet: &Outlet) -> std::io::Result<SourceHandle> {
        let (redaction, enable_events, away_since) = (self.redaction, self.enable_events, self.away_since);
        match self.url {
            BrokerUrl::Redis(url) => {
                let redis = RedisConfig::new(self.name, url, self.connection);
                RedisSource::spawn(RedisConfig { redaction, enable_events, away_since, ..redis }, outlet)
            }
            BrokerUrl::Amqp(url) => {
                // It keeps what is not acknowledged itself, and so can wait for the log.
                let log = outlet.log_now().ok_or_else(|| std::io::Error::other("the log is not open yet"))?;
                let amqp = AmqpConfig::new(self.name, url, self.connection);
                Ok(AmqpSource::spawn(
                    AmqpConfig { redaction, enable_events, away_since, queues: self.queues, ..amqp },
                    &log,
                ))
            }
        }
    }
}

/// A running source. It stops when this is dropped; [`SourceHandle::stop`] also sees to it that nothing heard is lost.
pub struct SourceHandle {
    name: String,
    kind: &'static str,
    url_masked: String,
    figures: Arc<Figures>,
    running: Box<dyn Running>,
}

/// What a kind of source has of its own. Dropping it stops it at once.
pub(crate) trait Running: Send + Sync {
    /// Messages dropped because the log was away for too long.
    fn dropped(&self) -> u64;

    /// Bytes waiting to be decoded.
    fn queue_bytes(&self) -> u64;

    /// What of its connection waits in the spool, where it uses one.
    fn spool(&self) -> Option<SpoolDepth> {
        None
    }

    /// Whether it has ended by itself, as it never should.
    fn has_ended(&self) -> bool;

    /// Stops listening, and waits until the log has what was heard.
    fn stop(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// The same, for good: what it keeps at the broker goes too.
    fn remove(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.stop()
    }
}

impl SourceHandle {
    pub(crate) fn new(
        name: String,
        kind: &'static str,
        url_masked: String,
        figures: Arc<Figures>,
        running: Box<dyn Running>,
    ) -> Self {
        Self { name, kind, url_masked, figures, running }
    }

    /// How it is.
    pub fn status(&self) -> SourceStatus {
        let mut status = self.figures.status(&Identity {
            name: &self.name,
            kind: self.kind,
            url_masked: &self.url_masked,
            dropped: self.running.dropped(),
            queue_bytes: self.running.queue_bytes(),
        });
        status.spool = self.running.spool().map(SpoolStatus::from);
        // None ends by itself; if one does all the same, that must not look like a quiet broker.
        if self.running.has_ended() {
            status.state = SourceState::Down;
            status.reason = Some("the source has failed and needs a restart of Forebay; the log says why".to_owned());
        }
        status
    }

    /// Stops listening, and waits until the log has what was heard.
    pub async fn stop(self) {
        self.running.stop().await;
    }

    /// Stops for good: nothing of the source is left behind at the broker.
    pub async fn remove(self) {
        self.running.remove().await;
    }
}

impl fmt::Debug for SourceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceHandle").field("name", &self.name).field("url", &self.url_masked).finish_non_exhaustive()
    }
}

/// What a source begins with after a process that was killed, and so did not say that it heard nothing any more.
pub fn was_away(name: &str, since: Timestamp) -> Event {
    change(name, Heard::Disconnected, since, Some("Forebay was not running".to_owned()))
}

/// An event about the source itself.
pub(crate) fn change(name: &str, state: Heard, at: Timestamp, reason: Option<String>) -> Event {
    let source = Source { name: name.to_owned(), state, reason };
    Event { source: Some(Box::new(source)), ..Event::bare(EventType::SourceStateChange, at, Framework::Celery) }
}
