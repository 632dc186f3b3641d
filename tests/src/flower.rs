//! Flower, which many watch Celery with: what Forebay is measured and compared with.

use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;
use ureq::Agent;

use crate::{Process, Shop, tool, wait_for};

/// Tasks that it may keep, more than any run has: its usual 100,000 would have it forget some, which is no loss of events.
const MAX_TASKS: usize = 1_000_000;

/// A running Flower with its usual settings but for [`MAX_TASKS`]; it keeps nothing on disk.
#[derive(Debug)]
pub struct Flower {
    process: Process,
    agent: Agent,
    address: String,
    _dir: TempDir,
}

impl Flower {
    /// Starts one on this broker, and waits until it answers.
    pub fn start(broker: &str) -> Self {
        Self::launched(broker, None)
    }

    /// The same that knows this app, and so where its results are, and answers everybody.
    pub fn of(shop: &Shop, broker: &str) -> Self {
        Self::launched(broker, Some(shop))
    }

    fn launched(broker: &str, shop: Option<&Shop>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Another program may take the free port before it does; then it ends, and another is tried.
        let (process, address) = wait_for("Flower to start", 120, || launch(broker, shop, &dir));
        // While it is busy with events it answers late.
        let config = Agent::config_builder().timeout_global(Some(Duration::from_secs(120))).proxy(None).build();
        Self { process, agent: config.into(), address, _dir: dir }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// The events that it has handled, by its own metrics. Answering costs it some milliseconds.
    pub fn events(&self) -> u64 {
        let metrics = self.get("/metrics");
        let counts = metrics.lines().filter(|line| line.starts_with("flower_events_total{"));
        counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64).sum()
    }

    /// The tasks that it knows to be in this state of Celery's, as its page of tasks counts them.
    pub fn tasks(&self, state: &str) -> u64 {
        let asked = format!("columns%5B0%5D%5Bdata%5D=name&search%5Bvalue%5D=state:{state}");
        let page = format!("/tasks/datatable?draw=1&start=0&length=1&order%5B0%5D%5Bcolumn%5D=0&{asked}");
        let answer: Value = serde_json::from_str(&self.get(&page)).unwrap();
        answer["recordsFiltered"].as_u64().unwrap()
    }

    /// The status and the answer of its API, null where that is no JSON, to a path such as `/api/tasks`.
    pub fn api(&self, path: &str) -> (u16, Value) {
        let request = self.agent.get(format!("http://{}{path}", self.address));
        let mut answer = request.config().http_status_as_error(false).build().call().unwrap();
        let body = answer.body_mut().read_to_vec().unwrap();
        (answer.status().as_u16(), serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    fn get(&self, path: &str) -> String {
        let mut answer = self.agent.get(format!("http://{}{path}", self.address)).call().unwrap();
        answer.body_mut().read_to_string().unwrap()
    }
}

fn launch(broker: &str, shop: Option<&Shop>, dir: &TempDir) -> Option<(Process, String)> {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(tool("venv-flower/bin/celery"));
    // Settings of its own that the user may have.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("FLOWER_") || name.starts_with("CELERY_")) {
            command.env_remove(name);
        }
    }
    if let Some(shop) = shop {
        shop.lend(&mut command);
        command.env("FLOWER_UNAUTHENTICATED_API", "true").args(["-A", "shop"]);
    }
    command.current_dir(dir.path()).args(["--broker", broker, "flower", "--address=127.0.0.1"]);
    command.args([format!("--port={}", address.port()), format!("--max-tasks={MAX_TASKS}")]);
    let mut process = Process::start("flower", &mut command, &dir.path().join("log"));
    let up = wait_for("Flower to listen or to end", 60, || match process.ended() {
        Some(_) => Some(false),
        None => TcpStream::connect(address).is_ok().then_some(true),
    });
    up.then(|| (process, address.to_string()))
}
