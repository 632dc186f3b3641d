//! API keys: how they are made, and what is stored of them, which is a keyed hash alone.
//!
//! Keys that we make are long and random; one from the environment may be weaker, and there the bucket's own secret keeps
//! tables of hashes made elsewhere from being of use. A key that came from another bucket keeps that one's secret beside
//! its hash, so that it stays good.

use bytes::Bytes;
use event_log::{Kv, KvError};
use rand::Rng as _;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};

use crate::kept::KeptError;

const SECRET: &str = "settings.key-secret";
const KEY_CHARACTERS: usize = 40;

/// What is stored of an API key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HashedKey {
    /// The keyed hash in hex; none where there is no key.
    key_hash: Option<String>,
    /// The secret that the hash was made with, in hex; none where it is the bucket's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_secret: Option<String>,
}

impl HashedKey {
    /// Whether there is a key at all.
    pub(crate) fn is_some(&self) -> bool {
        self.key_hash.is_some()
    }
}

/// The bucket's secret.
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// The secret that keys are hashed with, made by the first node that needs it.
    pub(crate) async fn open(kv: &Kv) -> Result<Self, KeptError> {
        let made: [u8; 32] = rand::random();
        match kv.create(SECRET, Bytes::copy_from_slice(&made)).await {
            Ok(_) => return Ok(Self(made)),
            Err(KvError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let stored = kv.get(SECRET).await?;
        let secret = stored.as_deref().and_then(|stored| stored.try_into().ok());
        secret.map(Self).ok_or_else(|| KeptError::Damaged { key: SECRET.to_owned() })
    }

    /// What to store of this key.
    pub(crate) fn hashed(&self, key: &str) -> HashedKey {
        HashedKey { key_hash: Some(self.hash(key).to_string()), key_secret: None }
    }

    /// Tells whether what is stored is of this key.
    pub(crate) fn is_of(&self, key: &str) -> impl Fn(&HashedKey) -> bool {
        let ours = self.hash(key);
        move |stored| {
            let hash = match &stored.key_secret {
                None => Some(ours),
                Some(secret) => secret_of(secret).map(|secret| blake3::keyed_hash(&secret, key.as_bytes())),
            };
            let stored = stored.key_hash.as_deref().and_then(|stored| blake3::Hash::from_hex(stored).ok());
            // BLAKE3's comparison takes the same time wherever two differ.
            stored.is_some() && stored == hash
        }
    }

    /// The same such that it is good in any bucket that takes it in.
    pub(crate) fn exported(&self, mut key: HashedKey) -> HashedKey {
        if key.is_some() {
            key.key_secret.get_or_insert_with(|| blake3::Hash::from_bytes(self.0).to_string());
        }
        key
    }

    /// The same as this bucket stores it.
    pub(crate) fn imported(&self, key: HashedKey) -> HashedKey {
        let ours = key.key_secret.as_deref().and_then(secret_of) == Some(self.0);
        HashedKey { key_secret: key.key_secret.filter(|_| !ours), ..key }
    }

    fn hash(&self, key: &str) -> blake3::Hash {
        blake3::keyed_hash(&self.0, key.as_bytes())
    }
}

fn secret_of(text: &str) -> Option<[u8; 32]> {
    blake3::Hash::from_hex(text).ok().map(|secret| *secret.as_bytes())
}

/// A new API key: random, too long to be guessed.
pub(crate) fn made_up(prefix: &str) -> String {
    let random = rand::rng().sample_iter(Alphanumeric).take(KEY_CHARACTERS).map(char::from);
    prefix.chars().chain(random).collect()
}
