//! What the operator writes to name a broker: `[NAME=]URL`.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::amqp::{self, AmqpUrl};
use crate::redis::{self, RedisUrl};

/// A broker to listen to, and the connection that its events belong to.
#[derive(Clone, Debug)]
pub struct SourceSpec {
    /// The connection's name; without one it is the default connection.
    pub name: Option<String>,
    /// Where the broker is.
    pub url: BrokerUrl,
    /// Stands for the text, password included, which nobody should be able to read again.
    written: u64,
}

impl SourceSpec {
    /// Whether both were written alike, within this process.
    pub fn is_written_as(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

/// Why a text names no broker that we can listen to. Never repeats the text: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// No scheme at all.
    #[error(
        "not a broker URL: expected [NAME=]redis://[USER:PASSWORD@]HOST[:PORT]/[DB] or \
         [NAME=]amqp://[USER:PASSWORD@]HOST[:PORT]/[VIRTUAL HOST]"
    )]
    NotAUrl,
    /// The name of the connection.
    #[error("not a connection name before '=': 1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit")]
    Name,
    /// Anything else.
    #[error(
        "brokers of the scheme {0}:// are not supported: redis://, rediss://, sentinel://, amqp:// and amqps:// are"
    )]
    UnknownScheme(String),
    /// A result backend of another kind.
    #[error("only result backends in Redis can be asked: redis:// and rediss://")]
    Backend,
    /// The URL of a known kind of broker, and it cannot be read.
    #[error("not a usable {kind} URL: {reason} (special characters in user and password must be percent-encoded)")]
    Broken {
        /// Whose.
        kind: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// A result backend to ask, and the connection whose jobs it knows.
#[derive(Clone, Debug)]
pub struct BackendSpec {
    /// The connection's name; without one it is the default connection.
    pub name: Option<String>,
    /// Where the backend is.
    pub url: RedisUrl,
    written: u64,
}

impl BackendSpec {
    /// Whether both were written alike, within this process.
    pub fn is_written_as(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl TryFrom<SourceSpec> for BackendSpec {
    type Error = SpecError;

    fn try_from(SourceSpec { name, url, written }: SourceSpec) -> Result<Self, SpecError> {
        match url {
            BrokerUrl::Redis(url) => Ok(Self { name, url, written }),
            BrokerUrl::Amqp(_) => Err(SpecError::Backend),
        }
    }
}

/// The URL of a broker as Celery writes it. Shows itself without the password.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "there are a few of them, and they are moved a few times")]
pub enum BrokerUrl {
    /// Redis, and what speaks like it.
    Redis(RedisUrl),
    /// RabbitMQ.
    Amqp(AmqpUrl),
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
    let mut hasher = DefaultHasher::new();
    spec.hash(&mut hasher);
    Ok(SourceSpec { name: name.map(str::to_owned), url: url.parse()?, written: hasher.finish() })
}

/// Reads several specs separated by commas, spaces or line ends, as an environment variable or a file holds them.
pub fn parse_sources(specs: &str) -> Result<Vec<SourceSpec>, SpecError> {
    let specs = specs.split(|c: char| c == ',' || c.is_whitespace());
    specs.filter(|spec| !spec.is_empty()).map(parse_source).collect()
}

/// Whether a connection that is made for a source may have this name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

impl BrokerUrl {
    /// The URL without its password and options, fit to be shown.
    pub fn masked(&self) -> &str {
        match self {
            Self::Redis(url) => url.masked(),
            Self::Amqp(url) => url.masked(),
        }
    }

    /// Whether both bring the same events, whoever logs in.
    pub fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Redis(one), Self::Redis(other)) => one.is_same_as(other),
            (Self::Amqp(one), Self::Amqp(other)) => one.is_same_as(other),
            _ => false,
        }
    }

    /// Whether what is published while nobody listens is gone: then a source listens before the log is there.
    pub fn forgets(&self) -> bool {
        match self {
            Self::Redis(_) => true,
            Self::Amqp(_) => false,
        }
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.masked())
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerUrl({})", self.masked())
    }
}

impl FromStr for BrokerUrl {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (scheme, _) = text.split_once("://").ok_or(SpecError::NotAUrl)?;
        let scheme = scheme.to_ascii_lowercase();
        match scheme.as_str() {
            _ if redis::is_scheme(&scheme) => redis::read(&scheme, text).map(Self::Redis),
            _ if amqp::is_scheme(&scheme) => amqp::read(text).map(Self::Amqp),
            _ if scheme.len() <= 20 && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+') => {
                Err(SpecError::UnknownScheme(scheme))
            }
            _ => Err(SpecError::NotAUrl),
        }
    }
}

/// Celery's URLs may have a user and no host.
pub(crate) fn parse(text: &str, kind: &'static str) -> Result<Url, SpecError> {
    Url::parse(&text.replacen("@/", "@localhost/", 1)).map_err(|error| broken(kind, error.to_string()))
}

/// A part of such a URL as it is meant.
pub(crate) fn decoded(text: &str, kind: &'static str) -> Result<String, SpecError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| broken(kind, "it is not UTF-8 when decoded"))
}

pub(crate) fn broken(kind: &'static str, reason: impl Into<String>) -> SpecError {
    SpecError::Broken { kind, reason: reason.into() }
}

/// An option after the question mark.
pub(crate) fn option(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The exchange on which workers take orders; `?control_exchange=` is what Celery's setting of that name says.
pub(crate) fn control_exchange(url: &Url) -> String {
    let namespace = option(url, "control_exchange").filter(|name| !name.is_empty());
    format!("{}.pidbox", namespace.as_deref().unwrap_or("celery"))
}
