//! The URL of a Redis broker.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ::redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};
use ::redis::{Connection, ErrorKind, RedisError, RedisResult, TlsCertificates, cmd};
use url::Url;

use crate::spec::{SpecError, broken, control_exchange, decoded, option, parse};

/// Whose URLs these are.
const REDIS: &str = "Redis";

/// The URL of a Redis broker as Celery writes it. Shows itself without the password.
#[derive(Clone)]
pub struct RedisUrl {
    info: Box<ConnectionInfo>,
    tls: TlsFiles,
    /// Who knows where the primary is; `info` is then how to speak with it, wherever that is.
    sentinels: Option<Sentinels>,
    masked: String,
    channels: Channels,
    database: u32,
    key_prefix: String,
    /// What stands between that and an exchange, in the names of channels.
    fanout_prefix: String,
    control_exchange: String,
}

/// The channels that carry Celery's events, as patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Channels {
    /// All of them.
    pub(super) whole: String,
    /// Those about tasks, and those about workers, where they can be told apart.
    pub(super) apart: Option<(String, String)>,
}

impl Channels {
    /// A pattern of which nothing is known.
    pub(super) fn just(whole: String) -> Self {
        Self { whole, apart: None }
    }
}

/// Redis Sentinels, which know where the primary is.
#[derive(Clone)]
struct Sentinels {
    addresses: Vec<ConnectionInfo>,
    master: String,
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
        &self.channels.whole
    }

    /// The same, and which of them are about what.
    pub(super) fn event_channels(&self) -> &Channels {
        &self.channels
    }

    /// Whether both name the same channels of the same server.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.place() == other.place() && self.channels == other.channels
    }

    fn place(&self) -> String {
        match &self.sentinels {
            None => self.info.addr().to_string(),
            Some(Sentinels { addresses, master }) => {
                let mut addresses: Vec<String> = addresses.iter().map(|info| info.addr().to_string()).collect();
                addresses.sort();
                format!("{}/{master}", addresses.join(";"))
            }
        }
    }

    /// Whether it must be asked where the primary is.
    pub(super) fn has_sentinels(&self) -> bool {
        self.sentinels.is_some()
    }

    /// The database in which Celery keeps its queues.
    pub(crate) fn database(&self) -> u32 {
        self.database
    }

    /// What stands before each of Celery's keys.
    pub(crate) fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// The exchange of Celery's remote control, `celery.pidbox`.
    pub(super) fn control_exchange(&self) -> &str {
        &self.control_exchange
    }

    /// The channel on which workers hear it.
    pub(super) fn control_channel(&self) -> String {
        format!("{}{}{}", self.key_prefix, self.fanout_prefix, self.control_exchange)
    }

    /// The user whom Redis must allow to listen.
    pub(crate) fn user(&self) -> &str {
        self.info.redis_settings().username().unwrap_or("default")
    }

    /// Asks who is the primary where Sentinels know it, for so long each. Reads the certificates anew each time, so that
    /// they may be exchanged while we run.
    pub(crate) fn client(&self, patience: Duration) -> RedisResult<Client> {
        let Some(Sentinels { addresses, master }) = &self.sentinels else {
            return self.client_of(self.info.as_ref().clone());
        };
        let mut last = None;
        for sentinel in addresses {
            match self.ask(sentinel, master, patience) {
                Ok((host, port)) => {
                    let address = match self.info.addr() {
                        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
                        }
                        _ => ConnectionAddr::Tcp(host, port),
                    };
                    let settings = self.info.redis_settings().clone();
                    return self.client_of(address.into_connection_info()?.set_redis_settings(settings));
                }
                Err(error) => last = Some(error),
            }
        }
        // There is one at least, or the URL is none.
        Err(last.unwrap_or_else(|| RedisError::from((ErrorKind::InvalidClientConfig, "no Sentinel is named"))))
    }

    /// Where this Sentinel says that the primary is.
    fn ask(&self, sentinel: &ConnectionInfo, master: &str, patience: Duration) -> RedisResult<(String, u16)> {
        let failed = |error: RedisError| {
            let why = format!("the Sentinel at {}: {error}", sentinel.addr());
            RedisError::from((error.kind(), "Redis Sentinel", why))
        };
        let mut connection = self.client_of(sentinel.clone())?.get_connection_with_timeout(patience).map_err(failed)?;
        connection.set_read_timeout(Some(patience))?;
        connection.set_write_timeout(Some(patience))?;
        let question = cmd("SENTINEL").arg("get-master-addr-by-name").arg(master).to_owned();
        let answer: RedisResult<Option<(String, u16)>> = question.query(&mut connection);
        answer.map_err(failed)?.ok_or_else(|| {
            let why = format!("the Sentinel at {} knows no primary named {master}", sentinel.addr());
            RedisError::from((ErrorKind::InvalidClientConfig, "Redis Sentinel", why))
        })
    }

    /// A connection to its database that waits for so long at most.
    pub(crate) fn connect(&self, patience: Duration) -> RedisResult<Connection> {
        let mut connection = self.client(patience)?.get_connection_with_timeout(patience)?;
        connection.set_read_timeout(Some(patience))?;
        connection.set_write_timeout(Some(patience))?;
        // By ourselves, since the client library keeps the reason of a refusal to itself.
        if self.database() != 0 {
            cmd("SELECT").arg(self.database()).exec(&mut connection)?;
        }
        Ok(connection)
    }

    fn client_of(&self, info: ConnectionInfo) -> RedisResult<Client> {
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
            return Client::open(info);
        }
        Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
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
    matches!(scheme, "redis" | "rediss" | "sentinel" | "valkey" | "valkeys" | "redis+socket" | "redis+unix" | "unix")
}

/// Reads a URL of one of these schemes.
pub(crate) fn read(scheme: &str, text: &str) -> Result<RedisUrl, SpecError> {
    match scheme {
        "redis+socket" | "redis+unix" | "unix" => socket(text),
        "sentinel" => sentinel(text),
        _ => network(text),
    }
}

/// `redis://[USER:PASSWORD@]HOST[:PORT]/[DB]`, and `rediss://` for TLS.
fn network(text: &str) -> Result<RedisUrl, SpecError> {
    let url = parse(text, REDIS)?;
    let database = database(url.path().trim_matches('/'))?;
    let (tls, asked) = tls(&url);
    let insecure = asked.unwrap_or_default();
    let is_tls = matches!(url.scheme(), "rediss" | "valkeys");
    let (address, shown) = address(&url, 6379, is_tls.then_some(insecure));
    build(&url, address, tls, &format!("{shown}/{database}"), database)
}

/// `sentinel://[USER:PASSWORD@]HOST[:PORT]/[DB];sentinel://HOST…?master_name=NAME`, as Celery has it. Whatever is not said
/// of the first is taken from those after it.
fn sentinel(text: &str) -> Result<RedisUrl, SpecError> {
    let urls = text.split(';').map(str::trim).filter(|url| !url.is_empty());
    let urls = urls.map(|url| parse(url, REDIS)).collect::<Result<Vec<_>, _>>()?;
    let first = urls.first().ok_or(SpecError::NotAUrl)?;
    if urls.iter().any(|url| url.scheme() != "sentinel") {
        return Err(broken(REDIS, "each part between ';' must begin with sentinel://"));
    }
    let said = |name: &str| urls.iter().find_map(|url| option(url, name));
    let master = said("master_name").filter(|name| !name.is_empty());
    let master = master.ok_or_else(|| broken(REDIS, "sentinel:// needs ?master_name=NAME, the name of the primary"))?;
    // Options and log-in may stand in any of them; the primary has one of each.
    let mut whole =
        urls.iter().find(|url| !url.username().is_empty() || url.password().is_some()).unwrap_or(first).clone();
    let options: Vec<(String, String)> =
        urls.iter().flat_map(|url| url.query_pairs().into_owned().collect::<Vec<_>>()).collect();
    whole.query_pairs_mut().clear().extend_pairs(&options);
    let path = urls.iter().map(|url| url.path().trim_matches('/')).find(|path| !path.is_empty()).unwrap_or_default();
    let database = database(path)?;
    let (tls, asked) = tls(&whole);
    let insecure = asked.or_else(|| said("ssl").filter(|ssl| is_on(ssl)).map(|_| false));
    let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(user) = said("sentinel_username") {
        settings = settings.set_username(user);
    }
    if let Some(password) = said("sentinel_password") {
        settings = settings.set_password(password);
    }
    let unusable = |error: RedisError| broken(REDIS, error.to_string());
    let (mut addresses, mut shown) = (Vec::new(), Vec::new());
    for url in &urls {
        let (address, place) = address(url, 26379, insecure);
        addresses.push(address.into_connection_info().map_err(unusable)?.set_redis_settings(settings.clone()));
        shown.push(place);
    }
    // Where it is, its Sentinels will say.
    let (primary, _) = address(first, 6379, insecure);
    let url = build(&whole, primary, tls, &format!("{}/{database}?master_name={master}", shown.join(";")), database)?;
    Ok(RedisUrl { sentinels: Some(Sentinels { addresses, master }), ..url })
}

/// Where a URL points to, and how that is shown. With TLS where it is said whether that goes unchecked.
fn address(url: &Url, port: u16, insecure: Option<bool>) -> (ConnectionAddr, String) {
    // Celery takes a missing host for this machine.
    let host = match url.host() {
        Some(url::Host::Domain("")) | None => "localhost".to_owned(),
        Some(url::Host::Ipv6(address)) => address.to_string(),
        Some(host) => host.to_string(),
    };
    let port = url.port().unwrap_or(port);
    let shown_host = url.host_str().filter(|host| !host.is_empty()).unwrap_or("localhost");
    let shown = format!("{shown_host}:{port}");
    let address = match insecure {
        Some(insecure) => ConnectionAddr::TcpTls { host, port, insecure, tls_params: None },
        None => ConnectionAddr::Tcp(host, port),
    };
    (address, shown)
}

/// The files for TLS; and, if anything is said about TLS, whether certificates go unchecked.
fn tls(url: &Url) -> (TlsFiles, Option<bool>) {
    let mut tls = TlsFiles::default();
    let mut insecure = (url.fragment() == Some("insecure")).then_some(true);
    for (key, value) in url.query_pairs() {
        let file = || Some(PathBuf::from(value.as_ref()));
        let mut is_unchecked = false;
        match key.as_ref() {
            "ssl_cert_reqs" => is_unchecked = value.to_ascii_lowercase().trim_start_matches("cert_") == "none",
            "ssl_ca_certs" => tls.ca = file(),
            "ssl_certfile" => tls.certificate = file(),
            "ssl_keyfile" => tls.key = file(),
            _ => continue,
        }
        insecure = Some(insecure.unwrap_or_default() || is_unchecked);
    }
    (tls, insecure)
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
    let unusable = |error: RedisError| broken(REDIS, error.to_string());
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
        info: Box::new(address.into_connection_info().map_err(unusable)?.set_redis_settings(settings)),
        tls,
        sentinels: None,
        masked: format!("{}://{credentials}{place}", url.scheme()),
        channels: channels(url, database),
        database,
        key_prefix: option(url, "global_keyprefix").unwrap_or_default(),
        fanout_prefix: fanout_prefix(url, database),
        control_exchange: control_exchange(url),
    })
}

/// Celery publishes on `PREFIX/DB.celeryev/ROUTING.KEY`. `?global_keyprefix=` gives the prefix, `?fanout_prefix=` what
/// follows it and `?fanout_patterns=` whether there is a routing key, all as in Celery's `broker_transport_options`;
/// `?event_exchange=` another exchange, and `?channels=` a whole pattern.
fn channels(url: &Url, database: u32) -> Channels {
    if let Some(whole) = option(url, "channels") {
        return Channels::just(whole);
    }
    let fanout = fanout_prefix(url, database);
    let exchange = option(url, "event_exchange").unwrap_or_else(|| "celeryev".to_owned());
    let before = escape(&format!("{}{fanout}{exchange}", option(url, "global_keyprefix").unwrap_or_default()));
    if option(url, "fanout_patterns").is_some_and(|patterns| !is_on(&patterns)) {
        return Channels::just(before);
    }
    let apart = Some((format!("{before}/task.*"), format!("{before}/worker.*")));
    Channels { whole: format!("{before}/*"), apart }
}

/// A text of its own, in which `{db}` is the database; off, nothing.
fn fanout_prefix(url: &Url, database: u32) -> String {
    match option(url, "fanout_prefix") {
        None => format!("/{database}."),
        Some(prefix) if prefix.is_empty() || is_off(&prefix) => String::new(),
        Some(prefix) if is_on(&prefix) => format!("/{database}."),
        Some(prefix) => prefix.replace("{db}", &database.to_string()),
    }
}

fn is_on(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on")
}

fn is_off(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "false" | "0" | "no" | "off")
}

/// A prefix is a text, and what we send is a pattern.
pub(crate) fn escape(prefix: &str) -> String {
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
