//! Who may do what. An admin may do everything, a reader may read: by the session cookie, by what a trusted proxy says, or,
//! as an admin, by the token that `serve` makes at each start. The holder of a read key may read.

mod cookie;
mod ended;
pub(crate) mod oidc;
pub(crate) mod once;
mod origin;
mod person;
mod throttle;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::Mutex;
use uuid::Uuid;
use warp::http::{HeaderMap, Method, header};
use zeroize::Zeroizing;

use self::cookie::{Session, Signer};
use self::ended::Ended;
pub use self::ended::{EndedSessions, KeepSessions};
pub use self::oidc::{Oidc, OidcSettings, Rules};
pub(crate) use self::origin::refuse_foreign;
use self::person::is_name;
pub(crate) use self::person::{Login, Person, Role};
use self::throttle::Throttle;
pub(crate) use self::throttle::network;
use crate::door::{BasePath, ProxyUsers};
use crate::errors::{ApiError, STARTING};
use crate::http::Call;
use crate::keys::ReadKeys;

/// Passwords beyond this many bytes are wrong without being hashed.
const PASSWORD_BYTES: usize = 1_024;

/// What is needed to tell who is who.
pub struct Auth {
    salt: [u8; 16],
    password: Zeroizing<[u8; 32]>,
    signer: Signer,
    admin_token: blake3::Hash,
    /// Once they are read.
    read_keys: OnceLock<Arc<ReadKeys>>,
    /// Held while a password is checked, so that no burst of parallel guesses slips past the count, and so that the
    /// memory argon2 takes is taken once.
    throttle: Mutex<Throttle>,
    once: once::Tokens,
    ended: Ended,
    users: Option<ProxyUsers>,
    oidc: Option<Oidc>,
}

/// Whom a request comes from.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Who can read `admin.json`.
    Token,
    /// Who has logged in.
    Person(Person),
    /// Who holds a read key.
    Key(Uuid, String),
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
            password: Zeroizing::new(argon2id(password.as_bytes(), &salt)?),
            signer: Signer::new(secret, password),
            admin_token: blake3::hash(admin_token.as_bytes()),
            read_keys: OnceLock::new(),
            throttle: Mutex::default(),
            once: once::Tokens::default(),
            ended: Ended::default(),
            users: None,
            oidc: None,
        })
    }

    /// Remembers which sessions were ended.
    #[must_use]
    pub fn remembering(self, ended: EndedSessions, keep: KeepSessions) -> Self {
        Self { ended: Ended::new(ended, keep), ..self }
    }

    /// Lets those in whom a provider of `OpenID` Connect knows.
    #[must_use]
    pub fn with_oidc(self, oidc: Option<Oidc>) -> Self {
        Self { oidc, ..self }
    }

    /// Lets those in of whom a trusted proxy says so.
    pub(crate) fn with_users(self, users: Option<ProxyUsers>) -> Self {
        Self { users, ..self }
    }

    /// Where to send somebody who wants to log in with the provider, and the cookie for it.
    pub(crate) async fn begin_oidc(&self, next: &str) -> Option<Result<(String, String), oidc::Refusal>> {
        Some(self.oidc.as_ref()?.begin(&self.signer, next, seconds_since_epoch()).await)
    }

    /// Who has come back from the provider, and where they wanted to go.
    pub(crate) async fn complete_oidc(
        &self,
        headers: &HeaderMap,
        cookie: &str,
        back: &oidc::Back,
    ) -> Option<Result<(Person, String), oidc::Refusal>> {
        let oidc = self.oidc.as_ref()?;
        Some(oidc.complete(&self.signer, cookies(headers, cookie), back, seconds_since_epoch()).await)
    }

    pub(crate) fn oidc(&self) -> Option<&Oidc> {
        self.oidc.as_ref()
    }

    /// Lets read keys through from now on; a second call changes nothing.
    pub(crate) fn know(&self, keys: Arc<ReadKeys>) {
        let _ = self.read_keys.set(keys);
    }

    /// Lets an admin through, and who may only read where the request only reads. That is told by its method: no handler
    /// says for itself who may do what it does.
    pub(crate) fn require(&self, call: &Call) -> Result<Caller, ApiError> {
        match self.caller(&call.headers)? {
            caller if call.method == Method::GET || caller.is_admin() => Ok(caller),
            caller => Err(caller.refusal()),
        }
    }

    /// Lets an admin through, also where something is only read.
    pub(crate) fn require_operator(&self, call: &Call) -> Result<Caller, ApiError> {
        match self.caller(&call.headers)? {
            caller if caller.is_admin() => Ok(caller),
            caller => Err(caller.refusal()),
        }
    }

    /// Whether who was let in with these headers would be let in still.
    pub(crate) fn may_read(&self, headers: &HeaderMap) -> bool {
        self.caller(headers).is_ok()
    }

    /// Lets the holder of the admin token through, and nobody else.
    pub(crate) fn require_token(&self, call: &Call) -> Result<Caller, ApiError> {
        match self.caller(&call.headers)? {
            Caller::Token => Ok(Caller::Token),
            Caller::Person(_) => Err(ApiError::Unauthenticated),
            caller @ Caller::Key(..) => Err(caller.refusal()),
        }
    }

    /// Whether the admin token is there.
    pub(crate) fn has_token(&self, headers: &HeaderMap) -> bool {
        bearer(headers).is_some_and(|token| blake3::hash(token.as_bytes()) == self.admin_token)
    }

    /// Of several credentials the one that may do most counts.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        if self.has_token(headers) {
            return Ok(Caller::Token);
        }
        if let Some(person) = self.person(headers) {
            return Ok(Caller::Person(person));
        }
        let key = bearer(headers).filter(|key| ReadKeys::may_be(key));
        match (key, self.read_keys.get()) {
            (Some(key), Some(keys)) => {
                let (id, name) = keys.which(key).ok_or(ApiError::Unauthenticated)?;
                Ok(Caller::Key(id, name))
            }
            (Some(_), None) => Err(STARTING),
            (None, _) => Err(ApiError::Unauthenticated),
        }
    }

    /// Who has logged in here, or with the proxy.
    pub(crate) fn person(&self, headers: &HeaderMap) -> Option<Person> {
        let by_cookie = self.session(headers).map(|session| session.person);
        [by_cookie, self.user(headers)].into_iter().flatten().max_by_key(|person| person.role)
    }

    /// What a cookie says that we signed and that is good still.
    fn session(&self, headers: &HeaderMap) -> Option<Session> {
        let now = seconds_since_epoch();
        let good = |value| self.signer.read(value, now).filter(|session| !self.ended.has(session));
        session_cookies(headers).filter_map(good).max_by_key(|session| session.person.role)
    }

    /// Whom the proxy names; from anybody else the header would be gone. Of two names neither is believed.
    fn user(&self, headers: &HeaderMap) -> Option<Person> {
        let users = self.users.as_ref()?;
        let mut values = headers.get_all(&users.header).iter();
        let (value, None) = (values.next()?, values.next()) else { return None };
        let name = value.to_str().ok().filter(|name| is_name(name))?.to_owned();
        let role = if users.admins.contains(&name) { Role::Admin } else { Role::Reader };
        Some(Person { name, role, login: Login::Proxy })
    }

    /// Checks the password.
    pub(crate) async fn log_in(&self, peer: IpAddr, password: Zeroizing<String>) -> Result<Person, ApiError> {
        let mut throttle = self.throttle.lock().await;
        if let Some(retry_after) = throttle.blocked(peer, Instant::now()) {
            return Err(ApiError::RateLimited { retry_after });
        }
        if !self.is_password(password).await? {
            throttle.wrong(peer, Instant::now());
            return Err(ApiError::WrongPassword);
        }
        throttle.right(peer, Instant::now());
        Ok(Person::admin(Login::Password))
    }

    /// A token that is good for one log-in within [`once::LIFETIME`].
    pub(crate) fn one_time_token(&self) -> String {
        self.once.issue(Instant::now())
    }

    /// Logs in with such a token. Nobody guesses one, so guesses are not counted.
    pub(crate) fn log_in_once(&self, token: &str) -> Result<Person, ApiError> {
        if self.once.redeem(token, Instant::now()) { Ok(Person::admin(Login::Link)) } else { Err(ApiError::UsedLink) }
    }

    /// The `Set-Cookie` header's value that gives this person a session: a new one each time, whatever was sent.
    pub(crate) fn cookie(&self, person: &Person, base: &BasePath, secure: bool) -> String {
        let value = self.signer.issue(person, self.ended.earliest(seconds_since_epoch()));
        cookie::set(Some(&value), base, secure)
    }

    /// Ends the session of a request, if it has one; the answer is the `Set-Cookie` header's value that takes it away.
    pub(crate) fn log_out(&self, headers: &HeaderMap, base: &BasePath, secure: bool) -> Result<String, ApiError> {
        if let Some(session) = self.session(headers) {
            self.ended.end(&session, seconds_since_epoch()).map_err(ApiError::internal)?;
        }
        Ok(cookie::set(None, base, secure))
    }

    /// Ends all sessions.
    pub(crate) fn log_all_out(&self) -> Result<(), ApiError> {
        self.ended.end_all(seconds_since_epoch()).map_err(ApiError::internal)
    }

    async fn is_password(&self, password: Zeroizing<String>) -> Result<bool, ApiError> {
        if password.len() > PASSWORD_BYTES {
            return Ok(false);
        }
        let (salt, expected) = (self.salt, self.password.clone());
        let hash = tokio::task::spawn_blocking(move || argon2id(password.as_bytes(), &salt)).await;
        let hash = hash.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
        // The comparison of BLAKE3's type takes the same time wherever the two differ.
        Ok(blake3::Hash::from_bytes(hash) == blake3::Hash::from_bytes(*expected))
    }
}

impl Caller {
    fn is_admin(&self) -> bool {
        match self {
            Self::Token => true,
            Self::Person(person) => person.role == Role::Admin,
            Self::Key(..) => false,
        }
    }

    fn refusal(&self) -> ApiError {
        if matches!(self, Self::Key(..)) { ApiError::ReadOnly } else { ApiError::NotAdmin }
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

/// What a request shows to be let in, good or not.
pub(crate) fn credential(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).or_else(|| session_cookies(headers).next())
}

fn session_cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    cookies(headers, cookie::NAME)
}

fn cookies<'a>(headers: &'a HeaderMap, wanted: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(move |(name, value)| (name == wanted).then_some(value))
}

/// The ways to show who one is, as the API's document names them.
pub(crate) fn schemes() -> Value {
    let bearer = |about: &str| json!({ "type": "http", "scheme": "bearer", "description": about });
    json!({
        "session": {
            "type": "apiKey", "in": "cookie", "name": cookie::NAME,
            "description": "What `POST /api/session` sets for the admin password; or what a provider of OpenID Connect, \
                            or a trusted proxy, says of who asks.",
        },
        "adminToken": bearer("What the server writes into `admin.json` of its data directory at each start."),
        "readKey": bearer("A key that may read and nothing else."),
        "ingestKey": bearer("The API key of a connection; shown once, when the connection is made."),
    })
}

fn seconds_since_epoch() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
