//! The configuration: flags before environment before file before defaults, all under the same names.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use projector::{Most, Policy};
use serde::Deserialize;
use sources::{BackendSpec, SourceSpec, parse_source, parse_sources};
use uuid::Uuid;

use crate::door::{DoorArgs, DoorConfig};
use crate::units;

/// Where things are kept when nothing else is said.
const DATA_DIR: &str = "forebay-data";
const LISTEN: &str = "127.0.0.1:8080";
/// Shorter keys can be guessed.
const API_KEY_CHARACTERS: usize = 16;

/// Where the data is: what every command needs.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct StackArgs {
    /// Directory that holds the log, the views and the credentials [default: ./forebay-data]
    #[arg(long, value_name = "DIR", env = "FOREBAY_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// TOML file with any of these settings, under the names of the flags
    #[arg(long, value_name = "FILE", env = "FOREBAY_CONFIG")]
    config: Option<PathBuf>,

    /// NATS server or cluster that keeps the log, instead of the embedded one
    #[arg(long, value_name = "URL", env = "FOREBAY_NATS_URL", hide_env_values = true, help_heading = "Log")]
    nats_url: Option<String>,

    /// User for the NATS server
    #[arg(long, value_name = "NAME", env = "FOREBAY_NATS_USER", help_heading = "Log")]
    nats_user: Option<String>,

    /// Password for the NATS server; better given in the environment, where other users do not see it
    #[arg(long, value_name = "PASSWORD", env = "FOREBAY_NATS_PASSWORD", hide_env_values = true, help_heading = "Log")]
    nats_password: Option<String>,

    /// Token for the NATS server; better given in the environment
    #[arg(long, value_name = "TOKEN", env = "FOREBAY_NATS_TOKEN", hide_env_values = true, help_heading = "Log")]
    nats_token: Option<String>,

    /// Credentials file for the NATS server
    #[arg(long, value_name = "FILE", env = "FOREBAY_NATS_CREDS", help_heading = "Log")]
    nats_creds: Option<PathBuf>,

    /// Certificate authority of the NATS server, in PEM
    #[arg(long, value_name = "FILE", env = "FOREBAY_NATS_CA", help_heading = "Log")]
    nats_ca: Option<PathBuf>,

    /// How many servers of the cluster keep a copy: 1, 3 or 5 [default: 1]
    #[arg(long, value_name = "N", env = "FOREBAY_NATS_REPLICAS", help_heading = "Log")]
    nats_replicas: Option<usize>,

    /// The nats-server program to embed, 2.10.25 or newer [default: beside this program, or on the PATH]
    #[arg(long, value_name = "FILE", env = "FOREBAY_NATS_SERVER", help_heading = "Log")]
    nats_server: Option<PathBuf>,

    /// When the embedded log is forced to disk: every `100ms`, or `always` before an event is acknowledged [default: 100ms]
    #[arg(long, value_name = "WHEN", value_enum, env = "FOREBAY_FSYNC", help_heading = "Log")]
    fsync: Option<Fsync>,

    /// How much memory the list of all jobs may take, a size such as `500MB` or `2GB`: beyond it the columns of the jobs
    /// that were created longest ago are read from disk [default: 1GB]
    #[arg(long, value_name = "SIZE", env = "FOREBAY_LIST_MEMORY", help_heading = "Views")]
    list_memory: Option<String>,

    /// Write the log of what happens as JSON lines even on a terminal
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(env = "FOREBAY_JSON_LOGS")]
    json_logs: Option<bool>,
}

/// What only the server needs.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) stack: StackArgs,

    /// Address to listen on; port 0 takes any free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT", env = "FOREBAY_LISTEN")]
    listen: Option<String>,

    /// Celery broker to listen to, `NAME=redis://:PASSWORD@HOST:PORT/DB` or `NAME=amqp://USER:PASSWORD@HOST:PORT/VHOST`;
    /// may be given more than once
    ///
    /// Name, user, password, port and what follows it may be left out.
    /// Without a name its jobs belong to the default connection, with one to the connection of that name, which is made
    /// at first use. Also `FOREBAY_CELERY`, several separated by blanks or commas.
    #[arg(long, value_name = "[NAME=]URL", help_heading = "Sources")]
    celery: Vec<String>,

    /// File with more of them, one on each line
    #[arg(long, value_name = "FILE", env = "FOREBAY_CELERY_FILE", help_heading = "Sources")]
    celery_file: Option<PathBuf>,

    /// Celery's result backend to ask how jobs ended of which no event tells, `NAME=redis://HOST:PORT/DB`; only read
    ///
    /// Without a name it is asked for the jobs of the default connection. Also `FOREBAY_CELERY_BACKEND`.
    #[arg(long, value_name = "[NAME=]URL", help_heading = "Sources")]
    celery_backend: Vec<String>,

    /// How long after the last news of a job the result backend is asked for it: a time such as `30s` or `5m`
    /// [default: 1m]
    #[arg(long, value_name = "TIME", env = "FOREBAY_CELERY_BACKEND_AFTER", help_heading = "Sources")]
    celery_backend_after: Option<String>,

    /// Drop the arguments and results of jobs before anything is stored
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(env = "FOREBAY_REDACT_ARGS", help_heading = "Sources")]
    redact_args: Option<bool>,

    /// Ask workers that were started without -E to send the events of their tasks, over Celery's remote control
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(env = "FOREBAY_ENABLE_EVENTS", help_heading = "Sources")]
    enable_events: Option<bool>,

    /// How much of what brokers tell may wait on disk while the log does not take it: a size such as `500MB` or `2GB`, or
    /// `off` [default: 1GB]
    ///
    /// When it is full, the oldest events about workers are dropped first, then the oldest about tasks; health counts them.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_SPOOL_SIZE", help_heading = "Sources")]
    spool_size: Option<String>,

    /// How often the views are compared with a fresh replay of the log, slowly and in the background: a time such as
    /// `90m`, `24h` or `7d`, or `off` [default: 24h]
    #[arg(long, value_name = "TIME", env = "FOREBAY_SCRUB", help_heading = "Views")]
    scrub: Option<String>,

    /// For how long events are kept after they came in: a time such as `12h`, `7d` or `90d`, or `off` [default: 7d]
    ///
    /// What is older goes by the hour, jobs that had their last event then with it. A job that goes on keeps the events
    /// since, and says that it is truncated.
    #[arg(long, value_name = "TIME", env = "FOREBAY_RETENTION", help_heading = "Retention")]
    retention: Option<String>,

    /// How large the log may become: a size such as `20GB`, a share of its disk such as `50%`, or `off` [default: 50%]
    ///
    /// Counted before the log compresses it. From four fifths of it on, less is kept than `--retention` asks for, and
    /// health says so.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_MAX_LOG_SIZE", help_heading = "Retention")]
    max_log_size: Option<String>,

    /// For how long a worker that is gone stays in the list of workers, and a queue that nobody describes in that of
    /// queues: a time such as `10m` or `12h`, `24h` at most [default: 24h]
    #[arg(long, value_name = "TIME", env = "FOREBAY_FORGET_WORKERS", help_heading = "Retention")]
    forget_workers: Option<String>,

    #[command(flatten)]
    pub(crate) door: DoorArgs,
}

/// When the embedded log is forced to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
pub(crate) enum Fsync {
    /// Every 100 ms: only a power cut can cost acknowledged events, those of the last moment.
    #[default]
    #[value(name = "100ms")]
    #[serde(rename = "100ms")]
    Interval,
    /// Before each acknowledgement.
    #[serde(rename = "always")]
    Always,
}

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct TomlFile {
    data_dir: Option<PathBuf>,
    nats_url: Option<String>,
    nats_user: Option<String>,
    nats_password: Option<String>,
    nats_token: Option<String>,
    nats_creds: Option<PathBuf>,
    nats_ca: Option<PathBuf>,
    nats_replicas: Option<usize>,
    nats_server: Option<PathBuf>,
    fsync: Option<Fsync>,
    list_memory: Option<String>,
    json_logs: Option<bool>,
    listen: Option<String>,
    celery: Vec<String>,
    celery_file: Option<PathBuf>,
    celery_backend: Vec<String>,
    celery_backend_after: Option<String>,
    redact_args: Option<bool>,
    enable_events: Option<bool>,
    spool_size: Option<String>,
    scrub: Option<String>,
    retention: Option<String>,
    max_log_size: Option<String>,
    forget_workers: Option<String>,
    api_key: Option<String>,
    connection_id: Option<Uuid>,
    admin_password: Option<String>,
    pub(crate) public_url: Option<String>,
    pub(crate) base_path: Option<String>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) trusted_proxy: Vec<String>,
    pub(crate) auth_header: Option<String>,
    pub(crate) auth_admins: Vec<String>,
    pub(crate) oidc_issuer: Option<String>,
    pub(crate) oidc_client_id: Option<String>,
    pub(crate) oidc_client_secret: Option<String>,
    pub(crate) oidc_allow: Vec<String>,
    pub(crate) oidc_admins: Vec<String>,
    pub(crate) oidc_scopes: Vec<String>,
    pub(crate) oidc_groups_claim: Option<String>,
    pub(crate) oidc_ca: Option<PathBuf>,
    pub(crate) max_connections: Option<u32>,
    pub(crate) max_connections_per_address: Option<String>,
    pub(crate) max_requests_per_key: Option<String>,
    pub(crate) max_requests_per_address: Option<String>,
    pub(crate) max_wrong_keys: Option<String>,
}

/// The settings in force that say where the data is.
#[derive(Clone, Debug)]
pub(crate) struct StackConfig {
    pub(crate) data_dir: PathBuf,
    pub(crate) nats: Option<Nats>,
    pub(crate) nats_server: Option<PathBuf>,
    pub(crate) fsync: Fsync,
    /// Bytes.
    pub(crate) list_memory: u64,
    pub(crate) json_logs: bool,
}

/// An external NATS server.
#[derive(Clone)]
pub(crate) struct Nats {
    pub(crate) url: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) creds: Option<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) replicas: usize,
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&mask_url(&self.url))
    }
}

/// The settings in force of the server.
pub(crate) struct ServeConfig {
    pub(crate) stack: StackConfig,
    pub(crate) listen: String,
    pub(crate) celery: Vec<SourceSpec>,
    pub(crate) backends: Vec<BackendSpec>,
    pub(crate) backends_after: Duration,
    pub(crate) redact_args: bool,
    pub(crate) enable_events: bool,
    /// In bytes; `None` is no spool.
    pub(crate) spool_size: Option<u64>,
    /// `None` is never.
    pub(crate) scrub: Option<Duration>,
    pub(crate) policy: Policy,
    pub(crate) forget_workers: Duration,
    pub(crate) api_key: Option<String>,
    pub(crate) connection_id: Option<Uuid>,
    pub(crate) admin_password: Option<String>,
    pub(crate) door: DoorConfig,
}

impl StackArgs {
    /// Puts the flags, the environment and the file together.
    pub(crate) fn resolve(self) -> anyhow::Result<StackConfig> {
        let file = TomlFile::read(self.config.as_deref())?;
        self.over(&file)
    }

    fn over(self, file: &TomlFile) -> anyhow::Result<StackConfig> {
        let nats = match given(self.nats_url).or_else(|| file.nats_url.clone()) {
            None => None,
            Some(url) => Some(Nats {
                url,
                user: given(self.nats_user).or_else(|| file.nats_user.clone()),
                password: given(self.nats_password).or_else(|| file.nats_password.clone()),
                token: given(self.nats_token).or_else(|| file.nats_token.clone()),
                creds: self.nats_creds.or_else(|| file.nats_creds.clone()),
                ca: self.nats_ca.or_else(|| file.nats_ca.clone()),
                replicas: self.nats_replicas.or(file.nats_replicas).unwrap_or(1),
            }),
        };
        if nats.as_ref().is_some_and(|nats| ![1, 3, 5].contains(&nats.replicas)) {
            bail!("nats-replicas must be 1, 3 or 5: other numbers cost more and protect no better");
        }
        Ok(StackConfig {
            data_dir: self.data_dir.or_else(|| file.data_dir.clone()).unwrap_or_else(|| DATA_DIR.into()),
            nats,
            nats_server: self.nats_server.or_else(|| file.nats_server.clone()),
            fsync: self.fsync.or(file.fsync).unwrap_or_default(),
            list_memory: units::list_memory(given(self.list_memory).or(file.list_memory.clone()).as_deref())?,
            json_logs: self.json_logs.or(file.json_logs).unwrap_or_default(),
        })
    }
}

impl ServeArgs {
    /// Puts the flags, the environment and the file together.
    pub(crate) fn resolve(self) -> anyhow::Result<ServeConfig> {
        let file = TomlFile::read(self.stack.config.as_deref())?;
        let mut celery = celery("celery", &self.celery, variable("FOREBAY_CELERY")?, &file.celery)?;
        let backends = variable("FOREBAY_CELERY_BACKEND")?;
        let backends = self::celery("celery-backend", &self.celery_backend, backends, &file.celery_backend)?;
        let backends = backends.into_iter().map(BackendSpec::try_from).collect::<Result<_, _>>();
        let backends: Vec<BackendSpec> = backends.context("--celery-backend")?;
        let after = given(self.celery_backend_after.clone()).or_else(|| file.celery_backend_after.clone());
        if let Some(path) = self.celery_file.as_ref().or(file.celery_file.as_ref()) {
            celery.extend(celery_file(path)?);
        }
        let connection_id = match variable("FOREBAY_CONNECTION_ID")? {
            Some(text) => Some(text.parse().context("FOREBAY_CONNECTION_ID must be a UUID")?),
            None => file.connection_id,
        };
        let stack = self.stack.over(&file)?;
        let door = self.door.over(&file)?;
        let policy = Policy {
            keep: units::retention(given(self.retention).or(file.retention).as_deref())?,
            most: units::most(given(self.max_log_size).or(file.max_log_size).as_deref(), stack.nats.is_none())?,
        };
        Ok(ServeConfig {
            stack,
            listen: given(self.listen).or_else(|| file.listen.clone()).unwrap_or_else(|| LISTEN.to_owned()),
            celery,
            backends,
            backends_after: units::backend_after(after.as_deref())?,
            redact_args: self.redact_args.or(file.redact_args).unwrap_or_default(),
            enable_events: self.enable_events.or(file.enable_events).unwrap_or_default(),
            spool_size: units::spool(given(self.spool_size).or(file.spool_size).as_deref())?,
            scrub: units::scrub(given(self.scrub).or(file.scrub).as_deref())?,
            policy,
            forget_workers: units::forget_workers(given(self.forget_workers).or(file.forget_workers).as_deref())?,
            api_key: api_key(variable("FOREBAY_API_KEY")?.or(file.api_key))?,
            connection_id,
            admin_password: variable("FOREBAY_ADMIN_PASSWORD")?.or(file.admin_password),
            door,
        })
    }
}

impl TomlFile {
    fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("cannot use {}", path.display()))
    }
}

/// Brokers or backends, from wherever they are given. The texts themselves are never repeated: they may hold passwords.
fn celery(
    name: &'static str,
    flags: &[String],
    environment: Option<String>,
    file: &[String],
) -> anyhow::Result<Vec<SourceSpec>> {
    match (flags, environment) {
        ([], Some(list)) => {
            parse_sources(&list).with_context(|| format!("FOREBAY_{}", name.to_uppercase().replace('-', "_")))
        }
        ([], None) => {
            file.iter().map(|spec| parse_source(spec).with_context(|| format!("{name} in the file"))).collect()
        }
        (flags, _) => flags.iter().map(|spec| parse_source(spec).with_context(|| format!("--{name}"))).collect(),
    }
}

fn celery_file(path: &Path) -> anyhow::Result<Vec<SourceSpec>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().map(str::trim).enumerate();
    let specs = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    specs
        .map(|(index, line)| parse_source(line).with_context(|| format!("{} line {}", path.display(), index + 1)))
        .collect()
}

fn api_key(key: Option<String>) -> anyhow::Result<Option<String>> {
    if key.as_ref().is_some_and(|key| key.chars().count() < API_KEY_CHARACTERS) {
        bail!("FOREBAY_API_KEY must have at least {API_KEY_CHARACTERS} characters");
    }
    Ok(key)
}

/// A variable that is set to nothing is not set: compose files have no other way to say so.
pub(crate) fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(given(Some(value))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => bail!("{name} is not valid UTF-8"),
    }
}

pub(crate) fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

impl ServeConfig {
    /// What is in force, for people, without secrets.
    pub(crate) fn describe(&self) -> String {
        let stack = &self.stack;
        let log = match &stack.nats {
            Some(nats) => format!("{nats:?}, {} replica(s)", nats.replicas),
            None => format!(
                "embedded, forced to disk {}",
                if stack.fsync == Fsync::Always { "always" } else { "every 100 ms" }
            ),
        };
        let named = |name: &Option<String>, url: &str| match name {
            Some(name) => format!("{name}={url}"),
            None => url.to_owned(),
        };
        let listed = |specs: Vec<String>| if specs.is_empty() { "none".to_owned() } else { specs.join(" ") };
        let celery = self.celery.iter().map(|spec| named(&spec.name, spec.url.masked())).collect();
        let backends = self.backends.iter().map(|spec| named(&spec.name, spec.url.masked())).collect();
        let from = |given: bool| if given { "given" } else { "made up and kept in credentials.json" };
        let rows = [
            ("data-dir", stack.data_dir.display().to_string()),
            ("listen", self.listen.clone()),
            ("log", log),
            ("celery", listed(celery)),
            ("celery-backend", listed(backends)),
            ("redact-args", self.redact_args.to_string()),
            ("list-memory", format!("{} bytes", stack.list_memory)),
            ("enable-events", self.enable_events.to_string()),
            ("spool-size", self.spool_size.map_or("off".to_owned(), |bytes| format!("{bytes} bytes"))),
            ("scrub", self.scrub.map_or("off".to_owned(), |every| format!("every {}", units::in_words(every)))),
            ("retention", self.policy.keep.map_or("off".to_owned(), units::in_words)),
            (
                "max-log-size",
                match self.policy.most {
                    Most::Percent(percent) => format!("{percent}% of the disk"),
                    Most::Bytes(bytes) => format!("{bytes} bytes"),
                    Most::Unlimited => "off".to_owned(),
                },
            ),
            ("forget-workers", units::in_words(self.forget_workers)),
            ("api-key", if self.api_key.is_some() { "given" } else { "made up, or rotated since" }.to_owned()),
            ("admin-password", from(self.admin_password.is_some()).to_owned()),
        ];
        rows.into_iter().chain(self.door.describe()).fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "  {name:<14}  {value}");
            text
        })
    }
}

/// Hides everything between the first scheme and the last `@`, and whatever follows a question mark. Of a list of URLs
/// with secrets only the last host is left: a secret may hold any character that could part one URL from the next.
pub(crate) fn mask_url(url: &str) -> String {
    let Some(scheme) = url.find("://") else { return "***".to_owned() };
    match (url.rfind('@').filter(|at| *at > scheme), url.find('?')) {
        (None, None) => url.to_owned(),
        (None, Some(question)) => url[..question].to_owned(),
        (Some(at), question) if question.is_none_or(|question| question > at) => {
            format!("{}://***{}", &url[..scheme], &url[at..question.unwrap_or(url.len())])
        }
        // Either a password with a question mark or a query with an `@`: nobody can tell, so nothing is shown.
        (Some(_), _) => format!("{}://***", &url[..scheme]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Serve {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn resolved(flags: &[&str], file: &str) -> anyhow::Result<ServeConfig> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("forebay.toml");
        std::fs::write(&path, file)?;
        let config = ["serve", "--config", path.to_str().context("a text")?];
        Serve::try_parse_from(config.iter().chain(flags))?.args.resolve()
    }

    fn names(config: &ServeConfig) -> Vec<&str> {
        config.celery.iter().map(|spec| spec.name.as_deref().unwrap_or_default()).collect()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = "listen = '0.0.0.0:1'\nnats-url = 'nats://file:1'\nredact-args = true\nfsync = 'always'\ncelery = ['a=redis://file']";
        let config = resolved(&["--listen", "0.0.0.0:2", "--redact-args=false"], file).unwrap();
        assert_eq!(
            (config.listen.as_str(), config.redact_args, config.stack.fsync),
            ("0.0.0.0:2", false, Fsync::Always)
        );
        assert_eq!(config.stack.nats.as_ref().unwrap().url, "nats://file:1");
        assert_eq!(names(&config), ["a"]);
        assert_eq!(config.stack.data_dir, Path::new(DATA_DIR));
        let config = resolved(&["--celery", "redis://flag", "--celery", "b=redis://flag"], file).unwrap();
        assert_eq!(names(&config), ["", "b"]);
    }

    #[test]
    fn what_is_kept_and_how_often_it_is_compared_has_a_default_and_can_be_given() {
        let scrub = |flags: &[&str], file| resolved(flags, file).unwrap().scrub.map(|every| every.as_secs());
        assert_eq!(scrub(&[], ""), Some(86_400));
        assert_eq!(scrub(&[], "scrub = '90m'"), Some(5_400));
        assert_eq!(scrub(&["--scrub", "7d"], "scrub = 'off'"), Some(604_800));
        assert_eq!(scrub(&["--scrub", "off"], "scrub = '1s'"), None);
        let policy = |flags: &[&str], file| resolved(flags, file).unwrap().policy;
        let week = Some(Duration::from_secs(604_800));
        assert_eq!(policy(&[], ""), Policy { keep: week, most: Most::Percent(50) });
        let elsewhere = policy(&["--retention", "off"], "nats-url = 'nats://a'\nretention = '1h'");
        assert_eq!(elsewhere, Policy { keep: None, most: Most::Unlimited });
        assert_eq!(policy(&["--max-log-size", "2GiB"], "").most, Most::Bytes(2 << 30));
        assert_eq!(policy(&[], "max-log-size = '12%'").most, Most::Percent(12));
        for wrong in ["5", "GB", "0GB", "101%", "0%", "-1GB", "1.5GB", "99999999999TB"] {
            assert!(resolved(&["--max-log-size", wrong], "").is_err(), "{wrong}");
        }
        assert!(resolved(&["--max-log-size", "50%"], "nats-url = 'nats://a'").is_err());
        let memory = |flags: &[&str], file| resolved(flags, file).map(|config| config.stack.list_memory).ok();
        assert_eq!(memory(&[], ""), Some(1_000_000_000));
        assert_eq!(memory(&["--list-memory", "64MiB"], "list-memory = '2GB'"), Some(64 << 20));
        assert_eq!((memory(&[], "list-memory = '50%'"), memory(&["--list-memory", "off"], "")), (None, None));
        let spool = |flags: &[&str], file| resolved(flags, file).map(|config| config.spool_size).ok();
        assert_eq!(spool(&[], ""), Some(Some(1_000_000_000)));
        assert_eq!(spool(&["--spool-size", "2GiB"], "spool-size = 'off'"), Some(Some(2 << 30)));
        assert_eq!((spool(&[], "spool-size = 'off'"), spool(&["--spool-size", "5%"], "")), (Some(None), None));
        let forget = |flags: &[&str], file| resolved(flags, file).map(|config| config.forget_workers.as_secs()).ok();
        assert_eq!(forget(&[], ""), Some(86_400));
        assert_eq!(forget(&["--forget-workers", "10m"], "forget-workers = '1h'"), Some(600));
        assert_eq!((forget(&[], "forget-workers = '25h'"), forget(&["--forget-workers", "off"], "")), (None, None));
    }

    #[test]
    fn what_the_file_misspells_is_named() {
        let error = format!("{:#}", resolved(&[], "lisen = '0.0.0.0:1'").err().unwrap());
        assert!(error.contains("lisen"), "{error}");
        assert!(resolved(&[], "api-key = 'short'").is_err());
        for wrong in ["never", "24", "h", "0h", "1.5h", "99999999999d"] {
            assert!(resolved(&["--scrub", wrong], "").is_err(), "{wrong}");
        }
        assert!(resolved(&[], "nats-url = 'nats://a'\nnats-replicas = 2").is_err());
    }

    #[test]
    fn no_secret_is_shown() {
        let file = "nats-url = 'nats://u:s3,cr3t@host:4222,nats://u:s3cret@other'\nadmin-password = 's3cret'\n\
                    api-key = 's3crets3crets3cret'\nnats-password = 's3cret'\ncelery = ['a=redis://:s3cret@host/0']";
        let config = resolved(&[], file).unwrap();
        let shown = format!("{}{:?}", config.describe(), config.stack);
        assert!(!shown.contains("s3") && !shown.contains("cr3t"), "{shown}");
        assert!(shown.contains("nats://***@other"), "{shown}");
        assert!(shown.contains("a=redis://:***@host:6379/0"), "{shown}");
        for (url, masked) in [
            ("nats://h:4222,nats://g", "nats://h:4222,nats://g"),
            ("nats://u:p?w@h", "nats://***"),
            ("nats://h?password=p@w", "nats://***"),
            ("nats://u:p@w@h?x=y", "nats://***@h"),
            ("user:password", "***"),
        ] {
            assert_eq!(mask_url(url), masked);
        }
    }
}
