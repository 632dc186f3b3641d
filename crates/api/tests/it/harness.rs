//! A real API on a free port, over a real nats-server. Every answer is compared with the API's own document.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::door::Limits;
use api::{App, Auth, Connections, DefaultConnection, Door, Maintenance, Parts, ReadKeys};
use event_log::testing::TestServer;
use event_log::{EventLog, Outlet};
use projection::FOLD_VERSION;
use projector::LiveSettings;
use serde_json::{Value, json};
use sources::{Fleet, Habits, Redaction};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use ureq::http::{HeaderMap, Method, Request};
use ureq::{AsSendBody, SendBody};
use uuid::Uuid;

use crate::spec::{Spec, Told};

pub(crate) const CONNECTION: Uuid = Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0000);
pub(crate) const KEY: &str = "a key from the environment";
pub(crate) const PASSWORD: &str = "correct horse battery staple";
pub(crate) const TOKEN: &str = "the token in admin.json";
pub(crate) const SECRET: [u8; 32] = [7; 32];
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// Waits for what no answer tells of: what another node has yet to hear, what is still held.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Those of a server whose requests all come from one address, and of which many show nothing, or something wrong.
pub(crate) fn limits() -> Limits {
    Limits { wrong_keys: None, ..Limits::default() }
}

/// An API without its parts, as it is while the log is being opened.
pub(crate) struct Bare {
    pub(crate) client: Client,
    pub(crate) app: Arc<App>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Bare {
    pub(crate) async fn start(password: &str) -> Self {
        Self::behind(Door { limits: limits(), ..Door::default() }, password).await
    }

    pub(crate) async fn behind(door: Door, password: &str) -> Self {
        let app = App::behind(door, Auth::new(password, &SECRET, TOKEN).unwrap(), "1.2.3");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(listener.local_addr().unwrap().to_string());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(api::serve(listener, None, Arc::clone(&app), stopped));
        Self { client, app, stop, serving }
    }
}

/// An API with all its parts, and a nats-server of its own.
pub(crate) struct Server {
    node: Node,
    pub(crate) nats: TestServer,
}

impl Deref for Server {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::within(limits()).await
    }

    /// One with other limits.
    pub(crate) async fn within(limits: Limits) -> Self {
        let (nats, bare) = (TestServer::start(), Bare::behind(Door { limits, ..Door::default() }, PASSWORD).await);
        let server = Self { node: Node::begin(&nats, bare).await, nats };
        server.client.until("/api/health", |answer| answer.status == 200);
        server
    }

    /// Does not wait until it has read its log.
    pub(crate) async fn begin(nats: TestServer) -> Self {
        Self { node: Node::begin(&nats, Bare::start(PASSWORD).await).await, nats }
    }

    /// Stops the API and waits until it has.
    pub(crate) async fn stop(self) {
        let Self { node, nats } = self;
        node.stop().await;
        drop(nats);
    }

    /// Another node over the same log.
    pub(crate) async fn another(&self) -> Node {
        let node = Node::begin(&self.nats, Bare::start(PASSWORD).await).await;
        node.client.until("/api/health", |answer| answer.status == 200);
        node
    }
}

/// An API with all its parts.
pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) log: EventLog,
    pub(crate) connections: Arc<Connections>,
    pub(crate) projector: projector::Handle,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) app: Arc<App>,
    bare: Bare,
    pub(crate) dir: TempDir,
}

impl Node {
    async fn begin(nats: &TestServer, bare: Bare) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(nats.config()).await.unwrap();
        let connections = Connections::open(log.kv()).await.unwrap();
        let default = DefaultConnection { id: Some(CONNECTION), key: Some(KEY.to_owned()), first_key: None };
        connections.ensure_default(&default).await.unwrap();
        let (outlet, habits) = (Outlet::from(&log), Habits::default());
        let fleet = Arc::new(Fleet::open(dir.path().join("sources.json"), outlet, habits).unwrap());
        bare.app.know_sources(Arc::clone(&fleet));
        let options = views::Options {
            fold_version: FOLD_VERSION,
            cache_bytes: 8 << 20,
            list_bytes: 64 << 20,
            totals_by_host: false,
        };
        let views::Opened { writer, reader, generations, .. } =
            views::open(&dir.path().join("views"), &options).unwrap();
        let projector = projector::start(log.clone(), writer, &reader);
        projector.live().start(&log, LiveSettings::default());
        bare.app.attach(Parts {
            log: log.clone(),
            maintenance: Maintenance::new(&log, &projector, &reader, &generations),
            reader,
            projector: projector.clone(),
            connections: Arc::clone(&connections),
            keys: ReadKeys::open(log.kv()).await.unwrap(),
            backends: Arc::new(Vec::new),
            redaction: Redaction::default(),
        });
        Self { client: bare.client.clone(), log, connections, projector, fleet, app: Arc::clone(&bare.app), bare, dir }
    }

    /// Stops the API and waits until it has.
    pub(crate) async fn stop(self) {
        self.bare.stop.send(()).unwrap();
        self.bare.serving.await.unwrap();
    }

    pub(crate) fn ingest(&self, events: &Value) -> Answer {
        self.client.post("/api/ingest", &json!({ "events": events })).bearer(KEY).send()
    }

    /// Sends the events and waits until they can be read.
    pub(crate) fn given(&self, events: &Value) {
        let answer = self.ingest(events);
        assert_eq!(answer.status, 202, "{}", answer.body);
        assert_eq!(answer.body["rejected"], json!([]));
        let read = self.client.get(&format!("/api/jobs?atLeast={}", answer.body["sequence"])).admin().send();
        assert_eq!(read.status, 200, "{}", read.body);
    }

    pub(crate) async fn last_sequence(&self) -> u64 {
        self.log.info().await.unwrap().last_sequence
    }
}

#[derive(Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    pub(crate) address: String,
}

impl Client {
    fn new(address: String) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        Self { agent: config.timeout_global(Some(Duration::from_secs(30))).build().into(), address }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> Call<'_> {
        Call { client: self, method, path: path.to_owned(), headers: HeaderMap::new(), body: Vec::new() }
    }

    pub(crate) fn get(&self, path: &str) -> Call<'_> {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Call<'_> {
        self.request(Method::POST, path).body(serde_json::to_vec(body).unwrap())
    }

    pub(crate) fn patch(&self, path: &str, body: &Value) -> Call<'_> {
        self.request(Method::PATCH, path).body(serde_json::to_vec(body).unwrap())
    }

    pub(crate) fn delete(&self, path: &str) -> Call<'_> {
        self.request(Method::DELETE, path)
    }

    pub(crate) fn log_in(&self, password: &str) -> Answer {
        self.post("/api/session", &json!({ "password": password })).send()
    }

    /// Asks until the answer is as wanted.
    pub(crate) fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.get(path).admin().send();
            if wanted(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} still answers {} {}", answer.status, answer.body);
            std::thread::sleep(LOOK);
        }
    }
}

pub(crate) struct Call<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Call<'_> {
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    pub(crate) fn bearer(self, credential: &str) -> Self {
        self.header("authorization", &format!("Bearer {credential}"))
    }

    pub(crate) fn admin(self) -> Self {
        self.bearer(TOKEN)
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn send(mut self) -> Answer {
        let body = std::mem::take(&mut self.body);
        self.send_as(body)
    }

    /// Without announcing how long the body is.
    pub(crate) fn send_chunked(mut self) -> Answer {
        let body = std::mem::take(&mut self.body);
        self.send_as(SendBody::from_owned_reader(std::io::Cursor::new(body)))
    }

    fn send_as(self, body: impl AsSendBody) -> Answer {
        let uri = format!("http://{}{}", self.client.address, self.path);
        let mut request = Request::builder().method(&self.method).uri(uri);
        *request.headers_mut().unwrap() = self.headers;
        let mut response = self.client.agent.run(request.body(body).unwrap()).unwrap();
        let bytes = response.body_mut().read_to_vec().unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let answer = Answer { status: response.status().as_u16(), headers: response.headers().clone(), body, bytes };
        let told = Told {
            method: self.method.as_str(),
            path: self.path.split('?').next().unwrap_or_default(),
            status: answer.status,
            headers: &answer.headers,
            body: &answer.bytes,
        };
        // The document is about the API and its metrics; the page beside it is not a part of that.
        if (self.path.starts_with("/api") || self.path.starts_with("/metrics"))
            && let Some(complaint) = Spec::of(&self.client.address).complaint(&told)
        {
            panic!("{} {} is not answered as described: {complaint}", self.method, self.path);
        }
        answer
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// As JSON, if it is.
    pub(crate) body: Value,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts that this is the documented envelope with that code, and gives the error.
    pub(crate) fn error(&self, status: u16, code: &str) -> &Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let error = &self.body["error"];
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        let docs = error["docs_url"].as_str().unwrap();
        assert!(docs.starts_with("https://docs.sluice.sh/troubleshooting/"), "{docs}");
        error
    }
}

/// A job event as the SDK sends it.
pub(crate) fn event(id: &str, state: &str, time: &str) -> Value {
    json!({
        "type": "job.state_change", "timestamp": time, "framework": "celery", "connectionId": CONNECTION,
        "job": { "externalId": id, "name": "app.tasks.send_email", "state": state },
    })
}
