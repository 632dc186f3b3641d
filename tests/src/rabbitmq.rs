//! A RabbitMQ server for one test.

use std::collections::VecDeque;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Process, wait_for};

/// Where Debian keeps the program itself: what it puts on the PATH wants to run as a user of its own.
const DEBIAN: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Messages that are published before the first of them must be confirmed.
const AT_ONCE: usize = 200;

/// A RabbitMQ server on a free port of the loopback interface, with a directory, a name and a port mapper of its own, and
/// without plugins.
#[derive(Debug)]
pub struct RabbitMq {
    process: Option<Process>,
    // Erlang would start one of its own accord, and leave it behind.
    mapper: Option<Process>,
    dir: TempDir,
    /// Of the broker, of its distribution, of the port mapper, of the broker with TLS.
    ports: [u16; 4],
}

impl RabbitMq {
    /// Starts one that holds nothing but the user `guest`.
    pub fn start() -> Self {
        Self::with_users(&[])
    }

    /// Starts one with more users, each with a password that is its name and its permissions to configure, write and read.
    pub fn with_users(users: &[(&str, [&str; 3])]) -> Self {
        Self::with(users, None)
    }

    /// Starts one that takes connections with TLS too, with `server.pem` and `key.pem` of this directory.
    pub fn with_tls(certificates: &Path) -> Self {
        Self::with(&[], Some(certificates))
    }

    fn with(users: &[(&str, [&str; 3])], certificates: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("definitions.json"), definitions(users).to_string()).unwrap();
        fs::write(dir.path().join("enabled_plugins"), "[].").unwrap();
        let mut rabbitmq = Self { dir, ports: [0; 4], process: None, mapper: None };
        // Another program may take a free port before it does; then it ends, and others are tried.
        wait_for("a RabbitMQ server to start", 120, || {
            rabbitmq.ports = [0; 4].map(|_| free_port());
            rabbitmq.configure(certificates);
            rabbitmq.launch().then_some(())
        });
        rabbitmq
    }

    fn configure(&self, certificates: Option<&Path>) {
        let mut config = format!("load_definitions = {}\n", self.dir.path().join("definitions.json").display());
        if let Some(certificates) = certificates {
            let (port, path) = (self.ports[3], certificates.display());
            let lines = [
                format!("listeners.ssl.1 = 127.0.0.1:{port}"),
                format!("ssl_options.cacertfile = {path}/ca.pem"),
                format!("ssl_options.certfile = {path}/server.pem"),
                format!("ssl_options.keyfile = {path}/key.pem"),
                "ssl_options.verify = verify_none".to_owned(),
                "ssl_options.fail_if_no_peer_cert = false\n".to_owned(),
            ];
            config.push_str(&lines.join("\n"));
        }
        fs::write(self.dir.path().join("rabbitmq.conf"), config).unwrap();
    }

    /// The broker URL with TLS.
    pub fn tls_url(&self) -> String {
        format!("amqps://localhost:{}//", self.ports[3])
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
        self.mapper = None;
        // What the shell around it had started dies by itself, a moment later.
        let is_gone = || TcpStream::connect(("127.0.0.1", self.ports[0])).is_err().then_some(());
        wait_for("RabbitMQ to be gone", 30, is_gone);
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) {
        let process = self.process.as_mut().unwrap();
        // The server itself, and not the shell around it. It writes this down some time after it listens.
        let written = self.dir.path().join("pid");
        let pid = wait_for("RabbitMQ to write down its process id", 60, || {
            fs::read_to_string(&written).ok()?.trim().parse().ok().and_then(Pid::from_raw)
        });
        kill_process(pid, Signal::TERM).unwrap();
        wait_for("RabbitMQ to end when asked to", 60, || process.ended());
        self.kill();
    }

    /// Starts it again on the same ports, with what it had kept.
    pub fn restart(&mut self) {
        self.kill();
        wait_for("RabbitMQ to start again on its port", 120, || self.launch().then_some(()));
    }

    /// The broker URL of the user `guest`, in the usual virtual host.
    pub fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}//", self.ports[0])
    }

    /// The same for another user.
    pub fn url_of(&self, user: &str) -> String {
        format!("amqp://{user}:{user}@127.0.0.1:{}//", self.ports[0])
    }

    /// Publishes these bodies on an exchange, as Celery publishes its events, and waits until the broker has each. A body
    /// that it did not confirm, because it went away, is published again when it is back; so some may be there twice.
    pub fn publish(url: &str, exchange: &str, routing_key: &str, bodies: &[impl AsRef<[u8]>]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut left: VecDeque<&[u8]> = bodies.iter().map(AsRef::as_ref).collect();
        let deadline = Instant::now() + Duration::from_secs(120);
        while !left.is_empty() {
            assert!(Instant::now() < deadline, "RabbitMQ has not taken all within two minutes");
            if runtime.block_on(publish(url, exchange, routing_key, &mut left)).is_err() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// What it says of its queues: name, type and arguments, by its own command.
    pub fn queues(&self) -> Vec<Value> {
        let program = Path::new(DEBIAN).with_file_name("rabbitmqctl");
        let mut command = Command::new(if program.exists() { program } else { "rabbitmqctl".into() });
        let output = command
            .env("HOME", self.dir.path())
            .env("RABBITMQ_NODENAME", format!("forebay{}@localhost", self.ports[0]))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("ERL_EPMD_PORT", self.ports[2].to_string())
            .args(["list_queues", "name", "type", "durable", "arguments", "--formatter", "json", "--silent"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// How many messages are ready in its queues, all together. Its own command tells it only some seconds later.
    pub fn ready(&self) -> u32 {
        let names: Vec<String> = self.queues().iter().map(|queue| queue["name"].as_str().unwrap().to_owned()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let counted: lapin::Result<u32> = runtime.block_on(async {
            let connection = connect(&self.url()).await?;
            let channel = connection.create_channel().await?;
            let mut ready = 0;
            for name in names {
                let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let queue = channel.queue_declare(name.as_str().into(), passive, FieldTable::default()).await?;
                ready += queue.message_count();
            }
            connection.close(200, "done".into()).await?;
            Ok(ready)
        });
        counted.unwrap()
    }

    /// Its port.
    pub const fn port(&self) -> u16 {
        self.ports[0]
    }

    fn launch(&mut self) -> bool {
        let [port, distribution, mapper, _] = self.ports.map(|port| port.to_string());
        let dir = self.dir.path();
        // That of the one before it, which was killed.
        let _ = fs::remove_file(dir.join("pid"));
        let mut epmd = Command::new(epmd());
        epmd.args(["-address", "127.0.0.1", "-port", &mapper]);
        self.mapper = Some(Process::start("epmd", &mut epmd, &dir.join("epmd.log")));
        let mut command = Command::new(if Path::new(DEBIAN).exists() { DEBIAN } else { "rabbitmq-server" });
        command
            .env("HOME", dir)
            .env("RABBITMQ_NODENAME", format!("forebay{port}@localhost"))
            .env("RABBITMQ_MNESIA_BASE", dir)
            .env("RABBITMQ_LOG_BASE", dir)
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", dir.join("pid"))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", &port)
            .env("RABBITMQ_DIST_PORT", distribution)
            .env("ERL_EPMD_PORT", mapper)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // It shares the machine with what it is tested with.
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 +sbwt none");
        let mut process = Process::start("rabbitmq-server", &mut command, &dir.join("log"));
        let up = wait_for("rabbitmq-server to listen or to end", 120, || match process.ended() {
            Some(_) => Some(false),
            None => TcpStream::connect(("127.0.0.1", self.ports[0])).is_ok().then_some(true),
        });
        self.process = up.then_some(process);
        up
    }
}

async fn publish(url: &str, exchange: &str, routing_key: &str, left: &mut VecDeque<&[u8]>) -> lapin::Result<()> {
    let connection = connect(url).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    while !left.is_empty() {
        let mut confirms = Vec::new();
        for body in left.iter().take(AT_ONCE) {
            // As Celery does: transient, plain JSON.
            let properties = BasicProperties::default()
                .with_content_type("application/json".into())
                .with_content_encoding("utf-8".into())
                .with_delivery_mode(1);
            let options = BasicPublishOptions::default();
            confirms.push(channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties).await?);
        }
        for confirm in confirms {
            confirm.await?;
            left.pop_front();
        }
    }
    connection.close(200, "done".into()).await
}

/// To the usual virtual host, the name of which lapin wants encoded.
async fn connect(url: &str) -> lapin::Result<Connection> {
    let url = format!("{}/%2F", url.trim_end_matches('/'));
    Connection::connect(&url, ConnectionProperties::default()).await
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The port mapper lies beside Erlang's other programs.
fn epmd() -> String {
    let places = ["/usr/bin/epmd", "/usr/local/bin/epmd", "/opt/homebrew/bin/epmd"].map(PathBuf::from);
    places.into_iter().find(|path| path.exists()).map_or("epmd".to_owned(), |path| path.display().to_string())
}

fn definitions(users: &[(&str, [&str; 3])]) -> Value {
    let everything = [("guest", [".*"; 3])];
    let all = || everything.iter().chain(users);
    let named = all().map(|(name, _)| json!({"name": name, "password": name, "tags": []}));
    let permitted = all().map(|(name, [configure, write, read])| {
        json!({"user": name, "vhost": "/", "configure": configure, "write": write, "read": read})
    });
    json!({
        "vhosts": [{"name": "/"}],
        "users": named.collect::<Vec<_>>(),
        "permissions": permitted.collect::<Vec<_>>(),
    })
}
