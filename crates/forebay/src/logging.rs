//! What happens, told on standard error: for people on a terminal, as JSON lines anywhere else.

use std::io::{IsTerminal as _, Write as _};

use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// What takes spans, beside the log and whatever that shows.
pub(crate) type Traces = Box<dyn Layer<Registry> + Send + Sync>;

/// What is told unless `FOREBAY_LOG` or `RUST_LOG` says otherwise.
const SERVER: &str = "info,async_nats=warn,sled=warn";
/// Commands speak for themselves.
const COMMAND: &str = "warn,async_nats=error,sled=error";

/// For the server.
pub(crate) fn for_server(json: bool, traces: Option<Traces>) {
    let (filter, json) = (filter(SERVER), json || !std::io::stderr().is_terminal());
    match traces {
        None => tracing_subscriber::registry().with(filter).with(log(json)).init(),
        Some(traces) => tracing_subscriber::registry().with(traces).with(log(json).with_filter(filter)).init(),
    }
}

/// For a command that may bring up a server in its own process.
pub(crate) fn for_command(json: bool) {
    tracing_subscriber::registry().with(filter(COMMAND)).with(log(json)).init();
}

/// Says something to whoever started the server. As with the log, it may be that nobody can hear it.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn filter(default: &str) -> EnvFilter {
    let chosen =
        ["FOREBAY_LOG", "RUST_LOG"].iter().find_map(|name| std::env::var(name).ok().filter(|it| !it.is_empty()));
    EnvFilter::builder().parse_lossy(chosen.as_deref().unwrap_or(default))
}

fn log<S>(json: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    // Where a line cannot be written (a full disk, a pipe that nobody reads any more) it would be told on standard error
    // that it cannot be, and the failure of that is a panic of whoever had something to say.
    let log = fmt::layer().log_internal_errors(false).with_writer(std::io::stderr);
    if json {
        // The innermost span alone: of a batch it says where in the log it stands.
        log.json().with_span_list(false).boxed()
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed()
    }
}
