//! The reading side.

use std::sync::Arc;

use parking_lot::RwLock;
use projection::{Record, Row};
use proto_events::{Position, Timestamp};
use uuid::Uuid;

use crate::codec::{self, Checkpoint, Landmark, Past, Quarantined};
use crate::digest::Digest;
use crate::error::ViewError;
use crate::query::{Counts, Page, Query};
use crate::shared::{Shared, UNKNOWN_NAME};
use crate::store::{prefix, recent_key};

/// Answers from the views, staged rows included. Cheap to clone.
///
/// All calls block, on sled and for moments on a lock: microseconds for one job, about a millisecond for a list over
/// 100,000 jobs.
#[derive(Clone)]
pub struct Reader {
    /// The generation that serves. It changes when another one is promoted; an answer comes from one of them.
    slot: Arc<RwLock<Arc<Shared>>>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { slot: Arc::new(RwLock::new(shared)) }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.slot.read())
    }

    /// Lets all readers answer from another generation from now on; gives the one that served.
    pub(crate) fn switch(&self, shared: Arc<Shared>) -> Arc<Shared> {
        std::mem::replace(&mut *self.slot.write(), shared)
    }

    /// The record of a job.
    pub fn job(&self, id: Uuid) -> Result<Option<Record>, ViewError> {
        let shared = self.shared();
        let staged = shared.state.read().rows.get(&id).cloned();
        shared.record(id, staged.as_deref())
    }

    /// A job with its evidence.
    pub fn row(&self, id: Uuid) -> Result<Option<Arc<Row>>, ViewError> {
        self.shared().row(id)
    }

    /// The most recent jobs of a task name but this one, newest `createdAt` first. Recent are the 64 jobs of the name
    /// whose first events came last in the log. There are none for the name `unknown`, which is no name.
    pub fn recent(&self, connection: Uuid, name: &str, limit: usize, except: Uuid) -> Result<Vec<Record>, ViewError> {
        if name == UNKNOWN_NAME {
            return Ok(Vec::new());
        }
        let shared = self.shared();
        let key = recent_key(connection, name);
        // Read before the lock is taken: what is staged in between is newer and wins.
        let stored = shared.store.read(&key)?;
        let state = shared.state.read();
        let Some(page) = state.pages.get(&key).or(stored.as_ref()) else { return Ok(Vec::new()) };
        let mut jobs: Vec<(Timestamp, Uuid)> = page
            .latest()
            .filter(|id| *id != except)
            // After a crash a page may list, until replay has caught up, jobs that are not there again yet.
            .filter_map(|id| state.index.get(id).filter(|head| head.name == name).map(|head| (head.created_at, id)))
            .collect();
        jobs.sort_unstable_by(|a, b| b.cmp(a));
        jobs.truncate(limit);
        let staged: Vec<_> = jobs.iter().map(|(_, id)| (*id, state.rows.get(id).cloned())).collect();
        drop(state);
        shared.records(staged)
    }

    /// A part of the list of jobs.
    pub fn list(&self, query: &Query) -> Result<Page, ViewError> {
        let shared = self.shared();
        let state = shared.state.read();
        let found = state.index.find(query);
        let staged: Vec<_> = found.jobs.iter().map(|job| (job.id, state.rows.get(&job.id).cloned())).collect();
        drop(state);
        Ok(Page { jobs: shared.records(staged)?, next: found.next, total: found.total })
    }

    /// How many jobs are in each state; `None` means in all connections.
    pub fn counts(&self, connections: Option<&[Uuid]>) -> Counts {
        self.shared().state.read().index.counts(connections)
    }

    /// The events that could not be used, in the order of the log: the first 10,000 of them.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.shared().state.read().quarantine.values().cloned().collect()
    }

    /// How many there are of them.
    pub fn quarantine_len(&self) -> usize {
        self.shared().state.read().quarantine.len()
    }

    /// All jobs, each with the lowest log position of its events, in no order.
    pub fn jobs(&self) -> Vec<(Uuid, Position)> {
        self.shared().state.read().index.jobs().collect()
    }

    /// The jobs whose stored records differ from those of other views, or that only one of them has, up to so many.
    /// Both stand still and have written everything.
    pub fn differing(&self, other: &Self, most: usize) -> Result<Vec<Uuid>, ViewError> {
        let (ours, theirs) = (self.shared(), other.shared());
        let mut differing = Vec::new();
        for (id, _) in self.jobs() {
            let digest = |shared: &Shared| shared.stored(id, |row| Ok(Digest::of(id, row.record_bytes())));
            if digest(&ours)? != digest(&theirs)? {
                differing.push(id);
            }
        }
        let known = ours.state.read();
        let only_theirs = other.jobs().into_iter().map(|(id, _)| id).filter(|id| known.index.get(*id).is_none());
        differing.extend(only_theirs);
        differing.sort_unstable();
        differing.truncate(most);
        Ok(differing)
    }

    /// The last message of the log whose effect is seen here, 0 when there is none.
    pub fn applied(&self) -> u64 {
        self.shared().state.read().applied
    }

    /// The last checkpoint that was written.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.shared().state.read().checkpoint
    }

    /// The digest of all records at the last checkpoint.
    pub fn digest(&self) -> Digest {
        self.checkpoint().map(|checkpoint| checkpoint.digest).unwrap_or_default()
    }

    /// The digest of all records at a message, if one of the last 1,000 checkpoints was there.
    pub fn digest_at(&self, sequence: u64) -> Result<Option<Digest>, ViewError> {
        let mut digest = None;
        self.shared().store.scan(&[prefix::PAST], |_, bytes| {
            let past: Past = codec::decode(bytes)?;
            if past.sequence == sequence {
                digest = Some(past.digest);
            }
            Ok(())
        })?;
        Ok(digest)
    }

    /// Fingerprints of messages of the past, oldest first, one for each 1,000: where a log was rewound, they tell up
    /// to where it is still the same.
    pub fn landmarks(&self) -> Result<Vec<Landmark>, ViewError> {
        let mut landmarks = Vec::new();
        self.shared().store.scan(&[prefix::LANDMARK], |_, bytes| {
            landmarks.push(codec::decode(bytes)?);
            Ok(())
        })?;
        Ok(landmarks)
    }
}

impl Shared {
    fn records(&self, jobs: Vec<(Uuid, Option<Arc<Row>>)>) -> Result<Vec<Record>, ViewError> {
        jobs.into_iter().filter_map(|(id, staged)| self.record(id, staged.as_deref()).transpose()).collect()
    }

    #[expect(clippy::redundant_closure_for_method_calls, reason = "the bare method has too narrow a lifetime")]
    fn record(&self, id: Uuid, staged: Option<&Row>) -> Result<Option<Record>, ViewError> {
        match staged {
            Some(row) => Ok(Some(row.record.clone())),
            None => self.stored(id, |row| row.record()),
        }
    }
}
