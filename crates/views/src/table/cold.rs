//! A segment on disk, and what is remembered of it: enough to pass over it in most questions.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto_events::{JobState, Timestamp};
use uuid::Uuid;

use super::codes::Recoded;
use super::segment::{KINDS, NONE, Segment, Spans};
use crate::codec;
use crate::error::ViewError;

/// Where segments go, one file for each. Nobody but this process reads them: what is there at a start is removed.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    next: std::sync::atomic::AtomicU64,
}

/// A segment on disk.
#[derive(Clone, Debug)]
pub(super) struct Cold {
    summary: Summary,
    /// For codes as they are on disk what they have become, one after the other.
    recoded: Vec<Arc<Recoded>>,
    page: Arc<Page>,
}

/// The file, which goes when nobody needs it any more.
#[derive(Debug)]
struct Page {
    path: PathBuf,
    hash: blake3::Hash,
}

/// What is remembered of a segment.
#[derive(Clone, Debug)]
pub(super) struct Summary {
    len: usize,
    pub(super) spans: Spans,
    numbers: Numbers,
    /// How many jobs are of each kind, but for what is rare.
    kinds: [u16; KINDS],
    /// How many are of each code.
    pub(super) names: Tally,
    pub(super) queues: Tally,
    pub(super) workers: Tally,
    pub(super) connections: Tally,
    /// The hashes of the workflows, in order.
    roots: Box<[u64]>,
    /// The hashes of kinds of failure, in order.
    failures: Box<[u64]>,
    pub(super) unfinished: Box<[Unfinished]>,
    /// How many show an error, and how many have labels.
    pub(super) errors: usize,
    pub(super) tags: usize,
}

/// The numbers of the rows, counted from the lowest where they are near each other.
#[derive(Clone, Debug)]
enum Numbers {
    Near(u64, Box<[u32]>),
    Far(Box<[u64]>),
}

/// Codes and how many jobs have each.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Box<[(u32, u16)]>);

/// A job that waits or runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unfinished {
    pub(super) connection: u32,
    pub(super) name: u32,
    pub(super) queue: u32,
    pub(super) worker: u32,
    pub(super) state: JobState,
    /// Milliseconds.
    pub(super) created: i64,
    pub(super) started: Option<i64>,
    /// Since when it waits, or from when on it will.
    pub(super) waits: i64,
}

impl Disk {
    /// In this directory, which need not be there, and whatever is there goes.
    pub(super) fn new(directory: PathBuf) -> Result<Self, ViewError> {
        match fs::remove_dir_all(&directory) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(ViewError::of(&cause)),
            _ => {}
        }
        fs::create_dir_all(&directory).map_err(|cause| ViewError::of(&cause))?;
        Ok(Self { directory, next: std::sync::atomic::AtomicU64::new(0) })
    }

    /// Writes a segment. `None` where it is too large to be read back.
    pub(super) fn write(&self, segment: &Segment) -> Result<Option<Cold>, ViewError> {
        let Some(bytes) = codec::encode_page(segment) else { return Ok(None) };
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = self.directory.join(number.to_string());
        let hash = blake3::hash(&bytes);
        if let Err(cause) = fs::write(&path, bytes) {
            remove(&path);
            return Err(ViewError::of(&cause));
        }
        let page = Arc::new(Page { path, hash });
        Ok(Some(Cold { summary: Summary::of(segment), recoded: Vec::new(), page }))
    }
}

impl Cold {
    pub(super) fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The segment as it was written: some tenths of a millisecond.
    pub(super) fn read(&self) -> Result<Segment, ViewError> {
        let Page { path, hash } = &*self.page;
        let damaged = |cause: &str| ViewError::Io(format!("a page of the list of jobs, {}: {cause}", path.display()));
        let bytes = fs::read(path).map_err(|cause| damaged(&cause.to_string()))?;
        if blake3::hash(&bytes) != *hash {
            return Err(damaged("it is not what was written"));
        }
        let mut segment: Segment = codec::decode_page(&bytes)?;
        self.recoded.iter().for_each(|recoded| segment.recode(recoded));
        Ok(segment)
    }

    /// Gives all codes those of another table.
    pub(super) fn recode(&mut self, recoded: &Arc<Recoded>) {
        let Summary { names, queues, workers, connections, unfinished, .. } = &mut self.summary;
        names.recode(&recoded.names);
        queues.recode(&recoded.queues);
        workers.recode(&recoded.workers);
        connections.recode(&recoded.connections);
        for job in unfinished {
            let recode = |code: &mut u32, to: &[u32]| *code = if *code == NONE { NONE } else { to[*code as usize] };
            recode(&mut job.connection, &recoded.connections);
            recode(&mut job.name, &recoded.names);
            recode(&mut job.queue, &recoded.queues);
            recode(&mut job.worker, &recoded.workers);
        }
        self.recoded.push(Arc::clone(recoded));
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(cause) = fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %cause, "a page of the list of jobs that is not needed cannot be removed");
    }
}

impl Summary {
    fn of(segment: &Segment) -> Self {
        let mut kinds = [0; KINDS];
        segment.kinds().iter().for_each(|kind| kinds[usize::from(*kind) % KINDS] += 1);
        let unfinished = segment.unfinished().map(|place| Unfinished::of(segment, place));
        Self {
            len: segment.len(),
            spans: segment.spans,
            numbers: Numbers::of(&segment.numbers),
            kinds,
            names: Tally::of(&segment.names),
            queues: Tally::of(&segment.queues),
            workers: Tally::of(&segment.workers),
            connections: Tally::of(&segment.connections),
            roots: sorted(segment.all_rare().filter_map(|(_, rare)| rare.root).map(root_hash)),
            failures: sorted(segment.failures().map(|(_, kind)| kind)),
            unfinished: unfinished.collect(),
            errors: segment.errors().count(),
            tags: segment.all_rare().filter(|(_, rare)| rare.tags.is_some()).count(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The number of the row of the job at this place.
    pub(super) fn number(&self, place: usize) -> u64 {
        match &self.numbers {
            Numbers::Near(from, numbers) => from + u64::from(numbers[place]),
            Numbers::Far(numbers) => numbers[place],
        }
    }

    /// How many jobs are of kinds for which this is so.
    pub(super) fn of_kinds(&self, is_so: impl Fn(u8) -> bool) -> usize {
        let kinds = self.kinds.iter().enumerate();
        kinds.filter(|(kind, count)| **count > 0 && is_so(*kind as u8)).map(|(_, count)| usize::from(*count)).sum()
    }

    /// Whether there may be a job of this workflow.
    pub(super) fn may_have_root(&self, root: Uuid) -> bool {
        self.roots.binary_search(&root_hash(root)).is_ok()
    }

    /// Whether there is a job with such a failure.
    pub(super) fn has_failure(&self, kind: u64) -> bool {
        self.failures.binary_search(&kind).is_ok()
    }

    /// Bytes of memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        const EACH: usize = 700;
        let numbers = match &self.numbers {
            Numbers::Near(_, numbers) => size_of_val(&**numbers),
            Numbers::Far(numbers) => size_of_val(&**numbers),
        };
        let tallies = [&self.names, &self.queues, &self.workers, &self.connections];
        let tallies: usize = tallies.iter().map(|tally| size_of_val(&*tally.0)).sum();
        let hashes = size_of_val(&*self.roots) + size_of_val(&*self.failures);
        EACH + numbers + tallies + hashes + size_of_val(&*self.unfinished)
    }
}

impl Unfinished {
    pub(super) fn of(segment: &Segment, place: usize) -> Self {
        let waits = segment.rare(place).and_then(|rare| rare.waits_since).map(Timestamp::millis);
        Self {
            connection: segment.connections[place],
            name: segment.names[place],
            queue: segment.queues[place],
            worker: segment.workers[place],
            state: segment.state(place),
            created: segment.created_ms(place),
            started: segment.started_ms(place),
            waits: waits.unwrap_or_else(|| segment.created_ms(place)),
        }
    }
}

impl Numbers {
    fn of(numbers: &[u64]) -> Self {
        let from = numbers.iter().copied().min().unwrap_or_default();
        let near = numbers.iter().map(|number| u32::try_from(number - from)).collect::<Result<_, _>>();
        near.map_or_else(|_| Self::Far(numbers.into()), |near| Self::Near(from, near))
    }
}

impl Tally {
    fn of(codes: &[u32]) -> Self {
        let mut counts: HashMap<u32, u16> = HashMap::new();
        for code in codes {
            *counts.entry(*code).or_default() += 1;
        }
        Self(counts.into_iter().collect())
    }

    /// How many jobs are of codes for which this is so.
    pub(super) fn count(&self, is_so: impl Fn(u32) -> bool) -> usize {
        self.0.iter().filter(|(code, _)| is_so(*code)).map(|(_, count)| usize::from(*count)).sum()
    }

    pub(super) fn codes(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().map(|(code, _)| *code)
    }

    fn recode(&mut self, to: &[u32]) {
        self.0.iter_mut().filter(|(code, _)| *code != NONE).for_each(|(code, _)| *code = to[*code as usize]);
    }
}

fn root_hash(root: Uuid) -> u64 {
    root.as_u64_pair().0
}

fn sorted(values: impl Iterator<Item = u64>) -> Box<[u64]> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.dedup();
    values.into()
}
