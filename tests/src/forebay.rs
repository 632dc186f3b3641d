//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use ureq::http::Method;

use crate::{API_KEY, Api, CONNECTION, PASSWORD, Process, wait_for};

/// How a [`Forebay`] is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More arguments for `serve`.
    pub arguments: Vec<String>,
    /// Without the fixed key, connection and password, so that it makes up its own.
    pub own_credentials: bool,
    /// Variables of its environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Options {
    /// Listening to these Celery brokers.
    pub fn celery(urls: &[String]) -> Self {
        let arguments = urls.iter().flat_map(|url| ["--celery".to_owned(), url.clone()]).collect();
        Self { arguments, ..Self::default() }
    }
}

/// A running server with a data directory of its own.
#[derive(Debug)]
pub struct Forebay {
    // Before its directory, so that it is ended first and its output can still be shown.
    process: Process,
    dir: TempDir,
    options: Options,
    /// A client with the admin token.
    pub api: Api,
}

impl Forebay {
    /// Starts one and waits until it is well.
    pub fn start(options: Options) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options)
    }

    /// Starts one on a directory that holds something already.
    pub fn start_in(dir: TempDir, options: Options) -> Self {
        let mut forebay = Self::launch_in(dir, options);
        forebay.wait_until_well();
        forebay
    }

    /// Starts one on a directory, and does not wait until it is well.
    pub fn launch_in(dir: TempDir, options: Options) -> Self {
        let process = launch(dir.path(), &options);
        Self { dir, options, process, api: Api::new("", "") }
    }

    /// `kill -9`, then starts it again on the same directory and waits until it is well.
    pub fn crash_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// `kill -9` for the server alone; what it started has to find out.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to stop, and checks that it does so cleanly.
    pub fn stop(&mut self) {
        let status = self.process.stop();
        assert!(status.success(), "a clean stop ends with success, not with {status}");
    }

    /// Starts it again after it was killed or stopped.
    pub fn restart(&mut self) {
        self.launch();
        self.wait_until_well();
    }

    /// Starts it again after it was killed or stopped, and does not wait until it is well.
    pub fn launch(&mut self) {
        self.process = launch(self.dir.path(), &self.options);
    }

    /// Its environment from the next start on.
    pub fn environment(&mut self) -> &mut Vec<(&'static str, String)> {
        &mut self.options.environment
    }

    /// How the server ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// `kill -9` for its nats-server, and waits until it runs another one.
    pub fn kill_nats(&self) {
        let old = self.nats();
        kill_process(old, Signal::KILL).unwrap();
        wait_for("another nats-server to run", 30, || (self.nats() != old).then_some(()));
    }

    /// Its nats-server.
    pub fn nats(&self) -> Pid {
        wait_for("the embedded nats-server to run", 30, || {
            let children = self.process.children();
            children.into_iter().find(|(_, name)| name == "nats-server").map(|(pid, _)| pid)
        })
    }

    /// The process of the server.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `GET /api/health`.
    pub fn health(&self) -> Value {
        self.api.get("/api/health").body
    }

    /// `GET /metrics`, as Prometheus reads it.
    pub fn metrics(&self) -> String {
        let token = format!("Bearer {}", self.api.token());
        self.api.send_text(Method::GET, "/metrics", &[("authorization", &token)])
    }

    /// The sum of all series of a metric.
    pub fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics();
        let values = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            Some(rest.rsplit(' ').next()?.parse::<f64>().unwrap())
        });
        values.sum()
    }

    /// Runs another command of the binary on the same data directory.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = forebay();
        command.envs(self.options.environment.iter().cloned());
        command.args(arguments).arg("--data-dir").arg(self.dir.path()).output().unwrap()
    }

    /// Waits until the server that runs now answers that all is well, its sources included.
    pub fn wait_until_well(&mut self) {
        self.wait_until("be well", |health| health["status"] == "ok");
    }

    /// Waits until the server that runs now says something of its health.
    pub fn wait_until(&mut self, what: &str, is_so: impl Fn(&Value) -> bool) {
        self.wait_for_seconds(what, 60, is_so);
    }

    /// The same, for so long.
    pub fn wait_for_seconds(&mut self, what: &str, seconds: u64, is_so: impl Fn(&Value) -> bool) {
        wait_for(&format!("Forebay to {what}"), seconds, || {
            if let Some(status) = self.process.ended() {
                panic!("Forebay ended with {status}");
            }
            self.is(&is_so).then_some(())
        });
    }

    /// Whether the server that runs now answers and says this of its health.
    pub fn is(&mut self, is_so: impl Fn(&Value) -> bool) -> bool {
        let Some(api) = self.answering() else { return false };
        let found = api.try_get("/api/health").is_some_and(|answer| is_so(&answer.body));
        if found {
            self.api = api;
        }
        found
    }

    /// A client of the server that runs now; `None` before it has told where it is.
    pub fn answering(&self) -> Option<Api> {
        let admin: Value = serde_json::from_slice(&std::fs::read(self.dir.path().join("admin.json")).ok()?).ok()?;
        // The file may still be that of the server that was killed.
        if admin["pid"] != self.process.pid().as_raw_nonzero().get() {
            return None;
        }
        Some(Api::new(admin["address"].as_str()?, admin["token"].as_str()?))
    }
}

fn launch(dir: &Path, options: &Options) -> Process {
    let mut command = forebay();
    command.envs(options.environment.iter().cloned());
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir).args(&options.arguments);
    if !options.own_credentials {
        command
            .env("FOREBAY_API_KEY", API_KEY)
            .env("FOREBAY_CONNECTION_ID", CONNECTION.to_string())
            .env("FOREBAY_ADMIN_PASSWORD", PASSWORD);
    }
    Process::start("forebay", &mut command, &dir.join("output.log"))
}

/// The program, without the settings of a Forebay in use, which would lead the tests to its log.
fn forebay() -> Command {
    let mut command = Command::new(forebay_binary());
    for (name, _) in std::env::vars_os() {
        let is_setting =
            |name: &str| name.starts_with("FOREBAY_") && name != "FOREBAY_NATS_SERVER" || name.starts_with("OTEL_");
        if name.to_str().is_some_and(is_setting) {
            command.env_remove(name);
        }
    }
    command
}

/// The binary under test: what `FOREBAY_BIN` names, else the one that cargo built beside this test.
pub fn forebay_binary() -> PathBuf {
    let path = std::env::var_os("FOREBAY_BIN").map_or_else(
        || {
            let exe = std::env::current_exe().unwrap();
            let beside = exe.ancestors().skip(1).take(2).map(|dir| dir.join("forebay")).find(|path| path.is_file());
            beside.unwrap_or_else(|| exe.with_file_name("forebay"))
        },
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is missing: run `cargo build -p forebay`, or `make test`", path.display());
    path
}
