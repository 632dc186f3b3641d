//! The list of all jobs, as columns: what is needed to filter, sort and count, and nothing else.
//!
//! It is made from the heads of the rows when views are opened, and so it is what they are. A question is answered from
//! a [`Snapshot`], which holds up nobody. Jobs that were created in the same hour stand together; where there are more
//! than memory is allowed for, those of the oldest hours are on disk, in files that no other process reads.
//!
//! # Layout
//! - [`Table`]: by id, and kept up to date by the writer; `index`: where each job stands
//! - `segment`: some thousand jobs as columns; `cold`: the same on disk; `part`: one or the other
//! - `memory`: which are where
//! - [`codes`]: names, queues, workers and connections by number
//! - `snapshot`, `plan`, `select`: what can be asked

mod codes;
mod cold;
mod index;
mod memory;
mod part;
mod plan;
mod segment;
mod select;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use proto_events::{Framework, Position, Timestamp};
use uuid::Uuid;

use self::codes::{Recoded, Texts};
use self::cold::Summary;
use self::index::Index;
use self::memory::Memory;
use self::part::Part;
use self::segment::{SEGMENT, Segment};
use crate::codec::Head;
use crate::error::ViewError;
use crate::query::Counts;

pub(crate) use self::snapshot::Snapshot;

/// Milliseconds of jobs that stand together.
const HOUR: i64 = 3_600_000;
/// So many hours are filled at a time; jobs of others go where those of the hour next to theirs are.
const HOURS: usize = if cfg!(test) { 4 } else { 512 };

/// So many texts may be there of which no job has any.
const FEW_TEXTS: usize = if cfg!(test) { 2 } else { 10_000 };

/// All jobs.
#[derive(Default)]
pub(crate) struct Table {
    parts: Vec<Part>,
    index: Index,
    texts: Texts,
    /// How many jobs of each connection are in each state.
    counts: Vec<Counts>,
    /// The jobs of each workflow but the one that began it, in the order of their first events: those in memory.
    workflows: HashMap<Uuid, BTreeSet<(Position, Uuid)>>,
    /// The parts that are not full, by hour.
    hours: BTreeMap<i64, usize>,
    /// Of the next job that is new.
    next_number: u64,
    memory: Memory,
}

/// What waits in a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Jobs that wait for a worker.
    pub queued: u64,
    /// Jobs that wait for their time.
    pub scheduled: u64,
    /// When the oldest of those that wait for a worker was created.
    pub oldest_queued_at: Option<Timestamp>,
}

/// What waits and what runs: of the jobs as they are, not of what workers and brokers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// What waits, by connection and queue.
    pub waiting: HashMap<(Uuid, Arc<str>), Waiting>,
    /// How many jobs run, by connection and worker.
    pub active: HashMap<(Uuid, Arc<str>), u64>,
    /// The framework of each queue.
    pub frameworks: HashMap<(Uuid, Arc<str>), Framework>,
}

impl Table {
    /// Puts a job in, or what is now known of it. The row of one that is new gets a number that no row had before.
    /// What is [wanted](Self::wanted) for it is in memory.
    pub(crate) fn put(&mut self, id: Uuid, head: &Head<'_>) {
        let slot = self.slot(id);
        let number = slot.map_or(self.next_number, |slot| self.parts[slot / SEGMENT].number(slot % SEGMENT));
        self.put_at(slot, id, number, head);
    }

    /// Puts in a job whose row has this number. `false` when the job is there already.
    pub(crate) fn put_numbered(&mut self, id: Uuid, number: u64, head: &Head<'_>) -> Result<bool, ViewError> {
        let wanted = self.wanted([(id, head.created_at)].into_iter());
        if !wanted.is_empty() {
            self.warm(wanted.read()?);
        }
        let (slot, parts) = (self.slot(id), self.parts.len());
        self.put_at(slot, id, number, head);
        // It takes about so many jobs to make a difference.
        if self.parts.len() > parts {
            self.cool();
        }
        Ok(slot.is_none())
    }

    /// Takes in the jobs of another table. Gives a job that is in both, if there is one.
    pub(crate) fn absorb(&mut self, other: Self) -> Result<Option<Uuid>, ViewError> {
        if self.parts.is_empty() {
            *self = other;
            return Ok(None);
        }
        for (ours, theirs) in self.index.shared(&other.index) {
            let id = |parts: &[Part], slot: usize| parts[slot / SEGMENT].open().map(|part| part.ids[slot % SEGMENT]);
            let id_of_ours = id(&self.parts, ours)?;
            if id_of_ours == id(&other.parts, theirs)? {
                return Ok(Some(id_of_ours));
            }
        }
        let recoded = Arc::new(Recoded::into(&mut self.texts, &other.texts));
        let base = self.parts.len();
        self.index.absorb(&other.index, base * SEGMENT);
        for mut part in other.parts {
            part.recode(&recoded);
            self.parts.push(part);
        }
        for (hour, part) in other.hours {
            self.hours.entry(hour).or_insert(base + part);
        }
        for (connection, counts) in recoded.connections.iter().zip(&other.counts) {
            self.counts_of(*connection as usize).add_all(counts);
        }
        for (root, jobs) in other.workflows {
            self.workflows.entry(root).or_default().extend(jobs);
        }
        self.next_number = self.next_number.max(other.next_number);
        self.memory.absorb(&other.memory);
        Ok(None)
    }

    fn counts_of(&mut self, connection: usize) -> &mut Counts {
        if connection >= self.counts.len() {
            self.counts.resize_with(connection + 1, Counts::default);
        }
        &mut self.counts[connection]
    }

    /// Gives new jobs numbers from this one on.
    pub(crate) fn number_from(&mut self, number: u64) {
        self.next_number = self.next_number.max(number);
    }

    fn put_at(&mut self, slot: Option<usize>, id: Uuid, number: u64, head: &Head<'_>) {
        self.next_number = self.next_number.max(number + 1);
        let root = head.rare.as_deref().and_then(|rare| rare.root);
        let slot = match slot {
            Some(slot) => {
                self.take_out_of_sums(slot, id);
                slot
            }
            None => self.new_slot(id, head.created_at),
        };
        if let Some(root) = root {
            self.workflows.entry(root).or_default().insert((head.first, id));
        }
        let Part::Hot(segment) = &mut self.parts[slot / SEGMENT] else { return };
        let segment = Arc::make_mut(segment);
        segment.put(slot % SEGMENT, id, number, head, &mut self.texts);
        let connection = segment.connections[slot % SEGMENT] as usize;
        self.counts_of(connection).add(head.state);
    }

    fn new_slot(&mut self, id: Uuid, created_at: Timestamp) -> usize {
        let part = self.part_of(hour(created_at));
        let slot = part * SEGMENT + self.parts[part].len();
        self.index.insert(id, slot);
        slot
    }

    /// A part in memory that has room for a job of this hour.
    fn part_of(&mut self, hour: i64) -> usize {
        if let Some((near, part)) = self.near(hour) {
            if self.parts[part].hot().is_some_and(|segment| segment.len() < SEGMENT) {
                return part;
            }
            self.hours.remove(&near);
        }
        self.parts.push(Part::Hot(Arc::default()));
        self.hours.insert(hour, self.parts.len() - 1);
        self.parts.len() - 1
    }

    /// The hour whose part a job of this hour goes to, and the part; `None` where it begins one.
    fn near(&self, hour: i64) -> Option<(i64, usize)> {
        let near = match self.hours.get_key_value(&hour) {
            None if self.hours.len() >= HOURS => {
                self.hours.range(..hour).next_back().or_else(|| self.hours.range(hour..).next())
            }
            same => same,
        };
        near.map(|(near, part)| (*near, *part))
    }

    /// A job is about to be something else.
    fn take_out_of_sums(&mut self, slot: usize, id: Uuid) {
        let place = slot % SEGMENT;
        let Some(segment) = self.parts[slot / SEGMENT].hot() else { return };
        self.counts[segment.connections[place] as usize].remove(segment.state(place));
        let Some(root) = segment.rare(place).and_then(|rare| rare.root) else { return };
        let job = (segment.first(place), id);
        self.take_out_of_workflow(root, job);
    }

    fn take_out_of_workflow(&mut self, root: Uuid, job: (Position, Uuid)) {
        if let Some(jobs) = self.workflows.get_mut(&root) {
            jobs.remove(&job);
            if jobs.is_empty() {
                self.workflows.remove(&root);
            }
        }
    }

    /// Where a job stands, if it is in memory.
    fn slot(&self, id: Uuid) -> Option<usize> {
        let is_of = |slot: &usize| {
            let segment = self.parts[slot / SEGMENT].hot();
            segment.is_some_and(|segment| segment.ids[slot % SEGMENT] == id)
        };
        self.index.slots(id).find(is_of)
    }

    /// The number of a job's row: one, or none, or very rarely some more, of which one is its.
    pub(crate) fn numbers(&self, id: Uuid) -> impl Iterator<Item = u64> + '_ {
        let slots = self.index.slots(id).filter(move |slot| {
            let segment = self.parts[slot / SEGMENT].hot();
            segment.is_none_or(|segment| segment.ids[slot % SEGMENT] == id)
        });
        slots.map(|slot| self.parts[slot / SEGMENT].number(slot % SEGMENT))
    }

    /// What is known of a job that is in memory.
    pub(crate) fn get(&self, id: Uuid) -> Option<Head<'_>> {
        let slot = self.slot(id)?;
        Some(self.parts[slot / SEGMENT].hot()?.head(slot % SEGMENT, &self.texts))
    }

    /// How many jobs there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is this job, to the best of what is in memory: it is as good as never wrong.
    pub(crate) fn has(&self, id: Uuid) -> bool {
        self.numbers(id).next().is_some()
    }

    /// How many jobs are in each state.
    pub(crate) fn counts(&self, connections: Option<&[Uuid]>) -> Counts {
        let mut all = Counts::default();
        for (connection, counts) in self.texts.connections.values().iter().zip(&self.counts) {
            if connections.is_none_or(|wanted| wanted.contains(&connection.0)) {
                all.add_all(counts);
            }
        }
        all
    }

    /// The jobs of the workflow that this job began, but itself, as far as they are in memory.
    pub(crate) fn workflow(&self, root: Uuid) -> Vec<(Position, Uuid)> {
        self.workflows.get(&root).map(|jobs| jobs.iter().copied().collect()).unwrap_or_default()
    }

    /// The table as it is now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { parts: self.parts.clone(), texts: self.texts.clone() }
    }

    /// Slots at which these jobs may stand.
    pub(crate) fn slots(&self, ids: impl Iterator<Item = Uuid>) -> Vec<(u32, Uuid)> {
        ids.flat_map(|id| self.index.slots(id).map(move |slot| (slot as u32, id))).collect()
    }

    /// The task names that there are jobs of, or were until the last trim.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.texts.names.values().iter()
    }

    /// The connections that there are jobs of.
    pub(crate) fn connections(&self) -> impl Iterator<Item = Uuid> {
        self.texts.connections.values().iter().map(|connection| connection.0)
    }

    /// The same table without the jobs that have no event from this message on, and the numbers of their rows.
    pub(crate) fn without(&self, sequence: u64) -> Result<(Self, Vec<u64>), ViewError> {
        let mut rest = Self {
            parts: self.parts.clone(),
            index: self.index.clone(),
            texts: self.texts.clone(),
            counts: self.counts.clone(),
            workflows: self.workflows.clone(),
            hours: self.hours.clone(),
            next_number: self.next_number,
            memory: self.memory.clone(),
        };
        let mut gone = Vec::new();
        for number in 0..rest.parts.len() {
            // Those that are as old as that may be gone, all or some.
            let oldest = rest.parts[number].spans().last.map(|(lowest, _)| lowest.cast_unsigned());
            if oldest.is_some_and(|oldest| oldest < sequence) {
                rest.forget(number, sequence, &mut gone)?;
            }
        }
        rest.forget_texts();
        Ok((rest, gone))
    }

    /// Lets go of texts that no job has any more, once they are many and the most part.
    fn forget_texts(&mut self) {
        if self.texts.len() < FEW_TEXTS {
            return;
        }
        let mut used = self.texts.unused();
        for part in &self.parts {
            match part {
                Part::Hot(segment) => {
                    let Segment { names, queues, workers, .. } = &**segment;
                    used.mark(names.iter().copied(), queues.iter().copied(), workers.iter().copied());
                }
                Part::Cold(cold) => {
                    let Summary { names, queues, workers, .. } = cold.summary();
                    used.mark(names.codes(), queues.codes(), workers.codes());
                }
            }
        }
        if used.count() > self.texts.len() / 2 {
            return;
        }
        let (texts, recoded) = self.texts.only(&used);
        let recoded = Arc::new(recoded);
        self.parts.iter_mut().for_each(|part| part.recode(&recoded));
        self.texts = texts;
    }

    /// Takes the jobs out of a part that have no event from this message on.
    fn forget(&mut self, number: usize, sequence: u64, gone: &mut Vec<u64>) -> Result<(), ViewError> {
        let was_cold = self.parts[number].hot().is_none();
        let mut segment = match &self.parts[number] {
            Part::Hot(segment) => Segment::clone(segment),
            Part::Cold(cold) => cold.read()?,
        };
        let stays: Vec<bool> = (0..segment.len()).map(|place| segment.last(place) >= sequence).collect();
        for place in (0..segment.len()).filter(|place| !stays[*place]) {
            gone.push(segment.numbers[place]);
            self.counts[segment.connections[place] as usize].remove(segment.state(place));
            let root = segment.rare(place).and_then(|rare| rare.root).filter(|_| !was_cold);
            if let Some(root) = root {
                self.take_out_of_workflow(root, (segment.first(place), segment.ids[place]));
            }
        }
        let base = number * SEGMENT;
        segment.ids.iter().enumerate().for_each(|(place, id)| self.index.remove(*id, base + place));
        segment.retain(&stays);
        segment.ids.iter().enumerate().for_each(|(place, id)| self.index.insert(*id, base + place));
        if was_cold {
            self.take_in(number, segment);
        } else {
            self.parts[number] = Part::Hot(Arc::new(segment));
        }
        Ok(())
    }
}

fn hour(created_at: Timestamp) -> i64 {
    created_at.millis().div_euclid(HOUR)
}
