//! A real nats-server for tests: its own directory, a free port, killed when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::embedded::{find_binary, read_port};
use crate::log::ServerConfig;

/// The nats-server that tests use: the one that `FOREBAY_NATS_SERVER` names, else the one that `make build` installs,
/// else the first in the `PATH`.
///
/// # Panics
/// When there is none that is new enough; the message says what to do.
pub fn nats_server() -> PathBuf {
    let named = std::env::var_os("FOREBAY_NATS_SERVER").map(PathBuf::from);
    find_binary(named.as_deref()).unwrap_or_else(|error| panic!("{error}"))
}

/// The oldest kind of nats-server that is accepted, for what differs between the versions.
///
/// # Panics
/// When it is missing; the message says what to do.
pub fn old_nats_server() -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own executable");
    let target = exe.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == "target"));
    let path = target.expect("tests run below the target directory").join("tools/nats-server-2.10.26");
    assert!(path.is_file(), "{} is missing: run `make test-tools`", path.display());
    path
}

/// A running nats-server with `JetStream`, without credentials.
pub struct TestServer {
    dir: TempDir,
    binary: PathBuf,
    extra: String,
    port: Option<u16>,
    child: Option<Child>,
}

impl TestServer {
    /// Starts the usual one.
    ///
    /// # Panics
    /// When it cannot be started, as everything here does.
    pub fn start() -> Self {
        Self::with(nats_server(), "")
    }

    /// Starts this one, with lines added to its configuration.
    pub fn with(binary: PathBuf, extra: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("ports")).expect("a directory of our own");
        let mut server = Self { dir, binary, extra: extra.to_owned(), port: None, child: None };
        server.restart();
        server
    }

    /// Starts it again, on the same port and store.
    pub fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + Duration::from_secs(60);
        // Somebody may have borrowed the port for a moment.
        while !self.try_start(deadline) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn try_start(&mut self, deadline: Instant) -> bool {
        let ports = self.ports();
        let old = fs::read_dir(&ports).expect("a directory of our own").flatten();
        old.for_each(|entry| fs::remove_file(entry.path()).expect("a file of our own"));
        let config = self.dir.path().join("nats.conf");
        fs::write(&config, self.text()).expect("a file of our own");
        let log = self.dir.path().join("nats.log");
        let stderr = fs::File::create(&log).expect("a file of our own");
        let child = Command::new(&self.binary).arg("-c").arg(config).stdin(Stdio::null()).stderr(stderr).spawn();
        let mut child = child.expect("nats-server runs");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        loop {
            assert!(Instant::now() < deadline, "nats-server does not come up: {}", said());
            if let Some(port) = read_port(&ports, child.id()) {
                self.port = Some(port);
                self.child = Some(child);
                return true;
            }
            if child.try_wait().expect("a child of ours").is_some() {
                assert!(said().contains("address already in use"), "nats-server ended: {}", said());
                return false;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    fn text(&self) -> String {
        let port = self.port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        let (store, ports) = (self.store(), self.ports());
        format!(
            "host: 127.0.0.1\nport: {port}\nports_file_dir: \"{}\"\nmax_payload: 8388608\n\
             jetstream {{ store_dir: \"{}\", max_file_store: 100GB }}\n{}\n",
            ports.display(),
            store.display(),
            self.extra
        )
    }

    /// Kills it, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
        }
    }

    /// Stops it cleanly.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill_process(Pid::from_child(&child), Signal::TERM).expect("a child of ours");
            child.wait().expect("a child of ours");
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.expect("it was started"))
    }

    /// How a log on it is opened.
    pub fn config(&self) -> ServerConfig {
        let url = format!("nats://{}", self.address());
        ServerConfig::External { url, user: None, password: None, token: None, creds: None, ca: None, replicas: 1 }
    }

    /// Where it keeps its data.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// A directory beside its own, for what a test needs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn ports(&self) -> PathBuf {
        self.dir.path().join("ports")
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
    }
}
