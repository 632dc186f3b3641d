//! A generation written in one go, in the order of its keys, while another one serves.
//!
//! Rows that come in random order cost sled far more than rows that come in the order of their keys, and atomic batches
//! would stall whoever reads the serving generation, since sled locks all databases of a process for them. So here rows
//! are plain inserts in order, and the checkpoint comes last: a generation without one is not finished and never opened.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use failpoints::{Point, hit};
use projection::Row;
use proto_events::Position;
use uuid::Uuid;

use crate::codec::{self, Checkpoint, Head, Landmark, Past, Tally};
use crate::digest::Digest;
use crate::error::ViewError;
use crate::open::{Options, create};
use crate::recent::RecentPage;
use crate::shared::UNKNOWN_NAME;
use crate::store::{RecentKey, Store, numbered_key, position_key, prefix, recent_key, row_key};
use crate::writer::{Applied, LANDMARK_EVERY, QUARANTINE};

/// A row as it will be stored. Making it is most of the work, and can be done by many threads at once.
pub struct Prepared {
    id: Uuid,
    bytes: Vec<u8>,
    digest: Digest,
    recent: Option<(RecentKey, Position)>,
}

impl Prepared {
    /// Encodes and hashes a row.
    pub fn of(row: &Row) -> Self {
        let (bytes, digest) = codec::encode_row(row);
        let head = Head::of(row);
        let recent = (head.name != UNKNOWN_NAME).then(|| (recent_key(head.connection, head.name), head.first));
        Self { id: row.record.id, bytes, digest, recent }
    }

    /// The job.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The hash of its record.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Writes a new generation, which nobody sees until it is finished and promoted.
pub struct BulkWriter {
    store: Store,
    directory: PathBuf,
    tally: Tally,
    bytes: u64,
    pages: HashMap<RecentKey, RecentPage>,
    last: Option<Uuid>,
    fold_version: u32,
}

impl BulkWriter {
    /// Begins a generation in this directory, which must not exist.
    pub(crate) fn create(directory: &Path, options: &Options) -> Result<Self, ViewError> {
        let store = create(directory, options)?;
        Ok(Self {
            store,
            directory: directory.to_owned(),
            tally: Tally::default(),
            bytes: 0,
            pages: HashMap::new(),
            last: None,
            fold_version: options.fold_version,
        })
    }

    /// Writes a row. Rows come in ascending order of their ids, each once.
    pub fn put(&mut self, row: Prepared) -> Result<(), ViewError> {
        debug_assert!(self.last.is_none_or(|last| last < row.id), "rows come in order");
        self.last = Some(row.id);
        let key = row_key(self.tally.rows);
        self.bytes += (key.len() + row.bytes.len()) as u64;
        self.store.insert(&key, row.bytes)?;
        self.tally.rows += 1;
        self.tally.digest.add(row.digest);
        if let Some((key, first)) = row.recent {
            self.pages.entry(key).or_default().insert(first, row.id);
        }
        hit(Point::BulkRow);
        Ok(())
    }

    /// How many rows were written.
    pub fn rows(&self) -> u64 {
        self.tally.rows
    }

    /// How many bytes they take, each with its key: without what sled adds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the rest, the checkpoint last, and hands everything to the disk. Gives where the generation is, for
    /// [`Generations::open`](crate::Generations::open), and the digest of all records.
    /// Nothing in it is of what the log said before the message `floor`.
    pub fn finish(mut self, applied: &Applied, floor: u64) -> Result<(PathBuf, Digest), ViewError> {
        hit(Point::BulkRows);
        self.tally.ahead = applied.sequence;
        for (key, page) in &self.pages {
            self.store.insert(key, codec::encode(page))?;
        }
        for landmark in &applied.landmarks {
            self.store.insert(&landmark_key(landmark), codec::encode(landmark))?;
        }
        for event in applied.quarantined.iter().take(QUARANTINE) {
            self.store.insert(&position_key(prefix::QUARANTINE, event.position), codec::encode(event))?;
        }
        for fact in &applied.fleet {
            self.store.insert(&position_key(prefix::FLEET, fact.position), codec::encode(fact))?;
        }
        hit(Point::BulkPages);
        let digest = self.tally.digest;
        let past = Past { sequence: applied.sequence, digest };
        self.store.insert(&numbered_key(prefix::PAST, 0), codec::encode(&past))?;
        self.store.insert(&[prefix::TALLY], codec::encode(&self.tally))?;
        hit(Point::BulkTally);
        let checkpoint = Checkpoint {
            number: 0,
            created: applied.created,
            sequence: applied.sequence,
            fingerprint: applied.fingerprint,
            digest,
            fold_version: self.fold_version,
            floor,
            settled: true,
        };
        self.store.insert(&[prefix::CHECKPOINT], codec::encode(&checkpoint))?;
        hit(Point::BulkCheckpoint);
        self.store.flush()?;
        hit(Point::BulkFlushed);
        Ok((self.directory, digest))
    }

    /// Gives up: what was written is removed.
    pub fn abandon(self) {
        let Self { store, directory, .. } = self;
        drop(store);
        if let Err(cause) = std::fs::remove_dir_all(&directory) {
            tracing::warn!(directory = %directory.display(), %cause, "cannot remove an unfinished generation");
        }
    }
}

fn landmark_key(landmark: &Landmark) -> [u8; 9] {
    numbered_key(prefix::LANDMARK, landmark.sequence / LANDMARK_EVERY)
}
