//! The nats-server that lives and dies with us.
//!
//! It is a child of ours, held by a thread that lives as long as the process: our own executable is run once more as
//! a helper, asks the kernel to be killed when that thread ends, and becomes nats-server. So a `kill -9` of Forebay
//! takes it along. Its directory is locked for as long as either of the two lives, and the next start waits for the
//! lock: there are never two servers on one directory.

mod binary;
mod config;
mod helper;
mod keeper;

use std::path::{Path, PathBuf};

use tokio::sync::{oneshot, watch};

pub use helper::run_nats_helper;

use crate::connect::Target;
use crate::error::OpenError;
use config::Layout;
use keeper::{Command, Keeper};

#[cfg(feature = "testing")]
pub(crate) use {binary::find as find_binary, config::read_port};

/// The fields of [`ServerConfig::Embedded`](crate::ServerConfig).
pub(crate) struct Settings {
    pub(crate) dir: PathBuf,
    pub(crate) binary: Option<PathBuf>,
    pub(crate) fsync_always: bool,
    pub(crate) helper: PathBuf,
}

/// Who may connect: made anew at each start, known to nobody else.
#[derive(Clone)]
struct Credentials {
    user: String,
    password: String,
}

impl Credentials {
    fn generate() -> Self {
        Self {
            user: "forebay".to_owned(),
            password: format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()),
        }
    }
}

/// A running nats-server. Dropping it stops the server, in the background.
pub(crate) struct Embedded {
    port: u16,
    credentials: Credentials,
    commands: std::sync::mpsc::Sender<Command>,
    dir: PathBuf,
    full: watch::Receiver<bool>,
}

impl Embedded {
    /// Waits for the directory, starts the server and returns when it takes connections.
    pub(crate) async fn start(settings: Settings) -> Result<Self, OpenError> {
        let credentials = Credentials::generate();
        let (started, starting) = oneshot::channel();
        let (commands, received) = std::sync::mpsc::channel();
        let (says_full, full) = watch::channel(false);
        let dir = settings.dir.clone();
        let keeper = Keeper::new(settings, credentials.clone(), commands.clone(), received, says_full);
        std::thread::Builder::new()
            .name("nats-server".to_owned())
            .spawn(move || keeper.run(started))
            .map_err(|error| OpenError::Start { reason: error.to_string() })?;
        let gone = || OpenError::Start { reason: "the thread that keeps it ended".to_owned() };
        let port = starting.await.map_err(|_| gone())??;
        Ok(Self { port, credentials, commands, dir, full })
    }

    /// How to connect to it.
    pub(crate) fn target(&self) -> Result<Target, OpenError> {
        Target::embedded(self.port, &self.credentials.user, &self.credentials.password)
    }

    /// Where it keeps everything.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it found the disk full since it was started. It is started anew as soon as there is room again.
    pub(crate) fn is_full(&self) -> bool {
        *self.full.borrow()
    }

    /// How to connect to the server that another process of ours runs in this directory.
    pub(crate) fn running(dir: &Path) -> Result<Target, OpenError> {
        let (port, credentials) = Layout { dir: dir.to_owned() }.read_access().ok_or_else(|| {
            let reason = "no nats-server that runs there has left word of how to reach it".to_owned();
            OpenError::Unreachable { url: dir.display().to_string(), reason }
        })?;
        Target::embedded(port, &credentials.user, &credentials.password)
    }

    /// Stops the server and returns when it is gone.
    pub(crate) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::Stop(done)).is_ok() {
            let _ = stopped.await;
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let (done, _) = oneshot::channel();
        let _ = self.commands.send(Command::Stop(done));
    }
}
