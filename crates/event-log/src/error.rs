//! What can go wrong, named by what the caller does about it.

use std::path::PathBuf;

/// The log could not be opened. Each says in one line what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no nats-server to run.
    #[error("no nats-server was found (looked for {}): run `make build`, or install {minimum} or later, or name one with FOREBAY_NATS_SERVER, or use a running server with --nats-url", searched.join(", "))]
    BinaryMissing {
        /// Where it was looked for.
        searched: Vec<String>,
        /// The oldest version that will do.
        minimum: String,
    },
    /// The nats-server that was found is too old.
    #[error("{} is nats-server {found}, and {minimum} or later is needed: run `make build`, or install a newer one, or name one with FOREBAY_NATS_SERVER", path.display())]
    BinaryTooOld {
        /// The one that was found.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest version that will do.
        minimum: String,
    },
    /// What was named as nats-server could not be asked for its version.
    #[error("{} is not a nats-server that can run here: {reason}", path.display())]
    BinaryUnusable {
        /// The file.
        path: PathBuf,
        /// What happened when it was run.
        reason: String,
    },
    /// Another nats-server holds the directory.
    #[error("{} is in use by another Forebay or its nats-server: stop that one first", dir.display())]
    DirectoryInUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The embedded nats-server did not come up.
    #[error("the embedded nats-server did not start: {reason}")]
    Start {
        /// Its own last words, or what kept it from speaking.
        reason: String,
    },
    /// A file or directory could not be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The address or the credentials cannot be understood.
    #[error("the NATS connection is not usable as configured: {reason}")]
    Config {
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers there.
    #[error("no NATS server answers at {url}: {reason}")]
    Unreachable {
        /// The address, without secrets.
        url: String,
        /// What the network said.
        reason: String,
    },
    /// TLS could not be agreed on.
    #[error(
        "TLS with the NATS server at {url} failed: {reason} (its certificate authority can be named with --nats-ca)"
    )]
    Tls {
        /// The address, without secrets.
        url: String,
        /// What failed.
        reason: String,
    },
    /// The server does not accept the credentials.
    #[error("the NATS server at {url} refused the credentials: check the user and password, token or creds file")]
    Refused {
        /// The address, without secrets.
        url: String,
    },
    /// The server is too old.
    #[error(
        "the NATS server at {url} is {found}, and {minimum} or later is needed: upgrade it, or leave --nats-url out to use the embedded one"
    )]
    ServerTooOld {
        /// The address, without secrets.
        url: String,
        /// Its version.
        found: String,
        /// The oldest version that will do.
        minimum: String,
    },
    /// The server has no `JetStream` for this account.
    #[error(
        "the NATS server at {url} has no JetStream for this account: start it with -js, or enable JetStream for the account"
    )]
    NoJetStream {
        /// The address, without secrets.
        url: String,
    },
    /// The account may not do what is needed.
    #[error(
        "the NATS account at {url} lacks a permission: {reason} (it needs $JS.API.>, forebay.v1.>, $KV.FOREBAY.> and _INBOX.>)"
    )]
    NoPermission {
        /// The address, without secrets.
        url: String,
        /// What the server said.
        reason: String,
    },
    /// A stream or bucket is there but not as it must be, or cannot be made.
    #[error("the stream {name} cannot be used: {reason}")]
    Stream {
        /// The stream.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// An event or message was not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The log did not acknowledge in time. Whether it stored the message is unknown; sending it again is safe.
    #[error("the log is not reachable: {reason}")]
    Unavailable {
        /// What was seen.
        reason: String,
    },
    /// The message can never be stored as it is.
    #[error("a message of {bytes} bytes is too large for the log: at most {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that would be taken.
        limit: usize,
    },
    /// There is no room, and nothing is dropped to make some.
    #[error("the log is full: {reason}")]
    Full {
        /// What the server said.
        reason: String,
    },
}

/// The log could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// It did not answer; ask again later.
    #[error("the log is not reachable: {reason}")]
    Unavailable {
        /// What was seen.
        reason: String,
    },
    /// The stream is gone: somebody deleted it.
    #[error("the stream FOREBAY_JOBS does not exist any more: it was deleted while Forebay was running")]
    Missing,
    /// The operator of the stream forbids to drop its beginning.
    #[error(
        "the stream FOREBAY_JOBS forbids to drop old events ({reason}): unset its deny_purge, or let Forebay keep all with --retention off --max-log-size off"
    )]
    TrimRefused {
        /// What the server said.
        reason: String,
    },
}

/// Reading was interrupted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Reading has been taken up again at the right place, but in between the log may have become another one: check
    /// the fence, then go on.
    #[error("reading was interrupted: {cause}")]
    Reconnected {
        /// What interrupted it.
        cause: Anomaly,
    },
    /// The stream is gone: somebody deleted it.
    #[error("the stream FOREBAY_JOBS does not exist any more: it was deleted while Forebay was running")]
    Missing,
    /// The log was closed by [`EventLog::close`](crate::EventLog::close).
    #[error("the log was closed")]
    Closed,
}

/// What interrupted a reader.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Anomaly {
    /// The connection to the server was lost.
    #[error("the connection was lost")]
    Disconnected,
    /// The server was silent for longer than it promised.
    #[error("the server missed its heartbeat")]
    HeartbeatMissed,
    /// The consumer is gone.
    #[error("the consumer was lost ({0})")]
    ConsumerLost(String),
    /// Messages were lost between the server and us.
    #[error("delivery {found} came where {expected} was due")]
    DeliveryGap {
        /// The delivery that was due.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// The log is shorter than what was read of it, and its positions are being given out again.
    #[error("position {found} was delivered although {last} was read already")]
    Rewound {
        /// The position that came.
        found: u64,
        /// The last one that was read.
        last: u64,
    },
    /// The log itself has no message at some positions that it once had or should have.
    #[error("the log holds nothing between {after} and {next}")]
    Hole {
        /// The last position before the hole.
        after: u64,
        /// The first position after it.
        next: u64,
    },
}

/// A key of the bucket could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// [`Kv::create`](crate::Kv::create) found the key taken.
    #[error("the key {key} exists already")]
    Exists {
        /// The key.
        key: String,
    },
    /// Somebody has changed the key since it was read; read it again.
    #[error("the key {key} was changed meanwhile")]
    Changed {
        /// The key.
        key: String,
    },
    /// The bucket takes letters, digits and `-/_=.` only.
    #[error("{key:?} is not a key that the bucket can hold")]
    InvalidKey {
        /// The key.
        key: String,
    },
    /// The server did not answer; ask again later.
    #[error("the settings are not reachable: {reason}")]
    Unavailable {
        /// What was seen.
        reason: String,
    },
}
