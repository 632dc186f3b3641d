//! Celery: workers of the app in `apps/shop.py`, and what Celery itself says.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::process::tool;
use crate::{Process, wait_for};

/// What Celery says became of a job: its result backend, and what `apps/drive.py` knows of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are those that drive.py prints, mostly the backend's own")]
pub struct Truth {
    /// What was meant to happen.
    pub story: String,
    pub id: String,
    pub queue: String,
    pub eta: Option<String>,
    pub sent_at: f64,
    pub parents: Vec<String>,
    pub root: Option<String>,
    pub status: String,
    pub name: Option<String>,
    pub worker: Option<String>,
    pub retries: Option<u64>,
    pub args: Option<String>,
    pub value: Option<String>,
    pub error_type: Option<String>,
    pub error_text: Option<String>,
    pub traceback: Option<String>,
    pub done_at: Option<f64>,
}

/// One line of the tasks' own diary: the start or the end of a run.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are those that shop.py writes")]
pub struct Run {
    pub what: String,
    pub id: String,
    pub retries: u64,
    pub hostname: String,
    pub pid: i64,
    pub parent_pid: i64,
    pub time: f64,
}

/// The app with its broker, its diary and its workers' settings.
#[derive(Debug)]
pub struct Shop {
    dir: TempDir,
    broker: String,
    environment: Vec<(String, String)>,
    python: PathBuf,
}

impl Shop {
    /// The app on this broker.
    pub fn new(broker: String) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), broker, environment: Vec::new(), python: python() }
    }

    /// With this version of Celery, such as `5.4`.
    #[must_use]
    pub fn with_celery(mut self, version: &str) -> Self {
        self.python = tool(&format!("venv-celery-{version}/bin/celery")).with_file_name("python");
        self
    }

    /// Its results are kept there, and not at the broker.
    #[must_use]
    pub fn with_backend(mut self, url: String) -> Self {
        self.environment.push(("SHOP_BACKEND".to_owned(), url));
        self
    }

    /// What is not acknowledged within so many seconds is delivered again.
    #[must_use]
    pub fn with_visibility_timeout(mut self, seconds: u32) -> Self {
        self.environment.push(("SHOP_VISIBILITY_TIMEOUT".to_owned(), seconds.to_string()));
        self
    }

    /// With the stock SDK in it, which reports to this server.
    #[must_use]
    pub fn with_sdk(mut self, address: &str, key: &str, connection: &str) -> Self {
        let variables = [
            ("SLUICE_BASE_URL", format!("http://{address}")),
            ("SLUICE_API_KEY", key.to_owned()),
            ("SLUICE_CONNECTION_ID", connection.to_owned()),
        ];
        self.environment.extend(variables.map(|(name, value)| (name.to_owned(), value)));
        self
    }

    /// Starts a worker `NAME@test` with these options of `celery worker`, and waits until it takes work.
    pub fn worker(&self, name: &str, options: &[&str]) -> Process {
        let [worker] = self.workers([(name, options)]);
        worker
    }

    /// The same for several, which get ready beside one another.
    pub fn workers<const N: usize>(&self, wanted: [(&str, &[&str]); N]) -> [Process; N] {
        let mut workers = wanted.map(|(name, options)| self.begin(name, options));
        for ((name, _), worker) in wanted.iter().zip(&mut workers) {
            wait_for(&format!("the worker {name} to be ready"), 60, || {
                if let Some(status) = worker.ended() {
                    panic!("the worker {name} ended with {status}");
                }
                worker.log().contains(" ready.").then_some(())
            });
        }
        workers
    }

    fn begin(&self, name: &str, options: &[&str]) -> Process {
        let mut command = self.command("celery");
        command
            .args(["-A", "shop", "worker", "--loglevel", "INFO", "--hostname", &format!("{name}@test")])
            .args(options);
        Process::start(name, &mut command, &self.dir.path().join(format!("{name}.log")))
    }

    /// Has `drive.py` send the work of this kind and wait for its end.
    pub fn drive(&self, what: &str) -> Vec<Truth> {
        self.drive_with(what, &[])
    }

    /// The same with arguments.
    pub fn drive_with(&self, what: &str, arguments: &[&str]) -> Vec<Truth> {
        let output = self.command("python").arg(apps().join("drive.py")).arg(what).args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "drive.py failed: {errors}");
        lines(&output.stdout)
    }

    /// Sends a nap of so many seconds to a queue, and gives its id.
    pub fn nap(&self, seconds: u32, queue: &str) -> String {
        self.call("shop.nap", &format!("[{seconds}]"), queue)
    }

    /// Sends a task with arguments in JSON to a queue, and gives its id.
    pub fn call(&self, task: &str, arguments: &str, queue: &str) -> String {
        let mut call = self.command("celery");
        call.args(["-A", "shop", "call", task, "--args", arguments, "--queue", queue]);
        let output = call.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The diary of a job: its starts and ends, in the order in which they were written.
    pub fn runs(&self, id: &str) -> Vec<Run> {
        self.diary().into_iter().filter(|run| run.id == id).collect()
    }

    /// The diary of all jobs.
    pub fn diary(&self) -> Vec<Run> {
        lines(&std::fs::read(self.runs_file()).unwrap_or_default())
    }

    /// Writes down which events of tasks reach the broker, beside Forebay, until it is dropped.
    pub fn tee(&self) -> Process {
        let mut command = self.command("python");
        command.arg(apps().join("tee.py")).arg(self.dir.path().join("tee.jsonl"));
        let tee = Process::start("tee", &mut command, &self.dir.path().join("tee.log"));
        wait_for("the tee to listen", 30, || tee.log().contains("listening").then_some(()));
        tee
    }

    /// What the tee has written down: the id of a task and the type of an event.
    pub fn teed(&self) -> Vec<(String, String)> {
        lines(&std::fs::read(self.dir.path().join("tee.jsonl")).unwrap_or_default())
    }

    /// Lets another program use the app: with its environment, and `SHOP_PYTHON`, the Python to run it with.
    pub fn lend(&self, command: &mut Command) {
        command
            .env("SHOP_PYTHON", &self.python)
            .env("PYTHONPATH", apps())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SHOP_BROKER", &self.broker)
            .env("SHOP_RUNS", self.runs_file())
            .envs(self.environment.iter().cloned());
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.python.with_file_name(program));
        self.lend(&mut command);
        command
    }

    fn runs_file(&self) -> PathBuf {
        self.dir.path().join("runs.jsonl")
    }
}

fn lines<T: DeserializeOwned>(bytes: &[u8]) -> Vec<T> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let read = |line| {
        serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)))
    };
    lines.map(read).collect()
}

fn apps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("apps")
}

/// The Python that has Celery.
pub fn python() -> PathBuf {
    tool("venv/bin/celery").with_file_name("python")
}
