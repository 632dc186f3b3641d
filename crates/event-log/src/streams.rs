//! The streams and the bucket: how they are made, and how one that exists is checked.

use std::time::{Duration, Instant};

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{Compression, Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{Context, ErrorCode};

use crate::connect::Link;
use crate::error::OpenError;

pub(crate) const JOBS: &str = "FOREBAY_JOBS";
pub(crate) const JOBS_SUBJECTS: &str = "forebay.v1.jobs.*.*";
pub(crate) const STATUS: &str = "FOREBAY_STATUS";
pub(crate) const STATUS_SUBJECTS: &str = "forebay.v1.status.>";
pub(crate) const AUDIT: &str = "FOREBAY_AUDIT";
pub(crate) const AUDIT_SUBJECT: &str = "forebay.v1.audit";
pub(crate) const BUCKET: &str = "FOREBAY";

/// How long the stream recognises a message that is sent again. The ids are kept in the server's memory, so this is a
/// help for retries, no more; later repeats are absorbed by the fold.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// What the live statuses may take together.
const STATUS_BYTES: i64 = 64 << 20;
/// A thing that said nothing for so long is no longer there.
const STATUS_AGE: Duration = Duration::from_secs(24 * 3_600);
/// Some hundred thousand changes; those beyond, and those of more than a year ago, go.
const AUDIT_BYTES: i64 = 64 << 20;
const AUDIT_AGE: Duration = Duration::from_secs(400 * 24 * 3_600);
/// A cluster may be choosing its leader when we arrive.
const PATIENCE: Duration = Duration::from_secs(15);

fn jobs(replicas: usize) -> Config {
    Config {
        name: JOBS.to_owned(),
        description: Some("Forebay: the events of all jobs, the source of every view".to_owned()),
        subjects: vec![JOBS_SUBJECTS.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        // A full log refuses new events rather than forget old ones.
        discard: DiscardPolicy::New,
        allow_direct: true,
        deny_delete: true,
        duplicate_window: DUPLICATE_WINDOW,
        compression: Some(Compression::S2),
        num_replicas: replicas,
        ..Config::default()
    }
}

fn status(replicas: usize) -> Config {
    Config {
        name: STATUS.to_owned(),
        description: Some("Forebay: the latest heartbeat or depth of each worker and queue".to_owned()),
        subjects: vec![STATUS_SUBJECTS.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_messages_per_subject: 1,
        max_bytes: STATUS_BYTES,
        max_age: STATUS_AGE,
        allow_direct: true,
        num_replicas: replicas,
        ..Config::default()
    }
}

fn audit(replicas: usize) -> Config {
    Config {
        name: AUDIT.to_owned(),
        description: Some("Forebay: what people changed".to_owned()),
        subjects: vec![AUDIT_SUBJECT.to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_bytes: AUDIT_BYTES,
        max_age: AUDIT_AGE,
        allow_direct: true,
        // What was told stays told.
        deny_delete: true,
        deny_purge: true,
        num_replicas: replicas,
        ..Config::default()
    }
}

/// What must exist for Forebay to work, ready to use.
pub(crate) struct Stores {
    pub(crate) jobs: Stream,
    pub(crate) bucket: kv::Store,
}

/// Makes what is missing, checks what is there.
pub(crate) async fn ensure(context: &Context, link: &Link, url: &str, replicas: usize) -> Result<Stores, OpenError> {
    let maker = Maker { context, link, url, deadline: Instant::now() + PATIENCE };
    let jobs = maker.stream(jobs(replicas)).await?;
    maker.stream(status(replicas)).await?;
    maker.stream(audit(replicas)).await?;
    let bucket = maker.bucket(replicas).await?;
    Ok(Stores { jobs, bucket })
}

/// What is there, as it is.
pub(crate) async fn find(context: &Context) -> Result<Stores, OpenError> {
    let failed = |name: &str, reason: String| OpenError::Stream { name: name.to_owned(), reason };
    let jobs = context.get_stream(JOBS).await.map_err(|error| failed(JOBS, error.to_string()))?;
    let bucket = context.get_key_value(BUCKET).await.map_err(|error| failed(BUCKET, error.to_string()))?;
    Ok(Stores { jobs, bucket })
}

struct Maker<'a> {
    context: &'a Context,
    link: &'a Link,
    url: &'a str,
    deadline: Instant,
}

/// One try: done, worth another, or hopeless.
enum Attempt<T> {
    Done(T),
    Later(OpenError),
    Never(OpenError),
}

impl Maker<'_> {
    async fn stream(&self, wanted: Config) -> Result<Stream, OpenError> {
        loop {
            match self.try_stream(&wanted).await {
                Attempt::Done(stream) => return Ok(stream),
                Attempt::Never(error) => return Err(error),
                Attempt::Later(error) if Instant::now() >= self.deadline => return Err(error),
                Attempt::Later(error) => tracing::debug!(%error, "waiting for JetStream"),
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn try_stream(&self, wanted: &Config) -> Attempt<Stream> {
        let stream = match self.context.get_stream(&wanted.name).await {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    match self.context.create_stream(wanted.clone()).await {
                        Ok(stream) => stream,
                        Err(error) => return self.create_failed(&wanted.name, &error),
                    }
                }
                GetStreamErrorKind::JetStream(error) => return self.refused(&wanted.name, &error),
                _ => return self.silent(&wanted.name, &error),
            },
        };
        self.check(stream, wanted).await
    }

    /// What the server echoes must be what was asked for: an older one drops in silence what it does not know.
    async fn check(&self, stream: Stream, wanted: &Config) -> Attempt<Stream> {
        let Some(update) = improved(&stream.cached_info().config, wanted) else { return Attempt::Done(stream) };
        match self.context.update_stream(update).await {
            Ok(info) => match defect(&info.config, wanted) {
                None => Attempt::Done(stream),
                Some(what) => Attempt::Never(self.unfit(&wanted.name, what)),
            },
            Err(error) => match defect(&stream.cached_info().config, wanted) {
                // What could not be improved is good enough as it is.
                None => Attempt::Done(stream),
                Some(what) => {
                    Attempt::Never(self.unfit(&wanted.name, &format!("{what}, and the server says: {error}")))
                }
            },
        }
    }

    fn unfit(&self, name: &str, what: &str) -> OpenError {
        let reason = format!("it exists at {}, but {what}", self.url);
        OpenError::Stream { name: name.to_owned(), reason }
    }

    async fn bucket(&self, replicas: usize) -> Result<kv::Store, OpenError> {
        let config = kv::Config {
            bucket: BUCKET.to_owned(),
            description: "Forebay: connections, key hashes and settings".to_owned(),
            history: 1,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        if let Ok(store) = self.context.get_key_value(BUCKET).await {
            // Connections and the hashes of their keys must outlive the server and every clock.
            let found = &store.stream.cached_info().config;
            let defect = match found {
                found if found.storage != StorageType::File => Some("it is kept in memory"),
                found if !found.max_age.is_zero() => Some("its entries expire"),
                _ => None,
            };
            return match defect {
                None => Ok(store),
                Some(what) => Err(self.unfit(&format!("KV_{BUCKET}"), what)),
            };
        }
        self.context.create_key_value(config).await.map_err(|error| match self.link.denied() {
            Some(reason) => OpenError::NoPermission { url: self.url.to_owned(), reason },
            None => OpenError::Stream { name: format!("KV_{BUCKET}"), reason: error.to_string() },
        })
    }

    fn create_failed(&self, name: &str, error: &async_nats::jetstream::context::CreateStreamError) -> Attempt<Stream> {
        match error.kind() {
            // Two nodes made it at once, and the other was first: look again.
            CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                Attempt::Later(OpenError::Stream { name: name.to_owned(), reason: error.to_string() })
            }
            CreateStreamErrorKind::JetStream(error) => self.refused(name, &error),
            _ => self.silent(name, error),
        }
    }

    fn refused(&self, name: &str, error: &async_nats::jetstream::Error) -> Attempt<Stream> {
        let url = self.url.to_owned();
        match error.error_code() {
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                Attempt::Never(OpenError::NoJetStream { url })
            }
            ErrorCode::CLUSTER_NOT_AVAILABLE | ErrorCode::CLUSTER_NOT_LEADER | ErrorCode::INSUFFICIENT_RESOURCES => {
                Attempt::Later(OpenError::Stream { name: name.to_owned(), reason: error.to_string() })
            }
            _ => Attempt::Never(OpenError::Stream { name: name.to_owned(), reason: error.to_string() }),
        }
    }

    /// A request that the account may not make is not answered at all; the refusal comes beside it.
    fn silent(&self, name: &str, error: &dyn std::fmt::Display) -> Attempt<Stream> {
        let url = self.url.to_owned();
        match self.link.denied() {
            Some(reason) => Attempt::Never(OpenError::NoPermission { url, reason }),
            None => Attempt::Later(OpenError::Stream { name: name.to_owned(), reason: error.to_string() }),
        }
    }
}

/// The configuration to ask for when the present one differs in what matters to us; the operator's own limits, age
/// and placement stay as they are.
fn improved(present: &Config, wanted: &Config) -> Option<Config> {
    let update = Config {
        subjects: wanted.subjects.clone(),
        allow_direct: true,
        duplicate_window: present.duplicate_window.max(wanted.duplicate_window),
        num_replicas: present.num_replicas.max(wanted.num_replicas),
        ..present.clone()
    };
    (update != *present || defect(present, wanted).is_some()).then_some(update)
}

/// What of the configuration would make Forebay lose or misread events.
fn defect(present: &Config, wanted: &Config) -> Option<&'static str> {
    if present.subjects != wanted.subjects {
        return Some("it takes other subjects");
    }
    if present.retention != RetentionPolicy::Limits {
        return Some("its retention is not `limits`, so that reading would consume it");
    }
    if present.sealed {
        return Some("it is sealed and takes no events");
    }
    if present.no_ack {
        return Some("it does not acknowledge what it stores");
    }
    if wanted.max_messages_per_subject <= 0 && present.max_messages_per_subject > 0 {
        return Some("it keeps only so many events per subject");
    }
    if wanted.storage == StorageType::File && present.storage != StorageType::File {
        return Some("it is kept in memory and would be lost");
    }
    if !present.allow_direct {
        return Some("it does not allow direct reads");
    }
    None
}
