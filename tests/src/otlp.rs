//! A receiver of OpenTelemetry, which decodes what comes with OpenTelemetry's own messages.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Process, tool, wait_for};

/// A receiver on a port of its own, which keeps all that came to it, restarts or not.
#[derive(Debug)]
pub struct Receiver {
    // Before its directory, so that it is ended first.
    process: Process,
    dir: TempDir,
    port: u16,
    tls: Option<[String; 2]>,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Sent {
    /// `/v1/traces` or `/v1/metrics`.
    pub path: String,
    /// Its headers, in lower case.
    pub headers: BTreeMap<String, String>,
    /// What is in it, as the JSON of protobuf has it: whole numbers of 64 bits are texts, bytes are in Base64, and what is
    /// zero, false or empty is left out.
    pub message: Value,
}

impl Receiver {
    /// Starts one.
    pub fn start() -> Self {
        Self::launched(None)
    }

    /// One that speaks TLS with this certificate and this key, both files in PEM.
    pub fn start_tls(certificate: &Path, key: &Path) -> Self {
        Self::launched(Some([certificate, key].map(|file| file.display().to_string())))
    }

    fn launched(tls: Option<[String; 2]>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Another program may take the free port before it does; then it ends, and another is tried.
        let (process, port) = wait_for("the receiver to start", 30, || {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            launch(&dir, port, tls.as_ref()).map(|process| (process, port))
        });
        Self { process, dir, port, tls }
    }

    /// What is to be given as `--otlp-endpoint`.
    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls.is_some() { "https" } else { "http" }, self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its port.
    pub fn restart(&mut self) {
        self.process = wait_for("the receiver to start again", 30, || launch(&self.dir, self.port, self.tls.as_ref()));
    }

    /// Lets it stand still: who is connected to it waits for it.
    pub fn stand_still(&self) {
        self.process.signal(Signal::STOP);
    }

    /// All that came, in its order.
    pub fn received(&self) -> Vec<Sent> {
        let lines = std::fs::read_to_string(self.dir.path().join("received")).unwrap_or_default();
        // The last one may be half written.
        let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let read = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            let path = line["path"].as_str().unwrap().to_owned();
            Sent {
                path,
                headers: serde_json::from_value(line["headers"].clone()).unwrap(),
                message: line["message"].clone(),
            }
        };
        whole.lines().map(read).collect()
    }

    /// The spans of all that came.
    pub fn spans(&self) -> Vec<Value> {
        let all = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        let messages = self.received().into_iter().filter(|sent| sent.path == "/v1/traces").map(|sent| sent.message);
        let resources = messages.flat_map(|message| all(&message, "resourceSpans"));
        let scopes = resources.flat_map(|resource| all(&resource, "scopeSpans"));
        scopes.flat_map(|scope| all(&scope, "spans")).collect()
    }
}

/// `None` where its port was taken in the meantime.
fn launch(dir: &TempDir, port: u16, tls: Option<&[String; 2]>) -> Option<Process> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("apps/otlp.py");
    let log = dir.path().join("log");
    let _ = std::fs::remove_file(&log);
    let mut command = Command::new(tool("venv-otlp/bin/python"));
    command.arg(program).arg(port.to_string()).arg(dir.path().join("received")).args(tls.into_iter().flatten());
    let mut process = Process::start("otlp.py", &mut command, &log);
    let listens = wait_for("the receiver to listen or to end", 30, || {
        let listens = process.log().contains("listening");
        (listens || process.ended().is_some()).then_some(listens)
    });
    listens.then_some(process)
}
