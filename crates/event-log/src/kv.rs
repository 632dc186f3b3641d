//! The bucket of connections, key hashes and settings, which all nodes share.

use std::time::Duration;

use async_nats::jetstream::kv::{
    self, CreateErrorKind, EntryErrorKind, Operation, PutErrorKind, Store, UpdateError, UpdateErrorKind, Watch,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};

use crate::connect::Link;
use crate::error::KvError;
use crate::log::TIMEOUT;

/// The bucket. Cheap to clone. Keys are made of letters, digits and `-/_=.`.
#[derive(Clone)]
pub struct Kv {
    store: Store,
    link: Link,
}

/// A key as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvEntry {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// The revision of the bucket that set it; each change of any key has a higher one.
    pub revision: u64,
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvChange {
    /// It has this value now.
    Put(KvEntry),
    /// It is gone.
    Deleted {
        /// The key.
        key: String,
        /// The revision that removed it.
        revision: u64,
    },
}

impl Kv {
    pub(crate) fn new(store: Store, link: Link) -> Self {
        Self { store, link }
    }

    /// The value of a key.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, KvError> {
        Ok(self.entry(key).await?.map(|entry| entry.value))
    }

    /// The value of a key, and which revision set it.
    pub async fn entry(&self, key: &str) -> Result<Option<KvEntry>, KvError> {
        let entry = within(self.store.entry(key)).await?.map_err(|error| match error.kind() {
            EntryErrorKind::InvalidKey => invalid(key),
            _ => unavailable(&error),
        })?;
        let put = entry.filter(|entry| entry.operation == Operation::Put);
        Ok(put.map(|kv::Entry { key, value, revision, .. }| KvEntry { key, value, revision }))
    }

    /// Sets a key.
    pub async fn put(&self, key: &str, value: Bytes) -> Result<(), KvError> {
        let put = within(self.store.put(key, value)).await?;
        put.map(|_| ()).map_err(|error| match error.kind() {
            PutErrorKind::InvalidKey => invalid(key),
            _ => unavailable(&error),
        })
    }

    /// Sets a key that does not exist yet; of two nodes at once, one gets [`KvError::Exists`]. The answer is the revision.
    pub async fn create(&self, key: &str, value: Bytes) -> Result<u64, KvError> {
        let create = within(self.store.create(key, value)).await?;
        create.map_err(|error| match error.kind() {
            CreateErrorKind::AlreadyExists => KvError::Exists { key: key.to_owned() },
            CreateErrorKind::InvalidKey => invalid(key),
            _ => unavailable(&error),
        })
    }

    /// Sets a key that stands as this revision left it, else gives [`KvError::Changed`]. The answer is the new revision.
    pub async fn update(&self, key: &str, value: Bytes, revision: u64) -> Result<u64, KvError> {
        let update = within(self.store.update(key, value, revision)).await?;
        update.map_err(|error| not_updated(key, &error))
    }

    /// Removes a key that stands as this revision left it, else gives [`KvError::Changed`].
    pub async fn remove(&self, key: &str, revision: u64) -> Result<(), KvError> {
        let remove = within(self.store.delete_expect_revision(key, Some(revision))).await?;
        remove.map_err(|error| not_updated(key, &error))
    }

    /// Removes a key; one that does not exist is no error.
    pub async fn delete(&self, key: &str) -> Result<(), KvError> {
        within(self.store.delete(key)).await?.map_err(|error| not_updated(key, &error))
    }

    /// All keys with their values, in the order of their last change.
    pub async fn entries(&self) -> Result<Vec<KvEntry>, KvError> {
        let collect = async {
            let keys = self.store.keys().await.map_err(|error| unavailable(&error))?;
            let keys: Vec<String> = keys.try_collect().await.map_err(|error| unavailable(&error))?;
            let mut entries = Vec::with_capacity(keys.len());
            for key in keys {
                // A key that went in between is simply not there.
                entries.extend(self.entry(&key).await?);
            }
            Ok(entries)
        };
        within(collect).await?
    }

    /// Follows the bucket: first every key as it stands, then every change. See [`KvWatch`].
    pub fn watch(&self) -> KvWatch {
        KvWatch { kv: self.clone(), open: None }
    }
}

/// The changes of the bucket, for ever.
///
/// When the connection was lost, every key is told again as it stands, removed ones included, so a copy that applies
/// what it is told is always right in the end.
pub struct KvWatch {
    kv: Kv,
    open: Option<(Watch, u64)>,
}

impl KvWatch {
    /// Waits for the next change.
    pub async fn next(&mut self) -> KvChange {
        loop {
            if let Some(entry) = self.entry().await {
                let kv::Entry { key, value, revision, operation, .. } = entry;
                return match operation {
                    Operation::Put => KvChange::Put(KvEntry { key, value, revision }),
                    Operation::Delete | Operation::Purge => KvChange::Deleted { key, revision },
                };
            }
        }
    }

    /// The next entry, or none when watching had to begin anew.
    async fn entry(&mut self) -> Option<kv::Entry> {
        let Some((watch, generation)) = &mut self.open else {
            self.open().await;
            return None;
        };
        let link = self.kv.link.clone();
        let entry = tokio::select! {
            entry = watch.next() => entry,
            () = link.wait_lost(*generation) => None,
        };
        match entry {
            Some(Ok(entry)) => Some(entry),
            Some(Err(error)) => {
                tracing::debug!(%error, "watching the settings anew");
                self.open = None;
                None
            }
            None => {
                self.open = None;
                None
            }
        }
    }

    async fn open(&mut self) {
        self.kv.link.wait_connected().await;
        let generation = self.kv.link.generation();
        match within(self.kv.store.watch_with_history(">")).await {
            Ok(Ok(watch)) => self.open = Some((watch, generation)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the settings cannot be watched yet");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => tracing::debug!(%error, "the settings cannot be watched yet"),
        }
    }
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, KvError> {
    let done = tokio::time::timeout(TIMEOUT, Box::pin(work)).await;
    done.map_err(|_| KvError::Unavailable { reason: format!("no answer within {} s", TIMEOUT.as_secs()) })
}

fn not_updated(key: &str, error: &UpdateError) -> KvError {
    match error.kind() {
        UpdateErrorKind::InvalidKey => invalid(key),
        UpdateErrorKind::WrongLastRevision => KvError::Changed { key: key.to_owned() },
        _ => unavailable(error),
    }
}

fn invalid(key: &str) -> KvError {
    KvError::InvalidKey { key: key.to_owned() }
}

fn unavailable(error: &dyn std::fmt::Display) -> KvError {
    KvError::Unavailable { reason: error.to_string() }
}
