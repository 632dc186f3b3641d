//! The parts of Forebay put together: log, connections, views, projector, API.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use api::{App, Connections, Maintenance, Parts, ReadKeys};
use event_log::{EventLog, Fence, Known, LogError, ServerConfig};
use projector::{Places, Policy};
use proto_events::Timestamp;
use sources::backend::{Backend, BackendConfig, BackendHandle};
use sources::{Fleet, Redaction};
use uuid::Uuid;
use views::{Checkpoint, Found, Frozen, Opened, Writer};

use crate::config::{Fsync, Nats, StackConfig, mask_url};
use crate::data_dir::{DataDir, LOG_PLACE, LogPlace};
use crate::unended;

/// Views that lack more messages than this are not waited for where others can answer.
const NEAR: u64 = 1_000;

/// A log of so many bytes fills empty views faster by a pass over all of it.
const PASS_BYTES: u64 = 1 << 20;

/// Bytes that wait to be read while a source keeps up: some hundred messages.
const BEHIND_BYTES: u64 = 1 << 20;

/// For sled's cache; the list of all jobs is kept in memory beside it. Jobs that are written again and again were written
/// first not long ago, and so lie side by side: more would only be filled with what nobody asks for.
const CACHE_BYTES: u64 = 32 * 1_024 * 1_024;

/// What a server does for its views without being asked, and a command does not.
pub(crate) struct Care {
    /// How often they are compared with the log; `None` is never.
    pub(crate) scrub: Option<Duration>,
    /// How much of the log is kept.
    pub(crate) policy: Policy,
    /// For how long a worker that is gone is remembered.
    pub(crate) forget_workers: Duration,
    /// On whose subject the log is told what it forgets.
    pub(crate) connection: Uuid,
    /// What is heard.
    pub(crate) fleet: Arc<Fleet>,
}

/// The open parts.
pub(crate) struct Stack {
    pub(crate) log: EventLog,
    pub(crate) connections: Arc<Connections>,
    keys: Arc<ReadKeys>,
    pub(crate) projector: projector::Handle,
    reader: views::Reader,
    generations: views::Generations,
    places: Places,
    /// The writer of empty views that are to be filled by a pass over the whole log.
    empty: Mutex<Option<Writer>>,
    backends: Arc<RwLock<Vec<BackendHandle>>>,
}

impl Stack {
    /// Opens log, connections and views, and lets the projector go on from its checkpoint.
    pub(crate) async fn open(config: &StackConfig, dir: &DataDir) -> anyhow::Result<Self> {
        let place = LogPlace { nats_url: config.nats.as_ref().map(|nats| mask_url(&nats.url)) };
        refuse_other_log(dir, &place)?;
        let log = EventLog::open(server(config, dir.path())?).await?;
        dir.write(LOG_PLACE, &place).context("cannot write to the data directory")?;
        let connections = Connections::open(log.kv()).await?;
        let keys = ReadKeys::open(log.kv()).await?;
        let views_dir = dir.path().join("views");
        let places = Places { log: config.nats.is_none().then(|| dir.path().join("nats")), views: views_dir.clone() };
        let (options, near) = (views_options(config), nearness(&log));
        let found = tokio::task::spawn_blocking(move || views::open_or_freeze(&views_dir, &options, near)).await??;
        let mut empty = None;
        let (projector, reader, generations) = match found {
            Found::Ours(opened) => {
                let Opened { writer, reader, generations, outcome } = *opened;
                tracing::info!(?outcome, applied = reader.applied(), "views opened");
                let bytes = if reader.checkpoint().is_none() { log.info().await?.bytes } else { 0 };
                let projector = if bytes >= PASS_BYTES {
                    empty = Some(writer);
                    projector::start_idle(log.clone(), &reader)
                } else {
                    projector::start(log.clone(), writer, &reader)
                };
                (projector, reader, generations)
            }
            Found::OtherFold(Frozen { reader, generations, fold_version }) => {
                let (ours, applied) = (options.fold_version, reader.applied());
                tracing::info!(fold_version, ours, applied, "the views of another version answer until ours are made");
                (projector::start_frozen(log.clone(), &reader), reader, generations)
            }
        };
        let empty = Mutex::new(empty);
        let backends = Arc::default();
        Ok(Self { log, connections, keys, projector, reader, generations, places, empty, backends })
    }

    /// Lets the API answer from these parts.
    pub(crate) fn attach(&self, app: &App, redaction: Redaction, care: Option<&Care>) {
        let backends = Arc::clone(&self.backends);
        let mut maintenance = Maintenance::new(&self.log, &self.projector, &self.reader, &self.generations);
        let empty = locked(self.empty.lock()).take();
        let is_filled = empty.is_none();
        if let Some(writer) = empty {
            maintenance.fill(writer);
        }
        if let Some(Care { scrub, policy, forget_workers, connection, fleet }) = care {
            let fleet = Arc::clone(fleet);
            let is_behind = Arc::new(move || is_behind(&fleet));
            self.projector.follow_live(&self.log, *forget_workers, is_behind);
            if is_filled {
                maintenance.resume_rebuilds();
                maintenance.upgrade_by_itself();
            }
            maintenance.scrub_every(*scrub);
            maintenance.retain(*policy, self.places.clone(), *connection);
        }
        app.attach(Parts {
            log: self.log.clone(),
            reader: self.reader.clone(),
            projector: self.projector.clone(),
            connections: Arc::clone(&self.connections),
            keys: Arc::clone(&self.keys),
            backends: Arc::new(move || locked(backends.read()).iter().map(BackendHandle::status).collect()),
            maintenance,
            redaction,
        });
    }

    /// Tells which queues the jobs of a connection went through lately, as far as the views know.
    pub(crate) fn queues(&self) -> impl Fn(Uuid, Timestamp) -> Vec<String> + Send + Sync + 'static {
        let reader = self.reader.clone();
        move |connection, now| {
            let queues = reader.queues(Some(&[connection]), views::Range::Week, now);
            queues.into_iter().filter_map(|queue| queue.name).map(|name| name.to_string()).collect()
        }
    }

    /// Begins to ask a result backend, so that health tells of it.
    pub(crate) fn add_backend(&self, config: BackendConfig) {
        let walks = unended::walks(self.reader.clone(), self.projector.clone(), config.connection);
        locked(self.backends.write()).push(Backend::spawn(config, &self.log, walks));
    }

    /// Asks no result backend any more.
    pub(crate) fn forget_backends(&self) {
        locked(self.backends.write()).clear();
    }

    /// Stops what stores events last, so that nothing that was taken in is lost. What brings them is to be stopped before.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        // What a backend was about to tell it will tell again.
        locked(self.backends.write()).clear();
        let stopped = self.projector.stop().await;
        self.log.close().await;
        Ok(stopped?)
    }
}

/// Whether so much waits of what sources heard that what workers say may come late, or be dropped.
fn is_behind(fleet: &Fleet) -> bool {
    fleet.spool().is_some_and(|spool| spool.events > 0)
        || fleet.list().iter().any(|source| source.status.queue_bytes > BEHIND_BYTES)
}

/// How the views are opened, and prepared.
pub(crate) fn views_options(config: &StackConfig) -> views::Options {
    views::Options {
        fold_version: projection::fold_version(),
        cache_bytes: CACHE_BYTES,
        list_bytes: config.list_memory,
        totals_by_host: config.metrics_hostname,
    }
}

/// Whether views are of this log, and so near to its end that the rest is applied in a moment. Blocks.
fn nearness(log: &EventLog) -> impl Fn(&Checkpoint) -> bool + Send + use<> {
    let (log, runtime) = (log.clone(), tokio::runtime::Handle::current());
    move |checkpoint| {
        let Checkpoint { created, sequence, fingerprint, .. } = *checkpoint;
        let asked = runtime.block_on(async {
            let fence = log.fence(&Known { created, sequence, fingerprint }).await?;
            Ok::<_, LogError>((fence, log.info().await?.last_sequence))
        });
        matches!(asked, Ok((Fence::Same, last)) if last.saturating_sub(sequence) <= NEAR)
    }
}

/// The list is whole whatever happened to whoever held the lock.
fn locked<T>(result: Result<T, PoisonError<T>>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

/// A directory whose log is in a NATS cluster has no log of its own: an empty one would look as if all jobs were gone.
fn refuse_other_log(dir: &DataDir, place: &LogPlace) -> anyhow::Result<()> {
    let last: Option<LogPlace> = dir.read(LOG_PLACE).context("cannot read the data directory")?;
    match (last.and_then(|last| last.nats_url), &place.nats_url) {
        (Some(url), None) => bail!(
            "{} keeps its log in NATS at {url}: give --nats-url (or remove {LOG_PLACE} there to begin an embedded log)",
            dir.path().display()
        ),
        _ => Ok(()),
    }
}

/// Where the log is.
pub(crate) fn server(config: &StackConfig, dir: &Path) -> anyhow::Result<ServerConfig> {
    if let Some(nats) = config.nats.clone() {
        let Nats { url, user, password, token, creds, ca, replicas } = nats;
        return Ok(ServerConfig::External { url, user, password, token, creds, ca, replicas });
    }
    Ok(ServerConfig::Embedded {
        dir: dir.join("nats"),
        binary: config.nats_server.clone(),
        fsync_always: config.fsync == Fsync::Always,
        helper: std::env::current_exe().context("cannot tell where this program is")?,
    })
}
