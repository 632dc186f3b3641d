//! What can be said on the command line and in the environment. The help of a flag is what `forebay config example` says
//! of the key, and `[default: …]` at its end is the value that it shows.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use crate::door::DoorArgs;

/// Where the data is: what every command needs.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct StackArgs {
    /// Directory that holds the log, the views and the credentials [default: ./forebay-data]
    #[arg(long, value_name = "DIR", env = "FOREBAY_DATA_DIR")]
    pub(super) data_dir: Option<PathBuf>,

    /// TOML file with any of these settings, under the names of the flags
    #[arg(long, value_name = "FILE", env = "FOREBAY_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// NATS server or cluster that keeps the log, instead of the embedded one
    #[arg(long, value_name = "URL", env = "FOREBAY_NATS_URL", hide_env_values = true, help_heading = "Log")]
    pub(super) nats_url: Option<String>,

    /// User for the NATS server
    #[arg(long, value_name = "NAME", env = "FOREBAY_NATS_USER", help_heading = "Log")]
    pub(super) nats_user: Option<String>,

    /// Password for the NATS server; better given in the environment, where other users do not see it
    #[arg(long, value_name = "PASSWORD", env = "FOREBAY_NATS_PASSWORD", hide_env_values = true, help_heading = "Log")]
    pub(super) nats_password: Option<String>,

    /// Token for the NATS server; better given in the environment
    #[arg(long, value_name = "TOKEN", env = "FOREBAY_NATS_TOKEN", hide_env_values = true, help_heading = "Log")]
    pub(super) nats_token: Option<String>,

    /// Credentials file for the NATS server
    #[arg(long, value_name = "FILE", env = "FOREBAY_NATS_CREDS", help_heading = "Log")]
    pub(super) nats_creds: Option<PathBuf>,

    /// Certificate authority of the NATS server, in PEM
    #[arg(long, value_name = "FILE", env = "FOREBAY_NATS_CA", help_heading = "Log")]
    pub(super) nats_ca: Option<PathBuf>,

    /// How many servers of the cluster keep a copy: 1, 3 or 5 [default: 1]
    #[arg(long, value_name = "N", env = "FOREBAY_NATS_REPLICAS", help_heading = "Log")]
    pub(super) nats_replicas: Option<usize>,

    /// The nats-server program to embed, 2.10.25 or newer [default: beside this program, or on the PATH]
    #[arg(long, value_name = "FILE", env = "FOREBAY_NATS_SERVER", help_heading = "Log")]
    pub(super) nats_server: Option<PathBuf>,

    /// When the embedded log is forced to disk: every `100ms`, or `always` before an event is acknowledged [default: 100ms]
    #[arg(long, value_name = "WHEN", value_enum, env = "FOREBAY_FSYNC", help_heading = "Log")]
    pub(super) fsync: Option<Fsync>,

    /// How much memory the list of all jobs may take, a size such as `500MB` or `2GB`: beyond it the columns of the jobs
    /// that were created longest ago are read from disk [default: 1GB]
    #[arg(long, value_name = "SIZE", env = "FOREBAY_LIST_MEMORY", help_heading = "Views")]
    pub(super) list_memory: Option<String>,

    /// Tell the counters of `GET /metrics` apart by the hosts of workers, too: each host has all series of what it runs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(env = "FOREBAY_METRICS_HOSTNAME", help_heading = "Views")]
    pub(super) metrics_hostname: Option<bool>,

    /// Write the log of what happens as JSON lines even on a terminal
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(env = "FOREBAY_JSON_LOGS")]
    pub(super) json_logs: Option<bool>,
}

/// What only the server needs.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) stack: StackArgs,

    /// Address to listen on; port 0 takes any free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "HOST:PORT", env = "FOREBAY_LISTEN")]
    pub(super) listen: Option<String>,

    /// Celery broker to listen to, `NAME=redis://:PASSWORD@HOST:PORT/DB` or `NAME=amqp://USER:PASSWORD@HOST:PORT/VHOST`;
    /// may be given more than once
    ///
    /// Name, user, password, port and what follows it may be left out.
    /// Without a name its jobs belong to the default connection, with one to the connection of that name, which is made
    /// at first use. Also `FOREBAY_CELERY`, several separated by blanks or commas.
    #[arg(long, value_name = "[NAME=]URL", help_heading = "Sources")]
    pub(super) celery: Vec<String>,

    /// File with more of them, one on each line
    #[arg(long, value_name = "FILE", env = "FOREBAY_CELERY_FILE", help_heading = "Sources")]
    pub(super) celery_file: Option<PathBuf>,

    /// Celery's result backend to ask how jobs ended of which no event tells, `NAME=redis://HOST:PORT/DB`; only read
    ///
    /// Without a name it is asked for the jobs of the default connection. Also `FOREBAY_CELERY_BACKEND`.
    #[arg(long, value_name = "[NAME=]URL", help_heading = "Sources")]
    pub(super) celery_backend: Vec<String>,

    /// How long after the last news of a job the result backend is asked for it: a time such as `30s` or `5m`
    /// [default: 1m]
    #[arg(long, value_name = "TIME", env = "FOREBAY_CELERY_BACKEND_AFTER", help_heading = "Sources")]
    pub(super) celery_backend_after: Option<String>,

    /// Drop the arguments and results of jobs before anything is stored
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(env = "FOREBAY_REDACT_ARGS", help_heading = "Sources")]
    pub(super) redact_args: Option<bool>,

    /// Take whatever fits this regular expression out of arguments, results, errors, tracebacks and notes before anything is
    /// stored, and put `[redacted]` in its place; may be given more than once
    ///
    /// It is looked for in each text by itself, letter by letter as Celery wrote it. Also `FOREBAY_REDACT`, one on each line.
    #[arg(long, value_name = "PATTERN", help_heading = "Sources")]
    pub(super) redact: Vec<String>,

    /// Ask workers that were started without -E to send the events of their tasks, over Celery's remote control
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(env = "FOREBAY_ENABLE_EVENTS", help_heading = "Sources")]
    pub(super) enable_events: Option<bool>,

    /// How much of what brokers tell may wait on disk while the log does not take it: a size such as `500MB` or `2GB`, or
    /// `off` [default: 1GB]
    ///
    /// When it is full, the oldest events about workers are dropped first, then the oldest about tasks; health counts them.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_SPOOL_SIZE", help_heading = "Sources")]
    pub(super) spool_size: Option<String>,

    /// How often the views are compared with a fresh replay of the log, slowly and in the background: a time such as
    /// `90m`, `24h` or `7d`, or `off` [default: 24h]
    #[arg(long, value_name = "TIME", env = "FOREBAY_SCRUB", help_heading = "Views")]
    pub(super) scrub: Option<String>,

    /// For how long events are kept after they came in: a time such as `12h`, `7d` or `90d`, or `off` [default: 7d]
    ///
    /// What is older goes by the hour, jobs that had their last event then with it. A job that goes on keeps the events
    /// since, and says that it is truncated.
    #[arg(long, value_name = "TIME", env = "FOREBAY_RETENTION", help_heading = "Retention")]
    pub(super) retention: Option<String>,

    /// How large the log may become: a size such as `20GB`, a share of its disk such as `50%`, or `off` [default: 50%]
    ///
    /// Counted before the log compresses it. From four fifths of it on, less is kept than `--retention` asks for, and
    /// health says so.
    #[arg(long, value_name = "SIZE", env = "FOREBAY_MAX_LOG_SIZE", help_heading = "Retention")]
    pub(super) max_log_size: Option<String>,

    /// For how long a worker that is gone stays in the list of workers, and a queue that nobody describes in that of
    /// queues: a time such as `10m` or `12h`, `24h` at most [default: 24h]
    #[arg(long, value_name = "TIME", env = "FOREBAY_FORGET_WORKERS", help_heading = "Retention")]
    pub(super) forget_workers: Option<String>,

    /// Receiver of OpenTelemetry to send traces and metrics to, over OTLP as HTTP with protobuf, such as
    /// `http://localhost:4318`; only where the program was built with `make build FEATURES=otlp`
    ///
    /// All else is said by the standard variables: `OTEL_EXPORTER_OTLP_HEADERS` (what the receiver knows us by),
    /// `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_METRIC_EXPORT_INTERVAL` and their like.
    #[arg(
        long,
        value_name = "URL",
        env = "FOREBAY_OTLP_ENDPOINT",
        hide_env_values = true,
        help_heading = "OpenTelemetry"
    )]
    pub(super) otlp_endpoint: Option<String>,

    #[command(flatten)]
    pub(super) door: DoorArgs,
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
