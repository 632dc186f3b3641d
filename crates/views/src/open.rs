//! Opening: the generation that serves, checked from end to end, or a new and empty one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use failpoints::{Point, hit};
use parking_lot::{Mutex, RwLock};
use projection::fleet::{Fleet, FleetFact};
use proto_events::Position;
use uuid::Uuid;

use crate::codec::{self, Checkpoint, Landmark, Meta, Past, Quarantined, StoredRow, Tally};
use crate::error::{OpenError, ViewError};
use crate::generation::{Directory, Reason};
use crate::generations::Generations;
use crate::reader::Reader;
use crate::recent::RecentPage;
use crate::shared::{Shared, State, now};
use crate::stats::{Limits, Stats};
use crate::store::{Store, prefix, row_key, row_number};
use crate::sweep::Leaving;
use crate::table::{Snapshot, Table};
use crate::writer::Writer;

/// The statistics of so many jobs are made in some tens of milliseconds.
const SUMMED_AT_ONCE: usize = 20_000;
/// In the directory of a generation: what of the list of jobs is not in memory. Of one process only.
const LIST: &str = "list";
/// The layout of keys that this code writes, and the only one that it reads.
const LAYOUT: u32 = 9;

/// How to open.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The version of the fold; views of another version are set aside.
    pub fold_version: u32,
    /// How much memory sled may use for its cache, roughly.
    pub cache_bytes: u64,
    /// How much memory the list of all jobs may take, roughly; old jobs are read from disk beyond it.
    pub list_bytes: u64,
    /// Whether totals are told apart by the hosts of workers, too.
    pub totals_by_host: bool,
}

impl Options {
    /// How much is told by name.
    pub(crate) fn limits(&self) -> Limits {
        Limits { by_host: self.totals_by_host, ..Limits::default() }
    }
}

/// The open views.
pub struct Opened {
    /// The only writer.
    pub writer: Writer,
    /// For any number of readers.
    pub reader: Reader,
    /// For another generation beside the one that serves.
    pub generations: Generations,
    /// What was found.
    pub outcome: Outcome,
}

/// What was found on opening.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Views that go on from their checkpoint.
    Existing,
    /// Views of our fold in place of those of another one: prepared, or those that served before.
    Adopted {
        /// The version that wrote those that served until now.
        replaced: u32,
    },
    /// Nothing: the views are empty, to be filled from the log.
    Fresh,
    /// Views that could not be used. The new ones are empty, to be filled from the log.
    SetAside {
        /// Why.
        reason: Reason,
        /// Where they are now.
        kept: PathBuf,
    },
}

/// Opens the views in this directory, which is created where it is missing.
///
/// Views that are damaged, of another format or of another fold are set aside, since the log can fill new ones. An
/// error means that this would not help.
pub fn open(dir: &Path, options: &Options) -> Result<Opened, OpenError> {
    open_locked(dir, locked(dir)?, options)
}

/// The directory, if no other process has it.
pub(crate) fn locked(dir: &Path) -> Result<Directory, OpenError> {
    let directory = Directory::lock(dir).map_err(|cause| OpenError::of(dir, cause))?;
    directory.ok_or_else(|| OpenError::Locked { path: dir.to_owned() })
}

pub(crate) fn open_locked(dir: &Path, directory: Directory, options: &Options) -> Result<Opened, OpenError> {
    let failed = |cause| OpenError::of(dir, cause);
    let mut aside = None;
    if let Some(generation) = directory.current().map_err(failed)? {
        match load(&generation, options)? {
            Ok(loaded) => return Ok(opened(directory, loaded, options, Outcome::Existing)),
            Err(reason) => aside = Some(set_aside(&directory, &generation, reason).map_err(failed)?),
        }
    }
    for orphan in directory.generations(false).map_err(failed)? {
        let outcome = set_aside(&directory, &orphan, Reason::NotCurrent).map_err(failed)?;
        aside.get_or_insert(outcome);
    }
    let generation = directory.next().map_err(failed)?;
    let loaded = create(&generation, options)
        .and_then(|store| Loaded::empty(store, &generation, options))
        .map_err(|error| error.at_open(dir).map_or_else(|error| error, |cause| failed(std::io::Error::other(cause))))?;
    hit(Point::Created);
    directory.promote(&generation).map_err(failed)?;
    Ok(opened(directory, loaded, options, aside.unwrap_or(Outcome::Fresh)))
}

fn set_aside(directory: &Directory, generation: &Path, reason: Reason) -> std::io::Result<Outcome> {
    let kept = directory.set_aside(generation, &reason)?;
    tracing::warn!(%reason, kept = %kept.display(), "views set aside: new ones are filled from the log");
    Ok(Outcome::SetAside { reason, kept })
}

pub(crate) fn opened(directory: Directory, loaded: Loaded, options: &Options, outcome: Outcome) -> Opened {
    let directory = Arc::new(directory);
    let (writer, shared) = loaded.into_shared(Arc::clone(&directory), options);
    let reader = Reader::new(shared);
    let generations = Generations::new(directory, *options, reader.clone());
    Opened { writer, reader, generations, outcome }
}

/// A new generation.
pub(crate) fn create(generation: &Path, options: &Options) -> Result<Store, ViewError> {
    let store = Store::open(generation, options.cache_bytes)?;
    let mut batch = sled::Batch::default();
    let meta = Meta { layout: LAYOUT, fold_version: options.fold_version };
    batch.insert(&[prefix::META], codec::encode(&meta));
    store.apply(batch)?;
    store.flush()?;
    Ok(store)
}

/// A generation that was read.
pub(crate) struct Loaded {
    store: Store,
    table: Table,
    /// Those of so many jobs are made later.
    sums: Option<Stats>,
    quarantine: BTreeMap<Position, Quarantined>,
    fleet: Fleet,
    checkpoint: Option<Checkpoint>,
    tally: Tally,
    leaving: Leaving,
}

impl Loaded {
    pub(crate) fn into_shared(self, directory: Arc<Directory>, options: &Options) -> (Writer, Arc<Shared>) {
        let state = State {
            rows: std::collections::HashMap::default(),
            pages: std::collections::HashMap::default(),
            applied: self.checkpoint.map_or(0, |checkpoint| checkpoint.sequence),
            floor: self.checkpoint.map_or(0, |checkpoint| checkpoint.floor),
            checkpoint: self.checkpoint,
            table: self.table,
            quarantine: self.quarantine,
            fleet: self.fleet,
        };
        let snapshot = self.sums.is_none().then(|| state.table.snapshot());
        let sums = self.sums.unwrap_or_else(|| Stats::new(options.limits(), now()));
        let shared = Arc::new(Shared {
            store: self.store,
            fold_version: options.fold_version,
            state: RwLock::new(state),
            stats: RwLock::new(sums),
            changes: AtomicU64::new(0),
            recents: Mutex::default(),
            directory,
        });
        if let Some(snapshot) = snapshot {
            sum_up(&shared, snapshot);
        }
        (Writer::new(Arc::clone(&shared), self.tally, self.leaving), shared)
    }

    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        self.checkpoint
    }

    fn empty(store: Store, generation: &Path, options: &Options) -> Result<Self, ViewError> {
        Ok(Self {
            store,
            table: Table::within(options.list_bytes, generation.join(LIST))?,
            sums: Some(Stats::new(options.limits(), now())),
            quarantine: BTreeMap::new(),
            fleet: Fleet::default(),
            checkpoint: None,
            tally: Tally::default(),
            leaving: Leaving::default(),
        })
    }
}

/// Makes the sums of many jobs beside everything else: whoever asks for them, or changes a job, waits for that; who asks
/// for a job does not.
fn sum_up(shared: &Arc<Shared>, snapshot: Snapshot) {
    let (locked, is_locked) = std::sync::mpsc::channel();
    let summing = Arc::clone(shared);
    let sum = move || {
        let mut stats = summing.stats.write();
        // Whoever waits for that goes on in any case.
        let _ = locked.send(());
        match Stats::of(stats.limits(), |visit| snapshot.heads(visit), now()) {
            Ok(made) => *stats = made,
            Err(error) => {
                tracing::error!(%error, "the statistics cannot be made: they are tried again by the writer");
                stats.unsettle();
            }
        }
    };
    if std::thread::Builder::new().name("statistics".to_owned()).spawn(sum).is_ok() {
        let _ = is_locked.recv();
    } else {
        shared.stats.write().unsettle();
    }
}

/// Opens a generation. The inner error says why it is to be set aside.
pub(crate) fn load(generation: &Path, options: &Options) -> Result<Result<Loaded, Reason>, OpenError> {
    let began = Instant::now();
    if let Some(cause) = Directory::condemned(generation).map_err(|cause| OpenError::of(generation, cause))? {
        return Ok(Err(Reason::Damaged(cause)));
    }
    let store = Store::open(generation, options.cache_bytes);
    let loaded = store.and_then(|store| read(store, generation, options));
    match loaded {
        Ok(Ok(loaded)) => {
            let (milliseconds, jobs) = (began.elapsed().as_millis(), loaded.tally.rows);
            tracing::info!(jobs, milliseconds, "views opened");
            Ok(Ok(loaded))
        }
        Ok(Err(reason)) => Ok(Err(reason)),
        Err(error) => error.at_open(generation).map(|cause| Err(Reason::Damaged(cause))),
    }
}

fn read(store: Store, generation: &Path, options: &Options) -> Result<Result<Loaded, Reason>, ViewError> {
    // The meta value comes first and alone: the values of another layout or fold need not make sense to us.
    let Some(bytes) = store.get(&[prefix::META])? else { return Ok(Err(Reason::OtherFormat)) };
    let Ok(meta) = codec::decode::<Meta>(&bytes) else { return Ok(Err(Reason::OtherFormat)) };
    if meta.layout != LAYOUT {
        return Ok(Err(Reason::OtherFormat));
    }
    if meta.fold_version != options.fold_version {
        return Ok(Err(Reason::OtherFold { found: meta.fold_version }));
    }
    let mut loaded = Loaded::empty(store, generation, options)?;
    let Loaded { store, table, sums, quarantine, fleet, checkpoint, tally, leaving } = &mut loaded;
    *checkpoint = store.read(&[prefix::CHECKPOINT])?;
    let floor = checkpoint.map_or(0, |checkpoint| checkpoint.floor);
    let mut visit = |key: &[u8], value: &[u8]| {
        match key.first().copied().unwrap_or_default() {
            prefix::META | prefix::CHECKPOINT => {}
            prefix::TALLY => *tally = codec::decode(value)?,
            prefix::PAST => drop(codec::decode::<Past>(value)?),
            prefix::LANDMARK => drop(codec::decode::<Landmark>(value)?),
            prefix::RECENT => drop(codec::decode::<RecentPage>(value)?),
            prefix::QUARANTINE => {
                let event: Quarantined = codec::decode(value)?;
                if event.position.sequence < floor {
                    leaving.quarantined.push(event.position);
                } else {
                    quarantine.insert(event.position, event);
                }
            }
            prefix::FLEET => {
                let fact: FleetFact = codec::decode(value)?;
                let left_out = if fact.position.sequence < floor { vec![fact.position] } else { fleet.add(fact) };
                leaving.fleet.extend(left_out);
            }
            other => return Err(ViewError::Corrupt(format!("a key begins with the byte {other}"))),
        }
        Ok(())
    };
    store.scan_range(..[prefix::ROW].as_slice(), &mut visit)?;
    store.scan_range([prefix::ROW + 1].as_slice().., visit)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = scan_rows(store, floor, table.shares(threads))?;
    let sum = rows.sum;
    (*table, leaving.rows) = (rows.table, rows.leaving);
    *sums = None;
    if table.len() <= SUMMED_AT_ONCE {
        let snapshot = table.snapshot();
        *sums = Some(Stats::of(options.limits(), |visit| snapshot.heads(visit), now())?);
    }
    // sled finds most damage itself, not all of it: the digest tells whether any row is missing, doubled or older.
    let end = checkpoint.map_or(0, |checkpoint| checkpoint.sequence);
    if (sum.rows, sum.digest) != (tally.rows, tally.digest) {
        return Err(ViewError::Corrupt("the rows do not add up to what was written".to_owned()));
    }
    if checkpoint.is_some_and(|checkpoint| tally.ahead <= end && checkpoint.digest != tally.digest) {
        return Err(ViewError::Corrupt("the rows are not those of the checkpoint".to_owned()));
    }
    Ok(Ok(loaded))
}

/// What was found in a range of rows.
#[derive(Default)]
struct Rows {
    sum: Tally,
    table: Table,
    /// Numbers of those of which nothing is left.
    leaving: Vec<u64>,
}

/// Reads the heads of all rows, a range of them on each processor.
fn scan_rows(store: &Store, floor: u64, tables: Vec<Table>) -> Result<Rows, ViewError> {
    // What is behind the last row is no row, and is found to be none.
    let numbers = store.last_row()?.map_or(0, |last| last.saturating_add(1));
    let threads = tables.len() as u64;
    let bound = |part: u64| match part {
        0 => vec![prefix::ROW],
        part if part == threads => vec![prefix::ROW + 1],
        part => row_key(numbers / threads * part).to_vec(),
    };
    let parts = std::thread::scope(|scope| {
        let scan = |(part, table)| scope.spawn(move || Rows::scan(store, floor, table, &bound(part), &bound(part + 1)));
        let parts: Vec<_> = (0..threads).zip(tables).map(scan).collect();
        parts.into_iter().map(ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let mut all = Rows::default();
    for part in parts {
        // sled's panics are caught in the store, and what is left is ours.
        let part = part.map_err(|_| ViewError::Corrupt("reading the rows panicked".to_owned()))??;
        all.sum.rows += part.sum.rows;
        all.sum.digest.add(part.sum.digest);
        if let Some(id) = all.table.absorb(part.table)? {
            return Err(twice(id));
        }
        all.leaving.extend(part.leaving);
    }
    all.table.number_from(numbers);
    Ok(all)
}

impl Rows {
    fn scan(store: &Store, floor: u64, table: Table, from: &[u8], to: &[u8]) -> Result<Self, ViewError> {
        let mut rows = Self { table, ..Self::default() };
        store.scan_range(from..to, |key, value| rows.add(floor, key, value))?;
        Ok(rows)
    }

    fn add(&mut self, floor: u64, key: &[u8], value: &[u8]) -> Result<(), ViewError> {
        let row = StoredRow::parse(value)?;
        let number = row_number(key).ok_or_else(|| ViewError::Corrupt("the key of a row is no number".to_owned()))?;
        self.sum.rows += 1;
        self.sum.digest.add(row.digest);
        if row.head.last < floor {
            self.leaving.push(number);
        } else if !self.table.put_numbered(row.id, number, &row.head)? {
            return Err(twice(row.id));
        }
        Ok(())
    }
}

fn twice(id: Uuid) -> ViewError {
    ViewError::Corrupt(format!("there are two rows of the job {id}"))
}
