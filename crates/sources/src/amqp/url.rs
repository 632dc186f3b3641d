//! The URL of a RabbitMQ broker.

use std::fmt;
use std::path::PathBuf;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism};
use url::Url;

use crate::spec::{SpecError, broken, control_exchange, decoded, option, parse};

/// Whose URLs these are.
const RABBITMQ: &str = "RabbitMQ";
/// Names that AMQP carries.
const NAME_BYTES: usize = 255;

/// The URL of a RabbitMQ broker as Celery writes it, or several of one cluster, separated by semicolons. Shows itself
/// without the password.
#[derive(Clone)]
pub struct AmqpUrl {
    /// Never empty.
    brokers: Vec<AMQPUri>,
    tls: TlsFiles,
    masked: String,
    exchange: String,
    control_exchange: String,
    queues: Vec<String>,
    queue_kind: QueueKind,
}

/// What kind of queue keeps the events for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// On disk, replicated where there are several nodes: it keeps events over a restart of the broker.
    Quorum,
    /// Celery's events are transient, and such a queue loses them when the broker restarts.
    Classic,
}

/// Files in PEM.
#[derive(Clone, Default)]
pub(super) struct TlsFiles {
    /// The authorities that count instead of those of the system.
    pub(super) ca: Option<PathBuf>,
    /// Our own certificate, and its key.
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

impl AmqpUrl {
    /// The URL without its password and options, fit to be shown.
    pub fn masked(&self) -> &str {
        &self.masked
    }

    /// Whether both name the same exchange of the same broker.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        let place = |url: &Self| {
            let hosts = url.brokers.iter().map(|broker| (broker.authority.host.clone(), broker.authority.port));
            let mut hosts: Vec<_> = hosts.collect();
            hosts.sort();
            (hosts, url.virtual_host().to_owned(), url.exchange.clone())
        };
        place(self) == place(other)
    }

    /// The virtual host.
    pub fn virtual_host(&self) -> &str {
        &self.brokers[0].vhost
    }

    /// The exchange on which Celery publishes its events.
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// What kind of queue keeps the events for us.
    pub fn queue_kind(&self) -> QueueKind {
        self.queue_kind
    }

    /// The user whom RabbitMQ must allow to listen.
    pub(super) fn user(&self) -> &str {
        &self.brokers[0].authority.userinfo.username
    }

    /// The exchange of Celery's remote control, `celery.pidbox`.
    pub(super) fn control_exchange(&self) -> &str {
        &self.control_exchange
    }

    /// Queues of tasks that are named beside those that the events name.
    pub(super) fn queues(&self) -> &[String] {
        &self.queues
    }

    /// Where to connect to at this attempt, counted from 0: one broker after the other.
    pub(super) fn broker(&self, attempt: usize) -> AMQPUri {
        self.brokers[attempt % self.brokers.len()].clone()
    }

    /// How many there are.
    pub(super) fn brokers(&self) -> usize {
        self.brokers.len()
    }

    /// The files with certificates that it names.
    pub(super) fn tls(&self) -> &TlsFiles {
        &self.tls
    }
}

impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked)
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AmqpUrl({})", self.masked)
    }
}

/// Whether URLs of this scheme, in lower case, are RabbitMQ's.
pub(crate) fn is_scheme(scheme: &str) -> bool {
    matches!(scheme, "amqp" | "amqps" | "pyamqp" | "librabbitmq")
}

/// Reads a URL of one of these schemes, or several of them. The options of the first count.
pub(crate) fn read(text: &str) -> Result<AmqpUrl, SpecError> {
    let parts: Vec<&str> = text.split(';').filter(|part| !part.is_empty()).collect();
    let urls = parts.into_iter().map(|part| parse(part, RABBITMQ)).collect::<Result<Vec<_>, _>>()?;
    let (mut brokers, mut masked) = (Vec::new(), Vec::new());
    for url in &urls {
        if !is_scheme(url.scheme()) {
            return Err(broken(RABBITMQ, "a list of brokers must be of RabbitMQ's URLs alone, separated by ';'"));
        }
        let (broker, shown) = broker(url)?;
        brokers.push(broker);
        masked.push(shown);
    }
    let first = urls.first().ok_or(SpecError::NotAUrl)?;
    let file = |name: &str| option(first, name).map(PathBuf::from);
    if option(first, "ssl_cert_reqs").is_some_and(|value| value.to_ascii_lowercase().ends_with("none")) {
        return Err(broken(RABBITMQ, "ssl_cert_reqs=none is not supported: name the authority with ssl_ca_certs=FILE"));
    }
    let tls = TlsFiles { ca: file("ssl_ca_certs"), certificate: file("ssl_certfile"), key: file("ssl_keyfile") };
    let is_named = tls.ca.is_some() || tls.certificate.is_some() || tls.key.is_some();
    // Whoever names certificates does not mean the password to go over the wire as it is.
    if is_named && urls.iter().any(|url| url.scheme() != "amqps") {
        return Err(broken(RABBITMQ, "certificates are named, but not TLS: write amqps:// instead"));
    }
    let name = |value: String| {
        if value.len() <= NAME_BYTES { Ok(value) } else { Err(broken(RABBITMQ, "a name in it is too long")) }
    };
    let queues = first.query_pairs().filter(|(key, _)| key == "queue").map(|(_, queue)| name(queue.into_owned()));
    Ok(AmqpUrl {
        brokers,
        tls,
        masked: masked.join(";"),
        exchange: name(option(first, "event_exchange").unwrap_or_else(|| "celeryev".to_owned()))?,
        control_exchange: name(control_exchange(first))?,
        queues: queues.collect::<Result<_, _>>()?,
        queue_kind: match option(first, "queue_type").as_deref() {
            None | Some("quorum") => QueueKind::Quorum,
            Some("classic") => QueueKind::Classic,
            Some(_) => return Err(broken(RABBITMQ, "queue_type must be quorum or classic")),
        },
    })
}

/// One broker, and how it is shown.
fn broker(url: &Url) -> Result<(AMQPUri, String), SpecError> {
    let scheme = if url.scheme() == "amqps" { AMQPScheme::AMQPS } else { AMQPScheme::AMQP };
    // Celery takes a missing host for this machine.
    let host = match url.host() {
        Some(url::Host::Domain("")) | None => "localhost".to_owned(),
        Some(url::Host::Ipv6(address)) => address.to_string(),
        Some(host) => decoded(&host.to_string(), RABBITMQ)?,
    };
    let port = url.port().unwrap_or_else(|| scheme.default_port());
    let username = match url.username() {
        "" => "guest".to_owned(),
        username => decoded(username, RABBITMQ)?,
    };
    let password = url.password().map_or(Ok("guest".to_owned()), |password| decoded(password, RABBITMQ))?;
    // Only the slash that separates it is no part of the name, and no name is the usual one.
    let vhost = match decoded(url.path().strip_prefix('/').unwrap_or_default(), RABBITMQ)? {
        vhost if vhost.is_empty() => "/".to_owned(),
        vhost => vhost,
    };
    if vhost.len() > NAME_BYTES {
        return Err(broken(RABBITMQ, "the name of the virtual host is too long"));
    }
    let mechanism = option(url, "login_method").map(|method| match method.to_ascii_uppercase().as_str() {
        "EXTERNAL" => Ok(SASLMechanism::External),
        "PLAIN" => Ok(SASLMechanism::Plain),
        "AMQPLAIN" => Ok(SASLMechanism::AMQPlain),
        _ => Err(broken(RABBITMQ, "login_method must be PLAIN, AMQPLAIN or EXTERNAL")),
    });
    let credentials = match (url.username(), url.password()) {
        ("", None) => String::new(),
        (user, None) => format!("{user}@"),
        (user, Some(_)) => format!("{user}:***@"),
    };
    let shown_host = url.host_str().filter(|host| !host.is_empty()).unwrap_or("localhost");
    let masked = format!("{}://{credentials}{shown_host}:{port}/{}", url.scheme(), shown(&vhost));
    let query = AMQPQueryString { auth_mechanism: mechanism.transpose()?, ..AMQPQueryString::default() };
    let authority = AMQPAuthority { userinfo: AMQPUserInfo { username, password }, host, port };
    Ok((AMQPUri { scheme, authority, vhost, query }, masked))
}

/// A virtual host on a line of its own.
fn shown(vhost: &str) -> String {
    vhost.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
