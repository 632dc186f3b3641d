//! The sources of a server: begun as early as can be, and put right once the log says whose their events are.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use api::Connection;
use api::connections::DEFAULT;
use event_log::{EventLog, Outlet, Spool};
use sources::{BrokerUrl, Fleet, FleetError, Habits, Origin, SourceSpec};
use uuid::Uuid;

use crate::config::ServeConfig;
use crate::data_dir::DataDir;
use crate::serve::{now, timestamp};
use crate::stack::Stack;

/// Whose events are those of a source of the configuration.
async fn connection_of(spec: &SourceSpec, stack: &Stack, default: &Connection) -> anyhow::Result<Connection> {
    match &spec.name {
        Some(name) => Ok(stack.connections.ensure(name).await?),
        None => Ok(default.clone()),
    }
}

/// Tells the log that this source has not listened since the last message, where nothing else tells: the server before was
/// killed together with its data directory. What follows a clean stop repeats what that said, and changes nothing.
async fn was_away(log: &EventLog, connection: Uuid, name: &str) {
    let last = async {
        let last = log.info().await.ok()?.last_sequence;
        log.message(last).await.ok()?
    };
    let Some(last) = last.await else { return };
    let away = proto_events::encode(&[sources::was_away(name, last.stored)]);
    if let Err(error) = log.append(connection, away.into()).await {
        tracing::warn!(%error, name, "since when the source did not listen is not told to the log");
    }
}

/// The sources that were added while a server ran, and what is known of connections without asking the log.
const FILE: &str = "sources.json";

/// A source that is to run.
struct Wanted {
    /// Otherwise that of its connection.
    name: Option<String>,
    /// Without a name it is the default connection's.
    connection: Option<String>,
    url: BrokerUrl,
    origin: Origin,
}

/// The sources of a server.
pub(crate) struct Listening {
    pub(crate) fleet: Arc<Fleet>,
    wanted: Vec<Wanted>,
    /// Whether the data directory tells when the server before was killed, or holds what it heard.
    knows_its_past: bool,
}

impl Listening {
    /// Opens the spool, and starts the sources whose connections are known from before: what their brokers tell while the
    /// log is being opened would be gone otherwise.
    pub(crate) async fn begin(config: &ServeConfig, dir: &DataDir, default: Option<Uuid>) -> anyhow::Result<Self> {
        let spool = match config.spool_size {
            Some(bytes) => {
                let place = dir.path().join("spool");
                Some(tokio::task::spawn_blocking(move || Spool::open(&place, bytes)).await??)
            }
            None => None,
        };
        let away_since = dir.killed_at().map(timestamp);
        let knows_its_past = away_since.is_some() || spool.as_ref().is_some_and(|spool| spool.total().arrays > 0);
        let habits = Habits { redaction: config.redaction.clone(), enable_events: config.enable_events, away_since };
        let fleet = Fleet::open(dir.path().join(FILE), Outlet::new(spool), habits)?;
        let configured = config.celery.iter().map(|spec| Wanted {
            name: None,
            connection: spec.name.clone(),
            url: spec.url.clone(),
            origin: Origin::Configuration,
        });
        let added = fleet.added().await.into_iter().map(|added| Wanted {
            name: Some(added.name),
            connection: Some(added.connection),
            url: added.url,
            origin: Origin::Api,
        });
        let wanted = configured.chain(added).collect();
        let listening = Self { fleet: Arc::new(fleet), wanted, knows_its_past };
        for wanted in listening.wanted.iter().filter(|wanted| wanted.url.forgets()) {
            let of = wanted.connection.as_deref().unwrap_or(DEFAULT);
            let connection =
                if of == DEFAULT && default.is_some() { default } else { listening.fleet.known_connection(of).await };
            if let Some(connection) = connection {
                listening.start(wanted, of, connection)?;
            }
        }
        Ok(listening)
    }

    /// Sees to it that all sources run, each for the connection that it belongs to, and lets them write to the log.
    pub(crate) async fn complete(&self, stack: &Stack, default: &Connection) -> anyhow::Result<()> {
        let mut connections = BTreeMap::from([(DEFAULT.to_owned(), default.id)]);
        let mut meant = Vec::new();
        for wanted in &self.wanted {
            if !self.is_still(wanted).await {
                continue;
            }
            let connection = match &wanted.connection {
                Some(name) => stack.connections.ensure(name).await?,
                None => default.clone(),
            };
            let name = wanted.name.clone().unwrap_or_else(|| connection.name.clone());
            stack.projector.live().expect_source(connection.id, &name);
            if !self.knows_its_past {
                was_away(&stack.log, connection.id, &name).await;
            }
            connections.insert(wanted.connection.clone().unwrap_or_else(|| DEFAULT.to_owned()), connection.id);
            meant.push((wanted, name, connection.id));
        }
        // A connection that was deleted meanwhile has another id.
        self.fleet
            .stop_but(|name, connection| meant.iter().any(|(_, meant, id)| meant == name && *id == connection))
            .await;
        self.fleet.outlet().attach(&stack.log);
        let queues = stack.queues();
        self.fleet.know_queues(move |connection| queues(connection, now()));
        for (wanted, name, connection) in meant {
            if !self.is_still(wanted).await {
                stack.projector.live().forget_source(connection, &name);
            } else if !self.fleet.runs(&name, &wanted.url, connection) {
                self.start(wanted, &name, connection)?;
            }
        }
        self.fleet.remember_connections(connections).await.context("cannot write to the data directory")
    }

    /// Whether it is to run even now: what the API added can be removed there before the log is open.
    async fn is_still(&self, wanted: &Wanted) -> bool {
        match (wanted.origin, &wanted.name) {
            (Origin::Api, Some(name)) => self.fleet.is_added(name).await,
            _ => true,
        }
    }

    /// Goes on with other sources of the configuration: those that are not declared any more are removed, those that are
    /// new are started. One that cannot be is told, and stops no other.
    pub(crate) async fn reload(
        &self,
        stack: &Stack,
        default: &Connection,
        before: &[SourceSpec],
        now: &[SourceSpec],
    ) -> anyhow::Result<()> {
        let is_among = |specs: &[SourceSpec], spec: &SourceSpec| specs.iter().any(|other| other.is_written_as(spec));
        for spec in before.iter().filter(|spec| !is_among(now, spec)) {
            let connection = connection_of(spec, stack, default).await?;
            if self.fleet.retire(&connection.name, &spec.url, connection.id).await {
                stack.projector.live().forget_source(connection.id, &connection.name);
                tracing::info!(source = connection.name, broker = %spec.url, "source removed, as configured");
            }
        }
        for spec in now.iter().filter(|spec| !is_among(before, spec)) {
            let connection = connection_of(spec, stack, default).await?;
            stack.projector.live().expect_source(connection.id, &connection.name);
            match self.fleet.start(&connection.name, &spec.url, connection.id, Origin::Configuration) {
                Ok(()) => tracing::info!(source = connection.name, broker = %spec.url, "source added, as configured"),
                Err(error) => {
                    stack.projector.live().forget_source(connection.id, &connection.name);
                    tracing::error!(source = connection.name, broker = %spec.url, %error, "a source cannot be started");
                }
            }
        }
        let mut connections = BTreeMap::from([(DEFAULT.to_owned(), default.id)]);
        for spec in now {
            let connection = connection_of(spec, stack, default).await?;
            connections.insert(spec.name.clone().unwrap_or_else(|| DEFAULT.to_owned()), connection.id);
        }
        for added in self.fleet.added().await {
            let connection = stack.connections.ensure(&added.connection).await?;
            connections.insert(added.connection, connection.id);
        }
        self.fleet.remember_connections(connections).await.context("cannot write to the data directory")
    }

    fn start(&self, wanted: &Wanted, name: &str, connection: Uuid) -> anyhow::Result<()> {
        let name = wanted.name.as_deref().unwrap_or(name);
        match self.fleet.start(name, &wanted.url, connection, wanted.origin) {
            // It was added first, and configured later.
            Err(error @ FleetError::Same(_)) if wanted.origin == Origin::Api => {
                tracing::warn!(source = name, %error, "left out");
                Ok(())
            }
            started => started.with_context(|| format!("the source {name} ({})", wanted.url)),
        }
    }

    /// Stops all of them, and waits until log or spool have what they heard.
    pub(crate) async fn stop(&self) {
        self.fleet.stop().await;
    }

    /// Closes the spool, after the log.
    pub(crate) async fn close(&self) {
        if let Some(spool) = self.fleet.outlet().spool() {
            spool.close().await;
        }
    }
}
