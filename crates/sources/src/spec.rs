//! What the operator writes to name a broker: `[NAME=]URL`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use ::redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};
use ::redis::{RedisResult, TlsCertificates};
use percent_encoding::percent_decode_str;
use url::Url;

/// A broker to listen to, and the connection that its events belong to.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// The connection's name; without one it is the default connection.
    pub name: Option<String>,
    /// Where the broker is.
    pub url: BrokerUrl,
}

/// Why a text names no broker that we can listen to. Never repeats the text: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// No scheme at all.
    #[error("not a broker URL: expected [NAME=]redis://[USER:PASSWORD@]HOST[:PORT]/[DB]")]
    NotAUrl,
    /// The name of the connection.
    #[error("not a connection name before '=': 1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit")]
    Name,
    /// `RabbitMQ`.
    #[error("{0}:// (RabbitMQ) is not supported yet and comes in a later version; redis:// and rediss:// are")]
    RabbitMq(String),
    /// Redis Sentinel.
    #[error("sentinel:// is not supported yet: give the redis:// URL of the present primary")]
    Sentinel,
    /// Anything else.
    #[error("brokers of the scheme {0}:// are not supported: redis:// and rediss:// are")]
    UnknownScheme(String),
    /// A Redis URL that cannot be read.
    #[error("not a usable Redis URL: {0} (special characters in user and password must be percent-encoded)")]
    Broken(String),
}

/// The URL of a Redis broker as Celery writes it. Shows itself without the password.
#[derive(Clone)]
pub struct BrokerUrl {
    info: ConnectionInfo,
    tls: TlsFiles,
    masked: String,
    channels: String,
    database: u32,
    key_prefix: String,
}

#[derive(Clone, Default)]
struct TlsFiles {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// Reads `[NAME=]URL`.
pub fn parse_source(spec: &str) -> Result<SourceSpec, SpecError> {
    let spec = spec.trim();
    let scheme_at = spec.find("://").ok_or(SpecError::NotAUrl)?;
    // An '=' further on belongs to the URL's own query.
    let (name, url) = match spec.split_once('=') {
        Some((name, url)) if name.len() < scheme_at => (Some(name), url),
        _ => (None, spec),
    };
    if name.is_some_and(|name| !is_name(name)) {
        return Err(SpecError::Name);
    }
    Ok(SourceSpec { name: name.map(str::to_owned), url: url.parse()? })
}

/// Reads several specs separated by commas, spaces or line ends, as an environment variable or a file holds them.
pub fn parse_sources(specs: &str) -> Result<Vec<SourceSpec>, SpecError> {
    let specs = specs.split(|c: char| c == ',' || c.is_whitespace());
    specs.filter(|spec| !spec.is_empty()).map(parse_source).collect()
}

fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

impl BrokerUrl {
    /// The URL without its password and options, fit to be shown.
    pub fn masked(&self) -> &str {
        &self.masked
    }

    /// The pattern of the channels that carry Celery's events.
    pub fn channels(&self) -> &str {
        &self.channels
    }

    /// The database in which Celery keeps its queues.
    pub(crate) fn database(&self) -> u32 {
        self.database
    }

    /// What stands before each of Celery's keys.
    pub(crate) fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// The user whom Redis must allow to listen.
    pub(crate) fn user(&self) -> &str {
        self.info.redis_settings().username().unwrap_or("default")
    }

    /// Reads the certificates anew each time, so that they may be exchanged while we run.
    pub(crate) fn client(&self) -> RedisResult<Client> {
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

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked)
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({})", self.masked)
    }
}

impl FromStr for BrokerUrl {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (scheme, _) = text.split_once("://").ok_or(SpecError::NotAUrl)?;
        let scheme = scheme.to_ascii_lowercase();
        match scheme.as_str() {
            "redis" | "rediss" | "valkey" | "valkeys" => network(text),
            "redis+socket" | "redis+unix" | "unix" => socket(text),
            "amqp" | "amqps" | "pyamqp" | "librabbitmq" => Err(SpecError::RabbitMq(scheme)),
            "sentinel" => Err(SpecError::Sentinel),
            _ if scheme.len() <= 20 && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') => {
                Err(SpecError::UnknownScheme(scheme))
            }
            _ => Err(SpecError::NotAUrl),
        }
    }
}

/// `redis://[USER:PASSWORD@]HOST[:PORT]/[DB]`, and `rediss://` for TLS.
fn network(text: &str) -> Result<BrokerUrl, SpecError> {
    let url = parse(text)?;
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
fn socket(text: &str) -> Result<BrokerUrl, SpecError> {
    let url = parse(text)?;
    let path = decoded(url.path())?;
    if path.len() < 2 {
        return Err(SpecError::Broken("the path of the socket is missing".to_owned()));
    }
    let number = url.query_pairs().find(|(key, _)| matches!(key.as_ref(), "virtual_host" | "db"));
    let database = database(number.as_ref().map_or("", |(_, value)| value.trim_matches('/')))?;
    let place = format!("{path}?virtual_host={database}");
    build(&url, ConnectionAddr::Unix(path.into()), TlsFiles::default(), &place, database)
}

fn build(
    url: &Url,
    address: ConnectionAddr,
    tls: TlsFiles,
    place: &str,
    database: u32,
) -> Result<BrokerUrl, SpecError> {
    let broken = |error: ::redis::RedisError| SpecError::Broken(error.to_string());
    // SELECT is left to who needs it: pub/sub knows no databases. No name of the client either: an access list need not allow it.
    let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
    let user = decoded(url.username())?;
    if !user.is_empty() {
        settings = settings.set_username(&user);
    }
    if let Some(password) = url.password() {
        settings = settings.set_password(decoded(password)?);
    }
    let credentials = match (user.is_empty(), url.password()) {
        (true, None) => String::new(),
        (false, None) => format!("{}@", url.username()),
        (_, Some(_)) => format!("{}:***@", url.username()),
    };
    Ok(BrokerUrl {
        info: address.into_connection_info().map_err(broken)?.set_redis_settings(settings),
        tls,
        masked: format!("{}://{credentials}{place}", url.scheme()),
        channels: channels(url, database),
        database,
        key_prefix: option(url, "global_keyprefix").unwrap_or_default(),
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

fn option(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// A prefix is a text, and what we send is a pattern.
pub(crate) fn escape(prefix: &str) -> String {
    prefix.chars().flat_map(escaped).collect()
}

fn escaped(c: char) -> impl Iterator<Item = char> {
    matches!(c, '*' | '?' | '[' | ']' | '\\').then_some('\\').into_iter().chain([c])
}

/// Celery's URLs may have a user and no host.
fn parse(text: &str) -> Result<Url, SpecError> {
    Url::parse(&text.replacen("@/", "@localhost/", 1)).map_err(|error| SpecError::Broken(error.to_string()))
}

fn decoded(text: &str) -> Result<String, SpecError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| SpecError::Broken("it is not UTF-8 when decoded".to_owned()))
}

fn database(text: &str) -> Result<u32, SpecError> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| SpecError::Broken("the database after the host must be a number".to_owned()))
}
