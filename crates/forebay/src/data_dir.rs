//! The data directory: one process at a time, and the small files beside the log and the views.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Everything of the data directory that is not the log's or the views' own.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Locked as long as it is open; the system lets go of it however the process ends.
    _lock: File,
}

/// Why the directory is not ours now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Another process works in it.
    #[error("{0} is in use by another forebay process")]
    Held(PathBuf),
    /// The system refuses.
    #[error("cannot use the data directory {path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
}

/// How commands on this machine reach the running server: `admin.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Admin {
    /// `host:port`, where commands on this machine reach it without TLS.
    pub(crate) address: String,
    /// Where people reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// Good for everything, until the server ends.
    pub(crate) token: String,
    /// Of the server.
    pub(crate) pid: u32,
}

/// Where the log of this directory is: `log.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogPlace {
    /// The NATS server's URL without its secrets; `None` means that the log is in the directory itself.
    pub(crate) nats_url: Option<String>,
}

impl DataDir {
    /// Makes the directory if need be, and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |cause| OpenError::Io { path: path.to_owned(), cause };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let lock = private().create(true).truncate(false).open(path.join("LOCK")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Held(path.to_owned())),
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        let path = path.canonicalize().map_err(failed)?;
        let dir = Self { path, _lock: lock };
        // Left by a server that was killed. When that was is asked for by the next server, which need not be us.
        if let Ok(lived) = std::fs::metadata(dir.path.join(ADMIN)).and_then(|file| file.modified()) {
            let killed = private().create(true).truncate(true).open(dir.path.join(KILLED)).map_err(failed)?;
            killed.set_modified(lived).map_err(failed)?;
            dir.remove_admin();
        }
        Ok(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells other commands how to reach us.
    pub(crate) fn write_admin(&self, admin: &Admin) -> io::Result<()> {
        write(&self.path, ADMIN, admin)
    }

    /// Keeps noting that the server lives, once a second.
    pub(crate) fn note_life(&self) -> impl Future<Output = ()> + use<> {
        let admin = self.path.join(ADMIN);
        async move {
            let mut seconds = tokio::time::interval(Duration::from_secs(1));
            loop {
                seconds.tick().await;
                let admin = admin.clone();
                let noted = move || File::options().write(true).open(admin)?.set_modified(SystemTime::now());
                // A disk that does not take it has other consequences, which are told.
                let _: Result<io::Result<()>, _> = tokio::task::spawn_blocking(noted).await;
            }
        }
    }

    /// When the server before this one was killed, give or take a second. `None` where it ended by itself.
    pub(crate) fn killed_at(&self) -> Option<SystemTime> {
        std::fs::metadata(self.path.join(KILLED)).and_then(|file| file.modified()).ok()
    }

    /// That it was killed is told.
    pub(crate) fn forget_kill(&self) {
        let _ = std::fs::remove_file(self.path.join(KILLED));
    }

    fn remove_admin(&self) {
        let _ = std::fs::remove_file(self.path.join(ADMIN));
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        read(&self.path, name)
    }

    pub(crate) fn write<T: Serialize>(&self, name: &str, content: &T) -> io::Result<()> {
        write(&self.path, name, content)
    }
}

impl Drop for DataDir {
    /// Nobody is to be reached here any more.
    fn drop(&mut self) {
        self.remove_admin();
    }
}

const ADMIN: &str = "admin.json";
/// Empty, and of the time at which a server was killed.
const KILLED: &str = "killed";
/// Where the log is.
pub(crate) const LOG_PLACE: &str = "log.json";

/// How to reach the server that holds the directory, once it has said so.
pub(crate) fn admin(path: &Path) -> io::Result<Option<Admin>> {
    read(path, ADMIN)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    match std::fs::read(dir.join(name)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{name} is damaged ({error}): remove or restore it"))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whole or not at all, even if the machine stops in the middle.
pub(crate) fn write<T: Serialize>(dir: &Path, name: &str, content: &T) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let _ = std::fs::remove_file(&temporary);
    let mut file = private().create_new(true).open(&temporary)?;
    serde_json::to_writer_pretty(&mut file, content)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn one_at_a_time_and_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/data");
        let first = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open(&path), Err(OpenError::Held(_))));
        let admin = Admin { address: "127.0.0.1:1".to_owned(), url: None, token: "secret".to_owned(), pid: 1 };
        first.write_admin(&admin).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("admin.json")), 0o600);
        assert_eq!(super::admin(&path).unwrap().unwrap().token, "secret");
        drop(first);
        assert!(super::admin(&path).unwrap().is_none(), "a server that ends is not to be reached");
        std::fs::write(path.join("admin.json"), "{}").unwrap();
        let _second = DataDir::open(&path).unwrap();
        assert!(super::admin(&path).unwrap().is_none(), "what a killed server left is gone");
    }

    #[test]
    fn when_a_server_was_killed_is_known_until_it_is_told() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path();
        let admin = path.join("admin.json");
        assert_eq!(DataDir::open(path).unwrap().killed_at(), None);
        std::fs::write(&admin, "{}").unwrap();
        let lived = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_435_200);
        File::options().write(true).open(&admin).unwrap().set_modified(lived).unwrap();
        // A command that works offline between the two servers forgets nothing.
        assert_eq!(DataDir::open(path).unwrap().killed_at(), Some(lived));
        let next = DataDir::open(path).unwrap();
        assert_eq!(next.killed_at(), Some(lived));
        next.forget_kill();
        drop(next);
        assert_eq!(DataDir::open(path).unwrap().killed_at(), None);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("log.json"), "{").unwrap();
        let error = read::<LogPlace>(dir.path(), LOG_PLACE).unwrap_err();
        assert!(error.to_string().contains("log.json is damaged"), "{error}");
    }
}
