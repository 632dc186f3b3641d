//! Connections to a NATS server: where to, with which credentials, and what a refusal means.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

use crate::error::OpenError;
use crate::version::{self, Version};

/// How long a first connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the server is asked for a sign of life; after the third question without an answer the connection is
/// given up. A peer that vanished without a word is noticed in no other way.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Where a server is, and who we are to it.
#[derive(Clone)]
pub(crate) struct Target {
    addresses: Vec<ServerAddr>,
    url: String,
    login: Login,
    ca: Option<PathBuf>,
    tls: bool,
    longest_delay: Duration,
}

#[derive(Clone)]
enum Login {
    Anonymous,
    User(String, String),
    Token(String),
    Creds(PathBuf),
}

/// What an external server needs to be told; the fields of [`ServerConfig::External`](crate::ServerConfig).
pub(crate) struct External {
    pub(crate) url: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) creds: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
}

impl Target {
    /// The server that runs inside our own process tree.
    pub(crate) fn embedded(port: u16, user: &str, password: &str) -> Result<Self, OpenError> {
        Ok(Self {
            addresses: parse_addresses(&format!("nats://127.0.0.1:{port}"))?,
            url: format!("nats://127.0.0.1:{port}"),
            login: Login::User(user.to_owned(), password.to_owned()),
            ca: None,
            tls: false,
            // It is restarted within a moment, and asking a port of our own machine costs nothing.
            longest_delay: Duration::from_millis(100),
        })
    }

    /// A server that somebody else runs.
    pub(crate) fn external(config: External) -> Result<Self, OpenError> {
        let addresses = parse_addresses(&config.url)?;
        let url = addresses.iter().map(masked).collect::<Vec<_>>().join(",");
        let tls = config.ca.is_some() || addresses.iter().any(ServerAddr::tls_required);
        let from_url = addresses.iter().find_map(login_of);
        let login = match (config.creds, config.token, config.user, config.password) {
            (Some(creds), None, None, None) => Login::Creds(creds),
            (None, Some(token), None, None) => Login::Token(token),
            (None, None, Some(user), Some(password)) => Login::User(user, password),
            (None, None, None, None) => from_url.unwrap_or(Login::Anonymous),
            (None, None, Some(_), None) | (None, None, None, Some(_)) => {
                return Err(config_error("a NATS user needs a password, and a password a user"));
            }
            _ => return Err(config_error("give one of user and password, token, or creds file")),
        };
        Ok(Self { addresses, url, login, ca: config.ca, tls, longest_delay: Duration::from_secs(2) })
    }

    /// The address without secrets.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Connects, or says in one line why not. `capacity` bounds the messages buffered per subscription.
    pub(crate) async fn connect(&self, name: &str, capacity: usize) -> Result<Link, OpenError> {
        let (changes, watching) = watch::channel(0_u64);
        let denied = Arc::new(Mutex::new(None));
        let options = self.options().await?.name(name).subscription_capacity(capacity).event_callback({
            let denied = Arc::clone(&denied);
            move |event| {
                note(&event, &changes, &denied);
                std::future::ready(())
            }
        });
        // Boxed, as elsewhere: the client's futures are so large that they would burden every caller's.
        let client = Box::pin(options.connect(&self.addresses[..])).await.map_err(|error| self.explain(&error))?;
        Ok(Link { client, changes: watching, denied })
    }

    async fn options(&self) -> Result<ConnectOptions, OpenError> {
        let longest = self.longest_delay;
        let mut options = ConnectOptions::new()
            .connection_timeout(CONNECT_TIMEOUT)
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(move |attempt| reconnect_delay(attempt, longest));
        match &self.login {
            Login::Anonymous => {}
            Login::User(user, password) => options = options.user_and_password(user.clone(), password.clone()),
            Login::Token(token) => options = options.token(token.clone()),
            Login::Creds(path) => {
                options = options.credentials_file(path).await.map_err(|error| {
                    config_error(format!("the creds file {} cannot be used: {error}", path.display()))
                })?;
            }
        }
        if self.tls {
            // Two providers in one binary would leave rustls without a default, and it would panic. The call fails
            // only when a default was set already, which is as good.
            let _ = async_nats::rustls::crypto::ring::default_provider().install_default();
            options = options.require_tls(true);
        }
        if let Some(ca) = &self.ca {
            std::fs::File::open(ca).map_err(|source| OpenError::Io { path: ca.clone(), source })?;
            options = options.add_root_certificates(ca.clone());
        }
        Ok(options)
    }

    fn explain(&self, error: &ConnectError) -> OpenError {
        let url = self.url.clone();
        let reason = reason(error);
        match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => OpenError::Refused { url },
            ConnectErrorKind::ServerParse => OpenError::Config { reason },
            ConnectErrorKind::Tls => OpenError::Tls { url, reason },
            ConnectErrorKind::TimedOut => {
                let reason = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
                OpenError::Unreachable { url, reason }
            }
            // A failed handshake arrives as an I/O error.
            _ if is_handshake(error) => OpenError::Tls { url, reason },
            _ => OpenError::Unreachable { url, reason },
        }
    }
}

/// The innermost cause says most: the outer ones only name the step.
fn reason(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string()
}

fn is_handshake(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |error| error.source());
    chain.any(|error| {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inner.and_then(|inner| inner.downcast_ref::<async_nats::rustls::Error>()).is_some()
    })
}

fn config_error(reason: impl Into<String>) -> OpenError {
    OpenError::Config { reason: reason.into() }
}

fn parse_addresses(urls: &str) -> Result<Vec<ServerAddr>, OpenError> {
    let parse = |url: &str| {
        let address = url.trim().parse::<ServerAddr>();
        address.map_err(|_| config_error("the address is not of the form nats://HOST:PORT or tls://HOST:PORT"))
    };
    let addresses = urls.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
    if addresses.iter().any(|address| address.host().is_empty() || address.is_websocket()) {
        return Err(config_error("the address is not of the form nats://HOST:PORT or tls://HOST:PORT"));
    }
    Ok(addresses)
}

/// `nats://user:password@host`, or `nats://token@host`, as all NATS clients read it.
fn login_of(address: &ServerAddr) -> Option<Login> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let user = decode(address.username()?);
    Some(match address.password() {
        Some(password) => Login::User(user, decode(password)),
        None => Login::Token(user),
    })
}

fn masked(address: &ServerAddr) -> String {
    let login = match (address.username(), address.password()) {
        (Some(user), Some(_)) => format!("{user}:***@"),
        (Some(_), None) => "***@".to_owned(),
        (None, _) => String::new(),
    };
    format!("{}://{login}{}:{}", address.scheme(), address.host(), address.port())
}

/// At once, then doubling from 2 ms, with a jitter that keeps many clients from coming back in step.
fn reconnect_delay(attempt: usize, longest: Duration) -> Duration {
    if attempt <= 1 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(attempt - 1).unwrap_or(u32::MAX);
    let delay = Duration::from_millis(2_u64.saturating_pow(doublings)).min(longest);
    delay.mul_f64(rand::random_range(0.75..=1.0))
}

fn note(event: &Event, changes: &watch::Sender<u64>, denied: &Mutex<Option<String>>) {
    match event {
        Event::Connected | Event::Disconnected | Event::Closed => changes.send_modify(|count| *count += 1),
        Event::ServerError(error) => {
            let text = error.to_string();
            if text.to_ascii_lowercase().contains("permissions violation") {
                *denied.lock() = Some(text.clone());
            }
            tracing::warn!(error = text, "the NATS server reported an error");
        }
        Event::SlowConsumer(_) | Event::LameDuckMode | Event::Draining | Event::ClientError(_) => {
            tracing::debug!(%event, "NATS connection");
        }
    }
}

/// Waits for a change, at most so long.
async fn changed(changes: &mut watch::Receiver<u64>, at_most: Duration) {
    let change = async {
        if changes.changed().await.is_err() {
            // There will be no more events; the timeout is all that is left.
            std::future::pending::<()>().await;
        }
    };
    let _ = tokio::time::timeout(at_most, change).await;
}

/// A connection that mends itself, and lets us see when it broke.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) client: Client,
    changes: watch::Receiver<u64>,
    denied: Arc<Mutex<Option<String>>>,
}

impl Link {
    pub(crate) fn connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// How often a connection was made. Unlike events, which the client drops when nobody has time for them, the
    /// count never misses one.
    pub(crate) fn generation(&self) -> u64 {
        self.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Waits until a connection stands.
    pub(crate) async fn wait_connected(&self) {
        let mut changes = self.changes.clone();
        while !self.connected() {
            // Looked at anew now and then, for the case that the event of the change was dropped.
            changed(&mut changes, Duration::from_millis(100)).await;
        }
    }

    /// Waits until the connection of this generation is lost.
    pub(crate) async fn wait_lost(&self, generation: u64) {
        let mut changes = self.changes.clone();
        while self.connected() && self.generation() == generation {
            changed(&mut changes, Duration::from_secs(1)).await;
        }
    }

    /// What the server last refused to let us do, if it did.
    pub(crate) fn denied(&self) -> Option<String> {
        self.denied.lock().clone()
    }

    /// Refuses a server that is too old or runs without `JetStream`.
    pub(crate) fn check_server(&self, url: &str) -> Result<(), OpenError> {
        let info = self.client.server_info();
        let url = url.to_owned();
        let recent = info.version.parse::<Version>().is_ok_and(|found| found >= version::MINIMUM);
        if !recent {
            let minimum = version::MINIMUM.to_string();
            return Err(OpenError::ServerTooOld { url, found: info.version, minimum });
        }
        if !info.jetstream {
            return Err(OpenError::NoJetStream { url });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(url: &str) -> External {
        External { url: url.to_owned(), user: None, password: None, token: None, creds: None, ca: None }
    }

    #[test]
    fn credentials_come_from_the_url_and_never_show() {
        let target = Target::external(external("nats://forebay:p%40ss@one:4222,nats://two")).unwrap();
        assert!(matches!(&target.login, Login::User(user, password) if user == "forebay" && password == "p@ss"));
        assert_eq!(target.url(), "nats://forebay:***@one:4222,nats://two:4222");
        let target = Target::external(external("tls://s3cret@host")).unwrap();
        assert!(target.tls && matches!(&target.login, Login::Token(token) if token == "s3cret"));
        assert_eq!(target.url(), "tls://***@host:4222");
    }

    #[test]
    fn contradictory_or_half_credentials_and_foreign_schemes_are_refused() {
        let half = External { user: Some("me".into()), ..external("nats://host") };
        let both = External { token: Some("t".into()), creds: Some("c".into()), ..external("nats://host") };
        for config in [half, both, external("http://host"), external("ws://host"), external("")] {
            assert!(matches!(Target::external(config), Err(OpenError::Config { .. })));
        }
    }
}
