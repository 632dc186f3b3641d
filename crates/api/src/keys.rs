//! Read keys: API keys for scripts, which may read all and change nothing. They are kept in the log's key-value bucket
//! beside the connections, so that they are good on every node, and what is deleted is good on none.

use std::sync::Arc;

use event_log::{Kv, KvError};
use proto_events::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::connections::{now, proper_name, with_id};
use crate::hashed::{HashedKey, Secret, made_up};
use crate::kept::{Kept, KeptError, key_of_name};

const PREFIX: &str = "read-keys.";
const KEY_PREFIX: &str = "rk_live_";

/// A read key, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadKey {
    /// For programs.
    pub id: Uuid,
    /// For people; unique.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    #[serde(flatten)]
    key: HashedKey,
}

/// Why a read key cannot be made or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Choose another name.
    #[error("An API key named {0:?} exists already.")]
    Taken(String),
    /// Choose a proper name.
    #[error("A name has 1 to 255 printable characters and is not a UUID.")]
    BadName,
    /// There is no such key.
    #[error("There is no such API key.")]
    Unknown,
    /// The bucket holds something else than should be there, or did not answer.
    #[error(transparent)]
    Kept(#[from] KeptError),
}

/// All read keys.
pub struct ReadKeys {
    kept: Arc<Kept<ReadKey>>,
    secret: Secret,
}

impl ReadKeys {
    /// Reads all of them and follows their changes from then on.
    pub async fn open(kv: Kv) -> Result<Arc<Self>, KeyError> {
        let secret = Secret::open(&kv).await?;
        Ok(Arc::new(Self { kept: Kept::open(kv, PREFIX).await?, secret }))
    }

    /// All of them, in the order of their making.
    pub fn list(&self) -> Vec<ReadKey> {
        let mut all: Vec<_> = self.kept.read(|known| known.map(|(_, key)| key.clone()).collect());
        all.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
        all
    }

    /// Whether this looks like one: connections' keys and tokens do not.
    pub(crate) fn may_be(key: &str) -> bool {
        key.starts_with(KEY_PREFIX)
    }

    /// Whether this is one of them.
    pub fn knows(&self, key: &str) -> bool {
        self.which(key).is_some()
    }

    /// The id and the name of this one, if it is one of them.
    pub(crate) fn which(&self, key: &str) -> Option<(Uuid, String)> {
        let is_of = self.secret.is_of(key);
        // Every one is compared.
        self.kept.read(|known| {
            known.filter(|(_, known)| is_of(&known.key)).last().map(|(_, key)| (key.id, key.name.clone()))
        })
    }

    /// Makes one; the text is the key itself, which nobody can be told again.
    pub async fn create(&self, name: &str) -> Result<(ReadKey, String), KeyError> {
        let name = proper_name(name).ok_or(KeyError::BadName)?;
        let key = made_up(KEY_PREFIX);
        let made = ReadKey { id: Uuid::new_v4(), name, created_at: now(), key: self.secret.hashed(&key) };
        self.add(&made).await?;
        Ok((made, key))
    }

    /// Deletes the one of this name or id: it is good for nothing from now on.
    pub async fn delete(&self, name_or_id: &str) -> Result<ReadKey, KeyError> {
        let id = Uuid::try_parse(name_or_id).ok();
        let found = self.kept.find(|key| key.name == name_or_id || Some(key.id) == id);
        let (place, _) = found.ok_or(KeyError::Unknown)?;
        self.kept.remove(&place).await?.ok_or(KeyError::Unknown)
    }

    /// All of them, such that they are good in any bucket that takes them in.
    pub fn export(&self) -> Vec<ReadKey> {
        let portable = |key: ReadKey| ReadKey { key: self.secret.exported(key.key), ..key };
        self.list().into_iter().map(portable).collect()
    }

    /// Takes in one of another bucket. One whose id is known stays as it is; a name that is taken gets the beginning of
    /// the id behind it.
    pub async fn import(&self, key: ReadKey) -> Result<(), KeyError> {
        if self.kept.find(|known| known.id == key.id).is_some() {
            return Ok(());
        }
        let name = proper_name(&key.name).ok_or(KeyError::BadName)?;
        let key = ReadKey { name, key: self.secret.imported(key.key), ..key };
        match self.add(&key).await {
            Err(KeyError::Taken(name)) => self.add(&ReadKey { name: with_id(&name, key.id), ..key }).await,
            added => added,
        }
    }

    async fn add(&self, key: &ReadKey) -> Result<(), KeyError> {
        match self.kept.create(&key_of_name(PREFIX, &key.name), key).await {
            Ok(()) => Ok(()),
            Err(KvError::Exists { .. }) => Err(KeyError::Taken(key.name.clone())),
            Err(error) => Err(KeptError::from(error).into()),
        }
    }
}
