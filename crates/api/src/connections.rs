//! Connections: each is one sender with its own jobs and at most one API key. They live in the log's key-value bucket,
//! so that every node knows them; each node keeps a copy in memory and follows the changes.
//!
//! A connection is one entry of the bucket for all its life, and whatever changes it (its name, its key) is one write of
//! that entry, which fails if it is not as it was read. So no crash can lose a connection or its key, or double it, and
//! of two changes at once none is lost. That no two have the same name takes a second entry, the name's claim: it is
//! taken before the name is, and confirmed after. A claim whose holder does not have the name is anybody's after a
//! while: who was too slow finds at the confirmation that it lost, and takes back what it did.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use event_log::{Kv, KvError};
use proto_events::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::hashed::{HashedKey, Secret, made_up};
use crate::kept::{Kept, KeptError, Stored, key_of_name};

/// The name of the connection that the configuration defines.
pub const DEFAULT: &str = "default";

const PREFIX: &str = "connections.";
const NAMES: &str = "names.";
const KEY_PREFIX: &str = "sk_live_";
const NAME_CHARACTERS: usize = 255;

/// How long somebody else's claim of a name that nobody has is respected: who is alive has the name by then.
const CLAIM_TIME: Duration = Duration::from_secs(1);
const CLAIM_LOOK: Duration = Duration::from_millis(50);

/// A connection, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// What its jobs' ids are made from.
    pub id: Uuid,
    /// For people; unique.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its API key; none where nothing is sent over HTTP.
    #[serde(flatten)]
    key: HashedKey,
    /// Whether a server's configuration gives that key, and so would give it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    key_is_configured: bool,
}

impl Connection {
    fn new(name: String, key: HashedKey) -> Self {
        Self { id: Uuid::new_v4(), name, created_at: now(), key, key_is_configured: false }
    }

    /// Whether it has an API key.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// The same without its key.
    #[must_use]
    pub fn without_key(self) -> Self {
        Self { key: HashedKey::default(), key_is_configured: false, ..self }
    }

    /// Where it is stored. The default one has a place of its own, whichever its id; those that were made by earlier
    /// versions stay where they are, by the hash of the name that they had first.
    fn place(&self) -> String {
        if self.name == DEFAULT { key_of_name(PREFIX, DEFAULT) } else { format!("{PREFIX}{}", self.id.simple()) }
    }
}

/// Why a connection cannot be made, found or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// Choose another name.
    #[error("A connection named {0:?} exists already.")]
    Taken(String),
    /// Choose a proper name.
    #[error("A name has 1 to {NAME_CHARACTERS} printable characters and is not a UUID.")]
    BadName,
    /// There is no such connection.
    #[error("There is no such connection.")]
    Unknown,
    /// The configuration would make it again.
    #[error("The default connection and its name belong to the server's configuration: it is not renamed nor deleted.")]
    IsDefault,
    /// The configuration would set it back.
    #[error(
        "The key of the default connection is given by the server's configuration (FOREBAY_API_KEY): change it there and restart the server."
    )]
    KeyIsConfigured,
    /// The bucket holds something else than should be there, or did not answer.
    #[error(transparent)]
    Kept(#[from] KeptError),
}

impl From<KvError> for ConnectionError {
    fn from(error: KvError) -> Self {
        Self::Kept(error.into())
    }
}

/// The default connection, as the configuration gives it.
#[derive(Clone, Debug, Default)]
pub struct DefaultConnection {
    /// Its id.
    pub id: Option<Uuid>,
    /// Its API key.
    pub key: Option<String>,
    /// Its API key where it has none yet and none is configured.
    pub first_key: Option<String>,
}

/// All connections.
pub struct Connections {
    kv: Kv,
    kept: Arc<Kept<Connection>>,
    secret: Secret,
    /// Whether this process's configuration gives the key of the default one.
    key_is_configured: AtomicBool,
}

/// The right to take a name, until somebody else has it.
struct Claim {
    key: String,
    holder: Uuid,
    revision: u64,
}

impl Connections {
    /// Reads all connections and follows their changes from then on.
    pub async fn open(kv: Kv) -> Result<Arc<Self>, ConnectionError> {
        let secret = Secret::open(&kv).await?;
        let kept = Kept::open(kv.clone(), PREFIX).await?;
        Ok(Arc::new(Self { kv, kept, secret, key_is_configured: AtomicBool::new(false) }))
    }

    /// All of them, in the order of their making.
    pub fn list(&self) -> Vec<Connection> {
        let mut all: Vec<_> = self.kept.read(|known| known.map(|(_, connection)| connection.clone()).collect());
        all.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
        all
    }

    /// The ids of all of them.
    pub fn ids(&self) -> Vec<Uuid> {
        self.kept.read(|known| known.map(|(_, connection)| connection.id).collect())
    }

    /// The connection that this API key belongs to. Where several have the same key, every node says the same one: that
    /// of the configuration, else the oldest.
    pub fn by_key(&self, key: &str) -> Option<Uuid> {
        // Every one is compared.
        let is_of = self.secret.is_of(key);
        let rank = |connection: &&Connection| (connection.name != DEFAULT, connection.created_at, connection.id);
        self.kept.read(|known| {
            let matching = known.map(|(_, connection)| connection).filter(|connection| is_of(&connection.key));
            matching.min_by_key(rank).map(|connection| connection.id)
        })
    }

    /// The connection of this name or id.
    pub fn find(&self, name_or_id: &str) -> Option<Connection> {
        self.placed(name_or_id).ok().map(|(_, connection)| connection)
    }

    /// Makes a connection; the text is its API key, which nobody can be told again.
    pub async fn create(&self, name: &str) -> Result<(Connection, String), ConnectionError> {
        let key = new_key();
        let connection = Connection::new(checked_name(name)?, self.secret.hashed(&key));
        self.add(&connection).await?;
        Ok((connection, key))
    }

    /// The connection of this name, made without an API key if there is none.
    pub async fn ensure(&self, name: &str) -> Result<Connection, ConnectionError> {
        let name = checked_name(name)?;
        if let Some(connection) = self.find(&name) {
            return Ok(connection);
        }
        let connection = Connection::new(name, HashedKey::default());
        match self.add(&connection).await {
            Ok(()) => Ok(connection),
            // Another node made it in this moment.
            Err(ConnectionError::Taken(name)) => {
                let all = self.kept.refresh().await?;
                all.into_iter().find(|connection| connection.name == name).ok_or(ConnectionError::Taken(name))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the default connection what the configuration says; what that leaves open stays as it is.
    pub async fn ensure_default(&self, wanted: &DefaultConnection) -> Result<Connection, ConnectionError> {
        self.key_is_configured.store(wanted.key.is_some(), Ordering::Release);
        let place = key_of_name(PREFIX, DEFAULT);
        loop {
            let stored = self.kept.get(&place).await?;
            let connection = self.configured(wanted, stored.as_ref().map(|stored| &stored.value));
            let done = match stored {
                Some(Stored { value, .. }) if value == connection => return Ok(connection),
                Some(Stored { value, revision }) => {
                    self.keep_former_default(&value, &connection).await?;
                    self.kept.update(&place, &connection, revision).await
                }
                None => self.kept.create(&place, &connection).await,
            };
            match done {
                Ok(()) => return Ok(connection),
                // Another node was quicker.
                Err(KvError::Exists { .. } | KvError::Changed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives the connection of this name or id another name; its id, its key and its jobs stay.
    pub async fn rename(&self, name_or_id: &str, name: &str) -> Result<Connection, ConnectionError> {
        let name = checked_name(name)?;
        let (place, known) = self.placed(name_or_id)?;
        if known.name == DEFAULT || name == DEFAULT {
            return Err(ConnectionError::IsDefault);
        }
        let Stored { value: former, .. } = self.kept.get(&place).await?.ok_or(ConnectionError::Unknown)?;
        if former.name == name {
            return Ok(former);
        }
        let claim = self.claim(&name, former.id).await?;
        let renamed = self
            .kept
            .change(&place, |connection| Ok::<_, ConnectionError>(Connection { name: name.clone(), ..connection }));
        let renamed = renamed.await?.ok_or(ConnectionError::Unknown)?;
        if !self.confirm(&claim).await? {
            let back = self.kept.change(&place, |connection| {
                let name = if connection.name == name { former.name.clone() } else { connection.name };
                Ok::<_, ConnectionError>(Connection { name, ..connection })
            });
            back.await?;
            return Err(ConnectionError::Taken(name));
        }
        self.release(&former).await;
        Ok(renamed)
    }

    /// Gives the connection of this name or id a new API key, which is the text; the old one is good for nothing from now
    /// on.
    pub async fn rotate(&self, name_or_id: &str) -> Result<(Connection, String), ConnectionError> {
        let (place, known) = self.placed(name_or_id)?;
        let given_here = known.name == DEFAULT && self.key_is_configured.load(Ordering::Acquire);
        let key = new_key();
        let hashed = self.secret.hashed(&key);
        let rotated = self.kept.change(&place, |connection| {
            if given_here || connection.key_is_configured {
                return Err(ConnectionError::KeyIsConfigured);
            }
            Ok(Connection { key: hashed.clone(), ..connection })
        });
        Ok((rotated.await?.ok_or(ConnectionError::Unknown)?, key))
    }

    /// Deletes the connection of this name or id: its key is good for nothing from now on. Its jobs stay.
    pub async fn delete(&self, name_or_id: &str) -> Result<Connection, ConnectionError> {
        let (place, known) = self.placed(name_or_id)?;
        if known.name == DEFAULT {
            return Err(ConnectionError::IsDefault);
        }
        let deleted = self.kept.remove(&place).await?.ok_or(ConnectionError::Unknown)?;
        self.release(&deleted).await;
        Ok(deleted)
    }

    /// All of them, or this one alone, such that their keys are good in any bucket that takes them in.
    pub fn export(&self, only: Option<Uuid>) -> Vec<Connection> {
        let mut all = self.list();
        all.retain(|connection| only.is_none_or(|only| connection.id == only));
        for connection in &mut all {
            connection.key = self.secret.exported(std::mem::take(&mut connection.key));
            connection.key_is_configured = false;
        }
        all
    }

    /// Takes in a connection of another bucket. One whose id is known stays as it is, but gets the key if it has none;
    /// a name that is taken gets the beginning of the id behind it. The answer is how it stands here.
    pub async fn import(&self, connection: Connection) -> Result<Connection, ConnectionError> {
        let key = self.secret.imported(connection.key);
        let name = checked_name(&connection.name)?;
        let connection = Connection { key, name, key_is_configured: false, ..connection };
        if let Ok((place, known)) = self.placed(&connection.id.to_string()) {
            if known.has_key() || !connection.has_key() {
                return Ok(known);
            }
            let with_key = self.kept.change(&place, |known| {
                let key = if known.has_key() { known.key } else { connection.key.clone() };
                Ok::<_, ConnectionError>(Connection { key, ..known })
            });
            return with_key.await?.ok_or(ConnectionError::Unknown);
        }
        match self.add(&connection).await {
            Err(ConnectionError::Taken(name)) => {
                let connection = Connection { name: with_id(&name, connection.id), ..connection };
                self.add(&connection).await?;
                Ok(connection)
            }
            added => added.map(|()| connection),
        }
    }

    /// The default connection as it should be.
    fn configured(&self, wanted: &DefaultConnection, stored: Option<&Connection>) -> Connection {
        let connection = stored.cloned().unwrap_or_else(|| Connection::new(DEFAULT.to_owned(), HashedKey::default()));
        let first = wanted.first_key.as_ref().filter(|_| !connection.has_key());
        let key = match wanted.key.as_ref().or(first) {
            Some(key) => self.secret.hashed(key),
            None => connection.key,
        };
        Connection {
            id: wanted.id.unwrap_or(connection.id),
            key,
            key_is_configured: wanted.key.is_some(),
            ..connection
        }
    }

    /// Where the configuration has given the default connection another id, the jobs of the former one stay readable
    /// under a name of its own, without a key.
    async fn keep_former_default(&self, former: &Connection, new: &Connection) -> Result<(), ConnectionError> {
        let is_kept = |connection: &Connection| connection.id == former.id && connection.name != DEFAULT;
        if former.id == new.id || self.kept.find(is_kept).is_some() {
            return Ok(());
        }
        let name = with_id(DEFAULT, former.id);
        tracing::info!(former = %former.id, new = %new.id, %name, "the default connection has a new id");
        let kept = Connection { name, ..former.clone().without_key() };
        match self.kept.create(&kept.place(), &kept).await {
            Ok(()) | Err(KvError::Exists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The connection of this name or id, and where it is stored.
    fn placed(&self, name_or_id: &str) -> Result<(String, Connection), ConnectionError> {
        let id = Uuid::try_parse(name_or_id).ok();
        let wanted = |(_, connection): &(&str, &Connection)| connection.name == name_or_id || Some(connection.id) == id;
        let found = self.kept.read(|known| {
            // An id that the configuration gave to the default connection may have been another's.
            let found = known.filter(wanted).min_by_key(|(_, connection)| connection.name != DEFAULT);
            found.map(|(place, connection)| (place.to_owned(), connection.clone()))
        });
        found.ok_or(ConnectionError::Unknown)
    }

    /// Stores a new connection under a name that nobody else has.
    async fn add(&self, connection: &Connection) -> Result<(), ConnectionError> {
        let (name, place) = (&connection.name, connection.place());
        // There is but one place for the default one, which is as good as a claim.
        let claim = if name == DEFAULT { None } else { Some(self.claim(name, connection.id).await?) };
        match self.kept.create(&place, connection).await {
            Ok(()) => {}
            Err(KvError::Exists { .. }) => return Err(ConnectionError::Taken(name.clone())),
            Err(error) => return Err(error.into()),
        }
        if let Some(claim) = claim
            && !self.confirm(&claim).await?
        {
            self.kept.remove(&place).await?;
            return Err(ConnectionError::Taken(name.clone()));
        }
        Ok(())
    }

    /// Claims a name for this connection.
    async fn claim(&self, name: &str, holder: Uuid) -> Result<Claim, ConnectionError> {
        let (key, value) = (key_of_name(NAMES, name), Bytes::from(holder.to_string()));
        let began = Instant::now();
        loop {
            // Before it is looked who has the name: whoever takes it after that look confirms a later claim than this.
            let held = self.kv.entry(&key).await?;
            let all = self.kept.refresh().await?;
            if all.iter().any(|connection| connection.name == name && connection.id != holder) {
                return Err(ConnectionError::Taken(name.to_owned()));
            }
            let claimed = match held {
                None => self.kv.create(&key, value.clone()).await,
                Some(held) if held.value == value || began.elapsed() > CLAIM_TIME => {
                    self.kv.update(&key, value.clone(), held.revision).await
                }
                // It is about to take the name, or died before it did.
                Some(_) => {
                    tokio::time::sleep(CLAIM_LOOK).await;
                    continue;
                }
            };
            match claimed {
                Ok(revision) => return Ok(Claim { key, holder, revision }),
                Err(KvError::Exists { .. } | KvError::Changed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the claim held until now, when the name is taken: from here on everybody sees who has it.
    async fn confirm(&self, claim: &Claim) -> Result<bool, ConnectionError> {
        match self.kv.update(&claim.key, claim.holder.to_string().into(), claim.revision).await {
            Ok(_) => Ok(true),
            Err(KvError::Changed { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives up the claim of a name that the connection has no more. Left behind it costs the next claim a second.
    async fn release(&self, former: &Connection) {
        let key = key_of_name(NAMES, &former.name);
        if let Ok(Some(claim)) = self.kv.entry(&key).await
            && claim.value == former.id.to_string()
        {
            let _ = self.kv.remove(&key, claim.revision).await;
        }
    }
}

/// A name that is taken, made free with the beginning of an id.
pub(crate) fn with_id(name: &str, id: Uuid) -> String {
    let id = id.simple().to_string();
    let name: String = name.chars().take(NAME_CHARACTERS - 9).collect();
    format!("{name}-{}", id.get(..8).unwrap_or_default())
}

fn checked_name(name: &str) -> Result<String, ConnectionError> {
    proper_name(name).ok_or(ConnectionError::BadName)
}

/// The name without blanks around it, if it is one.
pub(crate) fn proper_name(name: &str) -> Option<String> {
    let name = name.trim();
    let length = name.chars().count();
    let good = (1..=NAME_CHARACTERS).contains(&length) && !name.contains(char::is_control);
    (good && Uuid::try_parse(name).is_err()).then(|| name.to_owned())
}

/// A new API key of a connection.
pub fn new_key() -> String {
    made_up(KEY_PREFIX)
}

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
