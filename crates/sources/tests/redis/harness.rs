//! A real Redis, a real log, and Celery's side of the conversation.

use std::future::Future;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use event_log::testing::TestServer;
use event_log::{EventLog, Outlet, ReadError};
use proto_events::{Event, EventType, SourceState as Heard};
use redis::{Client, Connection, cmd, pipe};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sources::redis::{RedisConfig, RedisSource};
use sources::{BrokerUrl, SourceHandle, SourceState, parse_source};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) const CONNECTION: Uuid = Uuid::from_u128(7);
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A redis-server of our own, killed when dropped.
pub(crate) struct Redis {
    pub(crate) dir: TempDir,
    pub(crate) port: u16,
    extra: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::in_dir(dir, extra)
    }

    pub(crate) fn in_dir(dir: TempDir, extra: &[&str]) -> Self {
        let extra = extra.iter().map(|&argument| argument.to_owned()).collect();
        let mut redis = Self { dir, port: 0, extra, child: None };
        // Another process may take the port between the look and the start; then another is tried.
        while redis.port == 0 || !redis.try_start() {
            redis.port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        }
        redis
    }

    /// Starts it again on the same port.
    pub(crate) fn restart(&mut self) {
        let deadline = Instant::now() + SOON;
        while !self.try_start() {
            assert!(Instant::now() < deadline, "redis-server does not come up again on port {}", self.port);
        }
    }

    fn try_start(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]).arg(self.dir.path());
        if self.extra.iter().any(|argument| argument == "--tls-port") {
            command.args(["--port", "0"]);
        } else {
            command.args(["--port", &self.port.to_string()]);
        }
        command.args(self.extra.iter().map(|argument| argument.replace("PORT", &self.port.to_string())));
        command.arg("--unixsocket").arg(self.socket()).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn();
        let child =
            self.child.insert(child.expect(
                "these tests need redis-server in the PATH: install it (Debian: apt-get install redis-server)",
            ));
        let deadline = Instant::now() + SOON;
        while child.try_wait().unwrap().is_none() {
            let url = format!("redis+unix://{}", self.dir.path().join("redis.sock").display());
            let answer = Client::open(url).unwrap().get_connection().and_then(|mut to| cmd("PING").exec(&mut to));
            match answer {
                Ok(()) => return true,
                Err(error) if error.to_string().contains("NOAUTH") => return true,
                Err(_) => {}
            }
            assert!(Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Over the socket, which no test takes away.
    pub(crate) fn client(&self, password: &str) -> Connection {
        let url = format!("redis+unix://{}?pass={password}", self.socket().display());
        let url = if password.is_empty() { url.replace("?pass=", "") } else { url };
        Client::open(url).unwrap().get_connection().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// As a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A source with the patience of a test.
pub(crate) fn spawn(url: &str, log: &EventLog, change: impl FnOnce(&mut RedisConfig)) -> SourceHandle {
    let BrokerUrl::Redis(url) = parse_source(url).unwrap().url else { panic!("{url} is Redis'") };
    let mut config = RedisConfig::new("main", url, CONNECTION);
    config.patience = Duration::from_secs(1);
    config.depths_every = Duration::from_millis(50);
    change(&mut config);
    RedisSource::spawn(config, &Outlet::from(log)).unwrap()
}

pub(crate) async fn connected(source: &SourceHandle) {
    eventually("the source is connected", || async {
        let status = source.status();
        (status.state == SourceState::Connected).then_some(()).ok_or_else(|| format!("{status:?}"))
    })
    .await;
}

/// Polls until it is so; the deadline is generous, since it only matters when the test fails.
pub(crate) async fn eventually<F, T>(what: &str, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + SOON;
    loop {
        match check().await {
            Ok(value) => return value,
            Err(last) => assert!(Instant::now() < deadline, "not so after {SOON:?}: {what}; last seen: {last}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The log of one test.
pub(crate) struct Log {
    pub(crate) server: TestServer,
    pub(crate) log: EventLog,
}

impl Log {
    pub(crate) async fn open() -> Self {
        let server = TestServer::start();
        let log = EventLog::open(server.config()).await.unwrap();
        Self { server, log }
    }

    /// The events on the log from the start, with their connections, until enough of them satisfy the question.
    pub(crate) async fn read(&self, enough: usize, counts: impl Fn(&Event) -> bool) -> Vec<(Uuid, Event)> {
        let mut reader = self.log.reader(0);
        let mut events: Vec<(Uuid, Event)> = Vec::new();
        let deadline = Instant::now() + SOON * 2;
        while events.iter().filter(|(_, event)| counts(event)).count() < enough {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(next) = tokio::time::timeout(left, reader.next()).await else {
                panic!("only {} events on the log, and not {enough} that count", events.len())
            };
            let batch = match next {
                Ok(batch) => batch,
                Err(ReadError::Reconnected { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            for message in batch.messages {
                let decoded = proto_events::decode(&message.payload).unwrap();
                events.extend(decoded.into_iter().map(|event| (message.connection, event.unwrap())));
            }
        }
        events
    }

    /// The events of jobs.
    pub(crate) async fn jobs(&self, enough: usize) -> Vec<Event> {
        let events = self.read(enough, |event| event.job.is_some()).await;
        events.into_iter().map(|(_, event)| event).filter(|event| event.job.is_some()).collect()
    }
}

/// What the source said of itself.
pub(crate) fn changes(events: &[(Uuid, Event)]) -> Vec<(Heard, Option<&str>)> {
    let sources = events.iter().filter(|(_, event)| event.kind == EventType::SourceStateChange);
    sources
        .map(|(_, event)| event.source.as_ref().unwrap())
        .map(|source| (source.state, source.reason.as_deref()))
        .collect()
}

pub(crate) fn task(kind: &str, uuid: &str) -> Value {
    json!({"type": format!("task-{kind}"), "uuid": uuid, "hostname": "celery@w", "pid": 7, "clock": 3, "utcoffset": 0,
           "timestamp": 1_795_440_115.5})
}

pub(crate) fn worker(kind: &str, hostname: &str) -> Value {
    json!({"type": format!("worker-{kind}"), "hostname": hostname, "pid": 7, "clock": 3, "utcoffset": 0, "freq": 2.0,
           "timestamp": 1_795_440_115.5, "active": 1, "processed": 5, "sw_ident": "py-celery"})
}

/// A message as kombu writes it.
pub(crate) fn kombu(routing_key: &str, body: &Value) -> String {
    json!({
        "body": STANDARD.encode(body.to_string()), "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {"hostname": "celery@w"},
        "properties": {"delivery_mode": 1, "priority": 0, "body_encoding": "base64", "delivery_tag": Uuid::new_v4(),
                       "delivery_info": {"exchange": "celeryev", "routing_key": routing_key}}
    })
    .to_string()
}

/// Publishes as a worker does on that database; tells how many subscribers got it.
pub(crate) fn publish(to: &mut Connection, prefix: &str, routing_key: &str, body: &Value) -> usize {
    let channel = format!("{prefix}.celeryev/{routing_key}");
    cmd("PUBLISH").arg(channel).arg(kombu(routing_key, body)).query(to).unwrap()
}

/// Publishes arrays of task events as fast as Redis takes them.
pub(crate) fn flood(to: &mut Connection, arrays: &[Value]) {
    for arrays in arrays.chunks(20) {
        let mut pipeline = pipe();
        for array in arrays {
            pipeline.cmd("PUBLISH").arg("/0.celeryev/task.multi").arg(kombu("task.multi", array)).ignore();
        }
        pipeline.exec(to).unwrap();
    }
}

/// Writes the files that a Redis with TLS needs: our authority's certificate, the server's own and its key.
pub(crate) fn certificates(dir: &Path) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    for (name, pem) in
        [("ca.pem", authority.pem()), ("server.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
    {
        std::fs::File::create(dir.join(name)).unwrap().write_all(pem.as_bytes()).unwrap();
    }
}
