//! Messages of another log, brought in by an import.
//!
//! The server gives every message the time at which it stores it, so the time at which a message was first published
//! travels in a header. Whoever may publish may write headers, and must not be able to say when something was
//! published; so the header is sealed with a secret of the bucket, which publishers need not be able to read. A header
//! whose seal does not fit the message is as good as none.

use async_nats::HeaderMap;
use bytes::Bytes;
use proto_events::Timestamp;
use uuid::Uuid;

use crate::error::{KvError, OpenError};
use crate::kv::Kv;
use crate::message;

/// The header: the time, a blank, the seal.
pub(crate) const PUBLISHED: &str = "Forebay-Published";
const SECRET: &str = "settings.import-secret";

/// A message of another log.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Whose events they are.
    pub connection: Uuid,
    /// When it was first published.
    pub published: Timestamp,
    /// The events.
    pub payload: Bytes,
    /// When the other log was created.
    pub log: Timestamp,
    /// Where it stood there.
    pub sequence: u64,
}

impl Imported {
    /// What it is recognised by when it is brought again. Its old place is part of it: a log may hold the same content
    /// more than once.
    pub(crate) fn id(&self) -> String {
        let (log, sequence) = (self.log.micros().to_be_bytes(), self.sequence.to_be_bytes());
        message::hex(&message::short_hash(&[self.connection.as_bytes(), &self.payload, &log, &sequence]))
    }
}

/// Tells our own headers from those that others wrote.
#[derive(Clone, Copy)]
pub(crate) struct Seal([u8; 32]);

impl Seal {
    /// With the secret of the bucket, which the first node makes.
    pub(crate) async fn open(kv: &Kv) -> Result<Self, OpenError> {
        let failed = |error: KvError| OpenError::Stream { name: "KV_FOREBAY".to_owned(), reason: error.to_string() };
        if let Some(secret) = kv.get(SECRET).await.map_err(failed)? {
            return Ok(Self::of(&secret));
        }
        let made: [u8; 32] = rand::random();
        match kv.create(SECRET, Bytes::copy_from_slice(&made)).await {
            Ok(_) => Ok(Self::of(&made)),
            Err(KvError::Exists { .. }) => Ok(Self::of(&kv.get(SECRET).await.map_err(failed)?.unwrap_or_default())),
            Err(error) => Err(failed(error)),
        }
    }

    pub(crate) fn of(secret: &[u8]) -> Self {
        Self(blake3::derive_key("forebay 2026 publish time of imported messages", secret))
    }

    pub(crate) fn header(&self, published: Timestamp, subject: &str, payload: &[u8]) -> String {
        format!("{published} {}", self.seal(published, subject, payload).to_hex())
    }

    /// The time in the header, if the header is ours and belongs to this message.
    pub(crate) fn published(&self, headers: &HeaderMap, subject: &str, payload: &[u8]) -> Option<Timestamp> {
        let (time, seal) = headers.get(PUBLISHED)?.as_str().split_once(' ')?;
        let published = Timestamp::parse(time)?;
        // The comparison of BLAKE3's type takes the same time wherever the two differ.
        (blake3::Hash::from_hex(seal).ok()? == self.seal(published, subject, payload)).then_some(published)
    }

    fn seal(&self, published: Timestamp, subject: &str, payload: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&published.micros().to_be_bytes());
        hasher.update(&(subject.len() as u64).to_be_bytes()).update(subject.as_bytes()).update(payload);
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_our_own_header_on_its_own_message_is_believed() {
        let (seal, other) = (Seal::of(b"ours"), Seal::of(b"another's"));
        let published = Timestamp(1_795_440_115_833_834);
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(PUBLISHED, value);
            headers
        };
        let ours = headers(&seal.header(published, "subject", b"payload"));
        assert_eq!(seal.published(&ours, "subject", b"payload"), Some(published));
        assert_eq!(seal.published(&ours, "subject", b"another payload"), None);
        assert_eq!(seal.published(&ours, "another", b"payload"), None);
        assert_eq!(other.published(&ours, "subject", b"payload"), None);
        let later = Timestamp(published.micros() + 1);
        let shifted = seal.header(published, "subject", b"payload").replace(&published.to_string(), &later.to_string());
        for forged in [published.to_string(), shifted, String::new(), " ".to_owned(), format!("{published} 00")] {
            assert_eq!(seal.published(&headers(&forged), "subject", b"payload"), None, "{forged}");
        }
        assert_eq!(seal.published(&HeaderMap::new(), "subject", b"payload"), None);
    }

    proptest! {
        #[test]
        fn whatever_somebody_writes_into_the_header_it_is_not_believed(text in "2026-02-27T10:30:[0-5][0-9]Z [0-9a-f]{64}|[0-9T:.Zz +-]{0,30} [0-9a-f]{0,70}|\\PC{0,80}", subject in "[ -~]{0,40}") {
            let mut headers = HeaderMap::new();
            headers.insert(PUBLISHED, text.as_str());
            prop_assert_eq!(Seal::of(b"ours").published(&headers, &subject, b"payload"), None);
            let _ = message::connection_of(&subject);
        }
    }
}
