//! What the log does not take now, on disk until it does.
//!
//! One file for all sources of an installation. Arrays of events stand in it in the order in which they were gathered,
//! and leave it in that order, before anything newer of their connection goes to the log. It is bounded: where there is
//! no more room, the oldest events that are not about tasks make room, then the oldest of tasks, and each is counted.
//!
//! What was reported written was handed to the disk before that (fsync), so that neither a kill nor a power cut takes it.
//! What was published and not yet removed when the process died is published again; the log knows it within two minutes,
//! the fold for ever.

mod drain;
mod keeper;
mod store;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use proto_events::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot};
use uuid::Uuid;

pub(crate) use drain::drain;
use keeper::Order;
pub(crate) use store::Entry;
use store::{Change, Row, Store};

/// The spool of an installation. Cheap to clone.
#[derive(Clone)]
pub struct Spool {
    orders: mpsc::UnboundedSender<Order>,
    shared: Arc<Shared>,
}

/// What waits in the spool, of one connection or of all, and what it has lost so far, restarts or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolDepth {
    /// Arrays of events.
    pub arrays: u64,
    /// Their events about tasks, and about sources.
    pub tasks: u64,
    /// Their events about workers.
    pub others: u64,
    /// Bytes of the file that they take.
    pub bytes: u64,
    /// When the oldest of them was written.
    pub oldest: Option<Timestamp>,
    /// Events about tasks that made room for newer ones, or that the log will never take.
    pub dropped_tasks: u64,
    /// Events about workers, likewise.
    pub dropped_others: u64,
}

/// The file of the spool could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the spool cannot be used: {reason}")]
pub struct SpoolError {
    reason: String,
}

/// What is known without asking the file.
struct Shared {
    totals: Mutex<HashMap<Uuid, SpoolDepth>>,
    /// Arrays on their way into the file.
    coming: Mutex<HashMap<Uuid, u64>>,
    filled: Notify,
    next_number: AtomicU64,
}

impl SpoolDepth {
    fn of([arrays, tasks, others, bytes, dropped_tasks, dropped_others]: [u64; 6]) -> Self {
        Self { arrays, tasks, others, bytes, oldest: None, dropped_tasks, dropped_others }
    }

    fn sums(&self) -> [u64; 6] {
        [self.arrays, self.tasks, self.others, self.bytes, self.dropped_tasks, self.dropped_others]
    }

    /// Events that wait.
    pub fn events(&self) -> u64 {
        self.tasks + self.others
    }

    fn and(self, other: &Self) -> Self {
        Self {
            arrays: self.arrays + other.arrays,
            tasks: self.tasks + other.tasks,
            others: self.others + other.others,
            bytes: self.bytes + other.bytes,
            oldest: self.oldest.into_iter().chain(other.oldest).min(),
            dropped_tasks: self.dropped_tasks + other.dropped_tasks,
            dropped_others: self.dropped_others + other.dropped_others,
        }
    }
}

impl Spool {
    /// Opens the spool in this directory, which is made if need be, for at most so many bytes. Blocks; after a kill for as
    /// long as reading the file takes. A file that is damaged is set aside under a name of its own, and a new one begun.
    pub fn open(dir: &Path, limit: u64) -> Result<Self, SpoolError> {
        std::fs::create_dir_all(dir).map_err(|error| SpoolError::io(dir, &error))?;
        let file = dir.join("spool.redb");
        let store = match Store::open(&file, limit) {
            Err(error) if file.exists() && error.is_damage() => {
                let aside = free_name(dir);
                tracing::error!(%error, aside = %aside.display(), "the spool is damaged: it is set aside, and a new one begun");
                std::fs::rename(&file, &aside).map_err(|error| SpoolError::io(&file, &error))?;
                Store::open(&file, limit)?
            }
            opened => opened?,
        };
        let shared = Arc::new(Shared {
            totals: Mutex::default(),
            coming: Mutex::default(),
            filled: Notify::new(),
            next_number: AtomicU64::new(store.last_number() + 1),
        });
        shared.know(&store);
        let orders =
            keeper::start(store, file, limit, Arc::clone(&shared)).map_err(|error| SpoolError::io(dir, &error))?;
        Ok(Self { orders, shared })
    }

    /// What waits of a connection, on the disk.
    pub fn depth(&self, connection: Uuid) -> SpoolDepth {
        self.shared.totals.lock().get(&connection).copied().unwrap_or_default()
    }

    /// What waits in all.
    pub fn total(&self) -> SpoolDepth {
        self.shared.totals.lock().values().fold(SpoolDepth::default(), SpoolDepth::and)
    }

    /// Whether anything of a connection is in it, or on its way there: then nothing newer may overtake it.
    pub(crate) fn holds(&self, connection: Uuid) -> bool {
        self.shared.coming.lock().contains_key(&connection) || self.depth(connection).arrays > 0
    }

    /// The place of the next array among all.
    pub(crate) fn number(&self) -> u64 {
        self.shared.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes an array; returns when the disk has it.
    pub(crate) async fn put(&self, entry: Entry) -> Result<(), SpoolError> {
        // From here on, not from the first poll of the answer.
        let connection = entry.connection;
        *self.shared.coming.lock().entry(connection).or_default() += 1;
        let (done, written) = oneshot::channel();
        let _ = self.orders.send(Order::Change(Change::Put(entry), done));
        answer(written).await
    }

    async fn take(&self) -> Result<Vec<Row>, SpoolError> {
        let (done, taken) = oneshot::channel();
        let _ = self.orders.send(Order::Take(done));
        answer(taken).await
    }

    async fn change(&self, change: Change) -> Result<(), SpoolError> {
        let (done, changed) = oneshot::channel();
        let _ = self.orders.send(Order::Change(change, done));
        answer(changed).await
    }

    /// Closes the file, so that the next start need not look through it. Nothing is written to it any more.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        let _ = self.orders.send(Order::Close(done));
        let _ = closed.await;
    }
}

/// A damaged file may hold what somebody can still save, and so never takes the place of another one.
fn free_name(dir: &Path) -> PathBuf {
    let mut number = 1;
    loop {
        let name = dir.join(format!("spool.damaged.{number}.redb"));
        if !name.exists() {
            return name;
        }
        number += 1;
    }
}

async fn answer<T>(answer: oneshot::Receiver<Result<T, SpoolError>>) -> Result<T, SpoolError> {
    answer.await.unwrap_or_else(|_| Err(SpoolError { reason: "it is closed".to_owned() }))
}

impl Shared {
    fn know(&self, store: &Store) {
        let totals = store.totals().iter().map(|(connection, depth)| (Uuid::from_u128(*connection), *depth));
        *self.totals.lock() = totals.collect();
    }

    fn arrived(&self, connection: Uuid) {
        let mut coming = self.coming.lock();
        if let Some(count) = coming.get_mut(&connection) {
            *count -= 1;
            if *count == 0 {
                coming.remove(&connection);
            }
        }
    }
}

impl SpoolError {
    fn io(path: &Path, error: &std::io::Error) -> Self {
        Self { reason: format!("{}: {error}", path.display()) }
    }

    fn damaged(reason: &str) -> Self {
        Self { reason: format!("{DAMAGED}{reason}") }
    }

    fn is_damage(&self) -> bool {
        self.reason.starts_with(DAMAGED)
    }
}

const DAMAGED: &str = "the file is damaged: ";

impl<E: Into<redb::Error>> From<E> for SpoolError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Self::damaged(&error.to_string())
            }
            redb::Error::Corrupted(reason) => Self::damaged(&reason),
            redb::Error::UpgradeRequired(version) => Self {
                reason: format!(
                    "spool.redb is whole, but of format {version}, which this version does not read: start the version \
                     that wrote it until nothing waits any more, or move the file away"
                ),
            },
            error => Self { reason: error.to_string() },
        }
    }
}
