//! Who may do what. The operator may do everything: by the session cookie, or by the admin token that `serve` makes at
//! each start. The holder of a read key may read.

mod cookie;
pub(crate) mod once;
mod origin;
mod throttle;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::Mutex;
use warp::http::{HeaderMap, Method, header};

use self::cookie::Signer;
pub(crate) use self::origin::{over_tls, refuse_foreign};
use self::throttle::Throttle;
use crate::errors::{ApiError, STARTING};
use crate::http::Call;
use crate::keys::ReadKeys;

/// Passwords beyond this many bytes are wrong without being hashed.
const PASSWORD_BYTES: usize = 1_024;

/// What is needed to tell who is who.
pub struct Auth {
    salt: [u8; 16],
    password: [u8; 32],
    signer: Signer,
    admin_token: blake3::Hash,
    /// Once they are read.
    read_keys: OnceLock<Arc<ReadKeys>>,
    /// Held while a password is checked, so that no burst of parallel guesses slips past the count, and so that the
    /// memory argon2 takes is taken once.
    throttle: Mutex<Throttle>,
    once: once::Tokens,
}

/// Whom a request comes from.
enum Caller {
    /// Who can read `admin.json`.
    Admin,
    /// Who has logged in.
    Session,
    /// Who holds a read key.
    Reader,
}

/// The password cannot be hashed.
#[derive(Debug, thiserror::Error)]
#[error("cannot hash the admin password: {0}")]
pub struct PasswordError(String);

impl Auth {
    /// `secret` is the installation's; sessions are good as long as it and the password stay the same. Takes some tens
    /// of milliseconds, as every check of the password does.
    pub fn new(password: &str, secret: &[u8; 32], admin_token: &str) -> Result<Self, PasswordError> {
        let salt = rand::random();
        Ok(Self {
            salt,
            password: argon2id(password.as_bytes(), &salt)?,
            signer: Signer::new(secret, password),
            admin_token: blake3::hash(admin_token.as_bytes()),
            read_keys: OnceLock::new(),
            throttle: Mutex::default(),
            once: once::Tokens::default(),
        })
    }

    /// Lets read keys through from now on; a second call changes nothing.
    pub(crate) fn know(&self, keys: Arc<ReadKeys>) {
        let _ = self.read_keys.set(keys);
    }

    /// Lets the operator through, and the holder of a read key where the request only reads. That is told by its method:
    /// no handler says for itself who may do what it does.
    pub(crate) fn require(&self, call: &Call) -> Result<(), ApiError> {
        match self.caller(&call.headers)? {
            Caller::Admin | Caller::Session => Ok(()),
            Caller::Reader if call.method == Method::GET => Ok(()),
            Caller::Reader => Err(ApiError::ReadOnly),
        }
    }

    /// Lets the operator through, also where something is only read.
    pub(crate) fn require_operator(&self, call: &Call) -> Result<(), ApiError> {
        match self.caller(&call.headers)? {
            Caller::Admin | Caller::Session => Ok(()),
            Caller::Reader => Err(ApiError::ReadOnly),
        }
    }

    /// Whether who was let in with these headers would be let in still.
    pub(crate) fn may_read(&self, headers: &HeaderMap) -> bool {
        self.caller(headers).is_ok()
    }

    /// Lets the holder of the admin token through, and nobody else.
    pub(crate) fn require_token(&self, call: &Call) -> Result<(), ApiError> {
        match self.caller(&call.headers)? {
            Caller::Admin => Ok(()),
            Caller::Session => Err(ApiError::Unauthenticated),
            Caller::Reader => Err(ApiError::ReadOnly),
        }
    }

    /// Of several credentials the one that may do most counts.
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let bearer = bearer(headers);
        if bearer.is_some_and(|token| blake3::hash(token.as_bytes()) == self.admin_token) {
            return Ok(Caller::Admin);
        }
        if self.has_session(headers) {
            return Ok(Caller::Session);
        }
        match (bearer.filter(|key| ReadKeys::may_be(key)), self.read_keys.get()) {
            (Some(key), Some(keys)) if keys.knows(key) => Ok(Caller::Reader),
            (Some(_), None) => Err(STARTING),
            _ => Err(ApiError::Unauthenticated),
        }
    }

    /// Whether there is a cookie that we signed and that is good still.
    pub(crate) fn has_session(&self, headers: &HeaderMap) -> bool {
        let now = seconds_since_epoch();
        session_cookies(headers).any(|value| self.signer.accepts(value, now))
    }

    /// Checks the password; the answer is the `Set-Cookie` header's value.
    pub(crate) async fn log_in(&self, peer: IpAddr, password: String, secure: bool) -> Result<String, ApiError> {
        let mut throttle = self.throttle.lock().await;
        if let Some(retry_after) = throttle.blocked(peer, Instant::now()) {
            return Err(ApiError::RateLimited { retry_after });
        }
        if !self.is_password(password).await? {
            throttle.wrong(peer, Instant::now());
            return Err(ApiError::WrongPassword);
        }
        throttle.right(peer);
        Ok(cookie::set(Some(&self.signer.issue(seconds_since_epoch())), secure))
    }

    /// A token that is good for one log-in within [`once::LIFETIME`].
    pub(crate) fn one_time_token(&self) -> String {
        self.once.issue(Instant::now())
    }

    /// Logs in with such a token; the answer is the `Set-Cookie` header's value. Nobody guesses one, so guesses are not
    /// counted.
    pub(crate) fn log_in_once(&self, token: &str, secure: bool) -> Result<String, ApiError> {
        if !self.once.redeem(token, Instant::now()) {
            return Err(ApiError::UsedLink);
        }
        Ok(cookie::set(Some(&self.signer.issue(seconds_since_epoch())), secure))
    }

    /// The `Set-Cookie` header's value that takes the session away.
    pub(crate) fn log_out(secure: bool) -> String {
        cookie::set(None, secure)
    }

    async fn is_password(&self, password: String) -> Result<bool, ApiError> {
        if password.len() > PASSWORD_BYTES {
            return Ok(false);
        }
        let (salt, expected) = (self.salt, self.password);
        let hash = tokio::task::spawn_blocking(move || argon2id(password.as_bytes(), &salt)).await;
        let hash = hash.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
        // The comparison of BLAKE3's type takes the same time wherever the two differ.
        Ok(blake3::Hash::from_bytes(hash) == blake3::Hash::from_bytes(expected))
    }
}

fn argon2id(password: &[u8], salt: &[u8; 16]) -> Result<[u8; 32], PasswordError> {
    let mut hash = [0; 32];
    argon2::Argon2::default()
        .hash_password_into(password, salt, &mut hash)
        .map_err(|error| PasswordError(error.to_string()))?;
    Ok(hash)
}

/// The credential of `Authorization: Bearer …`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, credential) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
}

fn session_cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(|(name, value)| (name == cookie::NAME).then_some(value))
}

/// The ways to show who one is, as the API's document names them.
pub(crate) fn schemes() -> Value {
    let bearer = |about: &str| json!({ "type": "http", "scheme": "bearer", "description": about });
    json!({
        "session": {
            "type": "apiKey", "in": "cookie", "name": cookie::NAME,
            "description": "What `POST /api/session` sets for the admin password.",
        },
        "adminToken": bearer("What the server writes into `admin.json` of its data directory at each start."),
        "readKey": bearer("A key that may read and nothing else."),
        "ingestKey": bearer("The API key of a connection; shown once, when the connection is made."),
    })
}

fn seconds_since_epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
