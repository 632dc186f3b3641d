//! `forebay serve`.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use alerts::Alerts;
use anyhow::{Context as _, bail};
use api::connections::{DEFAULT, new_key};
use api::door::{BasePath, Tls};
use api::{App, Auth, DefaultConnection, EndedSessions, Oidc};
use clap::ArgMatches;
use event_log::{EventLog, OpenError as LogOpenError};
use proto_events::{Event, EventType, Framework, Timestamp};
use sources::backend::BackendConfig;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::client::Client;
use crate::config::{self, Loaded, ServeArgs, ServeConfig};
use crate::credentials::{self, Credentials};
use crate::data_dir::{self, Admin, DataDir, LOG_PLACE, LogPlace, OpenError};
use crate::listen::Listening;
use crate::logging;
use crate::otlp::{Running, Telemetry};
use crate::reload::{Called, Parts};
use crate::stack::{Care, Stack};

/// For a clean stop in all: requests under way, batches of the sources, the last write of the views, the log.
const STOP_TIME: Duration = Duration::from_secs(20);

/// Between two clock ticks in the log.
const TICK: Duration = Duration::from_secs(10);

/// Between two attempts to reach a log that is away.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// How long a command that holds the directory is waited for.
const LOCK_TIME: Duration = Duration::from_secs(10);
const LOCK_LOOK: Duration = Duration::from_millis(50);

/// What is known of alerts.
const ALERTS: &str = "alerts.json";

/// Runs the server until it is told to stop. The matches are those that the arguments were read from.
pub(crate) fn run(args: ServeArgs, matches: ArgMatches) -> anyhow::Result<ExitCode> {
    let loaded = config::load(args.clone(), &matches)?;
    let called = Called { args, matches };
    let telemetry = Telemetry::of(&loaded.config)?;
    logging::for_server(loaded.config.stack.json_logs, telemetry.as_ref().and_then(Telemetry::layer));
    let dir = take(&loaded.config.stack.data_dir)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(serve(loaded, &called, dir, telemetry));
    // Whatever still blocks a thread has had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// Takes the directory. A command that works in it without a server is soon done, and is waited for.
fn take(path: &Path) -> anyhow::Result<DataDir> {
    let began = Instant::now();
    loop {
        match DataDir::open(path) {
            Err(OpenError::Held(_)) if began.elapsed() < LOCK_TIME => {}
            opened => return Ok(opened?),
        }
        // A server that was killed leaves its address behind, and a child that it was just starting holds the lock until
        // it has become another program. Only a server that answers is there to stay.
        if let Ok(Some(admin)) = data_dir::admin(path)
            && Client::new(admin.clone()).get("/api/health/live").is_ok()
        {
            bail!("{} is in use by the server at {} (process {})", path.display(), admin.address, admin.pid);
        }
        std::thread::sleep(LOCK_LOOK);
    }
}

async fn serve(
    mut loaded: Loaded,
    called: &Called,
    dir: DataDir,
    telemetry: Option<Telemetry>,
) -> anyhow::Result<ExitCode> {
    let mut told_to_stop = pin!(stop_signal()?);
    // From now on it ends nobody; what is said before all is open is heard then.
    let mut told_to_reload = signal(SignalKind::hangup())?;
    let config = &loaded.config;
    logging::tell(config.describe().trim_end());
    let mut credentials = Credentials::load(&dir)?;
    let (password, made_up) = credentials.password(config.admin_password.as_deref());
    credentials.save(&dir).context("cannot keep the credentials")?;
    announce("admin password", made_up.then_some(password.as_str()));

    let token = credentials::token();
    let (secret, admin_token) = (credentials.session_secret(), token.clone());
    let auth = tokio::task::spawn_blocking(move || Auth::new(&password, &secret, &admin_token)).await??;
    let auth = remembering(auth, &dir)?.with_oidc(config.door.oidc.clone().map(Oidc::new).transpose()?);
    if config.door.oidc.as_ref().is_some_and(|oidc| oidc.issuer.starts_with("http://")) {
        tracing::warn!(
            "the provider of oidc-issuer is asked without TLS: whoever is between it and us can let anybody in"
        );
    }
    let app = App::behind(config.door.door.clone(), auth, env!("CARGO_PKG_VERSION"));
    let telemetry = telemetry.map(|telemetry| telemetry.begin(&app));
    let tls = config.door.tls.as_ref().map(|(certificate, key)| Tls::load(certificate, key)).transpose()?;
    let mut http = Http::start(&config.listen, tls.clone(), &app).await?;
    // Where the server speaks TLS, its certificate is for another name than that of this machine's own address.
    let mut local = match &tls {
        Some(_) => Some(Http::start("127.0.0.1:0", None, &app).await?),
        None => None,
    };
    let address = local.as_ref().unwrap_or(&http).local_address();
    let url = config.door.public_url.clone().unwrap_or_else(|| http.url(tls.is_some(), &config.door.door.base_path));
    dir.write_admin(&Admin { address, url: Some(url), token, pid: std::process::id() })
        .context("cannot write to the data directory")?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    logging::tell(&format!("listening on {scheme}://{}{}", http.address, config.door.door.base_path));
    if let Some(tls) = tls {
        watch(tls)?;
    }

    let (file, plan) = (dir.path().join(ALERTS), config.alerts.clone());
    let alerts = tokio::task::spawn_blocking(move || Alerts::open(file, plan)).await??;
    alerts.deliver();
    app.know_alerts(alerts.clone());
    let listening = Listening::begin(config, &dir, config.connection_id.or(credentials.connection_id)).await?;
    app.know_sources(Arc::clone(&listening.fleet));
    tokio::spawn(dir.note_life());
    let (stack, default) = tokio::select! {
        started = start(config, &dir, credentials, &app, &listening) => started?,
        () = &mut told_to_stop => {
            listening.stop().await;
            listening.close().await;
            return Ok(ExitCode::SUCCESS);
        }
    };
    if let Some(sight) = app.sight() {
        alerts.watch(sight);
    }
    app.told_by_server("server.start", serde_json::json!({ "version": env!("CARGO_PKG_VERSION") })).await;
    let parts = Parts { app: &app, stack: &stack, listening: &listening, alerts: &alerts, default: &default };
    let failure = loop {
        tokio::select! {
            () = &mut told_to_stop => break None,
            reason = stack.projector.failed() => break Some(anyhow::Error::new(reason)),
            () = http.ended() => break Some(anyhow::anyhow!("the HTTP server ended by itself")),
            _ = told_to_reload.recv() => parts.reload(called, &mut loaded).await,
        }
    };
    alerts.stop();
    tracing::info!("stopping");
    let second_signal = stop_signal()?;
    let stopping = async {
        http.stop().await;
        if let Some(local) = &mut local {
            local.stop().await;
        }
        listening.stop().await;
        let last = match telemetry.map(Running::stop) {
            Some(stopping) => Some(stopping.await),
            None => None,
        };
        let closed = stack.close().await;
        listening.close().await;
        if let Some(last) = last {
            last.send().await;
        }
        closed
    };
    let stopped = tokio::select! {
        stopped = tokio::time::timeout(STOP_TIME, stopping) => stopped,
        () = second_signal => bail!("stopped at once, as asked twice"),
    };
    drop(dir);
    if let Some(failure) = failure {
        return Err(failure);
    }
    stopped.map_err(|_| anyhow::anyhow!("the clean stop took longer than {} s", STOP_TIME.as_secs()))??;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Reads the certificate anew when it changes, and at SIGHUP.
fn watch(tls: Arc<Tls>) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let told = Arc::new(Notify::new());
    let telling = Arc::clone(&told);
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            telling.notify_one();
        }
    });
    tokio::spawn(async move { tls.watch(&told).await });
    Ok(())
}

/// The file with the sessions that were ended before they expired.
const SESSIONS: &str = "sessions.json";

/// Lets sessions that were ended stay so.
fn remembering(auth: Auth, dir: &DataDir) -> anyhow::Result<Auth> {
    let ended: Option<EndedSessions> = dir.read(SESSIONS).context("cannot read sessions.json")?;
    let path = dir.path().to_owned();
    let keep = move |ended: &EndedSessions| data_dir::write(&path, SESSIONS, ended);
    Ok(auth.remembering(ended.unwrap_or_default(), Box::new(keep)))
}

/// Resolves at SIGTERM or Ctrl-C. The signals are heard from the call on, not only once it is awaited.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Opens everything, and lets the API answer.
async fn start(
    config: &ServeConfig,
    dir: &DataDir,
    mut credentials: Credentials,
    app: &App,
    listening: &Listening,
) -> anyhow::Result<(Stack, api::Connection)> {
    let stack = open(config, dir, app).await?;
    let default = ensure_default(config, dir, &mut credentials, &stack).await?;
    tracing::info!(id = %default.id, "default connection");
    app.keep_first_key(credentials.api_key.clone().filter(|_| config.api_key.is_none()));
    listening.complete(&stack, &default).await?;
    dir.forget_kill();
    add_backends(config, &default, &stack).await?;
    tokio::spawn(tick(stack.log.clone(), default.id));
    let care = Care {
        scrub: config.scrub,
        policy: config.policy,
        forget_workers: config.forget_workers,
        connection: default.id,
        fleet: Arc::clone(&listening.fleet),
    };
    stack.attach(app, config.redaction.clone(), Some(&care));
    Ok((stack, default))
}

/// Begins to ask the result backends of the configuration.
pub(crate) async fn add_backends(config: &ServeConfig, default: &api::Connection, stack: &Stack) -> anyhow::Result<()> {
    for spec in &config.backends {
        let connection = connection_of(spec.name.as_deref(), default, stack).await?;
        stack.add_backend(BackendConfig {
            name: connection.name,
            url: spec.url.clone(),
            connection: connection.id,
            redaction: config.redaction.clone(),
            after: config.backends_after,
        });
    }
    Ok(())
}

/// Opens the parts. Where the log is somebody else's and was there before, it is waited for: meanwhile the sources go on.
async fn open(config: &ServeConfig, dir: &DataDir, app: &App) -> anyhow::Result<Stack> {
    let known: Option<LogPlace> = dir.read(LOG_PLACE).context("cannot read the data directory")?;
    let may_wait = config.stack.nats.is_some() && known.is_some_and(|place| place.nats_url.is_some());
    let mut said = false;
    loop {
        match Stack::open(&config.stack, dir).await {
            Err(error) if may_wait && is_away(&error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "the log is waited for");
                }
                app.wait_for_log(error.to_string());
                tokio::time::sleep(LOG_PAUSE).await;
            }
            opened => return opened,
        }
    }
}

fn is_away(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(LogOpenError::Unreachable { .. }))
}

/// The default connection is what the configuration says, else what it is already, else made up now.
///
/// What was made up here and kept counts only where it made the connection: in a NATS that other nodes use it is theirs.
async fn ensure_default(
    config: &ServeConfig,
    dir: &DataDir,
    credentials: &mut Credentials,
    stack: &Stack,
) -> anyhow::Result<api::Connection> {
    let known = stack.connections.find(DEFAULT);
    let ours = known.as_ref().is_none_or(|known| Some(known.id) == credentials.connection_id);
    forget_former_key(known.as_ref().filter(|_| ours), dir, credentials, stack)?;
    if config.api_key.is_none() && credentials.api_key.is_none() {
        if known.is_none() {
            let key = new_key();
            announce("API key", Some(&key));
            // Kept before it counts: were we to die in between, it would count and nobody know it.
            credentials.api_key = Some(key);
            credentials.save(dir).context("cannot keep the credentials")?;
        } else {
            tracing::info!(
                "the default connection keeps the API key that it has; FOREBAY_API_KEY or `forebay connection rotate default` sets another"
            );
        }
    }
    let kept_id = credentials.connection_id.filter(|_| known.is_none());
    let wanted = DefaultConnection {
        id: config.connection_id.or(kept_id),
        key: config.api_key.clone(),
        first_key: credentials.api_key.clone().filter(|_| ours),
    };
    let default = stack.connections.ensure_default(&wanted).await?;
    if config.connection_id.is_none() && credentials.connection_id != Some(default.id) {
        announce("connection id", Some(&default.id.to_string()));
        credentials.connection_id = Some(default.id);
        credentials.save(dir).context("cannot keep the credentials")?;
    }
    Ok(default)
}

/// What was made up here and replaced since (`forebay connection rotate`) must not be good again, were the log lost and
/// the connection made anew.
fn forget_former_key(
    ours: Option<&api::Connection>,
    dir: &DataDir,
    credentials: &mut Credentials,
    stack: &Stack,
) -> anyhow::Result<()> {
    let Some(default) = ours.filter(|default| default.has_key()) else { return Ok(()) };
    let is_good = |key: &String| stack.connections.by_key(key) == Some(default.id);
    if credentials.api_key.take_if(|key| !is_good(key)).is_some() {
        credentials.save(dir).context("cannot keep the credentials")?;
    }
    Ok(())
}

/// Writes now and then into the log that time passed: a replay has no clock, and what it says of jobs that were never
/// heard of again must be what was said then.
async fn tick(log: EventLog, connection: Uuid) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + TICK, TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let event = Event::bare(EventType::ClockTick, now(), Framework::Celery);
        if let Err(error) = log.append(connection, proto_events::encode(&[event]).into()).await {
            tracing::debug!(%error, "a clock tick is missing in the log");
        }
    }
}

/// Whose jobs a backend is about.
async fn connection_of(
    name: Option<&str>,
    default: &api::Connection,
    stack: &Stack,
) -> anyhow::Result<api::Connection> {
    match name {
        Some(name) => Ok(stack.connections.ensure(name).await?),
        None => Ok(default.clone()),
    }
}

pub(crate) fn now() -> Timestamp {
    timestamp(SystemTime::now())
}

pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_micros() as i64)
}

/// What was made up is shown this once, to whoever started the server, and never in the log.
fn announce(what: &str, made_up: Option<&str>) {
    if let Some(value) = made_up {
        logging::tell(&format!("made up and kept in credentials.json: {what}  {value}"));
    }
}

/// The HTTP server in a task of its own.
pub(crate) struct Http {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Http {
    pub(crate) async fn start(listen: &str, tls: Option<Arc<Tls>>, app: &Arc<App>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(api::serve(listener, tls, Arc::clone(app), stopped));
        Ok(Self { address, stop: Some(stop), task })
    }

    /// Where this machine reaches it, also when it listens on all addresses.
    pub(crate) fn local_address(&self) -> String {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, self.address.port()).to_string()
    }

    /// Where people on this machine reach it.
    fn url(&self, tls: bool, base: &BasePath) -> String {
        format!("{}://{}{base}", if tls { "https" } else { "http" }, self.local_address())
    }

    async fn ended(&mut self) {
        let _ = (&mut self.task).await;
    }

    pub(crate) async fn stop(&mut self) {
        self.stop.take();
        if !self.task.is_finished() {
            let _ = (&mut self.task).await;
        }
    }
}

/// Every sender holds a connection, and the usual limit of 1,024 files is soon reached.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
