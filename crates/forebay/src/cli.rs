//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use uuid::Uuid;

use crate::commands::jobs::{self, JobsArgs};
use crate::config::{ServeArgs, StackArgs};

/// Forebay keeps the record of your background jobs: what ran, when, where, how often, and how it ended.
#[derive(Parser, Debug)]
#[command(
    version,
    max_term_width = 120,
    after_help = "\
Start here:
  forebay serve --celery redis://localhost:6379/0   # listen to a Celery broker and serve the API
  forebay link                                      # the dashboard: a link that logs your browser in
  forebay job 5a3f0f6c-0b39-4a3c-9a53-0d9a6f0c4a52  # one job's timeline, by Forebay's id or Celery's task id
  forebay jobs --state failed --created-after 1h    # what failed in the last hour
  forebay help serve                                # every setting, as flag, variable and file key"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the server: take events in, keep them, answer questions about jobs
    #[command(after_help = SERVE_HELP)]
    Serve(Box<ServeArgs>),
    /// Show one job: its state, its timeline, its runs, its error
    #[command(after_help = JOB_HELP)]
    Job(JobArgs),
    /// List jobs: those that fit the filters, as a table, as JSON lines or as CSV
    #[command(after_help = jobs::HELP)]
    Jobs(Box<JobsArgs>),
    /// Make the views anew from the log, compare them with the old ones, and let them serve; reads go on meanwhile
    #[command(after_help = REBUILD_HELP)]
    Rebuild(RebuildArgs),
    /// Fold the whole log afresh and compare it with the views; exit 0 means that they are equal
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// List the events of the log that could not be used, and why
    #[command(after_help = QUARANTINE_HELP)]
    Quarantine(VerifyArgs),
    /// List what is missing in what is heard: events that are never sent, cut arguments, times at which nobody listened
    #[command(after_help = COVERAGE_HELP)]
    Coverage(VerifyArgs),
    /// Write the log, or a part of it, into a file: a backup
    #[command(after_help = EXPORT_HELP)]
    Export(ExportArgs),
    /// Read an export back into a new log
    #[command(after_help = IMPORT_HELP)]
    Import(ImportArgs),
    /// Manage connections: each is one sender with its own API key and its own jobs
    #[command(after_help = CONNECTION_HELP)]
    Connection(ConnectionArgs),
    /// List the brokers that the running server listens to; add and remove some while it runs
    #[command(after_help = SOURCES_HELP)]
    Sources(Box<SourcesArgs>),
    /// List the alert rules of the running server, what each measures now, and what came of the notices; test a webhook
    #[command(after_help = ALERTS_HELP)]
    Alerts(Box<AlertsArgs>),
    /// Check the configuration, show what of it is in force, or print an example of its file
    #[command(after_help = CONFIG_HELP)]
    Config(ConfigArgs),
    /// Manage read keys: API keys for scripts, which may read all and change nothing
    #[command(after_help = KEY_HELP)]
    Key(KeyArgs),
    /// Print a link that logs a browser into the dashboard of the running server, once and within 15 minutes
    #[command(after_help = LINK_HELP)]
    Link(LinkArgs),
    /// End every session of the dashboard: whoever is logged in has to log in again
    Logout(LinkArgs),
    /// List who changed what: connections, keys, sources, rebuilds, and who logged in
    #[command(after_help = AUDIT_HELP)]
    Audit(AuditArgs),
    /// Fold recorded events into job records, one JSON line each; needs no server
    #[command(after_help = FOLD_HELP)]
    Fold(FoldArgs),
}

const LINK_HELP: &str = "\
Whoever opens it first is logged in, so send it to nobody else. Where the server is reached by another name or through a
proxy, put that in place of the address.

Examples:
  forebay link
  xdg-open \"$(forebay link --data-dir /var/lib/forebay)\"";

const SERVE_HELP: &str = "\
Settings come from flags, then FOREBAY_* variables, then the file of --config, whose keys are the flags' names.
Four more have no flag, because flags are seen by every user of the machine:
  FOREBAY_API_KEY         key of the default connection, 16 characters or more (file: api-key)
  FOREBAY_CONNECTION_ID   id of the default connection, a UUID (file: connection-id)
  FOREBAY_ADMIN_PASSWORD  password of the dashboard and of POST /api/session (file: admin-password)
  FOREBAY_OIDC_CLIENT_SECRET  our secret with the provider of --oidc-issuer (file: oidc-client-secret)
Those of the first three that are not given are made up at the first start, printed once, and kept in DIR/credentials.json.
Alerts stand in the file alone; `forebay config example` prints one that explains every key. On SIGHUP the file is read
again: sources, result backends, alerts, redaction, retention, log size, scrubbing and how long workers are remembered
are taken over, the certificate is loaded again, all else needs a restart, and a file with mistakes changes nothing.

Examples:
  forebay serve --celery redis://localhost:6379/0
  forebay serve --celery shop=redis://:secret@cache-1/0 --celery mail=redis://cache-2/1
  forebay serve --nats-url nats://n1:4222,nats://n2:4222 --nats-replicas 3
  FOREBAY_LOG=debug forebay serve --listen 0.0.0.0:8080 --data-dir /var/lib/forebay";

const JOB_HELP: &str = "\
ID is Forebay's id of the job or the framework's own (Celery's task id). Works beside a running server and without one.

Examples:
  forebay job 5a3f0f6c-0b39-4a3c-9a53-0d9a6f0c4a52
  forebay job 5a3f0f6c-0b39-4a3c-9a53-0d9a6f0c4a52 --json | jq .stateHistory
  forebay job 5a3f0f6c-0b39-4a3c-9a53-0d9a6f0c4a52 --events                        # what it was folded from
  forebay job 5a3f0f6c-0b39-4a3c-9a53-0d9a6f0c4a52 --as-of 2026-02-27T10:30:00Z    # what was known then";

const REBUILD_HELP: &str = "\
The log is the truth and the views are made from it, so they can be thrown away and made again. Works beside a running
server, which answers all the while, and without one.

Where the log is another one than the views were made from (deleted, restored, rolled back), the new views wait: the old
ones may be the last copy of what was lost. --promote lets the new ones serve all the same.

The views that served before are kept for a day.

A version of Forebay that makes other records of the same events needs views of its own. Started without them, it answers
from the old ones, frozen and marked as stale, until its own are made. --prepare, given to the new program while the old
server runs, makes them before the restart; given again, it adds what came since.

Examples:
  forebay rebuild
  forebay rebuild --prepare
  forebay rebuild --rollback
  forebay rebuild --promote";

const VERIFY_HELP: &str = "\
Works beside a running server, which answers and takes events in all the while, and without one. Exit 0: equal. Exit 1:
each differing job is printed, field by field. Exit 2: it could not be told, and why is said.

Examples:
  forebay verify && echo equal
  forebay verify --json | jq .verdict";

const QUARANTINE_HELP: &str = "\
Events that cannot be read, that a newer Forebay wrote, or that make the fold fail stop nothing: they are passed over and
listed here by their place in the log, which keeps them. They are tried again whenever the views are made anew by another
version of Forebay, and by `forebay rebuild`.

Examples:
  forebay quarantine
  forebay quarantine --json | jq -r '.data[].position'";

const EXPORT_HELP: &str = "\
The file is JSON lines: a header, the log's messages in order with their publish times, and a last line with a count and a
checksum. It grows as FILE.part and gets its own name when it is whole; after an interruption the same command goes on
where it stopped. Works beside a running server and without one, and covers what the log held when it began.
The connections and the read keys are in it with hashes of the keys, so that after an import the keys are good as before
(an export of one connection alone has no read keys). An export holds all that the jobs' events hold: arguments, results
and errors.

Examples:
  forebay export backup.jsonl.zst
  forebay export monday.jsonl.gz --from 2026-03-02T00:00:00Z --to 2026-03-03T00:00:00Z
  forebay export billing.jsonl --connection billing --from 120000 --no-keys
  forebay export - | ssh other-host forebay import -";

const IMPORT_HELP: &str = "\
The whole file is checked first: one that is cut off or damaged changes nothing. After an interruption the same command
goes on where it stopped, and an export that is in the log already is left alone. The messages keep their publish times,
the connections their ids, names and API keys; jobs come out as they were, to the byte. Works beside a running server
and without one. Import only exports that you trust: the keys in them will be good here.

Examples:
  forebay import backup.jsonl.zst --data-dir /var/lib/forebay-new
  zcat backup.jsonl.gz | forebay import - --merge --no-keys";

const SOURCES_HELP: &str = "\
Examples:
  forebay sources                                        # how each is, and what waits on disk
  forebay sources add shop redis://cache-1/0             # its jobs belong to the connection shop
  echo redis://:secret@cache-2/0 | forebay sources add mail -
  forebay sources remove mail                            # its jobs stay

What is added is kept in DIR/sources.json, passwords included, for the server's user alone. What --celery,
FOREBAY_CELERY or a file declares is removed there.";

const ALERTS_HELP: &str = "\
Rules and webhooks stand in the file of --config: `forebay config example` shows how, and SIGHUP lets a running server
take changed ones over.

Examples:
  forebay alerts
  forebay alerts --json | jq '.rules[] | select(.state == \"firing\") | .incident.summary'
  forebay alerts test ops      # a rule or a webhook; exit 0 means that the notice was taken";

const CONFIG_HELP: &str = "\
Exit 0 of `check` means that `forebay serve` would start with it; otherwise every mistake is named, in the file with its
line. `show` names for each setting where it comes from; secrets are masked.

Examples:
  forebay config example > forebay.toml
  forebay config check --config forebay.toml
  forebay config show --config forebay.toml --json | jq '.retention'";

const CONNECTION_HELP: &str = "\
Examples:
  forebay connection create billing            # prints the new connection's id and its API key, once
  forebay connection list --json
  forebay connection rename billing invoices   # its id, its key and its jobs stay
  forebay connection rotate invoices           # prints a new API key, once; the old one stops working at once
  forebay connection delete invoices           # its key stops working; its jobs stay

The default connection keeps its name; its key can be rotated unless FOREBAY_API_KEY gives it. To rename what
--celery NAME=URL has made, stop the server and change NAME there as well: it would make another connection.";

const COVERAGE_HELP: &str = "\
Jobs are judged by the latest 300 of each connection, of the last 24 hours. Only what can be proven is told.

Examples:
  forebay coverage
  forebay coverage --json | jq '.[] | select(.what == \"sentEvents\")'";

const KEY_HELP: &str = "\
A read key reads all that the dashboard's session reads, jobs of every connection, and is refused for everything else. Give
each script its own, so that each can be deleted alone.

Examples:
  forebay key create grafana    # prints the key, once
  curl -H 'Authorization: Bearer rk_live_…' 'http://127.0.0.1:8080/api/jobs?state=failed'
  forebay key list --json
  forebay key delete grafana    # it stops working at once";

const AUDIT_HELP: &str = "\
What is changed is written into the log, in a stream of its own, before it is answered. It is kept for 400 days, or for 64 MB.
An export does not hold it.

Examples:
  forebay audit
  forebay audit --limit 1000 --json | jq '.[] | select(.action == \"connection.rotate\")'";

const FOLD_HELP: &str = "\
Each line is an ingest batch {\"events\":[…]}, one ingest event, one of Celery's raw events, or a recorded message of its
broker. Each job's record comes out as one JSON line, in the order in which the jobs first appear.

Examples:
  forebay fold recording.jsonl | jq '{externalId, state, attempt}'
  celery-events-to-jsonl | forebay fold --connection 550e8400-e29b-41d4-a716-446655440000";

#[derive(Args, Debug)]
pub(crate) struct JobArgs {
    /// Forebay's id of the job, or the framework's own
    pub(crate) id: String,
    /// Show the events that the record was folded from, and what the fold made of each
    #[arg(long, conflicts_with = "as_of")]
    pub(crate) events: bool,
    /// Show the job as the log stood then: a time as in RFC 3339, or a log position (SEQUENCE or SEQUENCE.INDEX)
    #[arg(long, value_name = "TIME|POSITION")]
    pub(crate) as_of: Option<String>,
    /// Print what the API answers
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

#[derive(Args, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct RebuildArgs {
    /// Let the new views serve even where the log is another one than the views were made from; with an ID, those of a
    /// rebuild that waits for this
    #[arg(long, value_name = "ID", group = "what", num_args = 0..=1, default_missing_value = "")]
    pub(crate) promote: Option<String>,
    /// Undo the last rebuild: the views that served before serve again
    #[arg(long, group = "what")]
    pub(crate) rollback: bool,
    /// Before an upgrade, beside the running server of the other version: make the views that this version will start
    /// with, so that it answers at once
    #[arg(long, group = "what")]
    pub(crate) prepare: bool,
    /// Remove the views that served before the last rebuild, which are kept for a day, and what was prepared
    #[arg(long, group = "what")]
    pub(crate) discard_old: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

#[derive(Args, Debug)]
pub(crate) struct LinkArgs {
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

#[derive(Args, Debug)]
pub(crate) struct AuditArgs {
    /// How many of the latest
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Where to; compressed if it ends in `.gz` or `.zst`; `-` is standard output
    pub(crate) file: PathBuf,
    /// Begin at this position in the log, or with what was published at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME|POSITION")]
    pub(crate) from: Option<String>,
    /// End with this position in the log, or with what was published before this time (RFC 3339)
    #[arg(long, value_name = "TIME|POSITION")]
    pub(crate) to: Option<String>,
    /// Only the events of this connection
    #[arg(long, value_name = "ID|NAME")]
    pub(crate) connection: Option<String>,
    /// Leave out the hashes of the connections' API keys, and the read keys
    #[arg(long)]
    pub(crate) no_keys: bool,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// What `forebay export` wrote, compressed or not; `-` is standard input
    pub(crate) file: PathBuf,
    /// Import into a log that holds jobs already, beside them
    #[arg(long)]
    pub(crate) merge: bool,
    /// Do not make the API keys of the export's connections good here, nor its read keys
    #[arg(long)]
    pub(crate) no_keys: bool,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ConnectionArgs {
    #[command(subcommand)]
    pub(crate) action: ConnectionAction,
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SourcesArgs {
    #[command(subcommand)]
    pub(crate) action: Option<SourcesAction>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AlertsArgs {
    #[command(subcommand)]
    pub(crate) action: Option<AlertsAction>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Subcommand, Debug)]
pub(crate) enum AlertsAction {
    /// Send a notice that says that it is a test
    Test {
        /// A rule, for all its webhooks; or a webhook
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) action: ConfigAction,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ConfigAction {
    /// Find every mistake in flags, environment and file
    Check {
        #[command(flatten)]
        serve: Box<ServeArgs>,
    },
    /// Show what is in force, and where it comes from
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        serve: Box<ServeArgs>,
    },
    /// Print a file that explains every key
    Example,
}

#[derive(Subcommand, Debug)]
pub(crate) enum SourcesAction {
    /// Listen to another broker, from now on and after a restart
    Add {
        /// A name, unique; that of its connection as well, where none is given
        name: String,
        /// The broker's URL as Celery has it, or - to read it from standard input
        url: String,
        /// The connection that its jobs belong to, which is made if need be
        #[arg(long, value_name = "NAME")]
        connection: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Stop listening to a broker that was added so
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum ConnectionAction {
    /// Make a connection and print its API key, which is shown this once
    Create {
        /// A name for people, unique
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the connections
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Give a connection another name: its id, its key and its jobs stay
    Rename {
        /// Its name or its id
        connection: String,
        /// The new name, unique
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Give a connection a new API key and print it, which is shown this once; the old one stops working
    Rotate {
        /// Its name or its id
        connection: String,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a connection: its key stops working, its jobs stay
    Delete {
        /// Its name or its id
        connection: String,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args, Debug)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    pub(crate) action: KeyAction,
}

#[derive(Subcommand, Debug)]
pub(crate) enum KeyAction {
    /// Make a read key and print it, which is shown this once
    Create {
        /// A name for people, unique: what the key is for
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// List the read keys
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Delete a read key: it stops working at once
    Delete {
        /// Its name or its id
        key: String,
        #[command(flatten)]
        output: Output,
    },
}

/// How a command that manages something prints, and where.
#[derive(Args, Debug)]
pub(crate) struct Output {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) stack: StackArgs,
}

#[derive(Args, Debug)]
pub(crate) struct FoldArgs {
    /// File with one JSON text per line [default: standard input]
    pub(crate) file: Option<PathBuf>,
    /// Connection that the events belong to; without it the one that each line names
    #[arg(long, value_name = "UUID")]
    pub(crate) connection: Option<Uuid>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
