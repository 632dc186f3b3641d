//! One generation on disk: a sled tree, its keys, and the guard around sled's ways of failing.

use std::io;
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proto_events::Position;
use sled::IVec;
use uuid::Uuid;

use crate::codec::{self, Stored};
use crate::error::ViewError;

/// The first byte of each key.
pub(crate) mod prefix {
    pub(crate) const META: u8 = b'm';
    pub(crate) const CHECKPOINT: u8 = b'c';
    pub(crate) const TALLY: u8 = b't';
    pub(crate) const PAST: u8 = b'h';
    pub(crate) const LANDMARK: u8 = b'l';
    pub(crate) const ROW: u8 = b'r';
    pub(crate) const RECENT: u8 = b'n';
    pub(crate) const QUARANTINE: u8 = b'q';
    pub(crate) const FLEET: u8 = b'f';
}

/// The key of a job's row.
///
/// Rows are numbered in the order in which they are first written, since ids are random: keyed by those, rows that come
/// together would lie far apart, and each would cost sled a page of its own to read and to write, four times as much.
pub(crate) fn row_key(number: u64) -> [u8; 9] {
    numbered_key(prefix::ROW, number)
}

/// The number in the key of a row.
pub(crate) fn row_number(key: &[u8]) -> Option<u64> {
    let number = key.strip_prefix(&[prefix::ROW])?;
    number.try_into().ok().map(u64::from_be_bytes)
}

/// The key of the recent executions of a task name.
pub(crate) type RecentKey = [u8; 33];

/// Names may be long, so the key holds a hash.
pub(crate) fn recent_key(connection: Uuid, name: &str) -> RecentKey {
    let mut key = [prefix::RECENT; 33];
    key[1..17].copy_from_slice(connection.as_bytes());
    key[17..].copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..16]);
    key
}

/// The key of something at a place in the log.
pub(crate) fn position_key(prefix: u8, position: Position) -> [u8; 13] {
    let mut key = [prefix; 13];
    key[1..9].copy_from_slice(&position.sequence.to_be_bytes());
    key[9..].copy_from_slice(&position.index.to_be_bytes());
    key
}

/// The key of a numbered thing.
pub(crate) fn numbered_key(prefix: u8, number: u64) -> [u8; 9] {
    let mut key = [prefix; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// A sled database, one tree with a prefix per kind of value.
///
/// A write is in the memory of the process until sled hands its buffers to the system, twice a second. A kill loses the
/// writes since then, always the last ones, and the log is read again from the checkpoint that is left.
///
/// sled panics on some damage that it does not expect. Every call is therefore made under `catch_unwind`, and after
/// the first panic or finding of damage the store answers nothing any more: whatever state sled was left in is never
/// used again, which is what makes catching sound here.
pub(crate) struct Store {
    tree: sled::Db,
    directory: PathBuf,
    broken: AtomicBool,
    /// Whether an atomic write is under way, for which sled makes all readers wait.
    writing: AtomicBool,
    /// How many more writes succeed.
    #[cfg(test)]
    pub(crate) writes_left: std::sync::atomic::AtomicU64,
}

/// In the directory of a generation: why it must not be opened again.
pub(crate) const CONDEMNED: &str = "CONDEMNED";
/// In the directory of a generation: the first message that the log still had when it was found to lack some before.
const MISSED: &str = "MISSED";

impl Store {
    /// Where the log began when it was found to have dropped messages that are not in this generation.
    pub(crate) fn missed(&self) -> Option<u64> {
        std::fs::read_to_string(self.directory.join(MISSED)).ok()?.trim().parse().ok()
    }

    /// Keeps that for as long as there is this generation.
    pub(crate) fn set_missed(&self, first: u64) -> Result<(), ViewError> {
        std::fs::write(self.directory.join(MISSED), format!("{first}\n")).map_err(|cause| ViewError::of(&cause))
    }

    /// Opens or creates the database in this directory, of which the caller holds the lock.
    pub(crate) fn open(directory: &Path, cache_bytes: u64) -> Result<Self, ViewError> {
        // A database of this process that was just closed keeps its lock until sled's own threads have ended.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let config = sled::Config::new()
                .path(directory)
                .cache_capacity(cache_bytes)
                .mode(sled::Mode::HighThroughput)
                .flush_every_ms(Some(500));
            match guarded(|| config.open()) {
                Ok(tree) => {
                    return Ok(Self {
                        tree,
                        directory: directory.to_owned(),
                        broken: AtomicBool::new(false),
                        writing: AtomicBool::new(false),
                        #[cfg(test)]
                        writes_left: std::sync::atomic::AtomicU64::new(u64::MAX),
                    });
                }
                Err(ViewError::Io(cause)) if cause.contains("could not acquire lock") && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<IVec>, ViewError> {
        self.run(|tree| tree.get(key))
    }

    /// The value of a type with one format.
    pub(crate) fn read<T: Stored>(&self, key: &[u8]) -> Result<Option<T>, ViewError> {
        let bytes = self.get(key)?;
        bytes.map(|bytes| codec::decode(&bytes)).transpose().map_err(|error| self.condemn(error))
    }

    /// Writes all or nothing.
    pub(crate) fn apply(&self, batch: sled::Batch) -> Result<(), ViewError> {
        #[cfg(test)]
        if self.writes_left.fetch_sub(1, Ordering::Relaxed) == 0 {
            return Err(ViewError::Io("as if the process were killed here".to_owned()));
        }
        self.writing.store(true, Ordering::Relaxed);
        let applied = self.run(|tree| tree.apply_batch(batch));
        self.writing.store(false, Ordering::Relaxed);
        applied
    }

    /// Whether a reader would have to wait now.
    pub(crate) fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Relaxed)
    }

    /// Writes one value. No lock is taken that a reader would wait for.
    pub(crate) fn insert(&self, key: &[u8], value: Vec<u8>) -> Result<(), ViewError> {
        self.run(|tree| tree.insert(key, value).map(drop))
    }

    /// All values whose keys start so, one at a time. Stops at the first error, the visitor's included.
    pub(crate) fn scan(
        &self,
        prefix: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        self.visit(self.run(|tree| Ok(tree.scan_prefix(prefix)))?, visit)
    }

    /// All values whose keys are in this range, likewise.
    pub(crate) fn scan_range<'a>(
        &self,
        keys: impl RangeBounds<&'a [u8]>,
        visit: impl FnMut(&[u8], &[u8]) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        self.visit(self.run(|tree| Ok(tree.range(keys)))?, visit)
    }

    /// The highest number of any row.
    pub(crate) fn last_row(&self) -> Result<Option<u64>, ViewError> {
        let last = self.run(|tree| tree.scan_prefix([prefix::ROW]).next_back().transpose())?;
        Ok(last.and_then(|(key, _)| row_number(&key)))
    }

    fn visit(
        &self,
        mut values: sled::Iter,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        while let Some((key, value)) = self.run(|_| values.next().transpose())? {
            visit(&key, &value).map_err(|error| self.condemn(error))?;
        }
        Ok(())
    }

    /// Hands everything to the operating system.
    pub(crate) fn flush(&self) -> Result<(), ViewError> {
        self.run(|tree| tree.flush().map(drop))
    }

    fn run<T>(&self, work: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, ViewError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(ViewError::Corrupt("damage was found before".to_owned()));
        }
        guarded(|| work(&self.tree)).map_err(|error| self.condemn(error))
    }

    /// On damage, sees to it that the next start does not open this generation, which might not find the damage again
    /// until it is too late. Returns the error.
    pub(crate) fn condemn(&self, error: ViewError) -> ViewError {
        if let ViewError::Corrupt(cause) = &error
            && !self.broken.swap(true, Ordering::AcqRel)
            && let Err(cause) = std::fs::write(self.directory.join(CONDEMNED), cause)
        {
            tracing::error!(%cause, "cannot mark the damaged views: remove their directory by hand");
        }
        error
    }
}

fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, ViewError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(ViewError::from),
        Err(panic) => {
            let cause = panic.downcast_ref::<String>().map(String::as_str);
            let cause = cause.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            // A panic because the disk is full is no damage.
            if cause.contains("StorageFull") || cause.contains("No space left") {
                return Err(ViewError::of(&io::Error::new(io::ErrorKind::StorageFull, cause.to_owned())));
            }
            Err(ViewError::Corrupt(format!("sled panicked: {cause}")))
        }
    }
}
