//! What is asked of all jobs at once, as they were at a moment.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use proto_events::{JobState, Position, Timestamp};
use uuid::Uuid;

use super::codes::{Codes, Id, Texts};
use super::cold::Unfinished;
use super::part::Part;
use super::segment::{NONE, SEGMENT};
use super::{Load, Waiting, select};
use crate::codec::Head;
use crate::error::ViewError;
use crate::query::hash;

/// The table as it was at a moment.
pub(crate) struct Snapshot {
    pub(super) parts: Vec<Part>,
    pub(super) texts: Texts,
}

impl Snapshot {
    /// Calls this with what was known of every job, in no order.
    pub(crate) fn heads(&self, visit: &mut dyn FnMut(&Head<'_>)) -> Result<(), ViewError> {
        for part in &self.parts {
            let segment = part.open()?;
            (0..segment.len()).for_each(|place| visit(&segment.head(place, &self.texts)));
        }
        Ok(())
    }

    /// All jobs and their first positions, in no order.
    pub(crate) fn jobs(&self) -> Result<Vec<(Uuid, Position)>, ViewError> {
        let mut jobs = Vec::new();
        for part in &self.parts {
            let segment = part.open()?;
            jobs.extend(segment.ids.iter().enumerate().map(|(place, id)| (*id, segment.first(place))));
        }
        Ok(jobs)
    }

    /// Of what is on disk, each job with the number of its row and what is remembered of it; until this says no.
    pub(crate) fn on_disk(
        &self,
        visit: &mut dyn FnMut(Uuid, u64, &Head<'_>) -> Result<bool, ViewError>,
    ) -> Result<(), ViewError> {
        for part in self.parts.iter().filter(|part| part.hot().is_none()) {
            let segment = part.open()?;
            for place in 0..segment.len() {
                if !visit(segment.ids[place], segment.numbers[place], &segment.head(place, &self.texts))? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The same of one job, at one of these slots, if it is on disk.
    pub(crate) fn on_disk_at(
        &self,
        slots: &[(u32, Uuid)],
        visit: &mut dyn FnMut(u64, &Head<'_>) -> Result<(), ViewError>,
    ) -> Result<(), ViewError> {
        for (slot, id) in slots {
            let (number, place) = (*slot as usize / SEGMENT, *slot as usize % SEGMENT);
            let Some(part) = self.parts.get(number).filter(|part| part.hot().is_none()) else { continue };
            let segment = part.open()?;
            if segment.ids[place] == *id {
                visit(segment.numbers[place], &segment.head(place, &self.texts))?;
            }
        }
        Ok(())
    }

    /// The jobs that have events both before this message and from there on.
    pub(crate) fn straddling(&self, sequence: u64) -> Result<Vec<Uuid>, ViewError> {
        let mut jobs = Vec::new();
        let limit = sequence.cast_signed();
        for part in &self.parts {
            let (Some((first, _)), Some((_, last))) = (part.spans().first, part.spans().last) else { continue };
            if first >= limit || last < limit {
                continue;
            }
            let segment = part.open()?;
            let straddles =
                |place: &usize| segment.first(*place).sequence < sequence && sequence <= segment.last(*place);
            jobs.extend((0..segment.len()).filter(straddles).map(|place| segment.ids[place]));
        }
        Ok(jobs)
    }

    /// Whether some job has an event before this message.
    pub(crate) fn holds_before(&self, sequence: u64) -> Result<bool, ViewError> {
        for part in &self.parts {
            if part.spans().first.is_some_and(|(first, _)| first < sequence.cast_signed()) {
                let segment = part.open()?;
                if (0..segment.len()).any(|place| segment.first(place).sequence < sequence) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The jobs of a task name with the highest first positions, up to so many.
    pub(crate) fn latest(
        &self,
        connection: Uuid,
        name: &str,
        count: usize,
    ) -> Result<Vec<(Position, Uuid)>, ViewError> {
        let connection = self.texts.connections.find(&Id(connection));
        let (Some(connection), Some(name)) = (connection, self.texts.names.find(name)) else { return Ok(Vec::new()) };
        let mut parts: Vec<&Part> = self.parts.iter().collect();
        let highest = |part: &Part| part.spans().first.map(|(_, highest)| highest.cast_unsigned());
        parts.sort_by_key(|part| std::cmp::Reverse(highest(part)));
        let mut found = Vec::new();
        for part in parts {
            let lowest = found.get(count.wrapping_sub(1)).map(|(first, _): &(Position, Uuid)| first.sequence);
            if lowest.is_some_and(|lowest| highest(part).is_none_or(|highest| highest < lowest)) {
                break;
            }
            let has_name = |part: &Part| match part {
                Part::Cold(cold) => cold.summary().names.codes().any(|code| code == name),
                Part::Hot(_) => true,
            };
            if !has_name(part) {
                continue;
            }
            let segment = part.open()?;
            let is_of = |place: &usize| segment.names[*place] == name && segment.connections[*place] == connection;
            let of_name = (0..segment.len()).filter(is_of).map(|place| (segment.first(place), segment.ids[place]));
            found = select::highest(found.into_iter().chain(of_name), count);
        }
        Ok(found)
    }

    /// The jobs on disk of the workflow that this job began.
    pub(crate) fn workflow(&self, root: Uuid) -> Result<Vec<(Position, Uuid)>, ViewError> {
        let mut jobs = Vec::new();
        for part in &self.parts {
            if let Part::Cold(cold) = part
                && cold.summary().may_have_root(root)
            {
                let segment = cold.read()?;
                let of_root = segment.all_rare().filter(|(_, rare)| rare.root == Some(root));
                jobs.extend(of_root.map(|(place, _)| (segment.first(place), segment.ids[place])));
            }
        }
        Ok(jobs)
    }

    /// Of each kind of failure of a connection so many jobs that show it: those that were created last, the latest first.
    pub(crate) fn failing(&self, kinds: &[(Uuid, String, usize)]) -> Result<Vec<Vec<Uuid>>, ViewError> {
        let wanted: HashMap<(u32, u64), usize> = kinds
            .iter()
            .enumerate()
            .filter(|(_, (_, _, most))| *most > 0)
            .filter_map(|(place, (id, kind, _))| Some(((self.texts.connections.find(&Id(*id))?, hash(kind)), place)))
            .collect();
        let mut found: Vec<BTreeSet<(i64, Uuid)>> = vec![BTreeSet::new(); kinds.len()];
        let latest = |part: &Part| part.spans().created.map_or(i64::MIN, |(_, latest)| latest);
        let mut parts: Vec<&Part> = self.parts.iter().collect();
        parts.sort_by_key(|part| std::cmp::Reverse(latest(part)));
        for part in parts {
            // What is left was created before all that there is room for.
            let is_done = |group: usize| {
                let jobs = &found[group];
                jobs.len() == kinds[group].2 && jobs.first().is_some_and(|(created, _)| *created > latest(part))
            };
            let mut left = wanted.iter().filter(|(_, group)| !is_done(**group)).peekable();
            if left.peek().is_none() {
                break;
            }
            if let Part::Cold(cold) = part
                && !left.any(|((_, kind), _)| cold.summary().has_failure(*kind))
            {
                continue;
            }
            let segment = part.open()?;
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
        Ok(found.into_iter().map(|jobs| jobs.into_iter().rev().map(|(_, id)| id).collect()).collect())
    }

    /// What waits and what runs, in every connection or in these.
    pub(crate) fn load(&self, connections: Option<&[Uuid]>) -> Load {
        let Texts { queues, workers, connections: ids, .. } = &self.texts;
        let wanted = ids.map(|id| connections.is_none_or(|wanted| wanted.contains(&id.0)));
        let (mut waiting, mut active) = (HashMap::<_, Waiting>::new(), HashMap::<_, u64>::new());
        self.unfinished(|job| {
            if !wanted[job.connection as usize] {
                return;
            }
            if job.state == JobState::Active {
                *active.entry((job.connection, job.worker)).or_default() += 1;
            } else {
                waiting.entry((job.connection, job.queue)).or_default().add(&job);
            }
        });
        let named = |codes: &Codes<Arc<str>>, (connection, code): (u32, u32)| {
            (code != NONE).then(|| (ids.value(connection).0, Arc::clone(codes.value(code))))
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

    /// Every job that waits or runs.
    fn unfinished(&self, mut visit: impl FnMut(Unfinished)) {
        for part in &self.parts {
            match part {
                Part::Hot(segment) => segment.unfinished().for_each(|place| visit(Unfinished::of(segment, place))),
                Part::Cold(cold) => cold.summary().unfinished.iter().copied().for_each(&mut visit),
            }
        }
    }
}

impl Waiting {
    fn add(&mut self, job: &Unfinished) {
        if job.state == JobState::Scheduled {
            self.scheduled += 1;
            return;
        }
        self.queued += 1;
        let created = Timestamp(job.created * 1_000);
        self.oldest_queued_at = Some(self.oldest_queued_at.map_or(created, |oldest| oldest.min(created)));
    }
}
