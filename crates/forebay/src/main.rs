//! The `forebay` program: command line, configuration, wiring.
//!
//! # Layout
//! - [`cli`], [`config`], [`door`]: what can be said, and what then holds
//! - [`serve`]: the server; [`stack`]: its parts put together; [`listen`]: its sources; [`reload`]: its file read again
//! - [`otlp`]: traces and metrics for OpenTelemetry, with the feature of that name
//! - [`offline`], [`client`], [`commands`]: everything else is a client of the API
//! - [`data_dir`], [`credentials`]: the small files of the data directory

mod cli;
mod client;
mod commands;
mod config;
mod credentials;
mod data_dir;
mod door;
mod listen;
mod logging;
mod offline;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(not(feature = "otlp"))]
#[path = "without_otlp.rs"]
mod otlp;
mod reload;
mod serve;
mod stack;
mod text;
mod unended;
mod units;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};

use crate::cli::{
    AlertsAction, AlertsArgs, Cli, Command, ConfigAction, ConfigArgs, ConnectionAction, ConnectionArgs, JobArgs,
    KeyAction, KeyArgs, RebuildArgs, SourcesAction, SourcesArgs,
};
use crate::client::{Client, segment};
use crate::commands::maintain::Ended;
use crate::commands::{
    alerts, audit, connection, coverage, events, export, fold, import, job, jobs, key, link, maintain, prepare, pretty,
    sources,
};
use crate::config::StackArgs;
use crate::offline::{Missing, running, with_log, with_server};
use crate::text::Paint;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before any thread is started: the helper becomes another program.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "nats-helper") {
        event_log::run_nats_helper(arguments);
    }
    #[cfg(feature = "testing")]
    if let Some(version) = std::env::var("FOREBAY_TEST_FOLD_VERSION").ok().and_then(|version| version.parse().ok()) {
        projection::pretend(version);
    }
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(cli.command, &matches) {
        Ok(code) => code,
        // Whoever read our output has had enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => told(&error, ExitCode::FAILURE),
    }
}

fn told(error: &anyhow::Error, code: ExitCode) -> ExitCode {
    eprintln!("forebay: {error:#}");
    code
}

fn run(command: Command, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(*args, of_subcommand(matches)),
        Command::Config(args) => configure(args, &of_subcommand(matches)),
        Command::Alerts(args) => manage_alerts(&args),
        Command::Job(args) => show_job(args),
        Command::Jobs(args) => {
            let config = args.stack.clone().resolve()?;
            logging::for_command(config.json_logs);
            let paint = Paint::for_stdout();
            with_server(&config, Missing::Refuse, move |client| jobs::run(client, &args, paint))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Rebuild(args) => {
            let RebuildArgs { promote, rollback, prepare, discard_old, json, stack } = args;
            if prepare {
                return prepare_upgrade(stack, json);
            }
            maintain(stack, move |client, paint| match promote {
                Some(id) if id.is_empty() => maintain::rebuild_and_promote(client, json, paint),
                Some(id) => maintain::promote(client, &id, json, paint),
                None if discard_old => maintain::discard_old(client, json),
                None => maintain::rebuild(client, rollback, json, paint),
            })
        }
        Command::Verify(args) => {
            let compared = maintain(args.stack, move |client, paint| maintain::verify(client, args.json, paint));
            // A script must be able to tell that nothing is known from a difference.
            compared.or_else(|error| {
                if is_broken_pipe(&error) { Err(error) } else { Ok(told(&error, ExitCode::from(NOTHING_KNOWN))) }
            })
        }
        Command::Quarantine(args) => {
            maintain(args.stack, move |client, paint| maintain::quarantine(client, args.json, paint))
        }
        Command::Coverage(args) => {
            manage(args.stack, Missing::Refuse, move |client, paint| coverage::run(client, args.json, paint))
        }
        Command::Export(args) => {
            let config = args.stack.clone().resolve()?;
            logging::for_command(config.json_logs);
            print(&with_log(&config, Missing::Refuse, move |client| export::run(client, &args))?)
        }
        Command::Import(args) => {
            let config = args.stack.clone().resolve()?;
            logging::for_command(config.json_logs);
            import::check(&args.file)?;
            print(&with_server(&config, Missing::Create, move |client| import::run(client, &args))?)
        }
        Command::Connection(args) => manage_connections(args),
        Command::Key(args) => manage_keys(args),
        Command::Sources(args) => manage_sources(&args),
        Command::Logout(args) => log_all_out(args.stack),
        Command::Audit(args) => {
            manage(args.stack, Missing::Refuse, move |client, paint| audit::run(client, args.limit, args.json, paint))
        }
        Command::Link(args) => print(&link::run(&args.stack.resolve()?.data_dir)?),
        Command::Fold(args) => {
            let all_good = fold::run(&args)?;
            Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// What was said to the subcommand, or to that of it.
fn of_subcommand(matches: &ArgMatches) -> ArgMatches {
    match matches.subcommand() {
        Some((_, inner)) => of_subcommand(inner),
        None => matches.clone(),
    }
}

fn configure(args: ConfigArgs, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    match args.action {
        ConfigAction::Check { serve } => {
            let loaded = config::load(*serve, matches)?;
            otlp::Telemetry::of(&loaded.config)?;
            print(&format!("good:\n{}", loaded.config.describe()))
        }
        ConfigAction::Show { json, serve } => {
            let settings = config::load(*serve, matches)?.settings;
            print(&if json {
                pretty(&config::shown_json(&settings))?
            } else {
                config::shown(&settings, Paint::for_stdout())
            })
        }
        ConfigAction::Example => print(&config::example()),
    }
}

/// Only a server has alerts, and it has them while its log is away, too.
fn manage_alerts(AlertsArgs { action, output }: &AlertsArgs) -> anyhow::Result<ExitCode> {
    let output = match action {
        Some(AlertsAction::Test { output, .. }) => output,
        None => output,
    };
    let config = output.stack.clone().resolve()?;
    logging::for_command(config.json_logs);
    let Some(client) = running(&config)? else {
        bail!("no server runs on {}: start it with `forebay serve`", config.data_dir.display());
    };
    let Ended { text, good } = alerts::run(&client, action.as_ref(), output.json, Paint::for_stdout())?;
    print(&text)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show_job(args: JobArgs) -> anyhow::Result<ExitCode> {
    let config = args.stack.resolve()?;
    logging::for_command(config.json_logs);
    let mut path = format!("/api/jobs/{}", segment(&args.id));
    if args.events {
        path += "/events";
    } else if let Some(then) = &args.as_of {
        path = format!("{path}?asOf={}", segment(then));
    }
    let answer = with_server(&config, Missing::Refuse, move |client| client.get(&path))?;
    if answer.status == 404 {
        bail!("{}", job::not_found(&args.id, &answer.body));
    }
    if let Some(reason) = &answer.stale {
        eprintln!("forebay: {}", job::out_of_date(reason));
    }
    let answer = answer.good()?;
    let paint = Paint::for_stdout();
    print(&match &args.as_of {
        _ if args.json => serde_json::to_string_pretty(&answer)? + "\n",
        _ if args.events => events::describe(&answer, paint)?,
        Some(then) => format!("As the log stood at {then}\n\n{}", job::describe(&answer, paint)?),
        None => job::describe(&answer, paint)?,
    })
}

fn prepare_upgrade(stack: StackArgs, json: bool) -> anyhow::Result<ExitCode> {
    let config = stack.resolve()?;
    logging::for_command(config.json_logs);
    print(&prepare::run(&config, json, Paint::for_stdout())?)
}

fn maintain(
    stack: StackArgs,
    work: impl FnOnce(&Client, Paint) -> anyhow::Result<Ended> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    let config = stack.resolve()?;
    logging::for_command(config.json_logs);
    let paint = Paint::for_stdout();
    let ended = with_server(&config, Missing::Refuse, move |client| work(client, paint))?;
    print(&ended.text)?;
    Ok(if ended.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn manage_connections(args: ConnectionArgs) -> anyhow::Result<ExitCode> {
    let (output, missing) = match &args.action {
        ConnectionAction::Create { output, .. } => (output, Missing::Create),
        ConnectionAction::List { output }
        | ConnectionAction::Rename { output, .. }
        | ConnectionAction::Rotate { output, .. }
        | ConnectionAction::Delete { output, .. } => (output, Missing::Refuse),
    };
    let stack = output.stack.clone();
    manage(stack, missing, move |client, paint| connection::run(client, &args.action, paint))
}

fn manage_keys(args: KeyArgs) -> anyhow::Result<ExitCode> {
    let (output, missing) = match &args.action {
        KeyAction::Create { output, .. } => (output, Missing::Create),
        KeyAction::List { output } | KeyAction::Delete { output, .. } => (output, Missing::Refuse),
    };
    let stack = output.stack.clone();
    manage(stack, missing, move |client, paint| key::run(client, &args.action, paint))
}

/// Only a server knows who is logged in.
fn log_all_out(stack: StackArgs) -> anyhow::Result<ExitCode> {
    let config = stack.resolve()?;
    let Some(client) = running(&config)? else {
        bail!("no server runs on {}: start it with `forebay serve`", config.data_dir.display());
    };
    client.delete("/api/sessions")?.good()?;
    print("all sessions are ended\n")
}

/// Only a server has sources, and it has them while its log is away, too.
fn manage_sources(SourcesArgs { action, output }: &SourcesArgs) -> anyhow::Result<ExitCode> {
    let output = match action {
        Some(SourcesAction::Add { output, .. } | SourcesAction::Remove { output, .. }) => output,
        None => output,
    };
    let config = output.stack.clone().resolve()?;
    logging::for_command(config.json_logs);
    let Some(client) = running(&config)? else {
        bail!("no server runs on {}: start it with `forebay serve`", config.data_dir.display());
    };
    print(&sources::run(&client, action.as_ref(), output.json, Paint::for_stdout())?)
}

fn manage(
    stack: StackArgs,
    missing: Missing,
    work: impl FnOnce(&Client, Paint) -> anyhow::Result<String> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    let config = stack.resolve()?;
    logging::for_command(config.json_logs);
    let paint = Paint::for_stdout();
    print(&with_server(&config, missing, move |client| work(client, paint))?)
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The exit code of a comparison that was not made.
const NOTHING_KNOWN: u8 = 2;

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.downcast_ref::<std::io::Error>().is_some_and(broken)
}
