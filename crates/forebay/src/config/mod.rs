//! The configuration: flags before environment before file before defaults, all under the same names.
//!
//! # Layout
//! - [`ServeArgs`], [`StackArgs`]: what can be said on the command line and in the environment (`args`)
//! - `file`: the file, and all that is wrong with it; `near`: what somebody may have meant
//! - `resolve`: what then holds; `problems`: every mistake at once
//! - [`Setting`], [`settings`]: what holds, as it was written, and where it comes from (`settings`)
//! - [`example`]: a file that explains every key, from the declarations of the flags
//! - `endpoint`: where OpenTelemetry is sent
//! - `mask`: secrets in what is shown

mod args;
mod describe;
mod endpoint;
mod example;
mod file;
mod mask;
mod near;
mod problems;
mod resolve;
mod settings;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use projector::Policy;
use sources::{BackendSpec, Redaction, SourceSpec};
use uuid::Uuid;

use crate::door::DoorConfig;

pub(crate) use args::{Fsync, ServeArgs, StackArgs};
pub(crate) use example::example;
pub(crate) use file::TomlFile;
pub(crate) use mask::mask_url;
pub(crate) use resolve::{given, variable};
pub(crate) use settings::{Setting, shown, shown_json};

/// The settings in force that say where the data is.
#[derive(Clone, Debug)]
pub(crate) struct StackConfig {
    pub(crate) data_dir: PathBuf,
    pub(crate) nats: Option<Nats>,
    pub(crate) nats_server: Option<PathBuf>,
    pub(crate) fsync: Fsync,
    /// Bytes.
    pub(crate) list_memory: u64,
    /// Whether counters are told apart by the hosts of workers, too.
    pub(crate) metrics_hostname: bool,
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
    pub(crate) redaction: Redaction,
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
    pub(crate) alerts: alerts::Plan,
    /// Where traces and metrics are sent, without a slash at its end.
    pub(crate) otlp_endpoint: Option<String>,
}

/// What holds, and how it was written.
pub(crate) struct Loaded {
    pub(crate) config: ServeConfig,
    pub(crate) settings: Vec<Setting>,
}

/// Puts flags, environment and file together, as they are now. The matches are those that the arguments were read from.
/// The error names every mistake.
pub(crate) fn load(args: ServeArgs, matches: &ArgMatches) -> anyhow::Result<Loaded> {
    let (file, written) = file::read(args.stack.config.as_deref())?;
    let config = args.over(file)?;
    let settings = settings::settings(matches, &written, &config)?;
    Ok(Loaded { config, settings })
}
