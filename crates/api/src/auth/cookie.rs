//! The session cookie: an expiry, signed. Nothing about sessions is stored, so they outlive restarts.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The cookie's name.
pub(super) const NAME: &str = "forebay_session";
/// How long a session lasts, in seconds: 7 days.
pub(super) const LIFETIME: u64 = 7 * 24 * 60 * 60;

const EXPIRY: usize = 8;
const NONCE: usize = 16;
const SIGNATURE: usize = blake3::OUT_LEN;

/// Signs and checks cookies.
///
/// The key comes from a secret of the installation and from the password, so that a new password ends every session.
pub(super) struct Signer {
    key: [u8; 32],
}

impl Signer {
    pub(super) fn new(secret: &[u8; 32], password: &str) -> Self {
        let mut material = secret.to_vec();
        material.extend_from_slice(password.as_bytes());
        Self { key: blake3::derive_key("forebay 2026 session cookie", &material) }
    }

    /// A cookie's value that is good until [`LIFETIME`] after `now` (seconds since the epoch).
    pub(super) fn issue(&self, now: u64) -> String {
        let mut bytes = Vec::with_capacity(EXPIRY + NONCE + SIGNATURE);
        bytes.extend_from_slice(&(now + LIFETIME).to_be_bytes());
        bytes.extend_from_slice(&rand::random::<[u8; NONCE]>());
        let signature = blake3::keyed_hash(&self.key, &bytes);
        bytes.extend_from_slice(signature.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Whether we signed this value, and it has not expired.
    pub(super) fn accepts(&self, value: &str, now: u64) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(value) else { return false };
        if bytes.len() != EXPIRY + NONCE + SIGNATURE {
            return false;
        }
        let (signed, signature) = bytes.split_at(EXPIRY + NONCE);
        // Comparing two of BLAKE3's hashes takes the same time wherever they differ.
        let genuine = blake3::Hash::from_slice(signature).is_ok_and(|it| it == blake3::keyed_hash(&self.key, signed));
        let expiry = signed.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        genuine && now < expiry
    }
}

/// The `Set-Cookie` header that gives the session, or with no value takes it.
pub(super) fn set(value: Option<&str>, secure: bool) -> String {
    let age = if value.is_some() { LIFETIME } else { 0 };
    let secure = if secure { "; Secure" } else { "" };
    format!("{NAME}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}", value.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_until_it_expires_and_not_with_another_secret_or_password() {
        let signer = Signer::new(&[7; 32], "correct horse");
        let value = signer.issue(1_000);
        assert!(signer.accepts(&value, 1_000));
        assert!(Signer::new(&[7; 32], "correct horse").accepts(&value, 1_000 + LIFETIME - 1), "a restart keeps it");
        assert!(!signer.accepts(&value, 1_000 + LIFETIME));
        assert!(!Signer::new(&[8; 32], "correct horse").accepts(&value, 1_000));
        assert!(!Signer::new(&[7; 32], "battery staple").accepts(&value, 1_000));
    }

    #[test]
    fn no_byte_of_a_cookie_can_be_changed() {
        let signer = Signer::new(&[7; 32], "correct horse");
        let bytes = URL_SAFE_NO_PAD.decode(signer.issue(1_000)).unwrap();
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            assert!(!signer.accepts(&URL_SAFE_NO_PAD.encode(&forged), 1_000), "byte {at}");
        }
        for cut in [0, 1, EXPIRY, EXPIRY + NONCE, bytes.len() - 1] {
            assert!(!signer.accepts(&URL_SAFE_NO_PAD.encode(&bytes[..cut]), 1_000), "cut to {cut}");
        }
        assert!(!signer.accepts("not base64 at all!", 1_000));
    }
}
