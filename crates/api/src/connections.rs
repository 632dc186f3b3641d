//! Connections: each is one sender with its own jobs and at most one API key. They live in the log's key-value bucket,
//! so that every node knows them; each node keeps a copy in memory and follows the changes.
//!
//! Of a key only a keyed hash is stored. Keys that we make are long and random; one from the environment may be weaker,
//! and there the bucket's own secret keeps tables of hashes made elsewhere from being of use. A connection that came
//! from another bucket keeps that one's secret beside its hash, so that its key stays good.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use bytes::Bytes;
use event_log::{Kv, KvChange, KvError};
use proto_events::Timestamp;
use rand::Rng as _;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use uuid::Uuid;

/// The name of the connection that the configuration defines.
pub const DEFAULT: &str = "default";

const PREFIX: &str = "connections.";
const SECRET: &str = "settings.key-secret";
const NAME_CHARACTERS: usize = 255;
const KEY_CHARACTERS: usize = 40;

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
    /// The keyed hash of its API key, in hex; none where nothing is sent over HTTP.
    key_hash: Option<String>,
    /// The secret that the hash was made with, in hex; none where it is the bucket's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_secret: Option<String>,
}

impl Connection {
    /// Whether it has an API key.
    pub fn has_key(&self) -> bool {
        self.key_hash.is_some()
    }

    /// The same without its key.
    #[must_use]
    pub fn without_key(self) -> Self {
        Self { key_hash: None, key_secret: None, ..self }
    }
}

/// Why a connection cannot be made, found or deleted.
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
    #[error("The default connection belongs to the server's configuration and cannot be deleted.")]
    IsDefault,
    /// The bucket holds something else than a connection or a secret where one should be.
    #[error("the stored settings are damaged at {key}")]
    Damaged {
        /// Where.
        key: String,
    },
    /// The bucket did not answer; try again.
    #[error(transparent)]
    Store(#[from] KvError),
}

/// The default connection, as the configuration gives it.
#[derive(Clone, Debug, Default)]
pub struct DefaultConnection {
    /// Its id.
    pub id: Option<Uuid>,
    /// Its API key.
    pub key: Option<String>,
}

/// All connections.
pub struct Connections {
    kv: Kv,
    secret: [u8; 32],
    /// By their keys in the bucket. Never locked across an await.
    known: RwLock<HashMap<String, Connection>>,
    watcher: RwLock<Option<AbortHandle>>,
}

impl Drop for Connections {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.get_mut().unwrap_or_else(PoisonError::into_inner) {
            watcher.abort();
        }
    }
}

impl Connections {
    /// Reads all connections and follows their changes from then on.
    pub async fn open(kv: Kv) -> Result<Arc<Self>, ConnectionError> {
        let secret = secret(&kv).await?;
        let mut known = HashMap::new();
        for (key, value) in kv.entries().await? {
            if let Some(connection) = decode(&key, &value) {
                known.insert(key, connection);
            }
        }
        let connections =
            Arc::new(Self { kv: kv.clone(), secret, known: RwLock::new(known), watcher: RwLock::default() });
        let watcher = tokio::spawn(follow(kv, Arc::downgrade(&connections))).abort_handle();
        *connections.watcher.write().unwrap_or_else(PoisonError::into_inner) = Some(watcher);
        Ok(connections)
    }

    /// All of them, in the order of their making.
    pub fn list(&self) -> Vec<Connection> {
        let mut all = self.read(|known| known.values().cloned().collect::<Vec<_>>());
        all.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
        all
    }

    /// The ids of all of them.
    pub fn ids(&self) -> Vec<Uuid> {
        self.read(|known| known.values().map(|connection| connection.id).collect())
    }

    /// The connection that this API key belongs to. Where several have the same key, every node says the same one: that
    /// of the configuration, else the oldest.
    pub fn by_key(&self, key: &str) -> Option<Uuid> {
        let ours = self.hash(key);
        // Every hash is compared, and BLAKE3's comparison takes the same time wherever two differ.
        let matches = |connection: &&Connection| {
            let stored = connection.key_hash.as_deref().and_then(|stored| blake3::Hash::from_hex(stored).ok());
            let hash = match &connection.key_secret {
                None => Some(ours),
                Some(secret) => secret_of(secret).map(|secret| blake3::keyed_hash(&secret, key.as_bytes())),
            };
            stored.is_some() && stored == hash
        };
        let rank = |connection: &&Connection| (connection.name != DEFAULT, connection.created_at, connection.id);
        self.read(|known| known.values().filter(matches).min_by_key(rank).map(|connection| connection.id))
    }

    /// The connection of this name or id.
    pub fn find(&self, name_or_id: &str) -> Option<Connection> {
        let id = Uuid::try_parse(name_or_id).ok();
        let wanted = |connection: &&Connection| connection.name == name_or_id || Some(connection.id) == id;
        self.read(|known| known.values().find(wanted).cloned())
    }

    /// Makes a connection; the text is its API key, which nobody can be told again.
    pub async fn create(&self, name: &str) -> Result<(Connection, String), ConnectionError> {
        let name = checked_name(name)?;
        let key = new_key();
        let connection = Connection {
            id: Uuid::new_v4(),
            name: name.to_owned(),
            created_at: now(),
            key_hash: Some(self.hash(&key).to_string()),
            key_secret: None,
        };
        self.store_new(&connection).await?;
        Ok((connection, key))
    }

    /// The connection of this name, made without an API key if there is none.
    pub async fn ensure(&self, name: &str) -> Result<Connection, ConnectionError> {
        let name = checked_name(name)?;
        if let Some(connection) = self.find(name) {
            return Ok(connection);
        }
        let name = name.to_owned();
        let connection = Connection { id: Uuid::new_v4(), name, created_at: now(), key_hash: None, key_secret: None };
        match self.store_new(&connection).await {
            Ok(()) => Ok(connection),
            // Another node made it in this moment.
            Err(ConnectionError::Taken(name)) => self.stored(&name).await?.ok_or(ConnectionError::Unknown),
            Err(error) => Err(error),
        }
    }

    /// Makes the default connection what the configuration says; what that leaves open stays as it is.
    pub async fn ensure_default(&self, wanted: &DefaultConnection) -> Result<Connection, ConnectionError> {
        let stored = self.stored(DEFAULT).await?;
        let (key_hash, key_secret) = match &wanted.key {
            Some(key) => (Some(self.hash(key).to_string()), None),
            None => stored.clone().map(|stored| (stored.key_hash, stored.key_secret)).unwrap_or_default(),
        };
        let connection = Connection {
            id: wanted.id.or(stored.as_ref().map(|stored| stored.id)).unwrap_or_else(Uuid::new_v4),
            name: DEFAULT.to_owned(),
            created_at: stored.as_ref().map_or_else(now, |stored| stored.created_at),
            key_hash,
            key_secret,
        };
        match stored {
            Some(stored) if stored == connection => {}
            Some(stored) => {
                self.keep_former_default(&stored, &connection).await?;
                self.store(&connection).await?;
            }
            None => self.store_new(&connection).await?,
        }
        Ok(connection)
    }

    /// Deletes the connection of this name or id: its key is good for nothing from now on. Its jobs stay.
    pub async fn delete(&self, name_or_id: &str) -> Result<Connection, ConnectionError> {
        let connection = self.find(name_or_id).ok_or(ConnectionError::Unknown)?;
        if connection.name == DEFAULT {
            return Err(ConnectionError::IsDefault);
        }
        let key = store_key(&connection.name);
        self.kv.delete(&key).await?;
        self.write(|known| known.remove(&key));
        Ok(connection)
    }

    /// All of them, or this one alone, such that their keys are good in any bucket that takes them in.
    pub fn export(&self, only: Option<Uuid>) -> Vec<Connection> {
        let mut all = self.list();
        all.retain(|connection| only.is_none_or(|only| connection.id == only));
        for connection in &mut all {
            if connection.key_hash.is_some() {
                connection.key_secret.get_or_insert_with(|| blake3::Hash::from_bytes(self.secret).to_string());
            }
        }
        all
    }

    /// Takes in a connection of another bucket. One whose id is known stays as it is, but gets the key if it has none;
    /// a name that is taken gets the beginning of the id behind it. The answer is how it stands here.
    pub async fn import(&self, connection: Connection) -> Result<Connection, ConnectionError> {
        let own_secret = connection.key_secret.as_deref().and_then(secret_of) == Some(self.secret);
        let key_secret = connection.key_secret.clone().filter(|_| !own_secret);
        let connection = Connection { key_secret, ..connection };
        if let Some(known) = self.find(&connection.id.to_string()) {
            if known.has_key() || !connection.has_key() {
                return Ok(known);
            }
            let Connection { key_hash, key_secret, .. } = connection;
            let with_key = Connection { key_hash, key_secret, ..known };
            self.store(&with_key).await?;
            return Ok(with_key);
        }
        let name = checked_name(&connection.name)?.to_owned();
        match self.store_new(&Connection { name: name.clone(), ..connection.clone() }).await {
            Ok(()) => Ok(Connection { name, ..connection }),
            Err(ConnectionError::Taken(_)) => {
                let connection = Connection { name: with_id(&name, connection.id), ..connection };
                self.store_new(&connection).await?;
                Ok(connection)
            }
            Err(error) => Err(error),
        }
    }

    /// Where the configuration has given the default connection another id, the jobs of the former one stay readable
    /// under a name of its own, without a key.
    async fn keep_former_default(&self, former: &Connection, new: &Connection) -> Result<(), ConnectionError> {
        if former.id == new.id {
            return Ok(());
        }
        let name = with_id(DEFAULT, former.id);
        tracing::info!(former = %former.id, new = %new.id, %name, "the default connection has a new id");
        self.store(&Connection { name, ..former.clone().without_key() }).await
    }

    /// What the bucket holds now, which the copy may not know yet.
    async fn stored(&self, name: &str) -> Result<Option<Connection>, ConnectionError> {
        let key = store_key(name);
        let Some(value) = self.kv.get(&key).await? else { return Ok(None) };
        let connection = decode(&key, &value).ok_or(ConnectionError::Damaged { key: key.clone() })?;
        self.write(|known| known.insert(key, connection.clone()));
        Ok(Some(connection))
    }

    async fn store_new(&self, connection: &Connection) -> Result<(), ConnectionError> {
        let key = store_key(&connection.name);
        match self.kv.create(&key, encode(connection)).await {
            Ok(()) => {}
            Err(KvError::Exists { .. }) => return Err(ConnectionError::Taken(connection.name.clone())),
            Err(error) => return Err(error.into()),
        }
        self.write(|known| known.insert(key, connection.clone()));
        Ok(())
    }

    async fn store(&self, connection: &Connection) -> Result<(), ConnectionError> {
        let key = store_key(&connection.name);
        self.kv.put(&key, encode(connection)).await?;
        self.write(|known| known.insert(key, connection.clone()));
        Ok(())
    }

    fn hash(&self, key: &str) -> blake3::Hash {
        blake3::keyed_hash(&self.secret, key.as_bytes())
    }

    fn apply(&self, change: KvChange) {
        match change {
            KvChange::Put { key, value } => {
                if let Some(connection) = decode(&key, &value) {
                    self.write(|known| known.insert(key, connection));
                }
            }
            KvChange::Deleted { key } => {
                self.write(|known| known.remove(&key));
            }
        }
    }

    // A panic while the lock was held leaves a map that is whole, so it goes on being used.
    fn read<T>(&self, of: impl FnOnce(&HashMap<String, Connection>) -> T) -> T {
        of(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut HashMap<String, Connection>) -> T) -> T {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn follow(kv: Kv, connections: Weak<Connections>) {
    let mut changes = kv.watch();
    loop {
        let change = changes.next().await;
        let Some(connections) = connections.upgrade() else { return };
        connections.apply(change);
    }
}

/// The secret that keys are hashed with, made by the first node that needs it.
async fn secret(kv: &Kv) -> Result<[u8; 32], ConnectionError> {
    let made: [u8; 32] = rand::random();
    match kv.create(SECRET, Bytes::copy_from_slice(&made)).await {
        Ok(()) => return Ok(made),
        Err(KvError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let stored = kv.get(SECRET).await?;
    let secret = stored.as_deref().and_then(|stored| stored.try_into().ok());
    secret.ok_or_else(|| ConnectionError::Damaged { key: SECRET.to_owned() })
}

fn secret_of(text: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(text).ok().map(|secret| *secret.as_bytes())
}

/// A name that is taken, made free with the beginning of an id.
fn with_id(name: &str, id: Uuid) -> String {
    let id = id.simple().to_string();
    let name: String = name.chars().take(NAME_CHARACTERS - 9).collect();
    format!("{name}-{}", id.get(..8).unwrap_or_default())
}

/// Keys of the bucket take few characters, names take any.
fn store_key(name: &str) -> String {
    let hash = blake3::hash(name.as_bytes()).to_hex();
    format!("{PREFIX}{}", &hash[..32])
}

fn encode(connection: &Connection) -> Bytes {
    serde_json::to_vec(connection).expect("a connection is plain texts").into()
}

fn decode(key: &str, value: &[u8]) -> Option<Connection> {
    if !key.starts_with(PREFIX) {
        return None;
    }
    match serde_json::from_slice(value) {
        Ok(connection) => Some(connection),
        Err(error) => {
            tracing::error!(key, %error, "a stored connection cannot be read and is left out");
            None
        }
    }
}

fn checked_name(name: &str) -> Result<&str, ConnectionError> {
    let name = name.trim();
    let length = name.chars().count();
    let good = (1..=NAME_CHARACTERS).contains(&length) && !name.contains(char::is_control);
    if good && Uuid::try_parse(name).is_err() { Ok(name) } else { Err(ConnectionError::BadName) }
}

/// A new API key: random, too long to be guessed.
pub fn new_key() -> String {
    let random = rand::rng().sample_iter(Alphanumeric).take(KEY_CHARACTERS).map(char::from);
    format!("sk_live_{}", random.collect::<String>())
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
