//! The log itself: opening, appending, point reads.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind, RequestErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{DirectGetErrorKind, RawMessageErrorKind};
use async_nats::jetstream::{self, Context, ErrorCode};
use bytes::Bytes;
use failpoints::{Point, hit};
use parking_lot::Mutex;
use proto_events::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::batcher::{Batcher, Receipts};
use crate::config::ServerConfig;
use crate::connect::{External, Link, Target};
use crate::embedded::{Embedded, Settings};
use crate::error::{AppendError, LogError, OpenError};
use crate::fence::{self, Fence, Known};
use crate::imported::{self, Imported, Seal};
use crate::kv::Kv;
use crate::message::{self, LogMessage};
use crate::outlet::Outlet;
use crate::reader::Reader;
use crate::streams::{self, Stores};

/// How long an append may take, and any question to `JetStream`.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
/// How many messages may be on their way unacknowledged; many more would starve the readers of the same server.
const IN_FLIGHT: usize = 1_000;
/// What headers and subject may add to a payload.
const ENVELOPE: usize = 1_024;

/// What the log said to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where it stands.
    pub sequence: u64,
    /// Whether it had been there already, from an earlier sending of the same content.
    pub duplicate: bool,
}

/// What the log is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogInfo {
    /// When the stream was created; another time is another log.
    pub created: Timestamp,
    /// The first position it still holds.
    pub first_sequence: u64,
    /// The last position it ever gave out.
    pub last_sequence: u64,
    /// How many messages it holds.
    pub messages: u64,
    /// How many bytes they take, before compression.
    pub bytes: u64,
}

/// The durable log. Cheap to clone; all clones share one connection, each reader has its own.
#[derive(Clone)]
pub struct EventLog {
    inner: Arc<Inner>,
}

struct Inner {
    target: Target,
    link: Link,
    context: Context,
    stores: Stores,
    seal: Seal,
    closed: watch::Sender<bool>,
    embedded: Option<Embedded>,
    /// What became of the last append that failed, if none has succeeded since.
    trouble: Mutex<Option<AppendError>>,
}

impl EventLog {
    /// Starts or finds the server, checks that it will do, and makes the streams and the bucket where they are missing.
    pub async fn open(config: ServerConfig) -> Result<Self, OpenError> {
        let (target, embedded, replicas) = match config {
            ServerConfig::Embedded { dir, binary, fsync_always, helper } => {
                let embedded = Embedded::start(Settings { dir, binary, fsync_always, helper }).await?;
                (embedded.target()?, Some(embedded), 1)
            }
            ServerConfig::External { url, user, password, token, creds, ca, replicas } => {
                (Target::external(External { url, user, password, token, creds, ca })?, None, replicas.max(1))
            }
        };
        Box::pin(Self::connect(target, embedded, Some(replicas))).await
    }

    /// Connects to the log that another process has opened, to read it beside that one: nothing is started, made or
    /// changed. An embedded server is the one that runs in the directory.
    pub async fn attach(config: ServerConfig) -> Result<Self, OpenError> {
        let target = match config {
            ServerConfig::Embedded { dir, .. } => Embedded::running(&dir)?,
            ServerConfig::External { url, user, password, token, creds, ca, .. } => {
                Target::external(External { url, user, password, token, creds, ca })?
            }
        };
        Box::pin(Self::connect(target, None, None)).await
    }

    /// With so many replicas, streams and bucket are made; otherwise they have to be there.
    async fn connect(target: Target, embedded: Option<Embedded>, replicas: Option<usize>) -> Result<Self, OpenError> {
        let link = target.connect("forebay", 65_536).await?;
        link.check_server(target.url())?;
        let context = context(&link);
        let stores = match replicas {
            Some(replicas) => Box::pin(streams::ensure(&context, &link, target.url(), replicas)).await?,
            None => Box::pin(streams::find(&context)).await?,
        };
        let seal = Seal::open(&Kv::new(stores.bucket.clone(), link.clone())).await?;
        let (closed, _) = watch::channel(false);
        let trouble = Mutex::default();
        Ok(Self { inner: Arc::new(Inner { target, link, context, stores, seal, closed, embedded, trouble }) })
    }

    /// Stores one message and waits until the log has it, at most five seconds, in which a lost connection is made
    /// good. Sending the same content again within two minutes is recognised.
    pub async fn append(&self, connection: Uuid, payload: Bytes) -> Result<Appended, AppendError> {
        self.append_message(&Outgoing::new(connection, payload)).await
    }

    /// The same without a second attempt, for who has another place for it.
    pub(crate) async fn append_once(&self, connection: Uuid, payload: Bytes) -> Result<Appended, AppendError> {
        let message = Outgoing::new(connection, payload);
        self.noted(async { self.send(&message).await?.acknowledged().await }.await)
    }

    async fn append_message(&self, message: &Outgoing) -> Result<Appended, AppendError> {
        self.noted(self.append_in_time(message).await)
    }

    fn noted(&self, appended: Result<Appended, AppendError>) -> Result<Appended, AppendError> {
        let appended = appended.map_err(|error| self.explained(error));
        // Of a message that is too large nothing follows for the next.
        if !matches!(appended, Err(AppendError::TooLarge { .. })) {
            *self.inner.trouble.lock() = appended.as_ref().err().cloned();
        }
        appended
    }

    async fn append_in_time(&self, message: &Outgoing) -> Result<Appended, AppendError> {
        let deadline = Instant::now() + TIMEOUT;
        let mut resent = false;
        loop {
            let attempt = async { self.send(message).await?.acknowledged().await };
            match tokio::time::timeout_at(deadline, attempt).await {
                // What we sent again ourselves is no repetition by the caller.
                Ok(Ok(stored)) => return Ok(Appended { duplicate: stored.duplicate && !resent, ..stored }),
                Ok(Err(AppendError::Unavailable { .. }))
                    if Instant::now() + RETRY_PAUSE < deadline && !self.is_full() =>
                {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    resent = true;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(unavailable(format!("no acknowledgement within {} s", TIMEOUT.as_secs()))),
            }
        }
    }

    /// Sends one message now and returns the wait for its acknowledgement, so that many can be on their way at once.
    /// What is lost with a connection is not sent again.
    pub async fn append_pipelined(
        &self,
        connection: Uuid,
        payload: Bytes,
    ) -> Result<impl Future<Output = Result<Appended, AppendError>> + Send + 'static, AppendError> {
        Ok(self.send_in_time(&Outgoing::new(connection, payload)).await?.acknowledged())
    }

    /// Stores one message of another log, as [`append`](Self::append) does, and keeps when it was first published.
    /// Bringing the same one again within two minutes is recognised.
    pub async fn append_imported(&self, message: &Imported) -> Result<Appended, AppendError> {
        self.append_message(&Outgoing::imported(message, &self.inner.seal)).await
    }

    /// Sends one message of another log, as [`append_pipelined`](Self::append_pipelined) does.
    pub async fn append_imported_pipelined(
        &self,
        message: &Imported,
    ) -> Result<impl Future<Output = Result<Appended, AppendError>> + Send + 'static + use<>, AppendError> {
        Ok(self.send_in_time(&Outgoing::imported(message, &self.inner.seal)).await?.acknowledged())
    }

    async fn send_in_time(&self, message: &Outgoing) -> Result<Sent, AppendError> {
        let sent = tokio::time::timeout(TIMEOUT, self.send(message)).await;
        sent.unwrap_or_else(|_| Err(unavailable("not connected"))).map_err(|error| self.explained(error))
    }

    /// A server on a full disk does not answer at all; why, it says elsewhere.
    fn explained(&self, error: AppendError) -> AppendError {
        match error {
            AppendError::Unavailable { .. } if self.is_full() => disk_full(),
            error => error,
        }
    }

    fn is_full(&self) -> bool {
        self.inner.embedded.as_ref().is_some_and(Embedded::is_full)
    }

    /// Why the last append failed, for as long as none has succeeded since.
    pub fn trouble(&self) -> Option<AppendError> {
        if self.is_full() { Some(disk_full()) } else { self.inner.trouble.lock().clone() }
    }

    /// Where the log is kept on this machine; `None` where somebody else's server keeps it.
    pub fn dir(&self) -> Option<&Path> {
        self.inner.embedded.as_ref().map(Embedded::dir)
    }

    async fn send(&self, message: &Outgoing) -> Result<Sent, AppendError> {
        let (bytes, limit) = (message.payload.len(), self.max_payload());
        if bytes + ENVELOPE > limit {
            return Err(AppendError::TooLarge { bytes, limit: limit.saturating_sub(ENVELOPE) });
        }
        if self.is_full() {
            return Err(disk_full());
        }
        let link = self.inner.link.clone();
        // Without a connection the client would queue the message and send it long after the caller gave up.
        link.wait_connected().await;
        let generation = link.generation();
        let mut publish = PublishMessage::build().payload(message.payload.clone()).message_id(&message.id);
        if let Some(published) = &message.published {
            publish = publish.header(imported::PUBLISHED, published.as_str());
        }
        let sent = self.inner.context.send_publish(message.subject.clone(), publish).await;
        hit(Point::LogSent);
        Ok(Sent { ack: sent.map_err(|error| append_error(&error))?, link, generation })
    }

    /// Gathers the events of a broker source into messages. See [`Batcher`].
    pub fn batcher(&self, connection: Uuid) -> Batcher {
        Batcher::start(Outlet::from(self), connection, None)
    }

    /// The same, for a source that must know which events are in the log.
    pub fn batcher_with_receipts(&self, connection: Uuid) -> (Batcher, Receipts) {
        let (sender, receipts) = tokio::sync::mpsc::unbounded_channel();
        (Batcher::start(Outlet::from(self), connection, Some(sender)), receipts)
    }

    /// Replaces the latest status of one named thing: a worker's heartbeat, a queue's depth. It is no part of the log.
    /// The kind is one lower-case word.
    pub async fn publish_status(
        &self,
        connection: Uuid,
        kind: &str,
        name: &str,
        payload: Bytes,
    ) -> Result<(), AppendError> {
        debug_assert!(!kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_lowercase()), "a kind is one word");
        let subject = message::status_subject(connection, kind, name);
        let publish = async {
            self.inner.link.wait_connected().await;
            let ack = self.inner.context.publish(subject, payload).await.map_err(|error| append_error(&error))?;
            ack.await.map_err(|error| append_error(&error))
        };
        let stored = tokio::time::timeout(TIMEOUT, publish).await;
        stored.unwrap_or_else(|_| Err(unavailable("no acknowledgement in time"))).map(|_| ())
    }

    /// What the log is now.
    pub async fn info(&self) -> Result<LogInfo, LogError> {
        let info = Box::pin(self.inner.stores.jobs.get_info()).await.map_err(|error| self.log_error(&error))?;
        Ok(LogInfo {
            created: message::timestamp(info.created.unix_timestamp_nanos()),
            first_sequence: info.state.first_sequence,
            last_sequence: info.state.last_sequence,
            messages: info.state.messages,
            bytes: info.state.bytes,
        })
    }

    /// Reads the messages after this position, for ever. See [`Reader`].
    pub fn reader(&self, after: u64) -> Reader {
        Reader::new(self.clone(), after)
    }

    /// The message at this position, if the log holds it.
    pub async fn message(&self, sequence: u64) -> Result<Option<LogMessage>, LogError> {
        match Box::pin(self.inner.stores.jobs.direct_get(sequence)).await {
            Ok(message) => Ok(Some(LogMessage::of_stream(message, &self.inner.seal))),
            // In a cluster any copy may answer, also one that is behind; the leader knows for certain.
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => self.certain_message(sequence).await,
            Err(error) => Err(LogError::Unavailable { reason: error.to_string() }),
        }
    }

    /// The message at this position as the leader of the stream has it.
    pub(crate) async fn certain_message(&self, sequence: u64) -> Result<Option<LogMessage>, LogError> {
        match Box::pin(self.inner.stores.jobs.get_raw_message(sequence)).await {
            Ok(message) => Ok(Some(LogMessage::of_stream(message, &self.inner.seal))),
            Err(error) => match error.kind() {
                RawMessageErrorKind::NoMessageFound => Ok(None),
                RawMessageErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Err(LogError::Missing)
                }
                _ => Err(LogError::Unavailable { reason: error.to_string() }),
            },
        }
    }

    /// Whether the log is still the one that was read up to `known`. To be asked at start and after each
    /// [`ReadError::Reconnected`](crate::ReadError::Reconnected).
    pub async fn fence(&self, known: &Known) -> Result<Fence, LogError> {
        fence::check(self, known).await
    }

    /// The bucket of connections and settings.
    pub fn kv(&self) -> Kv {
        Kv::new(self.inner.stores.bucket.clone(), self.inner.link.clone())
    }

    /// Whether the connection to the server stands.
    pub fn connected(&self) -> bool {
        self.inner.link.connected()
    }

    /// The most bytes that the server takes in one message.
    pub fn max_payload(&self) -> usize {
        self.inner.link.client.max_payload()
    }

    /// The version of the server.
    pub fn server_version(&self) -> String {
        self.inner.link.client.server_info().version
    }

    /// The address of the server, without secrets.
    pub fn url(&self) -> &str {
        self.inner.target.url()
    }

    /// Ends all readers, sends what is on its way, and stops the embedded server cleanly.
    pub async fn close(self) {
        self.inner.closed.send_replace(true);
        if self.connected() {
            let _ = tokio::time::timeout(TIMEOUT, self.inner.link.client.flush()).await;
        }
        if let Some(embedded) = &self.inner.embedded {
            embedded.stop().await;
        }
    }

    pub(crate) fn jobs(&self) -> &jetstream::stream::Stream {
        &self.inner.stores.jobs
    }

    pub(crate) fn context(&self) -> &Context {
        &self.inner.context
    }

    /// The shared connection.
    pub(crate) fn link(&self) -> &Link {
        &self.inner.link
    }

    pub(crate) fn target(&self) -> &Target {
        &self.inner.target
    }

    pub(crate) fn seal(&self) -> Seal {
        self.inner.seal
    }

    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.inner.closed.subscribe()
    }

    /// The handle of the jobs stream on the shared connection.
    #[cfg(feature = "testing")]
    pub fn jobs_stream(&self) -> jetstream::stream::Stream {
        self.inner.stores.jobs.clone()
    }

    /// The `JetStream` of the shared connection.
    #[cfg(feature = "testing")]
    pub fn jetstream(&self) -> Context {
        self.inner.context.clone()
    }

    fn log_error(&self, error: &async_nats::jetstream::context::RequestError) -> LogError {
        let missing = std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<async_nats::jetstream::Error>())
            .is_some_and(|error| error.error_code() == ErrorCode::STREAM_NOT_FOUND);
        match error.kind() {
            _ if missing => LogError::Missing,
            RequestErrorKind::TimedOut if !self.connected() => LogError::Unavailable { reason: "not connected".into() },
            _ => LogError::Unavailable { reason: error.to_string() },
        }
    }
}

/// A message to be sent, again and again if need be.
struct Outgoing {
    subject: Subject,
    payload: Bytes,
    id: String,
    /// Of a message of another log: when it was published there, sealed.
    published: Option<String>,
}

impl Outgoing {
    fn new(connection: Uuid, payload: Bytes) -> Self {
        let id = message::message_id(connection, &payload);
        Self { subject: message::jobs_subject(connection).into(), payload, id, published: None }
    }

    fn imported(message: &Imported, seal: &Seal) -> Self {
        let subject = message::jobs_subject(message.connection);
        let published = Some(seal.header(message.published, &subject, &message.payload));
        Self { subject: subject.into(), payload: message.payload.clone(), id: message.id(), published }
    }
}

/// A message on its way.
struct Sent {
    ack: PublishAckFuture,
    link: Link,
    generation: u64,
}

impl Sent {
    async fn acknowledged(self) -> Result<Appended, AppendError> {
        tokio::select! {
            answer = self.ack.into_future() => {
                let ack = answer.map_err(|error| append_error(&error))?;
                hit(Point::LogAcknowledged);
                Ok(Appended { sequence: ack.sequence, duplicate: ack.duplicate })
            }
            // A lost connection never brings the answer, so there is no point in waiting for it.
            () = self.link.wait_lost(self.generation) => Err(unavailable("the connection was lost")),
        }
    }
}

/// Between two attempts of one append.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A `JetStream` context whose every question ends in time.
pub(crate) fn context(link: &Link) -> Context {
    jetstream::ContextBuilder::new()
        .timeout(TIMEOUT)
        .ack_timeout(TIMEOUT)
        .max_ack_inflight(IN_FLIGHT)
        .build(link.client.clone())
}

pub(crate) fn unavailable(reason: impl Into<String>) -> AppendError {
    AppendError::Unavailable { reason: reason.into() }
}

fn disk_full() -> AppendError {
    AppendError::Full { reason: "no space left on the disk of the log".to_owned() }
}

pub(crate) fn append_error(error: &async_nats::jetstream::context::PublishError) -> AppendError {
    let told = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
    match (error.kind(), told.map(jetstream::Error::error_code)) {
        (PublishErrorKind::StreamNotFound, _) => unavailable("no stream takes the message"),
        (
            _,
            Some(
                ErrorCode::STREAM_STORE_FAILED
                | ErrorCode::INSUFFICIENT_RESOURCES
                | ErrorCode::STORAGE_RESOURCES_EXCEEDED
                | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
            ),
        ) => AppendError::Full { reason: told.map(ToString::to_string).unwrap_or_default() },
        _ => unavailable(error.to_string()),
    }
}
