//! The writing side: rows staged in memory, then written in small atomic chunks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use failpoints::{Point, hit};
use projection::Row;
use projection::fleet::FleetFact;
use proto_events::Timestamp;
use uuid::Uuid;

use crate::codec::{self, Checkpoint, Head, Landmark, Past, Quarantined, StoredRow, Tally};
use crate::error::ViewError;
use crate::recent::RecentPage;
use crate::shared::{Shared, State, UNKNOWN_NAME, now};
use crate::store::{RecentKey, numbered_key, position_key, prefix, recent_key, row_key};
use crate::sweep::Leaving;

/// Rows in one atomic write. sled stalls all readers for as long as one takes, and large ones balloon its memory.
pub(crate) const CHUNK: usize = 32;
/// So many checkpoints of the past are kept.
pub(crate) const PAST: u64 = 1_000;
/// So many events that could not be used are listed, the first ones of the log; the log keeps them all.
pub(crate) const QUARANTINE: usize = 10_000;
/// Between two looks at the statistics.
const SETTLE_AFTER: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 10 });
/// A fingerprint is kept of one message in so many.
pub const LANDMARK_EVERY: u64 = 1_000;

/// Up to where the log is in the rows that are staged.
#[derive(Clone, Debug)]
pub struct Applied {
    /// When the log's stream was created.
    pub created: Timestamp,
    /// The last message.
    pub sequence: u64,
    /// Its fingerprint.
    pub fingerprint: [u8; 16],
    /// Of the messages since the last time, those worth remembering: one for each [`LANDMARK_EVERY`] sequences.
    pub landmarks: Vec<Landmark>,
    /// Of the events since the last time, those that could not be used.
    pub quarantined: Vec<Quarantined>,
    /// What the messages since the last time say of workers and sources.
    pub fleet: Vec<FleetFact>,
}

/// The only writer of the views.
///
/// All calls block on sled, so they belong on a thread of their own.
pub struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tally: Tally,
    pub(crate) checkpoint: Option<Checkpoint>,
    applied: Option<Applied>,
    /// What is on disk and forgotten.
    pub(crate) leaving: Leaving,
    /// When the statistics were last looked through.
    stats_settled: Instant,
    /// And how long it is to the next time.
    settle_after: Duration,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, tally: Tally, leaving: Leaving) -> Self {
        let checkpoint = shared.state.read().checkpoint;
        let stats_settled = Instant::now();
        Self { shared, tally, checkpoint, applied: None, leaving, stats_settled, settle_after: SETTLE_AFTER }
    }

    /// Where the log began when it was found to have dropped messages that these views lack for good.
    pub fn missed(&self) -> Option<u64> {
        self.shared.store.missed()
    }

    /// Keeps that, for as long as there are these views.
    pub fn set_missed(&self, first: u64) -> Result<(), ViewError> {
        self.shared.store.set_missed(first)
    }

    /// What is known of a job, staged or stored.
    pub fn row(&self, id: Uuid) -> Result<Option<Arc<Row>>, ViewError> {
        self.shared.row(id)
    }

    /// The last checkpoint that was written.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.checkpoint
    }

    /// How many rows are staged and not yet written.
    pub fn dirty(&self) -> usize {
        self.shared.state.read().rows.len()
    }

    /// Shows rows to readers at once, all together. They and the position are written by the next
    /// [`flush`](Self::flush).
    pub fn stage(&mut self, rows: Vec<Row>, applied: Applied) -> Result<(), ViewError> {
        let rows: Vec<Arc<Row>> = rows.into_iter().map(Arc::new).collect();
        let (sequence, mut quarantined, fleet) = (applied.sequence, applied.quarantined, applied.fleet);
        let mut left_out = Vec::new();
        self.show(&rows, |state| {
            state.applied = sequence;
            quarantined.truncate(QUARANTINE.saturating_sub(state.quarantine.len()));
            state.quarantine.extend(quarantined.iter().map(|event| (event.position, event.clone())));
            left_out.extend(fleet.iter().flat_map(|fact| state.fleet.add(fact.clone())));
        })?;
        self.leaving.fleet.extend(left_out);
        let before = self.applied.take().map(|before| (before.landmarks, before.quarantined, before.fleet));
        let (mut all_landmarks, mut all_quarantined, mut all_fleet) = before.unwrap_or_default();
        all_landmarks.extend(applied.landmarks);
        all_quarantined.extend(quarantined);
        all_fleet.extend(fleet);
        self.applied = Some(Applied {
            created: applied.created,
            sequence,
            fingerprint: applied.fingerprint,
            landmarks: all_landmarks,
            quarantined: all_quarantined,
            fleet: all_fleet,
        });
        Ok(())
    }

    /// Shows rows to readers, all together and with whatever else belongs to it.
    pub(crate) fn show(&self, rows: &[Arc<Row>], also: impl FnOnce(&mut State)) -> Result<(), ViewError> {
        if rows.is_empty() {
            also(&mut self.shared.state.write());
            return Ok(());
        }
        let heads: Vec<Head<'_>> = rows.iter().map(|row| Head::of(row)).collect();
        self.warm(rows, &heads)?;
        let mut pages = self.load_pages(rows, &heads)?;
        let mut sums = self.shared.stats.write();
        {
            let state = self.shared.state.read();
            for (row, head) in rows.iter().zip(&heads) {
                sums.replace(state.table.get(row.record.id).as_ref(), Some(head));
            }
        }
        let mut state = self.shared.state.write();
        self.shared.changes.fetch_add(1, Ordering::Release);
        for (row, head) in rows.iter().zip(&heads) {
            state.put(Arc::clone(row), head, &mut pages)?;
        }
        state.pages.extend(pages);
        also(&mut state);
        Ok(())
    }

    /// Brings what these rows are about to change into memory.
    fn warm(&self, rows: &[Arc<Row>], heads: &[Head<'_>]) -> Result<(), ViewError> {
        let jobs = rows.iter().zip(heads).map(|(row, head)| (row.record.id, head.created_at));
        let wanted = self.shared.state.read().table.wanted(jobs);
        if !wanted.is_empty() {
            let warmed = wanted.read()?;
            self.shared.state.write().table.warm(warmed);
        }
        Ok(())
    }

    /// Lets go of old jobs where there are more than memory is allowed for.
    fn cool(&self) {
        let cooled = self.shared.state.read().table.cooled();
        if !cooled.is_empty() {
            let gone = self.shared.state.write().table.settle(cooled);
            drop(gone);
        }
    }

    /// Copies of the pages of recent executions that these rows are about to change.
    fn load_pages(&self, rows: &[Arc<Row>], heads: &[Head<'_>]) -> Result<HashMap<RecentKey, RecentPage>, ViewError> {
        let mut pages = HashMap::new();
        let state = self.shared.state.read();
        for (row, after) in rows.iter().zip(heads) {
            let before = state.table.get(row.record.id);
            if before.as_ref().is_some_and(|before| before.name == after.name && before.first == after.first) {
                continue;
            }
            for head in before.iter().chain([after]).filter(|head| head.name != UNKNOWN_NAME) {
                let key = recent_key(head.connection, head.name);
                if let Entry::Vacant(place) = pages.entry(key) {
                    place.insert(match state.pages.get(&key) {
                        Some(page) => page.clone(),
                        None => self.shared.store.read(&key)?.unwrap_or_default(),
                    });
                }
            }
        }
        Ok(pages)
    }

    /// Writes what is staged: the pages of recent executions, the rows in chunks, the checkpoint last.
    ///
    /// A crash in between leaves rows ahead of the checkpoint. Since the fold is idempotent, replaying the log from the
    /// checkpoint changes nothing in them, and neither the digest. Pages come before the rows they list: a row on disk
    /// is in its page for sure, and a page may list jobs whose rows are still to come again from the log.
    pub fn flush(&mut self) -> Result<(), ViewError> {
        self.settle_stats()?;
        let Some(applied) = self.applied.take() else { return Ok(()) };
        self.write_rows(applied.sequence)?;
        // No checkpoint while rows are ahead of it from before a crash: its digest would not be that of the log up to
        // there. Replay soon catches up with them.
        if applied.sequence < self.tally.ahead {
            self.applied = Some(applied);
        } else {
            hit(Point::CheckpointBefore);
            self.write_checkpoint(&applied)?;
            hit(Point::CheckpointAfter);
        }
        self.let_go();
        self.cool();
        Ok(())
    }

    /// Lets the statistics forget minutes that are long past, and makes them anew where that is needed.
    fn settle_stats(&mut self) -> Result<(), ViewError> {
        if self.stats_settled.elapsed() < self.settle_after {
            return Ok(());
        }
        self.stats_settled = Instant::now();
        if self.shared.stats.read().is_unsettled() {
            // Only this thread changes what there is, so all of it can be gone through.
            self.shared.settle()?;
            // Of very many jobs it takes long, and must not be all that is done.
            self.settle_after = SETTLE_AFTER.max(self.stats_settled.elapsed() * 20);
        } else {
            self.shared.stats.write().advance(now());
        }
        Ok(())
    }

    /// Writes pages and rows, which may hold events up to this message.
    pub(crate) fn write_rows(&mut self, ahead: u64) -> Result<(), ViewError> {
        let (mut rows, pages) = {
            let state = self.shared.state.read();
            // Whatever is staged is in the table, and in memory.
            let number = |id: Uuid| state.table.numbers(id).next();
            let rows = state.rows.iter().filter_map(|(id, row)| Some((number(*id)?, Arc::clone(row))));
            let rows: Vec<(u64, Arc<Row>)> = rows.collect();
            let encoded = |page: &RecentPage| (!page.is_empty()).then(|| codec::encode(page));
            let pages: Vec<_> = state.pages.iter().map(|(key, page)| (*key, encoded(page))).collect();
            (rows, pages)
        };
        rows.sort_unstable_by_key(|(number, _)| *number);
        self.tally.ahead = self.tally.ahead.max(ahead);
        for chunk in pages.chunks(CHUNK) {
            let mut batch = sled::Batch::default();
            for (key, page) in chunk {
                match page {
                    Some(page) => batch.insert(key.as_slice(), page.as_slice()),
                    None => batch.remove(key.as_slice()),
                }
            }
            hit(Point::PagesBefore);
            self.shared.store.apply(batch)?;
            hit(Point::PagesAfter);
        }
        for chunk in rows.chunks(CHUNK) {
            hit(Point::RowsBefore);
            self.write_chunk(chunk)?;
            hit(Point::RowsAfter);
        }
        Ok(())
    }

    /// Lets go of what is written.
    pub(crate) fn let_go(&self) {
        let mut state = self.shared.state.write();
        state.checkpoint = self.checkpoint;
        let written = (std::mem::take(&mut state.rows), std::mem::take(&mut state.pages));
        drop(state);
        // Freeing thousands of rows takes a while: not under the lock.
        drop(written);
    }

    fn write_chunk(&mut self, rows: &[(u64, Arc<Row>)]) -> Result<(), ViewError> {
        let mut batch = sled::Batch::default();
        let mut tally = self.tally;
        for (number, row) in rows {
            let key = row_key(*number);
            let (bytes, digest) = codec::encode_row(row);
            match self.shared.store.get(&key)? {
                Some(old) => tally.digest.subtract(self.shared.digest_of(&old)?),
                None => tally.rows += 1,
            }
            tally.digest.add(digest);
            batch.insert(&key, bytes);
        }
        batch.insert(&[prefix::TALLY], codec::encode(&tally));
        self.shared.store.apply(batch)?;
        self.tally = tally;
        Ok(())
    }

    fn write_checkpoint(&mut self, applied: &Applied) -> Result<(), ViewError> {
        let checkpoint = Checkpoint {
            number: self.checkpoint.map_or(0, |checkpoint| checkpoint.number + 1),
            created: applied.created,
            sequence: applied.sequence,
            fingerprint: applied.fingerprint,
            digest: self.tally.digest,
            fold_version: self.shared.fold_version,
            floor: self.shared.state.read().floor,
            settled: self.leaving.is_empty(),
        };
        let mut batch = sled::Batch::default();
        note(&mut batch, &checkpoint);
        for landmark in &applied.landmarks {
            batch.insert(&numbered_key(prefix::LANDMARK, landmark.sequence / LANDMARK_EVERY), codec::encode(landmark));
        }
        for event in &applied.quarantined {
            batch.insert(&position_key(prefix::QUARANTINE, event.position), codec::encode(event));
        }
        for fact in &applied.fleet {
            batch.insert(&position_key(prefix::FLEET, fact.position), codec::encode(fact));
        }
        for position in self.leaving.fleet.drain(..) {
            batch.remove(&position_key(prefix::FLEET, position));
        }
        self.shared.store.apply(batch)?;
        self.checkpoint = Some(checkpoint);
        Ok(())
    }

    /// Writes what is staged and hands it to the disk.
    pub fn close(mut self) -> Result<(), ViewError> {
        self.flush()?;
        hit(Point::Close);
        self.shared.store.flush()
    }
}

/// Writes a checkpoint, and remembers it where it is one that a replay has too.
pub(crate) fn note(batch: &mut sled::Batch, checkpoint: &Checkpoint) {
    batch.insert(&[prefix::CHECKPOINT], codec::encode(checkpoint));
    if checkpoint.settled {
        let past = Past { sequence: checkpoint.sequence, digest: checkpoint.digest };
        batch.insert(&numbered_key(prefix::PAST, checkpoint.number % PAST), codec::encode(&past));
    }
}

impl State {
    /// Puts a row into the overlay and the table, and moves the job between pages of recent executions, which are loaded.
    fn put(
        &mut self,
        row: Arc<Row>,
        after: &Head<'_>,
        pages: &mut HashMap<RecentKey, RecentPage>,
    ) -> Result<(), ViewError> {
        let id = row.record.id;
        let before = self.table.get(id);
        let moved = before.as_ref().is_none_or(|before| before.first != after.first || before.name != after.name);
        let left = before.filter(|_| moved).map(|before| (before.first, before.name.to_owned()));
        self.table.put(id, after);
        if moved {
            if let Some((first, name)) = &left
                && let Some(page) = pages.get_mut(&recent_key(after.connection, name))
            {
                page.remove(*first, id);
                if page.is_short() {
                    page.refill(|count| self.table.snapshot().latest(after.connection, name, count))?;
                }
            }
            if let Some(page) = pages.get_mut(&recent_key(after.connection, after.name)) {
                page.insert(after.first, id);
            }
        }
        self.rows.insert(id, row);
        Ok(())
    }
}

impl Shared {
    fn digest_of(&self, stored: &[u8]) -> Result<crate::Digest, ViewError> {
        StoredRow::parse(stored).map(|row| row.digest).map_err(|error| self.store.condemn(error))
    }
}
