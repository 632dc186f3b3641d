//! The session cookie: who it is for, until when, signed. Nothing about sessions is stored but which were ended, so they
//! outlive restarts.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::person::{Login, Person, Role, is_name};
use crate::door::BasePath;

/// The cookie's name.
pub(super) const NAME: &str = "forebay_session";
/// How long a session lasts, in seconds: 7 days.
pub(super) const LIFETIME: u64 = 7 * 24 * 60 * 60;
/// The same where somebody else says what one may do, and may come to say otherwise: 12 hours.
pub(super) const OIDC_LIFETIME: u64 = 12 * 60 * 60;

/// Expiry, time of issue, nonce, role, kind of login.
const FIXED: usize = 8 + 8 + NONCE + 2;
const NONCE: usize = 16;
const SIGNATURE: usize = blake3::OUT_LEN;
/// Longer ones are none of ours.
const TEXT: usize = 1_024;

/// Signs and checks cookies.
///
/// The key comes from a secret of the installation and from the password, so that a new password ends every session.
pub(super) struct Signer {
    key: Zeroizing<[u8; 32]>,
}

/// What a good cookie says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) person: Person,
    pub(super) nonce: [u8; NONCE],
    /// Seconds since the epoch.
    pub(super) issued: u64,
    pub(super) expiry: u64,
}

impl Signer {
    pub(super) fn new(secret: &[u8; 32], password: &str) -> Self {
        let mut material = Zeroizing::new(secret.to_vec());
        material.extend_from_slice(password.as_bytes());
        Self { key: Zeroizing::new(blake3::derive_key("forebay 2026 session cookie, with a name", &material)) }
    }

    /// A cookie's value for this person, issued now (seconds since the epoch).
    pub(super) fn issue(&self, person: &Person, now: u64) -> String {
        let lifetime = if person.login == Login::Oidc { OIDC_LIFETIME } else { LIFETIME };
        let mut bytes = Vec::with_capacity(FIXED + person.name.len() + SIGNATURE);
        bytes.extend_from_slice(&(now + lifetime).to_be_bytes());
        bytes.extend_from_slice(&now.to_be_bytes());
        bytes.extend_from_slice(&rand::random::<[u8; NONCE]>());
        bytes.extend_from_slice(&[role_code(person.role), login_code(person.login)]);
        bytes.extend_from_slice(person.name.as_bytes());
        self.sign(bytes)
    }

    /// These bytes with our signature, as text.
    pub(super) fn sign(&self, mut bytes: Vec<u8>) -> String {
        let signature = blake3::keyed_hash(&self.key, &bytes);
        bytes.extend_from_slice(signature.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The bytes, if we signed them.
    pub(super) fn verified(&self, text: &str) -> Option<Vec<u8>> {
        if text.len() > TEXT {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (signed, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE)?)?;
        // Comparing two of BLAKE3's hashes takes the same time wherever they differ.
        let genuine = blake3::Hash::from_slice(signature).is_ok_and(|it| it == blake3::keyed_hash(&self.key, signed));
        let length = signed.len();
        bytes.truncate(length);
        genuine.then_some(bytes)
    }

    /// What a value says that we signed and that has not expired.
    pub(super) fn read(&self, value: &str, now: u64) -> Option<Session> {
        let bytes = self.verified(value)?;
        let (expiry, rest) = bytes.split_first_chunk()?;
        let (issued, rest) = rest.split_first_chunk()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>()?;
        let ([role, login], name) = rest.split_first_chunk()?;
        let person = Person {
            name: String::from_utf8(name.to_vec()).ok().filter(|name| is_name(name))?,
            role: ROLES.into_iter().find(|known| role_code(*known) == *role)?,
            login: LOGINS.into_iter().find(|known| login_code(*known) == *login)?,
        };
        let (expiry, issued) = (u64::from_be_bytes(*expiry), u64::from_be_bytes(*issued));
        (now < expiry).then_some(Session { person, nonce: *nonce, issued, expiry })
    }
}

const ROLES: [Role; 2] = [Role::Reader, Role::Admin];
const LOGINS: [Login; 4] = [Login::Password, Login::Link, Login::Oidc, Login::Proxy];

const fn role_code(role: Role) -> u8 {
    match role {
        Role::Reader => 1,
        Role::Admin => 2,
    }
}

const fn login_code(login: Login) -> u8 {
    match login {
        Login::Password => 1,
        Login::Link => 2,
        Login::Oidc => 3,
        Login::Proxy => 4,
    }
}

/// The `Set-Cookie` header that gives the session, or with no value takes it.
pub(super) fn set(value: Option<&str>, base: &BasePath, secure: bool) -> String {
    let age = if value.is_some() { LIFETIME } else { 0 };
    let (secure, path) = (if secure { "; Secure" } else { "" }, base.of_cookies());
    format!("{NAME}={}; Path={path}; HttpOnly; SameSite=Strict; Max-Age={age}{secure}", value.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cookie_is_good_until_it_expires_and_not_with_another_secret_or_password() {
        let signer = Signer::new(&[7; 32], "correct horse");
        let value = signer.issue(&Person::admin(Login::Password), 1_000);
        let read = |signer: &Signer, now| signer.read(&value, now).map(|session| session.person);
        assert_eq!(read(&signer, 1_000), Some(Person::admin(Login::Password)));
        let again = Signer::new(&[7; 32], "correct horse");
        assert!(read(&again, 1_000 + LIFETIME - 1).is_some(), "a restart keeps it");
        assert_eq!(read(&signer, 1_000 + LIFETIME), None);
        assert_eq!(read(&Signer::new(&[8; 32], "correct horse"), 1_000), None);
        assert_eq!(read(&Signer::new(&[7; 32], "battery staple"), 1_000), None);
        let person = Person { name: "ann@example.com".to_owned(), role: Role::Reader, login: Login::Oidc };
        let value = signer.issue(&person, 1_000);
        assert_eq!(signer.read(&value, 1_000).unwrap().person, person);
        assert_eq!(signer.read(&value, 1_000 + OIDC_LIFETIME), None);
    }

    #[test]
    fn no_byte_of_a_cookie_can_be_changed() {
        let signer = Signer::new(&[7; 32], "correct horse");
        let bytes = URL_SAFE_NO_PAD.decode(signer.issue(&Person::admin(Login::Password), 1_000)).unwrap();
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            assert_eq!(signer.read(&URL_SAFE_NO_PAD.encode(&forged), 1_000), None, "byte {at}");
        }
        for cut in [0, 1, FIXED, bytes.len() - SIGNATURE, bytes.len() - 1] {
            assert_eq!(signer.read(&URL_SAFE_NO_PAD.encode(&bytes[..cut]), 1_000), None, "cut to {cut}");
        }
        assert_eq!(signer.read("not base64 at all!", 1_000), None);
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_cookie_there_is_an_answer(value in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let signer = Signer::new(&[7; 32], "correct horse");
            prop_assert_eq!(signer.read(&value, 0), None);
            // Signed, as if we had changed what stands in it.
            let _ = signer.read(&signer.sign(bytes), 0);
        }
    }
}
