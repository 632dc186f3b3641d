//! What the writer and the readers share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};
use projection::Row;
use projection::fleet::Fleet;
use proto_events::{Position, Timestamp};
use uuid::Uuid;

use crate::codec::{Checkpoint, Quarantined, StoredRow};
use crate::error::ViewError;
use crate::generation::Directory;
use crate::lifetime::Known;
use crate::query::Brief;
use crate::recent::RecentPage;
use crate::stats::Stats;
use crate::store::{RecentKey, Store, row_key};
use crate::table::Table;

/// The name of a job whose name nobody told; such jobs are no executions of one task.
pub(crate) const UNKNOWN_NAME: &str = "unknown";

pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) fold_version: u32,
    pub(crate) state: RwLock<State>,
    /// Sums of what is in the table. Locked before the state by whoever needs both, so that they are of the same jobs.
    pub(crate) stats: RwLock<Stats>,
    /// Counts up whenever readers are shown something new.
    pub(crate) changes: AtomicU64,
    /// Recent executions by task name, as they were last asked for.
    pub(crate) recents: Mutex<HashMap<RecentKey, Recents>>,
    /// Holds the lock, which the last generation lets go, and what is kept beside all generations.
    pub(crate) directory: Arc<Directory>,
}

/// The recent executions of a task.
#[derive(Clone)]
pub(crate) struct Recents {
    /// After how many changes they were these.
    pub(crate) changes: u64,
    /// At most so many were asked for.
    pub(crate) most: usize,
    pub(crate) jobs: Arc<[Brief]>,
}

/// What is newer than the disk, and the list of all jobs. Never locked while sled writes.
///
/// A job that is in the table and not in `rows` is on disk for sure: rows leave the overlay only after they were
/// written, so what a reader saw in the table under the lock, it can fetch after it.
pub(crate) struct State {
    /// The overlay: rows that are staged.
    pub(crate) rows: HashMap<Uuid, Arc<Row>>,
    /// Pages of recent executions that are staged.
    pub(crate) pages: HashMap<RecentKey, RecentPage>,
    pub(crate) table: Table,
    /// Events that could not be used, by their place; those staged included.
    pub(crate) quarantine: BTreeMap<Position, Quarantined>,
    /// What the log says of workers and sources; staged facts included.
    pub(crate) fleet: Fleet,
    /// The last message that readers see the effect of.
    pub(crate) applied: u64,
    /// What the log said before this message is forgotten. Rows on disk without an event from there on are no rows any
    /// more, though it takes a while to remove them.
    pub(crate) floor: u64,
    pub(crate) checkpoint: Option<Checkpoint>,
}

impl Shared {
    /// How much there is of everything by the jobs that there are, and where their log begins.
    pub(crate) fn lifetime(&self) -> Known {
        let sums = self.stats.read();
        let state = self.state.read();
        // Both change together under both locks, when the log is cut.
        let (floor, created) = (state.floor, state.checkpoint.map_or(Timestamp(0), |checkpoint| checkpoint.created));
        drop(state);
        let listed = sums.list_totals();
        // To put them in order takes a while: not under the lock.
        drop(sums);
        Known { created, floor, sums: listed.into_iter().collect() }
    }

    /// Makes the statistics anew where they may not be those of the jobs. While nobody changes any: who reads them goes on.
    pub(crate) fn settle(&self) -> Result<(), ViewError> {
        let sums = self.stats.read();
        if !sums.is_unsettled() {
            return Ok(());
        }
        let limits = sums.limits();
        drop(sums);
        let snapshot = self.state.read().table.snapshot();
        let anew = Stats::of(limits, |visit| snapshot.heads(visit), now())?;
        *self.stats.write() = anew;
        Ok(())
    }

    pub(crate) fn row(&self, id: Uuid) -> Result<Option<Arc<Row>>, ViewError> {
        let floor = {
            let state = self.state.read();
            if let Some(row) = state.rows.get(&id) {
                return Ok(Some(Arc::clone(row)));
            }
            state.floor
        };
        self.stored(id, floor, |row| row.row(id).map(Arc::new))
    }

    /// Something of a row on disk, if it has an event from this floor on.
    pub(crate) fn stored<T>(
        &self,
        id: Uuid,
        floor: u64,
        decode: impl FnOnce(&StoredRow<'_>) -> Result<T, ViewError>,
    ) -> Result<Option<T>, ViewError> {
        let mut tried = 0;
        loop {
            let number = self.state.read().table.numbers(id).nth(tried);
            let Some(number) = number else { return Ok(None) };
            let Some(bytes) = self.store.get(&row_key(number))? else { return Ok(None) };
            let row = StoredRow::parse(&bytes).map_err(|error| self.store.condemn(error))?;
            if row.id != id {
                tried += 1;
                continue;
            }
            if row.head.last < floor {
                return Ok(None);
            }
            return decode(&row).map(Some).map_err(|error| self.store.condemn(error));
        }
    }
}

/// The time by the clock of this machine.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
