//! What the log forgot, the views forget too: at once for all readers, and little by little on disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use failpoints::{Point, hit};
use projection::Row;
use proto_events::Position;
use uuid::Uuid;

use crate::codec::{self, Checkpoint, StoredRow};
use crate::error::ViewError;
use crate::recent::RecentPage;
use crate::shared::now;
use crate::stats::Stats;
use crate::store::{RecentKey, position_key, prefix, row_key};
use crate::writer::{CHUNK, Writer, note};

/// What is on disk and forgotten: nobody reads it, and it is still in the sum of all rows.
#[derive(Debug, Default)]
pub(crate) struct Leaving {
    /// The numbers of rows that have no event that is left. A job that comes back gets a row of another number.
    pub(crate) rows: Vec<u64>,
    /// Events that could not be used.
    pub(crate) quarantined: Vec<Position>,
    /// Facts about workers and sources, which are in no sum: the next checkpoint removes them.
    pub(crate) fleet: Vec<Position>,
}

impl Leaving {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.quarantined.is_empty()
    }
}

impl Writer {
    /// What the log said before this message is forgotten already.
    pub fn floor(&self) -> u64 {
        self.shared.state.read().floor
    }

    /// The jobs that have events both before this message and from there on.
    pub fn straddling(&self, sequence: u64) -> Result<Vec<Uuid>, ViewError> {
        let snapshot = self.shared.state.read().table.snapshot();
        snapshot.straddling(sequence)
    }

    /// Shows and writes rows that a message of the log turned into what they are without adding an event: those of jobs
    /// that lose a part of what was known of them. All that came before that message is written.
    ///
    /// Like any rows that are ahead of the checkpoint, they are the same when they are made again after a crash.
    pub fn replace(&mut self, rows: Vec<Row>, at: u64) -> Result<(), ViewError> {
        let rows: Vec<Arc<Row>> = rows.into_iter().map(Arc::new).collect();
        self.show(&rows, |_| {})?;
        self.write_rows(at)?;
        self.let_go();
        Ok(())
    }

    /// What the log said before this message is about to be forgotten. To be called before rows are [replaced](Self::replace)
    /// for that.
    pub fn begin_forgetting(&self, floor: u64) -> Result<(), ViewError> {
        if let Some(ledger) = &self.shared.directory.ledger {
            // What is kept now stays: sums that could not be made yet would be taken for nothing.
            self.shared.settle()?;
            ledger.begin(self.shared.lifetime(), floor);
        }
        Ok(())
    }

    /// Forgets what the log said before this message: jobs without an event from there on are gone for all readers. Those
    /// that have events on both sides were [replaced](Self::replace), and nothing is staged. The next
    /// [`flush`](Self::flush) makes it lasting, and [`sweep`](Self::sweep) removes the rows from the disk. Gives how many
    /// jobs are gone.
    pub fn forget(&mut self, floor: u64) -> Result<u64, ViewError> {
        let pages = self.shortened_pages(floor)?;
        // Only this thread changes the list, so it can be made anew while readers use the old one.
        let (table, mut gone) = self.shared.state.read().table.without(floor)?;
        gone.sort_unstable();
        let count = gone.len() as u64;
        let limits = self.shared.stats.read().limits();
        let snapshot = table.snapshot();
        let left = Stats::of(limits, |visit| snapshot.heads(visit), now())?;
        drop(snapshot);
        // Before it is lasting: once the views have forgotten a job, nothing else knows that there was one.
        if let Some(ledger) = &self.shared.directory.ledger {
            ledger.cut(self.shared.lifetime(), floor, &left.totals());
        }
        let mut sums = self.shared.stats.write();
        let old_sums = std::mem::replace(&mut *sums, left);
        let mut state = self.shared.state.write();
        self.shared.changes.fetch_add(1, Ordering::Release);
        let old = std::mem::replace(&mut state.table, table);
        state.pages.extend(pages);
        state.floor = floor;
        let left = state.quarantine.split_off(&Position::new(floor, 0));
        let quarantine = std::mem::replace(&mut state.quarantine, left);
        let fleet = state.fleet.forget(floor);
        drop(state);
        drop(sums);
        // Freeing it takes a while: not under the lock.
        drop((old, old_sums));
        self.leaving.rows.extend(gone);
        self.leaving.quarantined.extend(quarantine.into_keys());
        self.leaving.fleet.extend(fleet);
        Ok(count)
    }

    /// The pages of recent executions that list jobs whose first event is forgotten, without them.
    fn shortened_pages(&self, floor: u64) -> Result<HashMap<RecentKey, RecentPage>, ViewError> {
        let mut pages = HashMap::new();
        self.shared.store.scan(&[prefix::RECENT], |key, value| {
            let key: RecentKey =
                key.try_into().map_err(|_| ViewError::Corrupt("the key of a page is too short".to_owned()))?;
            let mut page: RecentPage = codec::decode(value)?;
            if page.forget(floor) {
                pages.insert(key, page);
            }
            Ok(())
        })?;
        Ok(pages)
    }

    /// Whether the disk has forgotten all that it should, so that the digest is that of the records.
    pub fn is_settled(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Removes up to so many forgotten rows from the disk.
    pub fn sweep(&mut self, most: usize) -> Result<(), ViewError> {
        let mut left = most;
        while left > 0 && !self.leaving.is_empty() {
            // What is to be forgotten is not lasting yet: after a crash it would be missed.
            let Some(checkpoint) = self.checkpoint.filter(|checkpoint| checkpoint.floor == self.floor()) else { break };
            self.sweep_chunk(checkpoint, left.min(CHUNK))?;
            left = left.saturating_sub(CHUNK);
        }
        Ok(())
    }

    /// Rows, their share of the sums, and the checkpoint, which has to agree with those: all or nothing.
    fn sweep_chunk(&mut self, mut checkpoint: Checkpoint, most: usize) -> Result<(), ViewError> {
        let mut tally = self.tally;
        let mut batch = sled::Batch::default();
        let rows = self.leaving.rows.len() - most.min(self.leaving.rows.len());
        for number in &self.leaving.rows[rows..] {
            let key = row_key(*number);
            let Some(bytes) = self.shared.store.get(&key)? else { continue };
            let row = StoredRow::parse(&bytes).map_err(|error| self.shared.store.condemn(error))?;
            tally.rows -= 1;
            tally.digest.subtract(row.digest);
            checkpoint.digest.subtract(row.digest);
            batch.remove(&key);
        }
        let rest = most - (self.leaving.rows.len() - rows);
        let quarantined = self.leaving.quarantined.len() - rest.min(self.leaving.quarantined.len());
        for position in &self.leaving.quarantined[quarantined..] {
            batch.remove(&position_key(prefix::QUARANTINE, *position));
        }
        // Rows that are ahead of the checkpoint are in one sum and not in the other.
        checkpoint.settled = rows == 0 && quarantined == 0 && checkpoint.digest == tally.digest;
        batch.insert(&[prefix::TALLY], codec::encode(&tally));
        note(&mut batch, &checkpoint);
        self.shared.store.apply(batch)?;
        self.leaving.rows.truncate(rows);
        self.leaving.quarantined.truncate(quarantined);
        (self.tally, self.checkpoint) = (tally, Some(checkpoint));
        self.shared.state.write().checkpoint = self.checkpoint;
        hit(if self.leaving.is_empty() { Point::SweepEnd } else { Point::SweepChunk });
        Ok(())
    }

    /// Hands all that was written to the disk.
    pub fn sync(&self) -> Result<(), ViewError> {
        self.shared.store.flush()
    }
}
