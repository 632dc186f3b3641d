//! A real nats-server for tests: its own directory, a free port, killed when dropped. And a disk that is soon full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::config::ServerConfig;
use crate::embedded::{find_binary, read_port};

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

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it was started"))
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

/// Set in the process that [`SmallDisk::mount`] runs a test in when this one may not mount anything.
const UNSHARED: &str = "FOREBAY_TEST_UNSHARED";

/// A file system in memory of its own, to be filled up.
pub struct SmallDisk {
    dir: TempDir,
}

/// Why there is no [`SmallDisk`] here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoDisk {
    /// The test has run, in a process that may mount one.
    RanElsewhere,
    /// This user may neither mount one nor use `unshare -rm`.
    Forbidden,
}

impl SmallDisk {
    /// A disk of so many megabytes. Without the right to mount one, the test of this name is run once more in a
    /// namespace where it has that right, and there is none here; nor is there where even that is forbidden, which is
    /// said.
    ///
    /// # Panics
    /// When the test fails in that namespace.
    pub fn mount(megabytes: u32, test: &str) -> Option<Self> {
        let disk = Self::or_why_not(megabytes, test);
        if disk.as_ref().is_err_and(|none| *none == NoDisk::Forbidden) {
            eprintln!("SKIPPED: {test} needs a small disk, and this user may neither mount one nor use `unshare -rm`");
        }
        disk.ok()
    }

    /// The same, for a test that can do something without one.
    ///
    /// # Panics
    /// When the test fails in that namespace.
    pub fn or_why_not(megabytes: u32, test: &str) -> Result<Self, NoDisk> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "forebay-test"]).arg(dir.path());
        if mount.output().is_ok_and(|mounted| mounted.status.success()) {
            return Ok(Self { dir });
        }
        let may_unshare = || Command::new("unshare").args(["-rm", "true"]).output().is_ok_and(|it| it.status.success());
        if std::env::var_os(UNSHARED).is_some() || !may_unshare() {
            return Err(NoDisk::Forbidden);
        }
        let exe = std::env::current_exe().expect("a test knows its own executable");
        let mut again = Command::new("unshare");
        // Of a test that is left out unless it is asked for there would be none, and none fails.
        again.arg("-rm").arg(exe).args(["--exact", test, "--include-ignored", "--nocapture"]).env(UNSHARED, "1");
        assert!(again.status().expect("unshare runs").success(), "{test} failed in a namespace of its own");
        Err(NoDisk::RanElsewhere)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Bytes that are free.
    ///
    /// # Panics
    /// When the system does not say, as everything here does.
    pub fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.path()).expect("a disk of our own");
        disk.f_bavail * disk.f_frsize
    }

    /// Fills it with a file, but for so many bytes.
    pub fn fill(&self, but: u64) {
        let zeros = vec![0; 1 << 20];
        let mut file = fs::File::options().create(true).append(true).open(self.filler()).expect("a disk of our own");
        while let Some(more) = self.free().checked_sub(but).filter(|more| *more > 0) {
            let more = (more as usize).min(zeros.len());
            // Others may write at the same time, and then it is as full as was asked for.
            if std::io::Write::write_all(&mut file, &zeros[..more]).is_err() {
                break;
            }
        }
    }

    /// Removes that file.
    pub fn relieve(&self) {
        fs::remove_file(self.filler()).expect("a file of our own");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("somebody-elses-file")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since a server may be on its way out.
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}
