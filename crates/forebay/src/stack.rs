//! The parts of Forebay put together: log, connections, views, projector, API.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, bail};
use api::{App, Connections, Maintenance, Parts};
use event_log::{EventLog, ServerConfig};
use sources::redis::SourceHandle;
use tokio::task::JoinSet;

use crate::config::{Fsync, Nats, StackConfig, mask_url};
use crate::data_dir::{DataDir, LOG_PLACE, LogPlace};

/// For sled's cache; the list of all jobs is kept in memory beside it.
const CACHE_BYTES: u64 = 128 * 1_024 * 1_024;

/// The open parts.
pub(crate) struct Stack {
    pub(crate) log: EventLog,
    pub(crate) connections: Arc<Connections>,
    pub(crate) projector: projector::Handle,
    reader: views::Reader,
    generations: views::Generations,
    sources: Arc<RwLock<Vec<SourceHandle>>>,
}

impl Stack {
    /// Opens log, connections and views, and lets the projector go on from its checkpoint.
    pub(crate) async fn open(config: &StackConfig, dir: &DataDir) -> anyhow::Result<Self> {
        let place = LogPlace { nats_url: config.nats.as_ref().map(|nats| mask_url(&nats.url)) };
        refuse_other_log(dir, &place)?;
        let log = EventLog::open(server(config, dir.path())?).await?;
        dir.write(LOG_PLACE, &place).context("cannot write to the data directory")?;
        let connections = Connections::open(log.kv()).await?;
        let views_dir = dir.path().join("views");
        let options = views::Options { fold_version: projection::FOLD_VERSION, cache_bytes: CACHE_BYTES };
        let views::Opened { writer, reader, generations, outcome } =
            tokio::task::spawn_blocking(move || views::open(&views_dir, &options)).await??;
        tracing::info!(?outcome, applied = reader.applied(), "views opened");
        let projector = projector::start(log.clone(), writer, &reader);
        Ok(Self { log, connections, projector, reader, generations, sources: Arc::default() })
    }

    /// Lets the API answer from these parts.
    pub(crate) fn attach(&self, app: &App, redact_args: bool) {
        let sources = Arc::clone(&self.sources);
        app.attach(Parts {
            log: self.log.clone(),
            reader: self.reader.clone(),
            projector: self.projector.clone(),
            connections: Arc::clone(&self.connections),
            sources: Arc::new(move || locked(sources.read()).iter().map(SourceHandle::status).collect()),
            maintenance: Maintenance::new(&self.log, &self.projector, &self.reader, &self.generations),
            redact_args,
        });
    }

    /// Adds a source, so that health tells of it and it is stopped with the rest.
    pub(crate) fn add_source(&self, source: SourceHandle) {
        locked(self.sources.write()).push(source);
    }

    /// Stops what brings events first and what stores them last, so that nothing that was taken in is lost.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let sources = std::mem::take(&mut *locked(self.sources.write()));
        sources.into_iter().map(SourceHandle::stop).collect::<JoinSet<()>>().join_all().await;
        let stopped = self.projector.stop().await;
        self.log.close().await;
        Ok(stopped?)
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

fn server(config: &StackConfig, dir: &Path) -> anyhow::Result<ServerConfig> {
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
