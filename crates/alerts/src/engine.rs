//! Alerts at work: one task measures, another one delivers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use failpoints::{Point, hit};
use parking_lot::Mutex;
use proto_events::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::book::{Book, Event, Incident, Notice};
use crate::deliver::Client;
use crate::measure::{Reading, Sight};
use crate::plan::{Kind, Plan, Webhook};
use crate::status::{AlertsStatus, Tested};
use crate::store::{Store, StoreError};

/// Where nothing waits, somebody says when something does.
const LONG: Duration = Duration::from_secs(60 * 60);

/// There is no rule and no webhook of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no alert rule and no webhook of this name")]
pub struct UnknownName;

/// The alerts of one server. Cheap to clone.
#[derive(Clone)]
pub struct Alerts {
    shared: Arc<Shared>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

struct Shared {
    /// Held from a change until it is in the file, so that nothing is sent before; always locked first.
    writing: Mutex<()>,
    state: Mutex<State>,
    store: Store,
    client: Client,
    /// Something may be due.
    news: Notify,
    /// There are other rules.
    replanned: Notify,
}

struct State {
    plan: Arc<Plan>,
    book: Book,
    /// What was measured last, by the names of rules.
    present: BTreeMap<String, (Reading, Timestamp)>,
    /// The file is older than the book.
    is_unsaved: bool,
}

/// A notice that is due.
struct Due {
    webhook: Webhook,
    notice: Notice,
}

impl Alerts {
    /// Goes on with what is in the file, and with this plan. Nothing is measured or sent yet. Blocks.
    pub fn open(file: PathBuf, plan: Plan) -> Result<Self, StoreError> {
        let (store, mut book) = Store::open(file)?;
        book.hurry();
        let state = State { plan: Arc::default(), book, present: BTreeMap::new(), is_unsaved: false };
        let shared = Shared {
            writing: Mutex::default(),
            state: Mutex::new(state),
            store,
            client: Client::new(),
            news: Notify::new(),
            replanned: Notify::new(),
        };
        let alerts = Self { shared: Arc::new(shared), tasks: Arc::default() };
        alerts.adopt(plan);
        Ok(alerts)
    }

    /// Goes on with another plan. What it no longer asks is over, and whoever was told of it is told so. Blocks.
    pub fn adopt(&self, plan: Plan) {
        let plan = Arc::new(plan);
        self.shared.change(|state| {
            state.present.retain(|name, _| plan.rules.iter().any(|rule| rule.name == *name));
            state.plan = Arc::clone(&plan);
            state.book.adopt(&plan, now())
        });
        self.shared.replanned.notify_one();
        // Whatever waits may have somebody to go to now.
        self.shared.news.notify_one();
    }

    /// Delivers what waits, until it is stopped. To be called once, within a tokio runtime.
    pub fn deliver(&self) {
        self.tasks.lock().spawn(deliver(Arc::clone(&self.shared)));
    }

    /// Measures the rules again and again, until it is stopped. To be called once, within a tokio runtime.
    pub fn watch(&self, sight: Sight) {
        self.tasks.lock().spawn(watch(Arc::clone(&self.shared), Arc::new(sight)));
    }

    /// Ends both. What was not delivered is in the file, and waits for the next start.
    pub fn stop(&self) {
        self.tasks.lock().abort_all();
    }

    /// How everything is.
    pub fn status(&self) -> AlertsStatus {
        let state = self.shared.state.lock();
        let present = |name: &str| state.present.get(name).map(|(reading, at)| (reading, *at));
        AlertsStatus::of(&state.plan, &state.book, present, now())
    }

    /// Sends a notice that says that it is a test to the webhooks of a rule, or to one webhook, once and at once.
    pub async fn test(&self, name: &str) -> Result<Vec<Tested>, UnknownName> {
        let plan = Arc::clone(&self.shared.state.lock().plan);
        let rule = plan.rules.iter().find(|rule| rule.name == name);
        let to = match rule {
            Some(rule) => rule.to.clone(),
            None if plan.webhooks.contains_key(name) => vec![name.to_owned()],
            None => return Err(UnknownName),
        };
        let incident = Incident::example(rule.map_or(Kind::Disk, |rule| rule.kind), now());
        let mut sends = JoinSet::new();
        for (webhook, at) in to.iter().filter_map(|name| Some((plan.webhooks.get(name)?.clone(), name.clone()))) {
            let incident =
                Incident { id: Uuid::new_v4(), rule: name.to_owned(), to: vec![at.clone()], ..incident.clone() };
            let (notice, shared) = (Notice::new(&at, Event::Test, &incident, now()), Arc::clone(&self.shared));
            sends.spawn_blocking(move || {
                let result = shared.client.send(&webhook, &notice);
                Tested { webhook: at, delivered: result.is_ok(), error: result.err() }
            });
        }
        let mut tested = sends.join_all().await;
        tested.sort_by(|a, b| a.webhook.cmp(&b.webhook));
        Ok(tested)
    }
}

impl Shared {
    /// Changes something, and has it in the file before anybody acts upon it. Blocks.
    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        let _turn = self.writing.lock();
        let book = {
            let mut state = self.state.lock();
            let is_changed = change(&mut state) || state.is_unsaved;
            is_changed.then(|| state.book.clone())
        };
        let Some(book) = book else { return };
        let written = self.store.write(&book);
        self.state.lock().is_unsaved = written.is_err();
        if let Err(error) = written {
            // A full disk is the very thing that somebody wants to be told of: twice rather than not at all.
            tracing::error!(%error, "what is known of alerts cannot be kept: after a restart some may be told again");
        }
    }

    /// Measures all rules. Blocks.
    fn look(&self, sight: &Sight) {
        let plan = Arc::clone(&self.state.lock().plan);
        let now = now();
        let readings = sight.measure(plan.rules.iter(), now);
        self.change(|state| {
            // Of rules that were exchanged meanwhile nothing is to be told any more.
            if !Arc::ptr_eq(&state.plan, &plan) {
                return false;
            }
            let mut is_changed = false;
            for (rule, reading) in plan.rules.iter().zip(readings) {
                is_changed |= state.book.observe(rule, &reading, &plan, now);
                state.present.insert(rule.name.clone(), (reading, now));
            }
            is_changed
        });
        if self.state.lock().book.next().values().any(|(notice, _)| notice.attempts == 0) {
            hit(Point::AlertKept);
        }
        self.news.notify_one();
    }

    /// What is due of those who are not busy, and how long it is until something else is. Blocks.
    fn due(&self, busy: &BTreeSet<String>) -> (Vec<Due>, Duration) {
        let _turn = self.writing.lock();
        let (state, now) = (self.state.lock(), now());
        let (mut due, mut pause) = (Vec::new(), LONG);
        for (name, (notice, at)) in state.book.next() {
            let Some(webhook) = state.plan.webhooks.get(name).filter(|_| !busy.contains(name)) else { continue };
            let micros = u64::try_from(at.micros().saturating_sub(now.micros())).unwrap_or_default();
            if micros == 0 {
                due.push(Due { webhook: webhook.clone(), notice: notice.clone() });
            } else {
                pause = pause.min(Duration::from_micros(micros));
            }
        }
        (due, pause)
    }

    /// Keeps what came of an attempt. Blocks.
    fn tried(&self, notice: &Notice, result: Result<(), String>) {
        if let Err(error) = &result {
            let attempt = notice.attempts + 1;
            tracing::warn!(webhook = notice.webhook, notice = %notice.id, attempt, error, "a notice was not taken");
        }
        self.change(|state| {
            state.book.tried(notice.id, result, now());
            true
        });
    }
}

async fn watch(shared: Arc<Shared>, sight: Arc<Sight>) {
    loop {
        let every = shared.state.lock().plan.every;
        let has_rules = !shared.state.lock().plan.rules.is_empty();
        let pause = if has_rules { every } else { LONG };
        // Other rules are looked at when their time has come.
        if tokio::time::timeout(pause, shared.replanned.notified()).await.is_ok() {
            continue;
        }
        let (looking, sight) = (Arc::clone(&shared), Arc::clone(&sight));
        if let Err(error) = tokio::task::spawn_blocking(move || looking.look(&sight)).await {
            tracing::error!(%error, "measuring the alert rules failed");
        }
    }
}

async fn deliver(shared: Arc<Shared>) {
    let (mut busy, mut sends) = (BTreeSet::new(), JoinSet::new());
    loop {
        let (asking, others) = (Arc::clone(&shared), busy.clone());
        let (due, pause) = tokio::task::spawn_blocking(move || asking.due(&others)).await.unwrap_or((Vec::new(), LONG));
        for Due { webhook, notice } in due {
            let (name, sending) = (notice.webhook.clone(), Arc::clone(&shared));
            busy.insert(name.clone());
            sends.spawn(async move {
                let sent = tokio::task::spawn_blocking(move || {
                    let result = sending.client.send(&webhook, &notice);
                    if result.is_ok() {
                        hit(Point::AlertSent);
                    }
                    sending.tried(&notice, result);
                });
                if let Err(error) = sent.await {
                    tracing::error!(%error, "sending a notice failed");
                }
                name
            });
        }
        tokio::select! {
            Some(sent) = sends.join_next() => drop(sent.map(|name| busy.remove(&name))),
            () = shared.news.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
