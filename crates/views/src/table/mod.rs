//! The list of all jobs, in memory, as columns: what is needed to filter, sort and count, and nothing else.
//!
//! Nothing of it is stored: it is made from the heads of the rows when views are opened, and so it is what they are. A
//! question is answered from a [`Snapshot`], which holds up nobody.
//!
//! # Layout
//! - [`Table`]: by id, and kept up to date by the writer
//! - `segment`: some thousand jobs as columns
//! - [`codes`]: names, queues, workers and connections by number

mod codes;
mod plan;
mod segment;
mod select;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use hashbrown::HashTable;
use proto_events::{Framework, JobState, Position, Timestamp};
use uuid::Uuid;

use self::codes::{Codes, Id, Recoded, Texts};
use self::segment::{SEGMENT, Segment};
use crate::codec::Head;
use crate::query::Counts;

/// All jobs, in the order in which they were first put in.
#[derive(Default)]
pub(crate) struct Table {
    segments: Vec<Arc<Segment>>,
    /// Slots, found by the hash of the id.
    slots: HashTable<u32>,
    texts: Texts,
    /// How many jobs of each connection are in each state.
    counts: Vec<Counts>,
    /// The jobs of each workflow but the one that began it, in the order of their first events.
    workflows: HashMap<Uuid, BTreeSet<(Position, Uuid)>>,
    /// Of the next job that is new.
    next_number: u64,
}

/// The table as it was at a moment.
pub(crate) struct Snapshot {
    segments: Vec<Arc<Segment>>,
    texts: Texts,
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

/// The states of jobs that wait or run, a bit for each.
const UNFINISHED: u8 = 1 << JobState::Queued as u8 | 1 << JobState::Scheduled as u8 | 1 << JobState::Active as u8;

impl Table {
    /// Puts a job in, or what is now known of it. The row of one that is new gets a number that no row had before.
    pub(crate) fn put(&mut self, id: Uuid, head: &Head<'_>) {
        let slot = self.slot(id);
        let number = slot.map_or(self.next_number, |slot| self.number_at(slot));
        self.put_at(slot, id, number, head);
    }

    /// Puts in a job whose row has this number. `false` when the job is there already.
    pub(crate) fn put_numbered(&mut self, id: Uuid, number: u64, head: &Head<'_>) -> bool {
        let slot = self.slot(id);
        self.put_at(slot, id, number, head);
        slot.is_none()
    }

    /// Takes in the jobs of another table. The error is a job that is in both.
    pub(crate) fn absorb(&mut self, other: Self) -> Result<(), Uuid> {
        if self.segments.is_empty() {
            *self = other;
            return Ok(());
        }
        let recoded = Recoded::into(&mut self.texts, &other.texts);
        self.slots.reserve(other.slots.len(), hasher(&self.segments));
        for segment in other.segments {
            let mut segment = Arc::unwrap_or_clone(segment);
            segment.recode(&recoded);
            let twice = segment.ids.iter().find(|id| self.has(**id)).copied();
            if let Some(id) = twice {
                return Err(id);
            }
            let base = self.segments.len() * SEGMENT;
            self.segments.push(Arc::new(segment));
            let Self { slots, segments, .. } = self;
            for (place, id) in segments[base / SEGMENT].ids.iter().enumerate() {
                slots.insert_unique(hash(*id), (base + place) as u32, hasher(segments));
            }
        }
        for (connection, counts) in recoded.connections.iter().zip(&other.counts) {
            self.counts_of(*connection as usize).add_all(counts);
        }
        for (root, jobs) in other.workflows {
            self.workflows.entry(root).or_default().extend(jobs);
        }
        self.next_number = self.next_number.max(other.next_number);
        Ok(())
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
            None => self.new_slot(id),
        };
        if let Some(root) = root {
            self.workflows.entry(root).or_default().insert((head.first, id));
        }
        let segment = Arc::make_mut(&mut self.segments[slot / SEGMENT]);
        segment.put(slot % SEGMENT, id, number, head, &mut self.texts);
        let connection = segment.connections[slot % SEGMENT] as usize;
        self.counts_of(connection).add(head.state);
    }

    fn new_slot(&mut self, id: Uuid) -> usize {
        // Where tables were put together, one in the midst may not be full.
        if self.segments.last().is_none_or(|segment| segment.len() == SEGMENT) {
            let mut segment = Segment::default();
            segment.reserve();
            self.segments.push(Arc::new(segment));
        }
        let slot = (self.segments.len() - 1) * SEGMENT + self.segments.last().map_or(0, |segment| segment.len());
        let Self { slots, segments, .. } = self;
        slots.insert_unique(hash(id), slot as u32, hasher(segments));
        slot
    }

    /// A job is about to be something else.
    fn take_out_of_sums(&mut self, slot: usize, id: Uuid) {
        let (segment, place) = (&self.segments[slot / SEGMENT], slot % SEGMENT);
        self.counts[segment.connections[place] as usize].remove(segment.state(place));
        let Some(root) = segment.rare(place).and_then(|rare| rare.root) else { return };
        let job = (segment.first(place), id);
        if let Some(jobs) = self.workflows.get_mut(&root) {
            jobs.remove(&job);
            if jobs.is_empty() {
                self.workflows.remove(&root);
            }
        }
    }

    fn slot(&self, id: Uuid) -> Option<usize> {
        let is_of = |slot: &u32| self.segments[*slot as usize / SEGMENT].ids[*slot as usize % SEGMENT] == id;
        self.slots.find(hash(id), is_of).map(|slot| *slot as usize)
    }

    fn number_at(&self, slot: usize) -> u64 {
        self.segments[slot / SEGMENT].numbers[slot % SEGMENT]
    }

    /// The number of a job's row.
    pub(crate) fn number(&self, id: Uuid) -> Option<u64> {
        self.slot(id).map(|slot| self.number_at(slot))
    }

    /// What is known of a job.
    pub(crate) fn get(&self, id: Uuid) -> Option<Head<'_>> {
        let slot = self.slot(id)?;
        Some(self.segments[slot / SEGMENT].head(slot % SEGMENT, &self.texts))
    }

    /// How many jobs there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is this job.
    pub(crate) fn has(&self, id: Uuid) -> bool {
        self.slot(id).is_some()
    }

    fn places(&self) -> impl Iterator<Item = (&Segment, usize)> + Clone {
        places(&self.segments)
    }

    /// What is known of every job.
    pub(crate) fn heads(&self) -> impl Iterator<Item = Head<'_>> + Clone {
        self.places().map(|(segment, place)| segment.head(place, &self.texts))
    }

    /// All jobs and their first positions, in no order.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = (Uuid, Position)> + '_ {
        self.places().map(|(segment, place)| (segment.ids[place], segment.first(place)))
    }

    /// The jobs that have events both before this message and from there on.
    pub(crate) fn straddling(&self, sequence: u64) -> Vec<Uuid> {
        let straddles = |(segment, place): &(&Segment, usize)| {
            segment.first(*place).sequence < sequence && sequence <= segment.last(*place)
        };
        self.places().filter(straddles).map(|(segment, place)| segment.ids[place]).collect()
    }

    /// The same table without the jobs that have no event from this message on, and the numbers of their rows.
    pub(crate) fn without(&self, sequence: u64) -> (Self, Vec<u64>) {
        let (mut rest, mut gone) = (Self { next_number: self.next_number, ..Self::default() }, Vec::new());
        for (segment, place) in self.places() {
            let number = segment.numbers[place];
            if segment.last(place) >= sequence {
                rest.put_numbered(segment.ids[place], number, &segment.head(place, &self.texts));
            } else {
                gone.push(number);
            }
        }
        (rest, gone)
    }

    /// The jobs of a task name with the highest first positions, up to so many.
    pub(crate) fn latest(&self, connection: Uuid, name: &str, count: usize) -> Vec<(Position, Uuid)> {
        let connection = self.texts.connections.find(&Id(connection));
        let (Some(connection), Some(name)) = (connection, self.texts.names.find(name)) else { return Vec::new() };
        let is_of = |(segment, place): &(&Segment, usize)| {
            segment.names[*place] == name && segment.connections[*place] == connection
        };
        let of_name = self.places().filter(is_of).map(|(segment, place)| (segment.first(place), segment.ids[place]));
        select::highest(of_name, count)
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

    /// The jobs of the workflow that this job began, but itself: the first of them in the log, and how many there are.
    pub(crate) fn workflow(&self, root: Uuid, most: usize) -> (Vec<Uuid>, usize) {
        let Some(jobs) = self.workflows.get(&root) else { return (Vec::new(), 0) };
        (jobs.iter().take(most).map(|(_, id)| *id).collect(), jobs.len())
    }

    /// The table as it is now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { segments: self.segments.clone(), texts: self.texts.clone() }
    }

    /// The slots of those of these jobs that are there.
    pub(crate) fn slots(&self, ids: impl Iterator<Item = Uuid>) -> Vec<u32> {
        ids.filter_map(|id| self.slot(id)).map(|slot| slot as u32).collect()
    }

    /// The connections that there are jobs of.
    pub(crate) fn connections(&self) -> impl Iterator<Item = Uuid> {
        self.texts.connections.values().iter().map(|connection| connection.0)
    }
}

fn places(segments: &[Arc<Segment>]) -> impl Iterator<Item = (&Segment, usize)> + Clone {
    segments.iter().flat_map(|segment| (0..segment.len()).map(move |place| (&**segment, place)))
}

impl Snapshot {
    /// What was known of every job.
    pub(crate) fn heads(&self) -> impl Iterator<Item = Head<'_>> + Clone {
        places(&self.segments).map(|(segment, place)| segment.head(place, &self.texts))
    }

    /// Of each kind of failure of a connection so many jobs that show it: those that were created last, the latest first.
    pub(crate) fn failing(&self, kinds: &[(Uuid, String, usize)]) -> Vec<Vec<Uuid>> {
        let texts = &self.texts;
        let coded = |(connection, kind, _): &(Uuid, String, usize)| {
            Some((texts.connections.find(&Id(*connection))?, texts.failures.find(kind.as_str())?))
        };
        let wanted: HashMap<(u32, u32), usize> = kinds
            .iter()
            .enumerate()
            .filter(|(_, (_, _, most))| *most > 0)
            .filter_map(|(place, kind)| coded(kind).map(|codes| (codes, place)))
            .collect();
        let mut found: Vec<BTreeSet<(i64, Uuid)>> = vec![BTreeSet::new(); kinds.len()];
        let latest = |segment: &Segment| segment.created_between.map_or(i64::MIN, |(_, latest)| latest);
        let mut segments: Vec<&Segment> = self.segments.iter().map(|segment| &**segment).collect();
        segments.sort_by_key(|segment| std::cmp::Reverse(latest(segment)));
        for segment in segments {
            // What is left was created before all that there is room for.
            let is_done = |group: usize| {
                let jobs = &found[group];
                jobs.len() == kinds[group].2 && jobs.first().is_some_and(|(created, _)| *created > latest(segment))
            };
            if wanted.values().all(|group| is_done(*group)) {
                break;
            }
            for (place, kind) in segment.failures() {
                let Some(group) = wanted.get(&(segment.connections[place], kind)) else { continue };
                let (jobs, most) = (&mut found[*group], kinds[*group].2);
                let job = (segment.created_ms(place), segment.ids[place]);
                if jobs.len() == most {
                    if jobs.first().is_none_or(|first| *first > job) {
                        continue;
                    }
                    jobs.pop_first();
                }
                jobs.insert(job);
            }
        }
        found.into_iter().map(|jobs| jobs.into_iter().rev().map(|(_, id)| id).collect()).collect()
    }

    /// What waits and what runs, in every connection or in these.
    pub(crate) fn load(&self, connections: Option<&[Uuid]>) -> Load {
        let Texts { queues, workers, connections: ids, .. } = &self.texts;
        let wanted = ids.map(|id| connections.is_none_or(|wanted| wanted.contains(&id.0)));
        let (mut waiting, mut active) = (HashMap::<_, Waiting>::new(), HashMap::<_, u64>::new());
        for segment in self.segments.iter().filter(|segment| segment.unfinished > 0) {
            for place in (0..segment.len()).filter(|place| segment::of_state(segment.kinds()[*place], UNFINISHED)) {
                let connection = segment.connections[place];
                if !wanted[connection as usize] {
                    continue;
                }
                if segment.state(place) == JobState::Active {
                    *active.entry((connection, segment.workers[place])).or_default() += 1;
                } else {
                    waiting.entry((connection, segment.queues[place])).or_default().add(segment, place);
                }
            }
        }
        let named = |codes: &Codes<Arc<str>>, (connection, code): (u32, u32)| {
            (code != u32::MAX).then(|| (ids.value(connection).0, Arc::clone(codes.value(code))))
        };
        Load {
            waiting: waiting.into_iter().filter_map(|(key, waiting)| Some((named(queues, key)?, waiting))).collect(),
            active: active.into_iter().filter_map(|(key, count)| Some((named(workers, key)?, count))).collect(),
            frameworks: self
                .texts
                .frameworks
                .iter()
                .filter_map(|(key, it)| Some((named(queues, *key)?, *it)))
                .collect(),
        }
    }
}

impl Waiting {
    fn add(&mut self, segment: &Segment, place: usize) {
        if segment.state(place) == JobState::Scheduled {
            self.scheduled += 1;
            return;
        }
        self.queued += 1;
        let created = Timestamp(segment.created_ms(place) * 1_000);
        self.oldest_queued_at = Some(self.oldest_queued_at.map_or(created, |oldest| oldest.min(created)));
    }
}

/// Job ids are hashes already, but for a few fixed bits, which are spread here.
fn hash(id: Uuid) -> u64 {
    let (high, low) = id.as_u64_pair();
    high ^ low.rotate_left(32)
}

fn hasher(segments: &[Arc<Segment>]) -> impl Fn(&u32) -> u64 + '_ {
    |slot| hash(segments[*slot as usize / SEGMENT].ids[*slot as usize % SEGMENT])
}
