//! The configuration file of the embedded server.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Credentials;

/// Twice the largest array that we send.
const MAX_PAYLOAD: usize = 8 << 20;
/// The server takes so much for granted, however full the disk: its streams reserve some of it, and without that it
/// would not come up at all. Where the disk has not that much, its own refusal counts.
const LEAST_ROOM: u64 = 128 << 20;
/// With so much free, or a twentieth of a small disk, a server that found the disk full is worth another try.
const ENOUGH: u64 = 64 << 20;

/// The places inside the directory.
pub(super) struct Layout {
    pub(super) dir: PathBuf,
}

impl Layout {
    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join("LOCK")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("nats-server.conf")
    }

    /// Where the server says which port it was given.
    pub(super) fn ports(&self) -> PathBuf {
        self.dir.join("ports")
    }

    /// How another process of the same user reaches the server that runs.
    fn access(&self) -> PathBuf {
        self.dir.join("access.json")
    }

    /// Leaves word of how to reach the server, readable by its owner only: whoever can read this can read the password
    /// in the configuration beside it, too.
    pub(super) fn write_access(&self, credentials: &Credentials, port: u16) -> io::Result<()> {
        let access = serde_json::json!({
            "port": port, "user": credentials.user, "password": credentials.password,
        });
        let new = self.dir.join("access.json.new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(access.to_string().as_bytes())?;
        fs::rename(&new, self.access())
    }

    /// No server is to be reached.
    pub(super) fn remove_access(&self) {
        let _ = fs::remove_file(self.access());
    }

    /// Port and credentials of the server that runs, if one has left word.
    pub(super) fn read_access(&self) -> Option<(u16, Credentials)> {
        let access: serde_json::Value = serde_json::from_slice(&fs::read(self.access()).ok()?).ok()?;
        let text = |field: &str| access[field].as_str().map(str::to_owned);
        let port = u16::try_from(access["port"].as_u64()?).ok()?;
        Some((port, Credentials { user: text("user")?, password: text("password")? }))
    }

    /// Makes the directories, open to nobody else.
    pub(super) fn make(&self) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.dir)?;
        builder.create(self.ports())
    }

    /// Writes the configuration, readable by its owner only, since it holds the password.
    pub(super) fn write_config(
        &self,
        credentials: &Credentials,
        port: Option<u16>,
        fsync_always: bool,
        room: u64,
    ) -> io::Result<()> {
        let path = self.config();
        // A file that is there already would keep its mode.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(self.text(credentials, port, fsync_always, room)?.as_bytes())
    }

    /// How much the log may take: what it has, and most of what is free. Left to itself, the server would allow three
    /// quarters of what is free at its start without counting what it holds already, and after a restart refuse events
    /// on a disk with room.
    pub(super) fn room(&self) -> io::Result<u64> {
        Ok(self.used().saturating_add((self.free()?.0 / 10 * 9).max(LEAST_ROOM)))
    }

    /// Bytes of the log.
    pub(super) fn used(&self) -> u64 {
        used(&self.dir.join("jetstream"))
    }

    /// Whether a server that found the disk full would do better now.
    pub(super) fn has_room_again(&self) -> bool {
        self.free().is_ok_and(|(free, disk)| free >= ENOUGH.min(disk / 20))
    }

    /// Bytes that are free for us, and bytes of the disk.
    fn free(&self) -> io::Result<(u64, u64)> {
        let disk = rustix::fs::statvfs(&self.dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        Ok((bytes(disk.f_bavail), bytes(disk.f_blocks)))
    }

    fn text(&self, credentials: &Credentials, port: Option<u16>, fsync_always: bool, room: u64) -> io::Result<String> {
        let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        let sync = if fsync_always { "always" } else { "100ms" };
        Ok(format!(
            r#"# Written by Forebay at each start.
host: "127.0.0.1"
port: {port}
server_name: "forebay"
ports_file_dir: {ports}
logtime: false
max_payload: {MAX_PAYLOAD}
# In quotes, or a password such as 12e5… would begin like a number.
authorization {{ user: "{user}", password: "{password}" }}
jetstream {{
  store_dir: {store}
  sync_interval: "{sync}"
  max_file_store: {room}
}}
"#,
            ports = quoted(&self.ports())?,
            store = quoted(&self.dir)?,
            user = credentials.user,
            password = credentials.password,
        ))
    }
}

fn quoted(path: &Path) -> io::Result<String> {
    let text = path.to_str().filter(|text| !text.contains(['"', '\\', '\n']));
    let text = text.ok_or_else(|| io::Error::other("the path has characters that nats-server cannot read"))?;
    Ok(format!("\"{text}\""))
}

fn used(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => used(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The port of the server with this process id, once it takes connections: it writes its addresses into a file.
pub(crate) fn read_port(ports: &Path, pid: u32) -> Option<u16> {
    let suffix = format!("_{pid}.ports");
    let ours = |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.ends_with(&suffix));
    let entry = fs::read_dir(ports).ok()?.flatten().find(ours)?;
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{nats_server, old_nats_server};
    use std::process::{Command, Stdio};

    /// One in fifteen of the passwords that we make begins with digits and an `e`.
    #[test]
    fn a_password_that_begins_like_a_number_is_a_password() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { dir: dir.path().join("nats") };
        layout.make().unwrap();
        for password in ["12e5f00d", "7e", "00"] {
            let credentials = Credentials { user: "forebay".to_owned(), password: password.to_owned() };
            layout.write_config(&credentials, None, false, 1 << 30).unwrap();
            for server in [nats_server(), old_nats_server()] {
                let mut check = Command::new(&server);
                let said = check.arg("-t").arg("-c").arg(layout.config()).stdin(Stdio::null()).output().unwrap();
                let words = String::from_utf8_lossy(&said.stderr);
                assert!(said.status.success(), "{} with {password}: {words}", server.display());
            }
        }
    }
}
