//! Who changed what: written into the log beside the events of jobs, and `GET /api/audit`.
//!
//! A change is told before it is answered, where the log takes it at once; what it does not take waits in memory.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use event_log::{AppendError, EventLog};
use parking_lot::Mutex;
use proto_events::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::app::App;
use crate::auth::{Caller, Login, Person, Role};
use crate::errors::{ApiError, LOG_AWAY, wrong_method};
use crate::http::{Call, json as answer};
use crate::operation::{Access, Answer, Operation, READ_ERRORS};
use crate::params::kinds::{Integer, SAFE_INTEGER};
use crate::params::{Asked, Defaulted, Param, Params};

const LIMIT: Defaulted<Integer> = Param::new("limit", Integer::between(1, 1_000), "How many at most.").or(100);
const BEFORE: Param<Integer> =
    Param::new("before", Integer::between(1, SAFE_INTEGER), "Only what stands before this one: the `next` of a page.");
const TABLE: Params = &[&LIMIT, &BEFORE];

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    about: "Log-ins, and changes of connections, keys, sources and the configuration, rebuilds, exports and imports; of more \
            than a year.",
    query: TABLE,
    answers: &[Answer::json::<Changes>(StatusCode::OK, "The changes, the latest first.")],
    errors: READ_ERRORS,
    ..Operation::get("/api/audit", "listChanges", "server", "Who changed what", Access::Operator)
}];

/// Entries that wait for the log.
const WAITING: usize = 1_000;
/// How long an answer waits for its entry to be stored.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(500);
/// Refused log-ins that are told in a minute: whoever floods us with them must not push out what others did.
const REFUSED: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// Changes.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ChangeList")]
struct Changes {
    data: Vec<Change>,
    /// For `before` of the next page; null where there are no more.
    next: Option<u64>,
}

/// A change.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Change")]
struct Change {
    /// Where it stands.
    sequence: u64,
    #[serde(flatten)]
    entry: Entry,
}

/// What is told of a change.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Entry {
    /// When.
    #[schemars(extend("format" = "date-time"))]
    at: String,
    who: Who,
    /// Where the request came from; null where it was the server itself.
    address: Option<String>,
    /// What: `connection.create`, `login`, and so on.
    action: String,
    /// What it was done to.
    about: Map<String, Value>,
}

/// Who did it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", tag = "kind")]
#[schemars(rename = "Actor")]
enum Who {
    /// Who can read the data directory.
    Token,
    /// Who has logged in.
    Person {
        /// As they are called where they logged in.
        name: String,
        role: Role,
        /// How.
        login: Login,
    },
    /// Who holds a read key.
    Key {
        /// Its name.
        name: String,
        /// Its id.
        id: String,
    },
    /// Nobody known.
    Stranger,
    /// The server itself.
    Server,
}

impl From<&Caller> for Who {
    fn from(caller: &Caller) -> Self {
        match caller {
            Caller::Token => Self::Token,
            Caller::Person(person) => person.into(),
            Caller::Key(id, name) => Self::Key { name: name.clone(), id: id.to_string() },
        }
    }
}

impl From<&Person> for Who {
    fn from(Person { name, role, login }: &Person) -> Self {
        Self::Person { name: name.clone(), role: *role, login: *login }
    }
}

/// An entry on its way, and whom to tell that it is stored.
type Told = (Bytes, oneshot::Sender<()>);

/// The way of the entries into the log.
pub(crate) struct Audit {
    sender: mpsc::Sender<Told>,
    /// Until there is a log.
    receiver: Mutex<Option<mpsc::Receiver<Told>>>,
    refused: Mutex<(Instant, u32)>,
}

impl Default for Audit {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self { sender, receiver: Mutex::new(Some(receiver)), refused: Mutex::new((Instant::now(), 0)) }
    }
}

impl Audit {
    /// Begins to write.
    pub(crate) fn attach(&self, log: &EventLog) {
        if let Some(receiver) = self.receiver.lock().take() {
            tokio::spawn(write(log.clone(), receiver));
        }
    }

    async fn tell(&self, who: Who, address: Option<String>, action: &str, about: Value) {
        let Value::Object(about) = about else { return };
        let entry = Entry { at: now().to_millis_text(), who, address, action: action.to_owned(), about };
        let Ok(payload) = serde_json::to_vec(&entry) else { return };
        let (stored, waiting) = oneshot::channel();
        if self.sender.try_send((payload.into(), stored)).is_err() {
            tracing::error!(?entry, "a change is told here only: too many wait for the log");
            return;
        }
        // Without a log nobody knows how long it would be.
        if self.receiver.lock().is_none() {
            let _ = tokio::time::timeout(PATIENCE, waiting).await;
        }
    }

    /// Whether another refusal is to be told.
    fn tells_refusal(&self) -> bool {
        let mut refused = self.refused.lock();
        if refused.0.elapsed() > MINUTE {
            *refused = (Instant::now(), 0);
        }
        refused.1 += 1;
        refused.1 <= REFUSED
    }
}

impl App {
    /// Tells who did this, with what it was done to as an object.
    pub(crate) async fn told(&self, call: &Call, action: &str, about: Value) {
        let who = self.auth.caller(&call.headers).map_or(Who::Stranger, |caller| (&caller).into());
        self.audit.tell(who, Some(call.peer.to_string()), action, about).await;
    }

    /// Tells that somebody has logged in.
    pub(crate) async fn told_login(&self, call: &Call, person: &Person) {
        self.audit.tell(person.into(), Some(call.peer.to_string()), "login", Value::Object(Map::new())).await;
    }

    /// Tells that somebody was not let in.
    pub(crate) async fn told_refusal(&self, call: &Call, why: &str) {
        if self.audit.tells_refusal() {
            let about = serde_json::json!({ "why": why });
            self.audit.tell(Who::Stranger, Some(call.peer.to_string()), "login.refused", about).await;
        }
    }

    /// Tells what the server did by itself, or because its configuration says so.
    pub async fn told_by_server(&self, action: &str, about: Value) {
        self.audit.tell(Who::Server, None, action, about).await;
    }
}

async fn write(log: EventLog, mut entries: mpsc::Receiver<Told>) {
    while let Some((payload, stored)) = entries.recv().await {
        loop {
            match log.append_audit(payload.clone()).await {
                Ok(_) => break,
                Err(error @ AppendError::TooLarge { .. }) => {
                    tracing::error!(%error, "a change is not told");
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, "a change waits to be told");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        let _ = stored.send(());
    }
}

/// `GET /api/audit`.
pub(crate) async fn list(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    app.auth.require_operator(&call)?;
    let asked = Asked::of(TABLE, &call.query)?;
    let limit = usize::try_from(asked.get_or(&LIMIT)).unwrap_or(usize::MAX);
    let records = app.parts()?.log.audit(asked.get(&BEFORE), limit).await.map_err(|error| {
        tracing::warn!(%error, "what people changed cannot be read");
        LOG_AWAY
    })?;
    let next = records.last().map(|record| record.sequence).filter(|last| *last > 1 && records.len() == limit);
    // Another program may have written there.
    let understood = |record: &event_log::AuditRecord| {
        Some(Change { sequence: record.sequence, entry: serde_json::from_slice(&record.payload).ok()? })
    };
    Ok(answer(StatusCode::OK, &Changes { data: records.iter().filter_map(understood).collect(), next }))
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_micros() as i64)
}
