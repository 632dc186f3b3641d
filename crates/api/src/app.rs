//! What the handlers share: how to tell the operator, and the parts that answer, once they are there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alerts::Alerts;
use event_log::EventLog;
use parking_lot::Mutex;
use projector::{Handle, Phase, Policy};
use serde_json::{Value, json};
use sources::backend::BackendStatus;
use sources::{Fleet, Redaction};
use tokio::sync::Semaphore;
use views::Reader;

use crate::audit::Audit;
use crate::auth::Auth;
use crate::connections::Connections;
use crate::coverage::Looked;
use crate::door::{Door, Guard};
use crate::errors::{ApiError, STARTING};
use crate::flower::Awaited;
use crate::keys::ReadKeys;
use crate::maintenance::Maintenance;
use crate::metrics::{Ingested, Requests};
use crate::page::Site;
use crate::signs::Habits;
use crate::stream::Streams;
use crate::trace::Adopt;
use crate::walk;

/// The state of every result backend now.
pub type Backends = Arc<dyn Fn() -> Vec<BackendStatus> + Send + Sync>;

/// The parts that the API stands on.
pub struct Parts {
    /// For ingest, and for events behind a record.
    pub log: EventLog,
    /// For reads.
    pub reader: Reader,
    /// For readiness.
    pub projector: Handle,
    /// For keys of those who send.
    pub connections: Arc<Connections>,
    /// For keys of those who read.
    pub keys: Arc<ReadKeys>,
    /// For health.
    pub backends: Backends,
    /// For rebuilding and verifying the views.
    pub maintenance: Maintenance,
    /// What is kept out of what is sent over HTTP, too.
    pub redaction: Redaction,
}

/// The API's state.
pub struct App {
    pub(crate) auth: Arc<Auth>,
    pub(crate) door: Door,
    pub(crate) guard: Guard,
    pub(crate) audit: Audit,
    pub(crate) version: &'static str,
    /// The dashboard's page, made when somebody first asks for it.
    pub(crate) site: OnceLock<Site>,
    parts: OnceLock<Parts>,
    /// The sources, which may be there before the parts are.
    fleet: OnceLock<Arc<Fleet>>,
    /// The alerts, of a server.
    pub(crate) alerts: OnceLock<Alerts>,
    /// Why the log is not open yet, where it is waited for.
    waiting: Mutex<Option<String>>,
    /// The API key of the default connection that the first start made up, until a job is known.
    first_key: Mutex<Option<String>>,
    /// The description of the API, made when somebody first asks for it.
    pub(crate) document: OnceLock<String>,
    /// Set once all that the log held at the start is applied. It stays set: later, what is shown may lag, but never
    /// goes back behind what a client has seen.
    caught_up: AtomicBool,
    /// One large body at a time and processor is unpacked and read.
    pub(crate) heavy: Arc<Semaphore>,
    /// What bodies of ingest may take of the memory while they arrive, in units of [`BODY_UNIT`] bytes.
    pub(crate) bodies: Semaphore,
    /// Few requests at a time read events back from the log.
    pub(crate) evidence: Semaphore,
    /// One import at a time.
    pub(crate) import: Semaphore,
    /// Few whole lists at a time.
    pub(crate) lists: Arc<Semaphore>,
    /// The open event streams.
    pub(crate) streams: Streams,
    /// Who waits for the end of a task, as Flower lets them.
    pub(crate) awaited: Arc<Awaited>,
    /// One scrape at a time.
    pub(crate) scrape: Arc<tokio::sync::Mutex<()>>,
    /// What was asked since the start.
    pub(crate) requests: Requests,
    /// What was sent to ingest since the start.
    pub(crate) ingested: Ingested,
    /// Set where requests are traced.
    pub(crate) adopt: OnceLock<Adopt>,
    /// How long jobs usually take.
    pub(crate) habits: Arc<Habits>,
    /// What is missing in what is heard.
    pub(crate) coverage: Arc<Looked>,
}

/// Bytes of all bodies of ingest that are under way, and the unit in which they are counted.
const BODIES_BYTES: usize = 256 * 1_024 * 1_024;
pub(crate) const BODY_UNIT: usize = 64 * 1_024;

/// Each may hold many megabytes.
const EVIDENCE_AT_ONCE: usize = 4;

/// How far the views are on their way to the end of the log.
fn progress(parts: &Parts) -> Value {
    if let Some(rebuild) = parts.maintenance.upgrade().and_then(|filling| filling.rebuild) {
        return json!({
            "eventsDone": rebuild.events_done, "eventsTotal": rebuild.events_total, "etaSeconds": rebuild.eta_seconds,
        });
    }
    let status = parts.projector.status();
    json!({ "applied": status.applied, "target": status.target })
}

impl App {
    /// An API that answers with `UNAVAILABLE` until its parts are attached.
    pub fn new(auth: Auth, version: &'static str) -> Arc<Self> {
        Self::behind(Door::default(), auth, version)
    }

    /// The same, to be reached by this way.
    pub fn behind(door: Door, auth: Auth, version: &'static str) -> Arc<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            auth: Arc::new(auth.with_users(door.users.clone())),
            guard: Guard::new(&door.limits),
            door,
            audit: Audit::default(),
            version,
            site: OnceLock::new(),
            parts: OnceLock::new(),
            fleet: OnceLock::new(),
            alerts: OnceLock::new(),
            waiting: Mutex::default(),
            first_key: Mutex::new(None),
            document: OnceLock::new(),
            caught_up: AtomicBool::new(false),
            heavy: Arc::new(Semaphore::new(processors)),
            bodies: Semaphore::new(BODIES_BYTES / BODY_UNIT),
            evidence: Semaphore::new(EVIDENCE_AT_ONCE),
            import: Semaphore::new(1),
            lists: Arc::new(Semaphore::new(walk::AT_ONCE)),
            streams: Streams::default(),
            awaited: Arc::default(),
            scrape: Arc::default(),
            requests: Requests::default(),
            ingested: Ingested::default(),
            adopt: OnceLock::new(),
            habits: Arc::default(),
            coverage: Arc::default(),
        })
    }

    /// Gives the API its parts; a second call changes nothing.
    pub fn attach(&self, parts: Parts) {
        self.auth.know(Arc::clone(&parts.keys));
        self.audit.attach(&parts.log);
        let _ = self.parts.set(parts);
    }

    /// Lets the API tell of these sources and manage them; a second call changes nothing.
    pub fn know_sources(&self, fleet: Arc<Fleet>) {
        let _ = self.fleet.set(fleet);
    }

    /// Keeps what this policy says of the log from now on.
    pub fn keep(&self, policy: Policy) {
        if let Some(parts) = self.parts.get() {
            parts.maintenance.change_policy(policy);
        }
    }

    /// Compares the views with the log so often from now on, or not at all. Within a tokio runtime.
    pub fn scrub_every(&self, every: Option<Duration>) {
        if let Some(parts) = self.parts.get() {
            parts.maintenance.scrub_every(every);
        }
    }

    /// Says in health why the log is not open yet.
    pub fn wait_for_log(&self, reason: String) {
        *self.waiting.lock() = Some(reason);
    }

    pub(crate) fn waiting(&self) -> Option<String> {
        self.waiting.lock().clone()
    }

    pub(crate) fn fleet(&self) -> Option<&Arc<Fleet>> {
        self.fleet.get()
    }

    /// What `GET /api/first-run` may show while no job is known.
    pub fn keep_first_key(&self, key: Option<String>) {
        *self.first_key.lock() = key;
    }

    pub(crate) fn first_key(&self) -> Option<String> {
        self.first_key.lock().clone()
    }

    pub(crate) fn forget_first_key(&self) {
        *self.first_key.lock() = None;
    }

    pub(crate) fn parts(&self) -> Result<&Parts, ApiError> {
        self.parts.get().ok_or(STARTING)
    }

    /// The parts, if reads may be answered.
    pub(crate) fn readable(&self) -> Result<&Parts, ApiError> {
        let parts = self.parts()?;
        if self.is_caught_up(parts) { Ok(parts) } else { Err(ApiError::NotReady { details: progress(parts) }) }
    }

    pub(crate) fn is_caught_up(&self, parts: &Parts) -> bool {
        if self.caught_up.load(Ordering::Acquire) {
            return true;
        }
        // Views that the log has left behind, or another version has made, answer as they are: they are what there is.
        let phase = parts.projector.status().phase;
        let caught_up = matches!(phase, Phase::Following | Phase::Upgrading { .. } | Phase::Fenced(_));
        if caught_up {
            self.caught_up.store(true, Ordering::Release);
        }
        caught_up
    }
}
