//! What the bucket holds under one prefix, with a copy in memory that follows every change: so every node knows it without
//! asking, and knows soon what another one has changed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use bytes::Bytes;
use event_log::{Kv, KvChange, KvEntry, KvError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::AbortHandle;

/// Why what is kept cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeptError {
    /// The bucket holds something else than should be there.
    #[error("the stored settings are damaged at {key}")]
    Damaged {
        /// Where.
        key: String,
    },
    /// The bucket did not answer; try again.
    #[error(transparent)]
    Store(#[from] KvError),
}

/// A value as it is stored now.
pub(crate) struct Stored<T> {
    pub(crate) value: T,
    pub(crate) revision: u64,
}

/// Values of one kind.
pub(crate) struct Kept<T> {
    kv: Kv,
    prefix: &'static str,
    /// By their keys in the bucket. Never locked across an await.
    known: RwLock<HashMap<String, Known<T>>>,
    watcher: OnceLock<AbortHandle>,
}

/// What is known of a key. What was removed is remembered, so that an earlier change that is told late does not bring it
/// back.
struct Known<T> {
    revision: u64,
    value: Option<T>,
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.abort();
        }
    }
}

impl<T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static> Kept<T> {
    /// Reads all of them and follows their changes from then on.
    pub(crate) async fn open(kv: Kv, prefix: &'static str) -> Result<Arc<Self>, KeptError> {
        let kept = Arc::new(Self { kv: kv.clone(), prefix, known: RwLock::default(), watcher: OnceLock::new() });
        kept.refresh().await?;
        let watcher = tokio::spawn(follow(kv, Arc::downgrade(&kept))).abort_handle();
        // Nobody else has it yet.
        let _ = kept.watcher.set(watcher);
        Ok(kept)
    }

    /// Reads all of them as they stand now: the answer holds what the copy may not know yet.
    pub(crate) async fn refresh(&self) -> Result<Vec<T>, KeptError> {
        let mut all = Vec::new();
        for KvEntry { key, value, revision } in self.kv.entries().await? {
            if let Some(value) = self.understood(&key, &value) {
                all.push(value.clone());
                self.learn(key, revision, Some(value));
            }
        }
        Ok(all)
    }

    /// Looks at the copy, in no order.
    pub(crate) fn read<R>(&self, of: impl FnOnce(&mut dyn Iterator<Item = (&str, &T)>) -> R) -> R {
        // A panic while the lock was held leaves a map that is whole, so it goes on being used.
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        of(&mut known.iter().filter_map(|(key, known)| Some((key.as_str(), known.value.as_ref()?))))
    }

    /// One that is wanted, with its key in the bucket, as the copy has it.
    pub(crate) fn find(&self, wanted: impl Fn(&T) -> bool) -> Option<(String, T)> {
        self.read(|known| {
            let mut found =
                known.filter(|(_, value)| wanted(value)).map(|(key, value)| (key.to_owned(), value.clone()));
            found.next()
        })
    }

    /// The value of a key as it stands in the bucket.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Stored<T>>, KeptError> {
        let Some(KvEntry { key, value, revision }) = self.kv.entry(key).await? else { return Ok(None) };
        let value = self.understood(&key, &value).ok_or_else(|| KeptError::Damaged { key: key.clone() })?;
        self.learn(key, revision, Some(value.clone()));
        Ok(Some(Stored { value, revision }))
    }

    /// Sets a key that does not exist yet.
    pub(crate) async fn create(&self, key: &str, value: &T) -> Result<(), KvError> {
        let revision = self.kv.create(key, encode(value)).await?;
        self.learn(key.to_owned(), revision, Some(value.clone()));
        Ok(())
    }

    /// Sets a key that is still as it was read.
    pub(crate) async fn update(&self, key: &str, value: &T, revision: u64) -> Result<(), KvError> {
        let revision = self.kv.update(key, encode(value), revision).await?;
        self.learn(key.to_owned(), revision, Some(value.clone()));
        Ok(())
    }

    /// Changes a value, however many do so at once; the answer is how it stands then, `None` where there is none.
    pub(crate) async fn change<E: From<KeptError>>(
        &self,
        key: &str,
        change: impl Fn(T) -> Result<T, E>,
    ) -> Result<Option<T>, E> {
        while let Some(Stored { value, revision }) = self.get(key).await? {
            let changed = change(value)?;
            match self.update(key, &changed, revision).await {
                Ok(()) => return Ok(Some(changed)),
                Err(KvError::Changed { .. }) => {}
                Err(error) => return Err(KeptError::from(error).into()),
            }
        }
        Ok(None)
    }

    /// Removes a key; the answer is what it was last.
    pub(crate) async fn remove(&self, key: &str) -> Result<Option<T>, KeptError> {
        while let Some(Stored { value, revision }) = self.get(key).await? {
            match self.kv.remove(key, revision).await {
                Ok(()) => {
                    self.learn(key.to_owned(), revision + 1, None);
                    return Ok(Some(value));
                }
                Err(KvError::Changed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Takes into the copy what is newer than what it holds.
    fn learn(&self, key: String, revision: u64, value: Option<T>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match known.entry(key) {
            Entry::Occupied(entry) if entry.get().revision > revision => {}
            Entry::Occupied(mut entry) => drop(entry.insert(Known { revision, value })),
            Entry::Vacant(entry) => drop(entry.insert(Known { revision, value })),
        }
    }

    /// From here on whatever is told is newer than what is known.
    fn forget_revisions(&self) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| known.value.is_some());
        known.values_mut().for_each(|known| known.revision = 0);
    }

    fn apply(&self, change: KvChange) {
        match change {
            KvChange::Put(KvEntry { key, value, revision }) => {
                if let Some(value) = self.understood(&key, &value) {
                    self.learn(key, revision, Some(value));
                }
            }
            KvChange::Deleted { key, revision } if key.starts_with(self.prefix) => self.learn(key, revision, None),
            KvChange::Deleted { .. } => {}
        }
    }

    fn understood(&self, key: &str, value: &[u8]) -> Option<T> {
        if !key.starts_with(self.prefix) {
            return None;
        }
        let understood = serde_json::from_slice(value);
        understood
            .inspect_err(|error| tracing::error!(key, %error, "a stored setting cannot be read and is left out"))
            .ok()
    }
}

async fn follow<T: Clone + Serialize + DeserializeOwned + Send + Sync + 'static>(kv: Kv, kept: Weak<Kept<T>>) {
    let (mut changes, mut last) = (kv.watch(), 0);
    loop {
        let change = changes.next().await;
        let Some(kept) = kept.upgrade() else { return };
        let (KvChange::Put(KvEntry { revision, .. }) | KvChange::Deleted { revision, .. }) = &change;
        // Everything is told again as it stands, maybe by a bucket that was put back to an earlier state.
        if *revision < last {
            kept.forget_revisions();
        }
        last = *revision;
        kept.apply(change);
    }
}

/// Names may have any characters, the bucket's keys only few.
pub(crate) fn key_of_name(prefix: &str, name: &str) -> String {
    let hash = blake3::hash(name.as_bytes()).to_hex();
    format!("{prefix}{}", &hash[..32])
}

fn encode(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("what is kept is plain texts and numbers").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use event_log::EventLog;
    use event_log::testing::TestServer;

    #[tokio::test]
    async fn what_is_told_late_brings_nothing_back() {
        let server = TestServer::start();
        let kv = EventLog::open(server.config()).await.unwrap().kv();
        let kept = Kept::<String>::open(kv, "test.").await.unwrap();
        // Here the test tells the changes.
        kept.watcher.get().unwrap().abort();
        let told = |text: &str, revision| {
            let value = serde_json::to_vec(text).unwrap().into();
            kept.apply(KvChange::Put(KvEntry { key: "test.a".to_owned(), value, revision }));
            kept.read(|known| known.map(|(_, value)| value.clone()).next())
        };
        kept.create("test.a", &"old".to_owned()).await.unwrap();
        let old = kept.get("test.a").await.unwrap().unwrap().revision;
        kept.change("test.a", |_| Ok::<_, KeptError>("new".to_owned())).await.unwrap();
        assert_eq!(told("old", old).as_deref(), Some("new"));
        kept.remove("test.a").await.unwrap();
        assert_eq!(told("old", old), None);
        assert_eq!(told("new", old + 1), None);
        assert_eq!(told("made again", old + 3).as_deref(), Some("made again"));
        kept.forget_revisions();
        assert_eq!(told("put back", old).as_deref(), Some("put back"));
    }
}
