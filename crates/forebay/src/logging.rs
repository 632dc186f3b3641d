//! What happens, told on standard error: for people on a terminal, as JSON lines anywhere else.

use std::io::{IsTerminal as _, Write as _};

use tracing_subscriber::EnvFilter;

/// What is told unless `FOREBAY_LOG` or `RUST_LOG` says otherwise.
const SERVER: &str = "info,async_nats=warn,sled=warn";
/// Commands speak for themselves.
const COMMAND: &str = "warn,async_nats=error,sled=error";

/// For the server.
pub(crate) fn for_server(json: bool) {
    start(SERVER, json || !std::io::stderr().is_terminal());
}

/// For a command that may bring up a server in its own process.
pub(crate) fn for_command(json: bool) {
    start(COMMAND, json);
}

/// Says something to whoever started the server. As with the log, it may be that nobody can hear it.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn start(default: &str, json: bool) {
    let chosen =
        ["FOREBAY_LOG", "RUST_LOG"].iter().find_map(|name| std::env::var(name).ok().filter(|it| !it.is_empty()));
    let filter = EnvFilter::builder().parse_lossy(chosen.as_deref().unwrap_or(default));
    // Where a line cannot be written (a full disk, a pipe that nobody reads any more) it would be told on standard error
    // that it cannot be, and the failure of that is a panic of whoever had something to say.
    let log = tracing_subscriber::fmt().log_internal_errors(false);
    let log = log.with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        // The one span there is says of a batch where in the log it stands.
        log.json().with_span_list(false).init();
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    }
}
