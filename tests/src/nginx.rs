//! nginx as a reverse proxy in front of the server under test.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::{Process, wait_for};

/// What it says of where a request comes from, as the README asks of a proxy.
const HEADERS: &str = "proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_http_version 1.1;
      proxy_set_header Connection '';";

/// A proxy with two doors: one leaves the path before all others as it is, the other takes it away.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
    _dir: TempDir,
}

impl Nginx {
    /// Serves what is at `upstream` below this path, and nothing beside it, on two ports of the loopback interface.
    pub fn start(upstream: &str, path: &str, keeps: u16, strips: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let door = |port: u16, rest: &str| {
            format!(
                "  server {{
    listen 127.0.0.1:{port};
    location {path}/ {{
      proxy_pass http://{upstream}{rest};
      {HEADERS}
    }}
    location / {{ return 404; }}
  }}
"
            )
        };
        let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("  {name}_temp_path {};\n", at(name)))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid {};\nevents {{}}\nhttp {{\n  access_log off;\n{places}{}{}}}\n",
            at("pid"),
            door(keeps, ""),
            door(strips, "/"),
        );
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program());
        command.arg("-p").arg(dir.path()).args(["-e", "stderr", "-c"]).arg(&file);
        let mut process = Process::start("nginx", &mut command, &dir.path().join("log"));
        wait_for("nginx to listen", 30, || {
            assert!(process.ended().is_none(), "{}", process.log());
            [keeps, strips].iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok()).then_some(())
        });
        Self { _process: process, _dir: dir }
    }
}

/// Debian keeps it where only root looks.
fn program() -> PathBuf {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs).chain(["/usr/sbin".into()]).map(|dir| dir.join("nginx"));
    found.into_iter().find(|path| path.is_file()).expect("nginx is missing: run `make test-tools`")
}
