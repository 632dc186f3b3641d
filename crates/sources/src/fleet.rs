//! All sources of a server: those of its configuration, and those that were added while it ran, which are kept in a file
//! beside the log. They hold passwords, and the log is read by many.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use event_log::Outlet;
use parking_lot::RwLock;
use proto_events::Timestamp;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::redact::Redaction;
use crate::source::{SourceConfig, SourceHandle};
use crate::spec::{BrokerUrl, SpecError, is_name};
use crate::status::{Figures, Identity, SourceStatus, SpoolStatus};

/// Sources of one server; each has threads of its own.
const MOST: usize = 100;

/// All sources of a server.
pub struct Fleet {
    outlet: Outlet,
    habits: Habits,
    file: PathBuf,
    kept: Mutex<Kept>,
    queues: OnceLock<QueuesOf>,
    members: RwLock<Vec<Member>>,
}

/// What all sources of a server do alike.
#[derive(Clone, Debug, Default)]
pub struct Habits {
    /// What is kept out of the log.
    pub redaction: Redaction,
    /// Ask workers that send no events of their tasks to send them.
    pub enable_events: bool,
    /// Since when nobody listened, where the process before this one was killed. Of a source that is new then nothing
    /// was known, and nothing is.
    pub away_since: Option<Timestamp>,
}

/// The queues that jobs of a connection went through lately.
type QueuesOf = Box<dyn Fn(Uuid) -> Vec<String> + Send + Sync>;

/// A source that runs.
struct Member {
    name: String,
    origin: Origin,
    connection: Uuid,
    url: BrokerUrl,
    handle: SourceHandle,
}

/// Who declared a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "SourceOrigin"))]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Flags, the environment or the configuration file.
    Configuration,
    /// The API, while the server ran.
    Api,
}

/// A source as it is listed.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "ListedSource"))]
#[serde(rename_all = "camelCase")]
pub struct ListedSource {
    /// How it is.
    #[serde(flatten)]
    pub status: SourceStatus,
    /// Who declared it; only what the API added can be removed there.
    pub origin: Origin,
    /// Whose its events are.
    pub connection_id: Uuid,
}

/// A source that was added while a server ran.
#[derive(Clone)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// The name of the connection that its events belong to.
    pub connection: String,
    /// The broker.
    pub url: BrokerUrl,
}

/// A source was not added or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// The name cannot be used.
    #[error("a source's name has 1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit")]
    Name,
    /// There is one of this name.
    #[error("there is a source named {0} already")]
    Taken(String),
    /// Another source brings the same events.
    #[error("the source {0} listens to the same broker for the same connection already")]
    Same(String),
    /// There are too many.
    #[error("there are {MOST} sources already, and a server has no more")]
    TooMany,
    /// The URL cannot be used.
    #[error(transparent)]
    Url(#[from] SpecError),
    /// There is none of this name.
    #[error("there is no such source")]
    Unknown,
    /// It is declared elsewhere.
    #[error(
        "the source {0} is declared by the configuration (--celery, FOREBAY_CELERY or a file): remove it there, and restart"
    )]
    Configured(String),
    /// The file could not be read or written.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said, or what is wrong with it.
        cause: io::Error,
    },
    /// The system gives no thread.
    #[error("a source cannot be started: {0}")]
    Spawn(io::Error),
}

/// The file.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kept {
    added: Vec<KeptSource>,
    /// Ids of connections by their names as sources of this server were last started for them, so that they can be
    /// started before anybody can be asked.
    connections: BTreeMap<String, Uuid>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptSource {
    name: String,
    connection: String,
    /// With its password.
    url: String,
}

impl Fleet {
    /// An empty fleet that writes to this outlet. What was added while a server ran before is in the file.
    pub fn open(file: PathBuf, outlet: Outlet, habits: Habits) -> Result<Self, FleetError> {
        let kept = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                // What is there instead may be a URL with its password.
                let (line, column) = (error.line(), error.column());
                let damaged = format!(
                    "it is damaged in line {line}, column {column}: restore it, or remove it and add its brokers again"
                );
                io::Error::new(io::ErrorKind::InvalidData, damaged)
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept::default()),
            Err(error) => Err(error),
        };
        let kept = kept.map_err(|cause| FleetError::File { path: file.clone(), cause })?;
        Ok(Self { outlet, habits, file, kept: Mutex::new(kept), queues: OnceLock::new(), members: RwLock::default() })
    }

    /// Where the sources write.
    pub fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    /// Lets sources that are started from now on know of the queues that jobs of their connection went through lately; a
    /// second call changes nothing.
    pub fn know_queues(&self, queues: impl Fn(Uuid) -> Vec<String> + Send + Sync + 'static) {
        let _ = self.queues.set(Box::new(queues));
    }

    /// The sources that were added while a server ran. One whose URL this version cannot read is left out, loudly.
    pub async fn added(&self) -> Vec<Added> {
        let kept = self.kept.lock().await;
        let read = kept.added.iter().filter_map(|source| {
            let KeptSource { name, connection, url } = source.clone();
            match url.parse() {
                Ok(url) => Some(Added { name, connection, url }),
                Err(error) => {
                    tracing::error!(source = name, %error, "a source that was added before cannot be started");
                    None
                }
            }
        });
        read.collect()
    }

    /// Whether a source of this name was added while a server ran, and not removed since.
    pub async fn is_added(&self, name: &str) -> bool {
        self.kept.lock().await.added.iter().any(|source| source.name == name)
    }

    /// The id that a connection of this name last had.
    pub async fn known_connection(&self, name: &str) -> Option<Uuid> {
        self.kept.lock().await.connections.get(name).copied()
    }

    /// Keeps the ids of connections for the next start, and forgets all others.
    pub async fn remember_connections(&self, connections: BTreeMap<String, Uuid>) -> Result<(), FleetError> {
        let mut kept = self.kept.lock().await;
        if kept.connections == connections {
            return Ok(());
        }
        self.keep(&mut kept, |kept| kept.connections = connections)
    }

    /// Starts a source. Must be called within a tokio runtime.
    pub fn start(&self, name: &str, url: &BrokerUrl, connection: Uuid, origin: Origin) -> Result<(), FleetError> {
        // Before the lock: this reads the views, and whoever lists the sources would wait for it.
        let queues = self.queues.get().map(|queues| queues(connection)).unwrap_or_default();
        let mut members = self.members.write();
        refuse(&members, None, url, connection)?;
        let config = SourceConfig {
            name: name.to_owned(),
            url: url.clone(),
            connection,
            redaction: self.habits.redaction.clone(),
            enable_events: self.habits.enable_events,
            away_since: self.habits.away_since,
            queues,
        };
        let handle = config.spawn(&self.outlet).map_err(FleetError::Spawn)?;
        members.push(Member { name: name.to_owned(), origin, connection, url: url.clone(), handle });
        Ok(())
    }

    /// Whether a source for this connection runs, under this name and from this broker.
    pub fn runs(&self, name: &str, url: &BrokerUrl, connection: Uuid) -> bool {
        let is_it =
            |member: &Member| member.name == name && member.connection == connection && member.url.is_same_as(url);
        self.members.read().iter().any(is_it)
    }

    /// Stops the sources that write for a connection which the condition does not hold for.
    pub async fn stop_but(&self, holds: impl Fn(&str, Uuid) -> bool) {
        let strays = {
            let mut members = self.members.write();
            let (kept, strays): (Vec<_>, Vec<_>) =
                std::mem::take(&mut *members).into_iter().partition(|member| holds(&member.name, member.connection));
            *members = kept;
            strays
        };
        strays.into_iter().map(|member| member.handle.stop()).collect::<JoinSet<()>>().join_all().await;
    }

    /// Whether a source could be added, before a connection is made for it.
    pub fn check(&self, name: &str, url: &str) -> Result<BrokerUrl, FleetError> {
        if !is_name(name) {
            return Err(FleetError::Name);
        }
        let url = url.trim().parse()?;
        refuse(&self.members.read(), Some(name), &url, Uuid::nil())?;
        Ok(url)
    }

    /// Adds a source while the server runs, and keeps it for the next start.
    pub async fn add(&self, name: &str, url: &str, connection: Uuid, of: &str) -> Result<ListedSource, FleetError> {
        let broker = self.check(name, url)?;
        let mut kept = self.kept.lock().await;
        refuse(&self.members.read(), Some(name), &broker, connection)?;
        let source = KeptSource { name: name.to_owned(), connection: of.to_owned(), url: url.trim().to_owned() };
        let before = kept.clone();
        self.keep(&mut kept, |kept| {
            // One that could not be started, or it would be among the members.
            kept.added.retain(|source| source.name != name);
            kept.added.push(source);
            kept.connections.insert(of.to_owned(), connection);
        })?;
        if let Err(error) = self.start(name, &broker, connection, Origin::Api) {
            if let Err(error) = self.keep(&mut kept, |kept| *kept = before) {
                tracing::error!(source = name, %error, "a source that did not start is started again by a restart");
            }
            return Err(error);
        }
        self.list().into_iter().find(|source| source.status.name == name).ok_or(FleetError::Unknown)
    }

    /// Removes a source that was added while the server ran; nothing of it is left behind at the broker. What it has
    /// heard is written first. One that does not run is forgotten: what it once made at its broker expires there.
    pub async fn remove(&self, name: &str) -> Result<ListedSource, FleetError> {
        let ours = |member: &Member| member.name == name && member.origin == Origin::Api;
        let mut kept = self.kept.lock().await;
        let running = {
            let members = self.members.read();
            let found = members.iter().find(|member| ours(member)).map(Member::listed);
            if found.is_none() && members.iter().any(|member| member.name == name) {
                return Err(FleetError::Configured(name.to_owned()));
            }
            found
        };
        let listed = match running {
            Some(listed) => listed,
            None => kept.at_rest(name).ok_or(FleetError::Unknown)?,
        };
        self.keep(&mut kept, |kept| kept.added.retain(|source| source.name != name))?;
        let gone = {
            let mut members = self.members.write();
            let at = members.iter().position(ours);
            at.map(|at| members.remove(at))
        };
        // Its last words may take long, and the others need not wait for them.
        drop(kept);
        if let Some(member) = gone {
            member.handle.remove().await;
        }
        Ok(listed)
    }

    /// Removes a source that the configuration does not declare any more; nothing of it is left behind at the broker. What
    /// it has heard is written first. Whether there was one.
    pub async fn retire(&self, name: &str, url: &BrokerUrl, connection: Uuid) -> bool {
        let gone = {
            let mut members = self.members.write();
            let at = members.iter().position(|member| {
                member.origin == Origin::Configuration
                    && member.name == name
                    && member.connection == connection
                    && member.url.is_same_as(url)
            });
            at.map(|at| members.remove(at))
        };
        let found = gone.is_some();
        if let Some(member) = gone {
            member.handle.remove().await;
        }
        found
    }

    /// All of them, in the order in which they were started.
    pub fn list(&self) -> Vec<ListedSource> {
        self.members.read().iter().map(Member::listed).collect()
    }

    /// What waits in the spool in all, where there is one.
    pub fn spool(&self) -> Option<SpoolStatus> {
        self.outlet.spool().map(|spool| spool.total().into())
    }

    /// Stops all, and waits until log or spool have what they heard.
    pub async fn stop(&self) {
        self.stop_but(|_, _| false).await;
    }

    /// What is not in the file is not so.
    fn keep(&self, kept: &mut Kept, change: impl FnOnce(&mut Kept)) -> Result<(), FleetError> {
        let mut changed = kept.clone();
        change(&mut changed);
        write(&self.file, &changed).map_err(|cause| FleetError::File { path: self.file.clone(), cause })?;
        *kept = changed;
        Ok(())
    }
}

/// Two of one name could not be told apart where one is to be removed, and two that bring the same events bring nothing
/// but work.
fn refuse(members: &[Member], name: Option<&str>, url: &BrokerUrl, connection: Uuid) -> Result<(), FleetError> {
    if let Some(taken) = name.filter(|name| members.iter().any(|member| member.name == *name)) {
        return Err(FleetError::Taken(taken.to_owned()));
    }
    let same = |member: &&Member| member.connection == connection && member.url.is_same_as(url);
    if let Some(member) = members.iter().find(same) {
        return Err(FleetError::Same(member.name.clone()));
    }
    if members.len() >= MOST { Err(FleetError::TooMany) } else { Ok(()) }
}

impl Kept {
    /// How a source looks that is kept and does not run.
    fn at_rest(&self, name: &str) -> Option<ListedSource> {
        let source = self.added.iter().find(|source| source.name == name)?;
        let (kind, url_masked) = match source.url.parse::<BrokerUrl>() {
            Ok(BrokerUrl::Redis(url)) => ("celery-redis", url.masked().to_owned()),
            Ok(BrokerUrl::Amqp(url)) => ("celery-rabbitmq", url.masked().to_owned()),
            // Nobody can tell where its password begins.
            Err(_) if source.url.starts_with("amqp") => ("celery-rabbitmq", "***".to_owned()),
            Err(_) => ("celery-redis", "***".to_owned()),
        };
        let figures = Figures::new();
        figures.lost(Instant::now(), false, "it does not run");
        let status = figures.status(&Identity { name, kind, url_masked: &url_masked, dropped: 0, queue_bytes: 0 });
        let connection_id = self.connections.get(&source.connection).copied().unwrap_or_default();
        Some(ListedSource { status, origin: Origin::Api, connection_id })
    }
}

impl Member {
    fn listed(&self) -> ListedSource {
        ListedSource { status: self.handle.status(), origin: self.origin, connection_id: self.connection }
    }
}

/// Whole or not at all, and for its owner alone.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    // Nobody else may read it: so it is with every temporary file.
    let mut file = NamedTempFile::new_in(dir)?;
    serde_json::to_writer_pretty(&mut file, kept)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(dir)?.sync_all()
}
