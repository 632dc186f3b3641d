//! The reading side.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::RwLock;
use projection::fleet::{Fleet, Gone};
use projection::{Record, Row};
use proto_events::{Position, Timestamp};
use uuid::Uuid;

use crate::codec::{self, Checkpoint, Head, Landmark, Past, Quarantined, StoredRow};
use crate::digest::Digest;
use crate::error::ViewError;
use crate::query::{Brief, Counts, Filter, Patience, Recent};
use crate::shared::{Recents, Shared, State, UNKNOWN_NAME};
use crate::stats::{Ended, FailureGroup, Lifetime, Overview, QueueStats, Range, Stats, TaskStats, WorkerRate};
use crate::store::{prefix, recent_key, row_key};
use crate::table::Load;

/// Of so many task names the recent executions are kept at hand.
const RECENTS: usize = 1_000;

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

    /// Whether a job is read within microseconds, most likely: nobody writes in a way that readers have to wait for.
    pub fn is_quick(&self) -> bool {
        !self.shared().store.is_writing()
    }

    /// The record of a job.
    pub fn job(&self, id: Uuid) -> Result<Option<Record>, ViewError> {
        let shared = self.shared();
        let (staged, floor) = {
            let state = shared.state.read();
            (state.rows.get(&id).cloned(), state.floor)
        };
        shared.record(id, staged.as_deref(), floor)
    }

    /// The task names that jobs have, in no order; also those that all their jobs had until the last trim.
    pub fn names(&self) -> Vec<Arc<str>> {
        let shared = self.shared();
        let state = shared.state.read();
        state.table.names().filter(|name| &***name != UNKNOWN_NAME).cloned().collect()
    }

    /// Whether there is this job.
    pub fn has(&self, id: Uuid) -> bool {
        self.shared().state.read().table.has(id)
    }

    /// A job with its evidence.
    pub fn row(&self, id: Uuid) -> Result<Option<Arc<Row>>, ViewError> {
        self.shared().row(id)
    }

    /// The most recent jobs of a task name but this one, newest `createdAt` first. Recent are the 64 jobs of the name
    /// whose first events came last in the log. There are none for the name `unknown`, which is no name.
    pub fn recent(&self, connection: Uuid, name: &str, limit: usize, except: Uuid) -> Result<Recent, ViewError> {
        if name == UNKNOWN_NAME {
            return Ok(Recent { jobs: Arc::default(), limit, except });
        }
        let shared = self.shared();
        // One more than is asked for, so that it serves whoever of them is left out.
        let most = limit.saturating_add(1);
        let key = recent_key(connection, name);
        let changes = shared.changes.load(Ordering::Acquire);
        let known =
            shared.recents.lock().get(&key).filter(|kept| kept.changes == changes && kept.most >= most).cloned();
        let jobs = match known {
            Some(kept) => kept.jobs,
            None => shared.recents_anew(connection, name, most, changes)?,
        };
        Ok(Recent { jobs, limit, except })
    }

    /// What waits and what runs, in every connection or in these.
    pub fn load(&self, connections: Option<&[Uuid]>) -> Load {
        let snapshot = self.shared().state.read().table.snapshot();
        snapshot.load(connections)
    }

    /// Every task of which anything is known, by name; of these connections.
    pub fn tasks(&self, connections: Option<&[Uuid]>, range: Range, now: Timestamp) -> Vec<TaskStats> {
        self.shared().stats.read().tasks(connections, range, now)
    }

    /// How the jobs of each task ended within this time until now, where any did.
    pub fn ended(&self, window: Duration, now: Timestamp) -> Vec<Ended> {
        self.shared().stats.read().ended(window, now)
    }

    /// The tasks of this name, with their buckets, by connection.
    pub fn task(&self, connections: Option<&[Uuid]>, name: &str, range: Range, now: Timestamp) -> Vec<TaskStats> {
        self.shared().stats.read().task(connections, name, range, now)
    }

    /// Every queue of which anything is known, by name.
    pub fn queues(&self, connections: Option<&[Uuid]>, range: Range, now: Timestamp) -> Vec<QueueStats> {
        self.shared().stats.read().queues(connections, range, now)
    }

    /// Something of what the log says of workers and sources.
    pub fn fleet<T>(&self, read: impl FnOnce(&Fleet) -> T) -> T {
        read(&self.shared().state.read().fleet)
    }

    /// The workers of which a process is gone, by connection and name, and the time before which what they began is lost.
    pub fn gone(&self) -> HashMap<(Uuid, String), Timestamp> {
        let owned = |((connection, name), gone): ((Uuid, &str), &Gone)| ((connection, name.to_owned()), gone.before());
        self.fleet(|fleet| fleet.all_gone().map(owned).collect())
    }

    /// How busy workers are.
    pub fn worker_rates(&self, connections: Option<&[Uuid]>, now: Timestamp) -> Vec<WorkerRate> {
        self.shared().stats.read().worker_rates(connections, now)
    }

    /// Groups of failures with anything in the range, those of most jobs first; of one task where it is named.
    pub fn failures(
        &self,
        connections: Option<&[Uuid]>,
        name: Option<&str>,
        range: Range,
        now: Timestamp,
    ) -> Vec<FailureGroup> {
        self.shared().stats.read().failures(connections, name, range, now)
    }

    /// Of each of these groups some jobs that show it, those first that came last.
    pub fn failing(&self, groups: &[FailureGroup], each: usize) -> Result<Vec<Vec<Brief>>, ViewError> {
        let shared = self.shared();
        let (snapshot, floor) = {
            let state = shared.state.read();
            (state.table.snapshot(), state.floor)
        };
        let most = |group: &FailureGroup| usize::try_from(group.known_jobs).map_or(each, |known| known.min(each));
        let kinds: Vec<_> = groups.iter().map(|group| (group.connection, group.text(), most(group))).collect();
        let found = snapshot.failing(&kinds)?;
        drop(snapshot);
        // One that is forgotten meanwhile is left out.
        let briefs = |jobs| shared.briefs(shared.staged(jobs), floor).map(Option::unwrap_or_default);
        found.into_iter().map(briefs).collect()
    }

    /// What ran in all.
    pub fn overview(&self, connections: Option<&[Uuid]>, range: Range, now: Timestamp) -> Overview {
        self.shared().stats.read().overview(connections, range, now)
    }

    /// How long a run of a task and the wait in a queue may take: three times what 99 of 100 of the last week took at
    /// most, and at least a minute. Only of those of which at least `enough` are known; `default` milliseconds for others.
    pub fn patience(&self, now: Timestamp, enough: u64, default: u64) -> Patience {
        self.shared().stats.read().patience(now, enough, default)
    }

    /// The same if it can be had within this time. It cannot while the statistics are made, which of tens of millions of
    /// jobs takes seconds after a start.
    pub fn patience_within(&self, time: Duration, now: Timestamp, enough: u64, default: u64) -> Option<Patience> {
        let shared = self.shared();
        let stats = shared.stats.try_read_for(time)?;
        Some(stats.patience(now, enough, default))
    }

    /// How much there was of everything for as long as anything is known, also of what the log has forgotten. What was told
    /// once is never told lower.
    pub fn lifetime(&self) -> Lifetime {
        loop {
            let shared = self.shared();
            let known = shared.lifetime();
            let Some(ledger) = &shared.directory.ledger else { return known.sums.into() };
            // Other views may have come to serve meanwhile, and what is kept is theirs.
            let still_serves = || Arc::ptr_eq(&shared, &self.slot.read());
            if let Some(told) = ledger.tell(known, still_serves) {
                return told.into();
            }
        }
    }

    /// How many tasks usually run at regular times and should have run long ago.
    pub fn overdue(&self, now: Timestamp) -> usize {
        self.shared().stats.read().overdue(now)
    }

    /// Bytes of memory that the list of all jobs takes, roughly.
    pub fn list_bytes(&self) -> u64 {
        self.shared().state.read().table.bytes() as u64
    }

    /// Whether the sums are those that would be made of the list as it is.
    pub fn sums_agree(&self, now: Timestamp) -> Result<bool, ViewError> {
        let shared = self.shared();
        let (mut sums, snapshot) = {
            let sums = shared.stats.read();
            // The writer changes the sums before it changes the list, and needs both: of the list a moment is enough.
            let snapshot = shared.state.read().table.snapshot();
            (sums.clone(), snapshot)
        };
        let mut anew = Stats::of(sums.limits(), |visit| snapshot.heads(visit), now)?;
        anew.advance_like(&sums);
        sums.advance_like(&anew);
        Ok(sums.is_unsettled() || sums.agrees_with(&anew, now))
    }

    /// Whether lists and statistics go by what this row says of its job. Not while the row is being put in. Of jobs that
    /// the list has on disk it is told by [`disk_agrees`](Self::disk_agrees), of all at once.
    pub fn goes_by(&self, row: &Row) -> bool {
        let shared = self.shared();
        let state = shared.state.read();
        match state.table.get(row.record.id) {
            Some(head) => head == Head::of(row),
            None => state.table.has(row.record.id),
        }
    }

    /// Whether what the list has on disk is what the rows of those jobs say.
    pub fn disk_agrees(&self) -> Result<bool, ViewError> {
        let shared = self.shared();
        let snapshot = shared.state.read().table.snapshot();
        let mut agrees = true;
        snapshot.on_disk(&mut |id, number, head| {
            agrees = shared.says(id, number, head)? || shared.is_said_now(id)?;
            Ok(agrees)
        })?;
        Ok(agrees)
    }

    /// How many jobs are in each state; `None` means in all connections.
    pub fn counts(&self, connections: Option<&[Uuid]>) -> Counts {
        self.shared().state.read().table.counts(connections)
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
    pub fn jobs(&self) -> Result<Vec<(Uuid, Position)>, ViewError> {
        let snapshot = self.shared().state.read().table.snapshot();
        snapshot.jobs()
    }

    /// The jobs whose stored records differ from those of other views, or that only one of them has, up to so many.
    /// Both stand still and have written everything.
    pub fn differing(&self, other: &Self, most: usize) -> Result<Vec<Uuid>, ViewError> {
        let (ours, theirs) = (self.shared(), other.shared());
        let mut differing = Vec::new();
        for (id, _) in self.jobs()? {
            let digest = |shared: &Shared| {
                let floor = shared.state.read().floor;
                shared.stored(id, floor, |row| Ok(row.digest))
            };
            if digest(&ours)? != digest(&theirs)? {
                differing.push(id);
            }
        }
        let jobs_of_theirs = other.jobs()?;
        let known = ours.state.read();
        let only_theirs = jobs_of_theirs.into_iter().map(|(id, _)| id).filter(|id| !known.table.has(*id));
        differing.extend(only_theirs);
        differing.sort_unstable();
        differing.truncate(most);
        Ok(differing)
    }

    /// The jobs that have events both before this message and from there on.
    pub fn straddling(&self, sequence: u64) -> Result<Vec<Uuid>, ViewError> {
        let snapshot = self.shared().state.read().table.snapshot();
        snapshot.straddling(sequence)
    }

    /// Whether some job has an event before this message.
    pub fn holds_before(&self, sequence: u64) -> Result<bool, ViewError> {
        let snapshot = self.shared().state.read().table.snapshot();
        snapshot.holds_before(sequence)
    }

    /// What the log said before this message is forgotten: nothing here knows of it.
    pub fn floor(&self) -> u64 {
        self.shared().state.read().floor
    }

    /// The last message of the log whose effect is seen here, 0 when there is none.
    pub fn applied(&self) -> u64 {
        self.shared().state.read().applied
    }

    /// The last checkpoint that was written.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.shared().state.read().checkpoint
    }

    /// The version of the fold that made the records.
    pub fn fold_version(&self) -> u32 {
        self.shared().fold_version
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

impl State {
    /// The only jobs that can match, where the filter names them.
    pub(crate) fn candidates(&self, filter: &Filter) -> Option<Vec<(u32, Uuid)>> {
        let external_id = filter.external_id.as_deref()?;
        let connections = self.table.connections();
        Some(self.table.slots(connections.map(|connection| proto_events::job_id(connection, external_id))))
    }
}

impl Shared {
    /// Of each of these jobs the row that is staged, if one is.
    pub(crate) fn staged(&self, jobs: Vec<Uuid>) -> Vec<(Uuid, Option<Arc<Row>>)> {
        let state = self.state.read();
        jobs.into_iter().map(|id| (id, state.rows.get(&id).cloned())).collect()
    }

    /// The most recent jobs of a name, kept for as long as nothing changes: `changes` is how much had when they were asked
    /// for.
    fn recents_anew(&self, connection: Uuid, name: &str, most: usize, changes: u64) -> Result<Arc<[Brief]>, ViewError> {
        let jobs: Arc<[Brief]> = loop {
            if let Some(jobs) = self.recent(connection, name, most)? {
                break jobs.into();
            }
        };
        let mut recents = self.recents.lock();
        if recents.len() >= RECENTS {
            recents.clear();
        }
        recents.insert(recent_key(connection, name), Recents { changes, most, jobs: Arc::clone(&jobs) });
        Ok(jobs)
    }

    /// `None` where a job was dropped while the answer was put together.
    fn recent(&self, connection: Uuid, name: &str, limit: usize) -> Result<Option<Vec<Brief>>, ViewError> {
        let key = recent_key(connection, name);
        // Read before the lock is taken: what is staged in between is newer and wins.
        let stored = self.store.read(&key)?;
        let state = self.state.read();
        let Some(page) = state.pages.get(&key).or(stored.as_ref()) else { return Ok(Some(Vec::new())) };
        // Of what is on disk the list remembers too little.
        let in_memory = |id: Uuid| (id, state.table.get(id).map(|head| (head.name == name).then_some(head.created_at)));
        let known: Vec<(Uuid, Option<Option<Timestamp>>)> = page.latest().map(in_memory).collect();
        let floor = state.floor;
        drop(state);
        let mut jobs: Vec<(Timestamp, Uuid)> = Vec::new();
        for (id, created_at) in known {
            let stored = |row: &StoredRow<'_>| Ok((row.head.name == name).then_some(row.head.created_at));
            let created_at = match created_at {
                Some(created_at) => created_at,
                // After a crash a page may list, until replay has caught up, jobs that are not there again yet.
                None => self.stored(id, floor, stored)?.flatten(),
            };
            jobs.extend(created_at.map(|created_at| (created_at, id)));
        }
        jobs.sort_unstable_by(|a, b| b.cmp(a));
        jobs.truncate(limit);
        self.briefs(self.staged(jobs.into_iter().map(|(_, id)| id).collect()), floor)
    }

    /// Whether the row of this number is of this job and says this.
    fn says(&self, id: Uuid, number: u64, head: &Head<'_>) -> Result<bool, ViewError> {
        let Some(bytes) = self.store.get(&row_key(number))? else { return Ok(false) };
        let row = StoredRow::parse(&bytes).map_err(|error| self.store.condemn(error))?;
        Ok(row.id == id && row.head == *head)
    }

    /// Whether the list says by now what the row of a job says, or has it in memory, or not at all.
    fn is_said_now(&self, id: Uuid) -> Result<bool, ViewError> {
        let (snapshot, slots) = {
            let state = self.state.read();
            (state.table.snapshot(), state.table.slots([id].into_iter()))
        };
        let mut is_said = true;
        snapshot.on_disk_at(&slots, &mut |number, head| {
            is_said = self.says(id, number, head)?;
            Ok(())
        })?;
        Ok(is_said)
    }

    fn briefs(&self, jobs: Vec<(Uuid, Option<Arc<Row>>)>, floor: u64) -> Result<Option<Vec<Brief>>, ViewError> {
        let brief = |id, staged: Option<&Row>| match staged {
            Some(row) => Ok(Some(Brief::of(&row.record))),
            None => self.stored(id, floor, |row| row.brief(id)),
        };
        self.all(jobs, floor, brief)
    }

    /// The records of jobs that were all there a moment ago; `None` where one is not any more, and the question has to
    /// be asked again.
    pub(crate) fn records(
        &self,
        jobs: Vec<(Uuid, Option<Arc<Row>>)>,
        floor: u64,
    ) -> Result<Option<Vec<Record>>, ViewError> {
        self.all(jobs, floor, |id, staged| self.record(id, staged, floor))
    }

    fn all<T>(
        &self,
        jobs: Vec<(Uuid, Option<Arc<Row>>)>,
        floor: u64,
        get: impl Fn(Uuid, Option<&Row>) -> Result<Option<T>, ViewError>,
    ) -> Result<Option<Vec<T>>, ViewError> {
        let found = jobs.into_iter().map(|(id, staged)| get(id, staged.as_deref()));
        let found: Vec<Option<T>> = found.collect::<Result<_, _>>()?;
        let dropped = found.iter().any(Option::is_none) && self.state.read().floor != floor;
        Ok((!dropped).then(|| found.into_iter().flatten().collect()))
    }

    fn record(&self, id: Uuid, staged: Option<&Row>, floor: u64) -> Result<Option<Record>, ViewError> {
        match staged {
            Some(row) => Ok(Some(row.record.clone())),
            None => self.stored(id, floor, |row| row.record(id)),
        }
    }
}
