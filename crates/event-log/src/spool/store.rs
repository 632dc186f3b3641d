//! The file of the spool: what waits, in order, and the sums over it, changed together or not at all.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use bytes::Bytes;
use proto_events::Timestamp;
use redb::{Database, Key, ReadableDatabase, ReadableTable, Table, TableDefinition, Value, WriteTransaction};
use uuid::Uuid;

use super::{SpoolDepth, SpoolError};

/// By connection and number, which only grows: when it was written, its events of tasks, all other events, and the
/// array itself, compressed.
type Rows = TableDefinition<'static, RowKey, (i64, u32, u32, &'static [u8])>;
pub(super) type RowKey = (u128, u64);

const TASKS: Rows = TableDefinition::new("tasks.1");
const OTHERS: Rows = TableDefinition::new("others.1");
/// By connection: arrays, events of tasks, other events, bytes; then what was dropped or refused, likewise.
const TOTALS: TableDefinition<'static, u128, [u64; 6]> = TableDefinition::new("totals.1");

/// Of the file's pages.
const CACHE_BYTES: usize = 16 << 20;
/// What a row costs beside its array.
const OVERHEAD: u64 = 128;
/// Up to here rows share pages; larger ones take pages of their own, in powers of two.
const PAGE: u64 = 4_096;
/// What is taken out at a time.
const TURN_BYTES: usize = 4 << 20;
const TURN_ROWS: usize = 64;
/// LZ4 packs nothing any smaller.
const LARGEST_RATIO: usize = 255;

/// An array of one kind of events of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) connection: Uuid,
    /// Its place among all arrays.
    pub(crate) number: u64,
    pub(crate) tasks: u32,
    pub(crate) others: u32,
    pub(crate) payload: Bytes,
}

/// What waits, with its place.
pub(super) struct Row {
    pub(super) place: Place,
    pub(super) tasks: u32,
    pub(super) others: u32,
    pub(super) payload: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) lane: Lane,
    pub(super) key: RowKey,
}

impl Place {
    pub(super) fn connection(self) -> Uuid {
        Uuid::from_u128(self.key.0)
    }
}

/// Where there is no more room, all others make room before tasks do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Lane {
    Others,
    Tasks,
}

const LANES: [Lane; 2] = [Lane::Others, Lane::Tasks];

impl Lane {
    fn table(self) -> Rows {
        match self {
            Self::Others => OTHERS,
            Self::Tasks => TASKS,
        }
    }
}

/// One change.
pub(super) enum Change {
    Put(Entry),
    /// The log has these arrays.
    Stored(Vec<Place>),
    /// The log has this array, but for these events, which it will never take, or which cannot be read any more.
    Refused {
        place: Place,
        tasks: u32,
        others: u32,
    },
}

pub(super) struct Store {
    database: Database,
    limit: u64,
    totals: BTreeMap<u128, SpoolDepth>,
    last_number: u64,
    /// What was taken out to be published, and so is not dropped.
    under_way: HashSet<Place>,
}

impl Store {
    pub(super) fn open(file: &Path, limit: u64) -> Result<Self, SpoolError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(file)?;
        let work = database.begin_write()?;
        let mut last_number = 0;
        let mut totals = BTreeMap::new();
        {
            let kept = work.open_table(TOTALS)?;
            for row in kept.iter()? {
                let (connection, sums) = row?;
                totals.insert(connection.value(), SpoolDepth::of(sums.value()));
            }
            for lane in LANES {
                let rows = work.open_table(lane.table())?;
                for (connection, depth) in &mut totals {
                    if let Some(row) = rows.range(all_of(*connection))?.next_back() {
                        last_number = last_number.max(row?.0.value().1);
                    }
                    depth.oldest = earlier(depth.oldest, oldest(&rows, *connection)?);
                }
            }
        }
        work.commit()?;
        Ok(Self { database, limit, totals, last_number, under_way: HashSet::new() })
    }

    pub(super) fn totals(&self) -> &BTreeMap<u128, SpoolDepth> {
        &self.totals
    }

    pub(super) fn last_number(&self) -> u64 {
        self.last_number
    }

    /// Makes the changes, and room where there is too much, and hands it all to the disk.
    pub(super) fn change(&mut self, changes: Vec<Change>, now: Timestamp) -> Result<(), SpoolError> {
        let work = self.database.begin_write()?;
        let mut change = Changing::new(&work, self.totals.clone())?;
        let mut landed = Vec::new();
        for wanted in changes {
            match wanted {
                Change::Put(entry) => change.put(&entry, now)?,
                Change::Stored(places) => {
                    for place in places {
                        change.remove(place)?;
                        landed.push(place);
                    }
                }
                Change::Refused { place, tasks, others } => {
                    change.remove(place)?;
                    change.dropped(place, u64::from(tasks), u64::from(others));
                    landed.push(place);
                }
            }
        }
        change.make_room(self.limit, &self.under_way)?;
        let totals = change.finish()?;
        work.commit()?;
        self.totals = totals;
        for place in landed {
            self.under_way.remove(&place);
        }
        Ok(())
    }

    /// The first of what waits. Until it is stored or given back, none of it is dropped. What cannot be unpacked goes, and
    /// is counted: nothing else would ever come out behind it.
    pub(super) fn take(&mut self, now: Timestamp) -> Result<Vec<Row>, SpoolError> {
        let (taken, refused) = self.first()?;
        self.under_way = taken.iter().map(|row| row.place).collect();
        if !refused.is_empty() {
            tracing::error!(arrays = refused.len(), "the spool held what cannot be unpacked: those events are dropped");
            self.change(refused, now)?;
        }
        Ok(taken)
    }

    /// The first of what waits, and what of it is of no use.
    fn first(&self) -> Result<(Vec<Row>, Vec<Change>), SpoolError> {
        let work = self.database.begin_read()?;
        let mut waiting = Vec::new();
        for lane in LANES {
            let rows = work.open_table(lane.table())?;
            for connection in self.totals.keys() {
                let mut rows = rows.range(all_of(*connection))?;
                if let Some(first) = rows.next().transpose()? {
                    waiting.push((lane, first, rows));
                }
            }
        }
        let (mut taken, mut refused, mut bytes) = (Vec::new(), Vec::new(), 0);
        while taken.len() + refused.len() < TURN_ROWS && bytes < TURN_BYTES {
            let next = waiting.iter().enumerate().min_by_key(|(_, (_, (key, _), _))| key.value().1);
            let Some(index) = next.map(|(index, _)| index) else { break };
            let (lane, (key, row), rows) = &mut waiting[index];
            let (_, tasks, others, compressed) = row.value();
            let place = Place { lane: *lane, key: key.value() };
            if let Some(payload) = unpacked(compressed) {
                bytes += payload.len();
                taken.push(Row { place, tasks, others, payload: payload.into() });
            } else {
                refused.push(Change::Refused { place, tasks, others });
            }
            match rows.next().transpose()? {
                Some(next) => (*key, *row) = next,
                None => drop(waiting.swap_remove(index)),
            }
        }
        Ok((taken, refused))
    }
}

/// A change that is being made.
struct Changing<'a> {
    others: Table<'a, RowKey, (i64, u32, u32, &'static [u8])>,
    tasks: Table<'a, RowKey, (i64, u32, u32, &'static [u8])>,
    sums: Table<'a, u128, [u64; 6]>,
    totals: BTreeMap<u128, SpoolDepth>,
    touched: BTreeSet<u128>,
}

impl<'a> Changing<'a> {
    fn new(work: &'a WriteTransaction, totals: BTreeMap<u128, SpoolDepth>) -> Result<Self, SpoolError> {
        Ok(Self {
            others: work.open_table(OTHERS)?,
            tasks: work.open_table(TASKS)?,
            sums: work.open_table(TOTALS)?,
            totals,
            touched: BTreeSet::new(),
        })
    }

    fn put(&mut self, entry: &Entry, now: Timestamp) -> Result<(), SpoolError> {
        let Entry { connection, number, tasks, others, payload } = entry;
        let compressed = lz4_flex::compress_prepend_size(payload);
        let lane = if *tasks > 0 { &mut self.tasks } else { &mut self.others };
        let key = (connection.as_u128(), *number);
        lane.insert(key, (now.micros(), *tasks, *others, compressed.as_slice()))?;
        let depth = self.depth(key.0);
        depth.arrays += 1;
        depth.tasks += u64::from(*tasks);
        depth.others += u64::from(*others);
        depth.bytes += cost(compressed.len());
        Ok(())
    }

    /// What it held, if it is there.
    fn remove(&mut self, place: Place) -> Result<Option<(u64, u64)>, SpoolError> {
        let lane = match place.lane {
            Lane::Others => &mut self.others,
            Lane::Tasks => &mut self.tasks,
        };
        let Some(row) = lane.remove(place.key)? else { return Ok(None) };
        let (_, tasks, others, compressed) = row.value();
        let (tasks, others, bytes) = (u64::from(tasks), u64::from(others), cost(compressed.len()));
        drop(row);
        let depth = self.depth(place.key.0);
        depth.arrays = depth.arrays.saturating_sub(1);
        depth.tasks = depth.tasks.saturating_sub(tasks);
        depth.others = depth.others.saturating_sub(others);
        depth.bytes = depth.bytes.saturating_sub(bytes);
        Ok(Some((tasks, others)))
    }

    fn dropped(&mut self, place: Place, tasks: u64, others: u64) {
        let depth = self.depth(place.key.0);
        depth.dropped_tasks += tasks;
        depth.dropped_others += others;
    }

    /// The oldest go first, those about tasks last of all, and each is counted.
    fn make_room(&mut self, limit: u64, under_way: &HashSet<Place>) -> Result<(), SpoolError> {
        while self.totals.values().map(|depth| depth.bytes).sum::<u64>() > limit {
            let Some(place) = self.oldest_but(under_way)? else { return Ok(()) };
            let Some((tasks, others)) = self.remove(place)? else { return Ok(()) };
            self.dropped(place, tasks, others);
        }
        Ok(())
    }

    fn oldest_but(&self, under_way: &HashSet<Place>) -> Result<Option<Place>, SpoolError> {
        for (lane, rows) in [(Lane::Others, &self.others), (Lane::Tasks, &self.tasks)] {
            let mut first: Option<RowKey> = None;
            for connection in self.totals.keys() {
                for row in rows.range(all_of(*connection))? {
                    let key = row?.0.value();
                    if !under_way.contains(&Place { lane, key }) {
                        first = first.filter(|first| first.1 < key.1).or(Some(key));
                        break;
                    }
                }
            }
            if let Some(key) = first {
                return Ok(Some(Place { lane, key }));
            }
        }
        Ok(None)
    }

    fn depth(&mut self, connection: u128) -> &mut SpoolDepth {
        self.touched.insert(connection);
        self.totals.entry(connection).or_default()
    }

    fn finish(mut self) -> Result<BTreeMap<u128, SpoolDepth>, SpoolError> {
        for connection in std::mem::take(&mut self.touched) {
            let first = earlier(oldest(&self.tasks, connection)?, oldest(&self.others, connection)?);
            let depth = self.totals.entry(connection).or_default();
            depth.oldest = first;
            self.sums.insert(connection, depth.sums())?;
        }
        Ok(self.totals)
    }
}

fn all_of(connection: u128) -> std::ops::RangeInclusive<RowKey> {
    (connection, 0)..=(connection, u64::MAX)
}

/// When the first row of a connection was written.
fn oldest<V>(rows: &impl ReadableTable<RowKey, V>, connection: u128) -> Result<Option<Timestamp>, SpoolError>
where
    V: for<'a> Value<SelfType<'a> = (i64, u32, u32, &'a [u8])> + 'static,
    RowKey: Key,
{
    Ok(rows.range(all_of(connection))?.next().transpose()?.map(|(_, row)| Timestamp(row.value().0)))
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    one.into_iter().chain(other).min()
}

/// The array of a row; `None` where that is damaged.
fn unpacked(compressed: &[u8]) -> Option<Vec<u8>> {
    let (size, packed) = claimed(compressed)?;
    let payload = lz4_flex::decompress(packed, size).ok()?;
    (payload.len() == size).then_some(payload)
}

/// How large it says to be, and what it is unpacked from. What says so may be damaged, too, and then must not make us
/// allocate it.
fn claimed(compressed: &[u8]) -> Option<(usize, &[u8])> {
    let (size, packed) = lz4_flex::block::uncompressed_size(compressed).ok()?;
    (size <= packed.len().saturating_mul(LARGEST_RATIO)).then_some((size, packed))
}

/// What a row takes of the file.
fn cost(bytes: usize) -> u64 {
    let bytes = bytes as u64 + OVERHEAD;
    if bytes > PAGE { bytes.next_power_of_two() } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_in_a_row_it_is_unpacked_within_bounds_or_refused(
            text in "[a-z{}:,]{0,40}", times in 0_usize..200,
            harms in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            noise in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let whole = text.repeat(times).into_bytes();
            let mut packed = lz4_flex::compress_prepend_size(&whole);
            prop_assert_eq!(unpacked(&packed), Some(whole));
            for (place, change) in harms {
                let place = place.index(packed.len());
                packed[place] ^= change;
            }
            for bytes in [packed.clone(), [&packed, &noise[..]].concat(), noise] {
                let bound = bytes.len() * LARGEST_RATIO;
                prop_assert!(claimed(&bytes).is_none_or(|(size, _)| size <= bound));
                let _ = unpacked(&bytes);
            }
        }
    }
}
