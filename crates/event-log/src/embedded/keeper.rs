//! The thread that keeps the server running.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command as Process, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{oneshot, watch};

use super::config::{Layout, read_port};
use super::{Credentials, Settings, binary};
use crate::error::OpenError;

/// How long a start waits for an earlier server to let go of the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(15);
/// How long the server may take to come up: it reads the whole log when it was not stopped cleanly.
const START_PATIENCE: Duration = Duration::from_secs(300);
/// How long it may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A server that ran for so long did not fail at its start.
const STEADY: Duration = Duration::from_secs(30);
/// Between two looks at whether a full disk has room again.
const FULL_LOOK: Duration = Duration::from_millis(250);
/// Between two looks at whether the log may have more of the disk than when the server was started.
const ROOM_LOOK: Duration = Duration::from_secs(10);

/// What the thread is told.
pub(super) enum Command {
    /// Stop the server and end; say when it is done.
    Stop(oneshot::Sender<()>),
    /// The server of this number closed its standard error: it is gone.
    Gone(u64),
    /// The server of this number says that the disk is full.
    Full(u64),
}

/// Runs the server, starts it again when it dies, stops it in the end.
pub(super) struct Keeper {
    settings: Settings,
    layout: Layout,
    credentials: Credentials,
    commands: Receiver<Command>,
    own_commands: Sender<Command>,
    port: Option<u16>,
    starts: u64,
    /// What the server was told that the log may take.
    room: u64,
    /// Whether the server found the disk full since it was started.
    full: watch::Sender<bool>,
    /// Somebody asked to stop while a start was under way.
    stopping: Option<oneshot::Sender<()>>,
}

/// A server that runs.
struct Server {
    child: Child,
    number: u64,
    since: Instant,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

impl Keeper {
    pub(super) fn new(
        settings: Settings,
        credentials: Credentials,
        own_commands: Sender<Command>,
        commands: Receiver<Command>,
        full: watch::Sender<bool>,
    ) -> Self {
        let dir = std::path::absolute(&settings.dir).unwrap_or_else(|_| settings.dir.clone());
        Self {
            settings,
            layout: Layout { dir },
            credentials,
            commands,
            own_commands,
            port: None,
            starts: 0,
            room: 0,
            full,
            stopping: None,
        }
    }

    /// The whole life of the thread.
    pub(super) fn run(mut self, started: oneshot::Sender<Result<u16, OpenError>>) {
        let first = self.begin();
        let (lock, binary, server) = match first {
            Ok(first) => first,
            Err(error) => return drop(started.send(Err(error))),
        };
        let port = self.port.unwrap_or_default();
        if started.send(Ok(port)).is_err() {
            return stop(server);
        }
        self.keep(&lock, &binary, server);
    }

    fn begin(&mut self) -> Result<(File, PathBuf, Server), OpenError> {
        let binary = binary::find(self.settings.binary.as_deref())?;
        let dir = self.layout.dir.clone();
        self.layout.make().map_err(|source| OpenError::Io { path: dir, source })?;
        let lock = self.lock()?;
        let server = self.start(&lock, &binary)?;
        Ok((lock, binary, server))
    }

    /// Waits for the lock, which an earlier server holds until it is really gone.
    fn lock(&self) -> Result<File, OpenError> {
        let path = self.layout.lock();
        let failed = |source| OpenError::Io { path: path.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(source)) => return Err(failed(source)),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(OpenError::DirectoryInUse { dir: self.layout.dir.clone() });
                }
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        tracing::info!(dir = %self.layout.dir.display(), "waiting for an earlier nats-server to end");
                        told = true;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    fn keep(&mut self, lock: &File, binary: &std::path::Path, server: Server) {
        let mut server = Some(server);
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(done) = self.stopping.take() {
                self.layout.remove_access();
                server.into_iter().for_each(stop);
                // Whoever asked may not wait for it.
                let _ = done.send(());
                return;
            }
            let patience = match &server {
                Some(_) if *self.full.borrow() => FULL_LOOK,
                Some(_) => ROOM_LOOK,
                None => pause,
            };
            match self.commands.recv_timeout(patience) {
                Ok(Command::Stop(done)) => self.stopping = Some(done),
                Ok(Command::Gone(number)) => {
                    if let Some(dead) = server.take_if(|server| server.number == number) {
                        pause = if dead.since.elapsed() > STEADY { FIRST_PAUSE } else { pause };
                        mourn(dead);
                    }
                }
                Ok(Command::Full(number)) => {
                    if server.as_ref().is_some_and(|server| server.number == number) {
                        self.full.send_if_modified(|full| !std::mem::replace(full, true));
                    }
                }
                Err(RecvTimeoutError::Timeout) if server.is_some() => {
                    if let Some(server) = server.take_if(|_| self.does_better_anew()) {
                        tracing::warn!("the disk has room again: starting nats-server anew");
                        stop(server);
                    }
                }
                Err(RecvTimeoutError::Timeout) => match self.start(lock, binary) {
                    Ok(started) => {
                        tracing::warn!("the embedded nats-server was started again");
                        server = Some(started);
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    Err(_) if self.stopping.is_some() => {}
                    Err(error) => {
                        pause = (pause * 2).min(LONGEST_PAUSE);
                        tracing::error!(%error, again_in = ?pause, "the embedded nats-server does not start again");
                    }
                },
                // We hold a sender ourselves, so this does not happen.
                Err(RecvTimeoutError::Disconnected) => return server.into_iter().for_each(stop),
            }
        }
    }

    /// Starts the server and waits until it takes connections. The port of the first start is kept for later ones, so
    /// that clients find it again.
    fn start(&mut self, lock: &File, binary: &std::path::Path) -> Result<Server, OpenError> {
        let failed = |path: PathBuf| move |source| OpenError::Io { path, source };
        let config = self.layout.config();
        self.room = self.layout.room().map_err(failed(self.layout.dir.clone()))?;
        self.layout
            .write_config(&self.credentials, self.port, self.settings.fsync_always, self.room)
            .map_err(failed(config.clone()))?;
        clear(&self.layout.ports()).map_err(failed(self.layout.ports()))?;
        let inherited = lock.try_clone().map_err(failed(self.layout.lock()))?;
        let mut child = Process::new(&self.settings.helper)
            .arg("nats-helper")
            .arg(std::process::id().to_string())
            .arg(binary)
            .arg(&config)
            // What the server inherits keeps the directory locked until it is gone, even when we go first.
            .stdin(Stdio::from(inherited))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A Ctrl-C in the terminal is for us; we stop the server when we are done with it.
            .process_group(0)
            .spawn()
            .map_err(failed(self.settings.helper.clone()))?;
        self.starts += 1;
        let number = self.starts;
        let last_words = Arc::default();
        if let Some(stderr) = child.stderr.take() {
            listen(stderr, Arc::clone(&last_words), number, self.own_commands.clone());
        }
        let mut server = Server { child, number, since: Instant::now(), last_words };
        match self.wait_ready(&mut server) {
            Ok(port) => {
                self.port = Some(port);
                self.full.send_replace(false);
                if let Err(cause) = self.layout.write_access(&self.credentials, port) {
                    tracing::warn!(%cause, "other processes cannot read the log beside this one");
                }
                Ok(server)
            }
            Err(error) => {
                stop(server);
                Err(error)
            }
        }
    }

    /// A server that met a full disk takes no event ever again, or has switched `JetStream` off; and how much the log may
    /// take older ones read at their start only.
    fn does_better_anew(&self) -> bool {
        if *self.full.borrow() { self.layout.has_room_again() } else { self.is_cramped() }
    }

    /// Whether the log may take much more than the server was told at its start, because others have left the disk, and
    /// is about to need it.
    fn is_cramped(&self) -> bool {
        self.layout.used() > self.room / 2 && self.layout.room().is_ok_and(|room| room / 5 * 4 > self.room)
    }

    fn wait_ready(&mut self, server: &mut Server) -> Result<u16, OpenError> {
        let begun = Instant::now();
        let mut told = Duration::ZERO;
        loop {
            if let Some(port) = read_port(&self.layout.ports(), server.child.id()) {
                return Ok(port);
            }
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(server.obituary(&status.to_string()));
            }
            match self.commands.try_recv() {
                Ok(Command::Stop(done)) => {
                    self.stopping = Some(done);
                    return Err(OpenError::Start { reason: "it was stopped while it came up".to_owned() });
                }
                Ok(Command::Gone(number)) if number == server.number => {
                    return Err(server.obituary("it ended"));
                }
                _ => {}
            }
            let waited = begun.elapsed();
            if waited >= START_PATIENCE {
                let reason = format!("it did not come up within {} s", START_PATIENCE.as_secs());
                return Err(OpenError::Start { reason });
            }
            if waited >= told + Duration::from_secs(10) {
                told = waited;
                tracing::info!(seconds = waited.as_secs(), "waiting for nats-server to read its log");
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

impl Server {
    fn obituary(&self, status: &str) -> OpenError {
        let words = self.last_words();
        OpenError::Start { reason: if words.is_empty() { status.to_owned() } else { words } }
    }

    /// The line in which it said why it cannot go on, or its last one.
    fn last_words(&self) -> String {
        // The listener may be a moment behind the exit that we saw.
        std::thread::sleep(Duration::from_millis(50));
        let lines = self.last_words.lock();
        let fatal = lines.iter().rev().find(|line| line.contains("[FTL]") || line.contains("[ERR]"));
        fatal.or(lines.back()).cloned().unwrap_or_default()
    }
}

/// What the system says of a full disk or a used-up quota, and what the server says when it gives up over it.
const FULL: [&str; 3] = ["no space left on device", "disk quota exceeded", "resources, will be DISABLED"];

/// What it warns of whenever it was killed: it reads its own files again, which is what it should do.
const RECOVERED: [&str; 2] = ["Stream state outdated", "Recovering stream state from index errored"];

/// Passes on what the server says, and reports its end.
fn listen(stderr: ChildStderr, last_words: Arc<Mutex<VecDeque<String>>>, number: u64, commands: Sender<Command>) {
    let work = move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if FULL.iter().any(|words| line.contains(words)) {
                let _ = commands.send(Command::Full(number));
            }
            if line.contains("[ERR]") || line.contains("[FTL]") {
                tracing::error!(target: "nats_server", "{line}");
            } else if line.contains("[WRN]")
                && !line.contains("Plaintext passwords")
                && !RECOVERED.iter().any(|words| line.contains(words))
            {
                tracing::warn!(target: "nats_server", "{line}");
            } else {
                tracing::debug!(target: "nats_server", "{line}");
            }
            let mut last_words = last_words.lock();
            if last_words.len() >= 20 {
                last_words.pop_front();
            }
            last_words.push_back(line);
        }
        let _ = commands.send(Command::Gone(number));
    };
    // Without the thread the server would block on its full pipe; there is then no point in going on.
    if let Err(error) = std::thread::Builder::new().name("nats-server log".to_owned()).spawn(work) {
        tracing::error!(%error, "cannot listen to the embedded nats-server");
    }
}

fn mourn(mut dead: Server) {
    let status = dead.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
    tracing::error!(status, last_words = dead.last_words(), "the embedded nats-server died; starting it again");
}

/// Asks the server to end, and ends it when it does not.
fn stop(mut server: Server) {
    // Until we have waited for the child, its process id cannot be anybody else's.
    if matches!(server.child.try_wait(), Ok(None)) {
        let _ = kill_process(Pid::from_child(&server.child), Signal::TERM);
    }
    let deadline = Instant::now() + STOP_PATIENCE;
    while Instant::now() < deadline {
        match server.child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(3)),
            _ => return,
        }
    }
    tracing::warn!("the embedded nats-server does not stop; killing it");
    let _ = server.child.kill();
    let _ = server.child.wait();
}

/// Removes what an earlier server left, so that only the new one's word counts.
fn clear(ports: &std::path::Path) -> std::io::Result<()> {
    fs::read_dir(ports)?.try_for_each(|entry| fs::remove_file(entry?.path()))
}
