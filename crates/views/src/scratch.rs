//! Facts sorted by job, through temporary files: what a pass over the whole log needs, in the memory of one file.
//!
//! A job's id begins with random bits, so the ids cut into equal ranges cut the jobs into equal parts, each of which
//! fits into memory; and parts taken in order give all jobs in order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use parking_lot::Mutex;
use projection::Fact;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec;
use crate::error::ViewError;

/// One fact and the job that it is of.
pub struct Told {
    /// The connection.
    pub connection: Uuid,
    /// The job's external id.
    pub external_id: String,
    /// What was said.
    pub fact: Fact,
}

/// Temporary files, one for each range of job ids. They have no name, so that they vanish with the process.
pub struct Scatter {
    parts: Vec<Mutex<File>>,
}

/// Bytes that a thread collects for one part before it writes them.
const BUFFER: usize = 32 * 1_024;
/// More parts would cost more file handles than they save memory.
const MOST_PARTS: u64 = 256;
/// The bytes of facts that one part should hold, about. Decoded they take several times as much, in every thread that
/// folds.
const PART_BYTES: u64 = 8 << 20;

impl Scatter {
    /// Makes the files in this directory, so many that one holds about 8 MB when all facts have so many bytes.
    pub fn new(directory: &Path, expected_bytes: u64) -> Result<Self, ViewError> {
        let parts = (expected_bytes / PART_BYTES + 1).next_power_of_two().min(MOST_PARTS);
        let parts = (0..parts).map(|_| tempfile::tempfile_in(directory).map(Mutex::new)).collect::<Result<_, _>>();
        Ok(Self { parts: parts.map_err(|cause| ViewError::of(&cause))? })
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// For one thread that puts facts in.
    pub fn sorter(&self) -> Sorter<'_> {
        Sorter { scatter: self, buffers: vec![Vec::new(); self.parts.len()] }
    }

    fn part_of(&self, job: Uuid) -> usize {
        let first = (job.as_u128() >> 120) as usize;
        first * self.parts.len() / 256
    }

    fn write(&self, part: usize, bytes: &mut Vec<u8>) -> Result<(), ViewError> {
        self.parts[part].lock().write_all(bytes).map_err(|cause| ViewError::of(&cause))?;
        bytes.clear();
        Ok(())
    }

    /// All jobs of a part, in ascending order of their ids, each with its facts. The part is emptied.
    pub fn gather(&self, part: usize) -> Result<Gathered, ViewError> {
        let mut file = self.parts[part].lock();
        let mut bytes = Vec::new();
        file.rewind()
            .and_then(|()| file.read_to_end(&mut bytes))
            .and_then(|_| file.set_len(0))
            .and_then(|()| file.rewind())
            .map_err(|cause| ViewError::of(&cause))?;
        drop(file);
        let mut rest = bytes.as_slice();
        let mut facts: Vec<(Uuid, Uuid, String, Fact)> = Vec::new();
        let mut trims: HashMap<Uuid, u64> = HashMap::new();
        while !rest.is_empty() {
            match codec::take_scratch(&mut rest)? {
                Entry::Fact(job, connection, external_id, fact) => facts.push((job, connection, external_id, fact)),
                Entry::Trim(job, sequence) => {
                    let latest = trims.entry(job).or_default();
                    *latest = sequence.max(*latest);
                }
            }
        }
        drop(bytes);
        facts.sort_unstable_by_key(|(job, _, _, fact)| (*job, fact.position()));
        Ok(Gathered { facts: facts.into_iter().peekable(), trims })
    }
}

/// What stands in the files.
#[derive(Serialize, Deserialize)]
enum Entry<Id, Said> {
    /// The job, its connection and external id, and what was said of it.
    Fact(Uuid, Uuid, Id, Said),
    /// The job, and the message that tells that it lost a part.
    Trim(Uuid, u64),
}

/// Puts facts into the parts.
pub struct Sorter<'a> {
    scatter: &'a Scatter,
    buffers: Vec<Vec<u8>>,
}

impl Sorter<'_> {
    /// Puts one fact where its job belongs.
    pub fn put(&mut self, told: &Told) -> Result<(), ViewError> {
        let job = proto_events::job_id(told.connection, &told.external_id);
        let part = self.scatter.part_of(job);
        let entry: Entry<&str, &Fact> = Entry::Fact(job, told.connection, &told.external_id, &told.fact);
        codec::append_scratch(&mut self.buffers[part], &entry);
        self.write_full(part)
    }

    /// Puts down that a message of the log tells of a trim that took a part of what is known of the job.
    pub fn put_trim(&mut self, job: Uuid, sequence: u64) -> Result<(), ViewError> {
        let part = self.scatter.part_of(job);
        let entry: Entry<&str, &Fact> = Entry::Trim(job, sequence);
        codec::append_scratch(&mut self.buffers[part], &entry);
        self.write_full(part)
    }

    fn write_full(&mut self, part: usize) -> Result<(), ViewError> {
        if self.buffers[part].len() >= BUFFER {
            self.scatter.write(part, &mut self.buffers[part])?;
        }
        Ok(())
    }

    /// Writes what is still in memory.
    pub fn finish(mut self) -> Result<(), ViewError> {
        for (part, buffer) in self.buffers.iter_mut().enumerate() {
            self.scatter.write(part, buffer)?;
        }
        Ok(())
    }
}

/// All facts of one job, in the order of the log.
pub struct JobFacts {
    /// The connection.
    pub connection: Uuid,
    /// The job's external id.
    pub external_id: String,
    /// What was said.
    pub facts: Vec<Fact>,
    /// The last message that told of a trim which took a part of it, 0 where there is none.
    pub trim: u64,
}

/// The jobs of one part, in ascending order of their ids.
pub struct Gathered {
    facts: std::iter::Peekable<std::vec::IntoIter<(Uuid, Uuid, String, Fact)>>,
    trims: HashMap<Uuid, u64>,
}

impl Iterator for Gathered {
    type Item = JobFacts;

    fn next(&mut self) -> Option<JobFacts> {
        let (job, connection, external_id, fact) = self.facts.next()?;
        let mut facts = vec![fact];
        while let Some((_, _, _, fact)) = self.facts.next_if(|(other, ..)| *other == job) {
            facts.push(fact);
        }
        let trim = self.trims.get(&job).copied().unwrap_or(0);
        Some(JobFacts { connection, external_id, facts, trim })
    }
}
