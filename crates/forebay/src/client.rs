//! The commands' side of the API: they are clients of a server, be it the running one or one in this very process.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, AsSendBody, Body, BodyReader};

use crate::commands::job::out_of_date;
use crate::data_dir::{self, Admin};
use crate::text::progress;

/// For one request; the server answers within 5 seconds whatever happens.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// For a part of an import, which the log may have to write in thousands of pieces.
const PART_TIME: Duration = Duration::from_secs(300);
/// For the next piece of a long answer. The server breaks off by itself when it waits too long for its log.
const SILENCE: Duration = Duration::from_secs(90);
/// Between two looks at a server that is not ready.
const LOOK: Duration = Duration::from_millis(100);
/// How long the server may show no progress while it reads its log.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer, whatever its status.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Why the answer may be out of date, in a word.
    pub(crate) stale: Option<String>,
    pub(crate) body: Value,
}

/// A client with the admin token.
pub(crate) struct Client {
    agent: Agent,
    admin: RefCell<Admin>,
    /// Where the next server will say how it is reached, when this one has ended.
    data_dir: Option<PathBuf>,
}

impl Client {
    pub(crate) fn new(admin: Admin) -> Self {
        // The address is this machine's: no proxy of the environment has any business in between.
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(REQUEST_TIME)).proxy(None);
        Self { agent: config.build().into(), admin: admin.into(), data_dir: None }
    }

    /// A client of the server that holds this directory, whichever that is.
    pub(crate) fn of_directory(admin: Admin, data_dir: &Path) -> Self {
        Self { data_dir: Some(data_dir.to_owned()), ..Self::new(admin) }
    }

    /// Turns to the server that holds the directory now. `false` when there is no way to know of one.
    pub(crate) fn turn_to_the_next(&self) -> bool {
        let Some(data_dir) = &self.data_dir else { return false };
        if let Ok(Some(admin)) = data_dir::admin(data_dir) {
            self.admin.replace(admin);
        }
        true
    }

    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::GET, path, &Value::Null)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, body)
    }

    pub(crate) fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.send(Method::PATCH, path, body)
    }

    pub(crate) fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::DELETE, path, &Value::Null)
    }

    /// Sends lines of JSON.
    pub(crate) fn post_lines(&self, path: &str, lines: &[u8]) -> anyhow::Result<Answer> {
        let request = self.request(Method::POST, path, lines)?;
        let request = self.agent.configure_request(request).timeout_global(Some(PART_TIME)).build();
        self.answer(self.run(request)?)
    }

    /// Gets lines of JSON, however many; otherwise what the server says is wrong.
    pub(crate) fn get_lines(&self, path: &str) -> anyhow::Result<BodyReader<'static>> {
        let request = self.request(Method::GET, path, ())?;
        let request = self.agent.configure_request(request);
        let response = self.run(request.timeout_global(None).timeout_per_read(Some(SILENCE)).build())?;
        if response.status() == 200 {
            if let Some(reason) = stale(&response) {
                eprintln!("forebay: {}", out_of_date(&reason));
            }
            return Ok(response.into_body().into_with_config().limit(u64::MAX).reader());
        }
        self.answer(response)?.good()?;
        bail!("what answers at {} is not Forebay", self.address())
    }

    fn address(&self) -> String {
        self.admin.borrow().address.clone()
    }

    fn send(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        self.answer(self.run(self.request(method, path, bytes)?)?)
    }

    fn request<B: AsSendBody>(&self, method: Method, path: &str, body: B) -> anyhow::Result<Request<B>> {
        let admin = self.admin.borrow();
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", admin.address))
            .header("authorization", format!("Bearer {}", admin.token))
            .header("content-type", "application/json");
        Ok(request.body(body)?)
    }

    fn run(&self, request: Request<impl AsSendBody>) -> anyhow::Result<Response<Body>> {
        self.agent.run(request).with_context(|| format!("the server at {} does not answer", self.address()))
    }

    fn answer(&self, mut response: Response<Body>) -> anyhow::Result<Answer> {
        let status = response.status().as_u16();
        let stale = stale(&response);
        let body = response.body_mut().with_config().limit(u64::MAX).read_to_vec()?;
        let body = serde_json::from_slice(&body)
            .with_context(|| format!("what answers at {} is not Forebay", self.address()))?;
        Ok(Answer { status, stale, body })
    }

    /// Waits until the server has read its log. That may take a while, and as long as it gets on, so do we. What else
    /// may be wrong with it need not be in the way of a request, and says so itself if it is.
    pub(crate) fn wait_until_ready(&self) -> anyhow::Result<()> {
        self.wait_while(&["STARTING", "CATCHING_UP"])
    }

    /// Waits until the server has opened its log, whether or not it has read all of it.
    pub(crate) fn wait_until_started(&self) -> anyhow::Result<()> {
        self.wait_while(&["STARTING"])
    }

    fn wait_while(&self, reasons: &[&str]) -> anyhow::Result<()> {
        let bar = progress("reading the log {bar:30} {pos} of {len}, {eta} left", 0);
        let mut progress = (0, Instant::now());
        loop {
            let health = self.get("/api/health")?;
            let getting_ready = health.body["reason"].as_str().is_some_and(|reason| reasons.contains(&reason));
            if health.status == 200 || !getting_ready {
                bar.finish_and_clear();
                return Ok(());
            }
            let (done, all) = done(&health.body);
            bar.set_length(all);
            bar.set_position(done);
            if done != progress.0 {
                progress = (done, Instant::now());
            }
            if progress.1.elapsed() > PATIENCE {
                bar.finish_and_clear();
                let why = health.body["message"].as_str().unwrap_or("it does not say why");
                bail!("the server is not ready: {why}");
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Why an answer may be out of date, in a word.
fn stale(response: &Response<Body>) -> Option<String> {
    response.headers().get("forebay-stale").and_then(|reason| reason.to_str().ok()).map(str::to_owned)
}

/// How much of the log was read, and how much there is, in messages or in events.
fn done(health: &Value) -> (u64, u64) {
    let of = |part: &str, field: &str| health[part][field].as_u64();
    if let (Some(done), Some(all)) = (of("upgrade", "eventsDone"), of("upgrade", "eventsTotal")) {
        return (done, all);
    }
    let applied = of("projector", "applied").unwrap_or_default();
    (applied, applied + of("projector", "lagEvents").unwrap_or_default())
}

impl Answer {
    /// The body of a good answer; otherwise what the server says is wrong.
    pub(crate) fn good(self) -> anyhow::Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        match self.body["error"]["message"].as_str() {
            Some(message) => bail!("{}", message.trim_end_matches('.')),
            None => bail!("the server answered with status {}", self.status),
        }
    }
}

/// Anything as one segment of a path, or one value of a query.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
