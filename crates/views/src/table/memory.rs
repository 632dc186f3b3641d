//! How much of the table is in memory, and what goes to disk when it is too much: what was created longest ago.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use proto_events::Timestamp;
use uuid::Uuid;

use super::cold::{Cold, Disk};
use super::part::Part;
use super::segment::{SEGMENT, Segment};
use super::{Table, hour};
use crate::error::ViewError;

/// What is allowed, and the disk for the rest.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Option<Limit>);

#[derive(Clone, Debug)]
struct Limit {
    bytes: usize,
    disk: Arc<Disk>,
}

/// Segments that have been written, to take the place of those in memory.
pub(crate) struct Cooled(Vec<(usize, Arc<Segment>, Cold)>);

/// Segments on disk that are about to change.
pub(crate) struct Wanted(Vec<(usize, Arc<Cold>)>);

/// The same, read, to take the place of those on disk.
pub(crate) struct Warmed(Vec<(usize, Segment)>);

impl Cooled {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Wanted {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn read(self) -> Result<Warmed, ViewError> {
        self.0.into_iter().map(|(number, cold)| Ok((number, cold.read()?))).collect::<Result<_, _>>().map(Warmed)
    }
}

impl Memory {
    /// The limits of two tables that have become one.
    pub(super) fn absorb(&mut self, other: &Self) {
        if let (Some(ours), Some(theirs)) = (&mut self.0, &other.0) {
            ours.bytes += theirs.bytes;
        }
    }
}

impl Table {
    /// A table that takes about so many bytes of memory at most, and keeps the rest in this directory, of which whatever is
    /// there goes. It cannot be less than the index, which has some twenty bytes for each job.
    pub(crate) fn within(bytes: u64, directory: PathBuf) -> Result<Self, ViewError> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let limit = Limit { bytes, disk: Arc::new(Disk::new(directory)?) };
        Ok(Self { memory: Memory(Some(limit)), ..Self::default() })
    }

    /// So many empty tables with a share of the memory each, one to absorb the others.
    pub(crate) fn shares(&self, count: usize) -> Vec<Self> {
        let limit = |limit: &Limit| Limit { bytes: limit.bytes / count.max(1), disk: Arc::clone(&limit.disk) };
        let memory = Memory(self.memory.0.as_ref().map(limit));
        (0..count).map(|_| Self { memory: memory.clone(), ..Self::default() }).collect()
    }

    /// Bytes of memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        const WORKFLOW: usize = 120;
        let part = |part: &Part| match part {
            Part::Hot(segment) => segment.bytes(),
            Part::Cold(cold) => cold.summary().bytes(),
        };
        self.index.bytes() + self.workflows.len() * WORKFLOW + self.parts.iter().map(part).sum::<usize>()
    }

    /// The parts that have to go: those created longest ago, and some more, so that it is not done all the time. Those that
    /// are still being filled go last: the next job of their hour would bring them back.
    fn excess(&self) -> Vec<(usize, Arc<Segment>)> {
        let Some(Limit { bytes: allowed, .. }) = self.memory.0 else { return Vec::new() };
        let taken = self.bytes();
        if taken <= allowed {
            return Vec::new();
        }
        let latest = |segment: &Segment| segment.spans.created.map(|(_, latest)| latest);
        let filled: HashSet<usize> = self.hours.values().copied().collect();
        let hot = |(number, part): (usize, &Part)| match part {
            Part::Hot(segment) if segment.len() > 0 => Some((number, Arc::clone(segment))),
            _ => None,
        };
        let mut hot: Vec<_> = self.parts.iter().enumerate().filter_map(hot).collect();
        hot.sort_by_key(|(number, segment)| (filled.contains(number), latest(segment)));
        let mut too_much = taken - allowed / 16 * 15;
        hot.retain(|(_, segment)| {
            let goes = too_much > 0;
            too_much = too_much.saturating_sub(segment.bytes());
            goes
        });
        hot
    }

    /// Writes what has to go, for [`settle`](Self::settle). Only the writer calls it, so that nothing changes meanwhile.
    pub(crate) fn cooled(&self) -> Cooled {
        Cooled(self.write(self.excess()))
    }

    fn write(&self, segments: Vec<(usize, Arc<Segment>)>) -> Vec<(usize, Arc<Segment>, Cold)> {
        let Some(Limit { disk, .. }) = &self.memory.0 else { return Vec::new() };
        let mut written = Vec::new();
        for (number, segment) in segments {
            match disk.write(&segment) {
                Ok(Some(cold)) => written.push((number, segment, cold)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "old jobs stay in memory beyond what is allowed");
                    break;
                }
            }
        }
        written
    }

    /// Lets go of what was written. What it was is freed by whoever drops the answer.
    pub(crate) fn settle(&mut self, cooled: Cooled) -> impl Drop + use<> {
        let mut gone = Vec::new();
        for (number, segment, cold) in cooled.0 {
            for (place, rare) in segment.all_rare() {
                if let Some(root) = rare.root {
                    self.take_out_of_workflow(root, (segment.first(place), segment.ids[place]));
                }
            }
            self.parts[number] = Part::Cold(Arc::new(cold));
            gone.push(segment);
        }
        gone
    }

    /// Lets go of what is too much at once: of a table that nobody reads yet.
    pub(super) fn cool(&mut self) {
        let cooled = self.cooled();
        drop(self.settle(cooled));
    }

    /// What is on disk and changes when these jobs are put in.
    pub(crate) fn wanted(&self, jobs: impl Iterator<Item = (Uuid, Timestamp)>) -> Wanted {
        let mut parts: Vec<usize> = Vec::new();
        for (id, created_at) in jobs {
            parts.extend(self.index.slots(id).map(|slot| slot / SEGMENT));
            parts.extend(self.near(hour(created_at)).map(|(_, part)| part));
        }
        parts.sort_unstable();
        parts.dedup();
        let cold = |number: usize| match &self.parts[number] {
            Part::Cold(cold) => Some((number, Arc::clone(cold))),
            Part::Hot(_) => None,
        };
        Wanted(parts.into_iter().filter_map(cold).collect())
    }

    /// Takes in what was read.
    pub(crate) fn warm(&mut self, warmed: Warmed) {
        for (number, segment) in warmed.0 {
            self.take_in(number, segment);
        }
    }

    pub(super) fn take_in(&mut self, number: usize, segment: Segment) {
        for (place, rare) in segment.all_rare() {
            if let Some(root) = rare.root {
                let job = (segment.first(place), segment.ids[place]);
                self.workflows.entry(root).or_default().insert(job);
            }
        }
        self.parts[number] = Part::Hot(Arc::new(segment));
    }
}
