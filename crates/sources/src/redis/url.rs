//! The URL of a Redis broker.

use std::fmt;
use std::path::PathBuf;

use ::redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};
use ::redis::{RedisResult, TlsCertificates};
use url::Url;

use crate::spec::{SpecError, broken, control_exchange, decoded, option, parse};

/// Whose URLs these are.
const REDIS: &str = "Redis";

/// The URL of a Redis broker as Celery writes it. Shows itself without the password.
#[derive(Clone)]
pub struct RedisUrl {
    info: ConnectionInfo,
    tls: TlsFiles,
    masked: String,
    channels: String,
    database: u32,
    key_prefix: String,
    control_exchange: String,
}

#[derive(Clone, Default)]
struct TlsFiles {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl RedisUrl {
    /// The URL without its password and options, fit to be shown.
    pub fn masked(&self) -> &str {
        &self.masked
    }

    /// The pattern of the channels that carry Celery's events.
    pub fn channels(&self) -> &str {
        &self.channels
    }

    /// Whether both name the same channels of the same server.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.info.addr().to_string() == other.info.addr().to_string() && self.channels == other.channels
    }

    /// The database in which Celery keeps its queues.
    pub(super) fn database(&self) -> u32 {
        self.database
    }

    /// What stands before each of Celery's keys.
    pub(super) fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// The exchange of Celery's remote control, `celery.pidbox`.
    pub(super) fn control_exchange(&self) -> &str {
        &self.control_exchange
    }

    /// The channel on which workers hear it.
    pub(super) fn control_channel(&self) -> String {
        format!("{}/{}.{}", self.key_prefix, self.database, self.control_exchange)
    }

    /// The user whom Redis must allow to listen.
    pub(super) fn user(&self) -> &str {
        self.info.redis_settings().username().unwrap_or("default")
    }

    /// Reads the certificates anew each time, so that they may be exchanged while we run.
    pub(super) fn client(&self) -> RedisResult<Client> {
        let TlsFiles { ca, certificate, key } = &self.tls;
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| std::io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
        };
        let client_tls = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
            }
            _ => None,
        };
        let root_cert = ca.as_ref().map(read).transpose()?;
        if client_tls.is_none() && root_cert.is_none() {
            return Client::open(self.info.clone());
        }
        Client::build_with_tls(self.info.clone(), TlsCertificates { client_tls, root_cert })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({})", self.masked)
    }
}

/// Whether URLs of this scheme, in lower case, are Redis'.
pub(crate) fn is_scheme(scheme: &str) -> bool {
    matches!(scheme, "redis" | "rediss" | "valkey" | "valkeys" | "redis+socket" | "redis+unix" | "unix")
}

/// Reads a URL of one of these schemes.
pub(crate) fn read(scheme: &str, text: &str) -> Result<RedisUrl, SpecError> {
    if matches!(scheme, "redis+socket" | "redis+unix" | "unix") { socket(text) } else { network(text) }
}

/// `redis://[USER:PASSWORD@]HOST[:PORT]/[DB]`, and `rediss://` for TLS.
fn network(text: &str) -> Result<RedisUrl, SpecError> {
    let url = parse(text, REDIS)?;
    // Celery takes a missing host for this machine.
    let host = match url.host() {
        Some(url::Host::Domain("")) | None => "localhost".to_owned(),
        Some(url::Host::Ipv6(address)) => address.to_string(),
        Some(host) => host.to_string(),
    };
    let port = url.port().unwrap_or(6379);
    let database = database(url.path().trim_matches('/'))?;
    let mut tls = TlsFiles::default();
    let address = if matches!(url.scheme(), "rediss" | "valkeys") {
        let mut insecure = url.fragment() == Some("insecure");
        for (key, value) in url.query_pairs() {
            let file = || Some(PathBuf::from(value.as_ref()));
            match key.as_ref() {
                "ssl_cert_reqs" => insecure |= value.to_ascii_lowercase().trim_start_matches("cert_") == "none",
                "ssl_ca_certs" => tls.ca = file(),
                "ssl_certfile" => tls.certificate = file(),
                "ssl_keyfile" => tls.key = file(),
                _ => {}
            }
        }
        ConnectionAddr::TcpTls { host, port, insecure, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let shown_host = url.host_str().filter(|host| !host.is_empty()).unwrap_or("localhost");
    let place = format!("{shown_host}:{port}/{database}");
    build(&url, address, tls, &place, database)
}

/// `redis+socket:///PATH?virtual_host=DB`.
fn socket(text: &str) -> Result<RedisUrl, SpecError> {
    let url = parse(text, REDIS)?;
    let path = decoded(url.path(), REDIS)?;
    if path.len() < 2 {
        return Err(broken(REDIS, "the path of the socket is missing"));
    }
    let number = url.query_pairs().find(|(key, _)| matches!(key.as_ref(), "virtual_host" | "db"));
    let database = database(number.as_ref().map_or("", |(_, value)| value.trim_matches('/')))?;
    let place = format!("{path}?virtual_host={database}");
    build(&url, ConnectionAddr::Unix(path.into()), TlsFiles::default(), &place, database)
}

fn build(url: &Url, address: ConnectionAddr, tls: TlsFiles, place: &str, database: u32) -> Result<RedisUrl, SpecError> {
    let unusable = |error: ::redis::RedisError| broken(REDIS, error.to_string());
    // SELECT is left to who needs it: pub/sub knows no databases. No name of the client either: an access list need not allow it.
    let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
    let user = decoded(url.username(), REDIS)?;
    if !user.is_empty() {
        settings = settings.set_username(&user);
    }
    if let Some(password) = url.password() {
        settings = settings.set_password(decoded(password, REDIS)?);
    }
    let credentials = match (user.is_empty(), url.password()) {
        (true, None) => String::new(),
        (false, None) => format!("{}@", url.username()),
        (_, Some(_)) => format!("{}:***@", url.username()),
    };
    Ok(RedisUrl {
        info: address.into_connection_info().map_err(unusable)?.set_redis_settings(settings),
        tls,
        masked: format!("{}://{credentials}{place}", url.scheme()),
        channels: channels(url, database),
        database,
        key_prefix: option(url, "global_keyprefix").unwrap_or_default(),
        control_exchange: control_exchange(url),
    })
}

/// Celery publishes on `PREFIX/DB.celeryev/ROUTING.KEY`. `?global_keyprefix=` gives the prefix; `?channels=` a whole
/// pattern, for a changed exchange or fanout prefix.
fn channels(url: &Url, database: u32) -> String {
    option(url, "channels").unwrap_or_else(|| {
        let prefix = escape(&option(url, "global_keyprefix").unwrap_or_default());
        format!("{prefix}/{database}.celeryev/*")
    })
}

/// A prefix is a text, and what we send is a pattern.
pub(super) fn escape(prefix: &str) -> String {
    prefix.chars().flat_map(escaped).collect()
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    matches!(c, '*' | '?' | '[' | ']' | '\\').then_some('\\').into_iter().chain([c])
}

fn database(text: &str) -> Result<u32, SpecError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| broken(REDIS, "the database after the host must be a number"))
}
