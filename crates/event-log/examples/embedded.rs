//! A log on an embedded nats-server: appends each line of standard input as a message.
//!
//! `cargo run -p event-log --example embedded -- DIR`, then type lines; end with Ctrl-D. It needs a nats-server of
//! 2.10.25 or later, in the `PATH` or where `make build` puts it. It shows all that a program must do to embed the
//! server: run the helper when asked to, open, use, close.

use std::io::{BufRead, Write};

use event_log::{EventLog, ServerConfig};
use uuid::Uuid;

#[tokio::main]
async fn run(dir: std::path::PathBuf) -> Result<(), Box<dyn std::error::Error>> {
    let helper = std::env::current_exe()?;
    let binary = std::env::var_os("FOREBAY_NATS_SERVER").map(Into::into);
    let log = EventLog::open(ServerConfig::Embedded { dir, binary, fsync_always: false, helper }).await?;
    let mut out = std::io::stdout();
    writeln!(out, "ready {} nats-server {}", log.url(), log.server_version())?;
    let (lines, mut received) = tokio::sync::mpsc::channel(100);
    std::thread::spawn(move || {
        let stdin = std::io::stdin().lock();
        stdin.lines().map_while(Result::ok).try_for_each(|line| lines.blocking_send(line))
    });
    while let Some(line) = received.recv().await {
        let stored = log.append(Uuid::nil(), line.into()).await?;
        writeln!(out, "stored {}", stored.sequence)?;
    }
    log.close().await;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(first) if first == "nats-helper" => event_log::run_nats_helper(args),
        Some(dir) => run(dir.into()),
        None => Err("usage: embedded DIR".into()),
    }
}
