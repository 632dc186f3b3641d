//! A filter, made ready for the columns: texts are looked up once, and what is left are comparisons of numbers.

use std::collections::HashMap;
use std::sync::Arc;

use proto_events::{Framework, JobState, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use super::codes::{Codes, Id, Texts};
use super::cold::{Summary, Unfinished};
use super::segment::{NONE, SEGMENT, Segment, Spans, UNFINISHED, of_framework, of_state, places};
use crate::codec::Rare;
use crate::query::{Filter, Limit, Signs};

/// A code that no text has.
const NOBODY: u32 = u32::MAX - 1;
/// What stands in place of the code of a queue that is not known.
const NO_QUEUE: u32 = u32::MAX;

/// Jobs of one segment, a bit for each.
pub(super) struct Selection([u64; SEGMENT / 64]);

impl Selection {
    fn first(count: usize) -> Self {
        let bits = |word: usize| match count.saturating_sub(word * 64) {
            0 => 0,
            left @ 1..64 => (1 << left) - 1,
            _ => u64::MAX,
        };
        Self(std::array::from_fn(bits))
    }

    pub(super) fn nothing() -> Self {
        Self([0; SEGMENT / 64])
    }

    fn of_bits(bits: &[u64]) -> Self {
        Self(std::array::from_fn(|word| bits.get(word).copied().unwrap_or_default()))
    }

    pub(super) fn add(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    /// Leaves those for which the column has what is wanted.
    pub(super) fn keep<T: Copy>(&mut self, column: &[T], wanted: impl Fn(T) -> bool) {
        for (word, values) in self.0.iter_mut().zip(column.chunks(64)) {
            if *word != 0 {
                let bits = values.iter().rev().fold(0, |bits, value| bits << 1 | u64::from(wanted(*value)));
                *word &= bits;
            }
        }
    }

    /// The same of two columns.
    pub(super) fn keep_both<T: Copy>(&mut self, (one, other): (&[T], &[T]), wanted: impl Fn(T, T) -> bool) {
        for (word, (one, other)) in self.0.iter_mut().zip(one.chunks(64).zip(other.chunks(64))) {
            if *word != 0 {
                let both = one.iter().zip(other).rev();
                *word &= both.fold(0, |bits, (one, other)| bits << 1 | u64::from(wanted(*one, *other)));
            }
        }
    }

    /// The same where it takes more to tell.
    fn keep_places(&mut self, wanted: impl Fn(usize) -> bool) {
        for (index, word) in self.0.iter_mut().enumerate() {
            let mut left = *word;
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                if !wanted(index * 64 + bit as usize) {
                    *word &= !(1 << bit);
                }
            }
        }
    }

    /// Leaves those of which something is so, or the others, where it can be so only of jobs that wait or run.
    fn keep_unfinished(&mut self, segment: &Segment, wanted: bool, is_so: impl Fn(usize) -> bool) {
        let mut found = Self::nothing();
        segment.unfinished().filter(|place| is_so(*place)).for_each(|place| found.add(place));
        let turned = if wanted { 0 } else { u64::MAX };
        self.0.iter_mut().zip(found.0).for_each(|(word, found)| *word &= found ^ turned);
    }

    fn and(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    pub(super) fn places(&self) -> impl Iterator<Item = usize> + '_ {
        places(&self.0)
    }
}

/// A filter for the columns of one snapshot.
#[derive(Default)]
pub(super) struct Plan {
    connections: Option<Vec<bool>>,
    /// A bit for each.
    states: Option<u8>,
    names: Option<Vec<bool>>,
    queue: Option<u32>,
    worker: Option<u32>,
    taken: Option<bool>,
    framework: Option<Framework>,
    created_after: Option<Timestamp>,
    created_before: Option<Timestamp>,
    attempt: Option<u32>,
    error: Option<Needle>,
    tag: Option<Label>,
    lost: Option<(bool, Gone)>,
    stuck: Option<(bool, Patience)>,
    waiting: Option<(bool, Waits)>,
}

impl Plan {
    pub(super) fn of(filter: &Filter, signs: &Signs, texts: &Texts) -> Self {
        let connections = filter.connections.as_ref();
        let code = |codes: &Codes<Arc<str>>, text: &Option<String>| {
            text.as_deref().map(|text| codes.find(text).unwrap_or(NOBODY))
        };
        let states = filter.states.as_ref();
        Self {
            connections: connections.map(|wanted| texts.connections.map(|id| wanted.contains(&id.0))),
            states: states.map(|states| states.iter().fold(0, |mask, state| mask | 1 << *state as u8)),
            names: names(filter, texts),
            queue: code(&texts.queues, &filter.queue),
            worker: code(&texts.workers, &filter.worker),
            taken: filter.taken,
            framework: filter.framework,
            created_after: filter.created_after,
            created_before: filter.created_before,
            attempt: filter.attempt_at_least,
            error: filter.error_contains.as_deref().map(Needle::new),
            tag: filter.tag.as_ref().map(|(key, value)| Label::new(key, value.as_deref())),
            lost: filter.lost.map(|wanted| (wanted, Gone::of(signs, texts))),
            stuck: filter.stuck.map(|wanted| (wanted, Patience::of(signs, texts))),
            waiting: filter.waiting.map(|wanted| (wanted, Waits::of(signs, texts))),
        }
    }

    /// Whether no job of a segment of these spans can be wanted.
    pub(super) fn passes_over(&self, spans: &Spans) -> bool {
        let Some((earliest, latest)) = spans.created else { return true };
        self.created_after.is_some_and(|after| latest < after.millis())
            || self.created_before.is_some_and(|before| earliest > before.millis())
    }

    /// How many jobs of a segment on disk are wanted, where that can be told without reading it.
    pub(super) fn count(&self, summary: &Summary) -> Option<u64> {
        if let Some(count) = self.count_unfinished(summary) {
            return Some(count);
        }
        let all = summary.len();
        // Of each condition, how many jobs fulfil it.
        let mut counts: Vec<Option<usize>> = Vec::new();
        let mut condition = |count: Option<usize>| {
            // One that all fulfil is none.
            if count != Some(all) {
                counts.push(count);
            }
        };
        if self.states.is_some() || self.framework.is_some() {
            let is_wanted = |kind: u8| {
                self.states.is_none_or(|states| of_state(kind, states))
                    && self.framework.is_none_or(|framework| of_framework(kind, framework))
            };
            condition(Some(summary.of_kinds(is_wanted)));
        }
        if let Some(connections) = &self.connections {
            condition(Some(summary.connections.count(|code| connections[code as usize])));
        }
        if let Some(names) = &self.names {
            condition(Some(summary.names.count(|code| names[code as usize])));
        }
        if let Some(queue) = self.queue {
            condition(Some(summary.queues.count(|code| code == queue)));
        }
        if let Some(worker) = self.worker {
            condition(Some(summary.workers.count(|code| code == worker)));
        }
        if let Some(taken) = self.taken {
            condition(Some(summary.workers.count(|code| (code != NONE) == taken)));
        }
        condition(self.is_of_the_time(&summary.spans).then_some(all));
        if self.attempt.is_some_and(|attempt| attempt > 0) {
            condition(None);
        }
        if self.error.is_some() {
            condition((summary.errors == 0).then_some(0));
        }
        if self.tag.is_some() {
            condition((summary.tags == 0).then_some(0));
        }
        let mut sign = |wanted: bool, is_so: &dyn Fn(&Unfinished) -> bool| {
            let count = summary.unfinished.iter().filter(|job| is_so(job)).count();
            condition(Some(if wanted { count } else { all - count }));
        };
        if let Some((wanted, gone)) = &self.lost {
            sign(*wanted, &|job| {
                gone.has(job.connection, job.worker, running_since(job.state, job.started, job.created))
            });
        }
        if let Some((wanted, patience)) = &self.stuck {
            let is_over = |job: &Unfinished| {
                patience.is_over(job.connection, job.name, running_since(job.state, job.started, job.created))
            };
            sign(*wanted, &is_over);
        }
        if let Some((wanted, waits)) = &self.waiting {
            sign(*wanted, &|job| waits.is_over(job));
        }
        match counts.as_slice() {
            [] => Some(all as u64),
            counts if counts.contains(&Some(0)) => Some(0),
            [count] => count.map(|count| count as u64),
            _ => None,
        }
    }

    /// Whether every job of these spans was created when it is asked for.
    fn is_of_the_time(&self, spans: &Spans) -> bool {
        let Some((earliest, latest)) = spans.created else { return true };
        self.created_after.is_none_or(|after| earliest > after.millis())
            && self.created_before.is_none_or(|before| latest < before.millis())
    }

    /// The same where only jobs that wait or run can be wanted, of which more is known than how many there are.
    fn count_unfinished(&self, summary: &Summary) -> Option<u64> {
        let is_known = self.framework.is_none()
            && self.attempt.is_none_or(|attempt| attempt == 0)
            && self.error.is_none()
            && self.tag.is_none()
            && self.is_of_the_time(&summary.spans);
        if !self.wants_only_unfinished() || !is_known {
            return None;
        }
        Some(summary.unfinished.iter().filter(|job| self.wants(job)).count() as u64)
    }

    /// Whether only jobs that wait or run can be wanted.
    fn wants_only_unfinished(&self) -> bool {
        let signs = [
            self.lost.as_ref().map(|it| it.0),
            self.stuck.as_ref().map(|it| it.0),
            self.waiting.as_ref().map(|it| it.0),
        ];
        signs.contains(&Some(true)) || self.states.is_some_and(|states| states & !UNFINISHED == 0)
    }

    /// The jobs of a segment among which those are that are wanted; `None` where there are none.
    pub(super) fn candidates(&self, segment: &Segment) -> Option<Selection> {
        // They are few, and the others need not be looked at.
        if self.wants_only_unfinished() {
            let bits = segment.unfinished_bits();
            bits.iter().any(|word| *word != 0).then(|| Selection::of_bits(bits))
        } else {
            Some(Selection::first(segment.len()))
        }
    }

    /// Whether a job that waits or runs is wanted, by what is known of it on disk.
    fn wants(&self, job: &Unfinished) -> bool {
        let began = || running_since(job.state, job.started, job.created);
        self.states.is_none_or(|states| states >> job.state as u8 & 1 == 1)
            && self.connections.as_ref().is_none_or(|wanted| wanted[job.connection as usize])
            && self.names.as_ref().is_none_or(|wanted| wanted[job.name as usize])
            && self.queue.is_none_or(|queue| job.queue == queue)
            && self.worker.is_none_or(|worker| job.worker == worker)
            && self.taken.is_none_or(|taken| (job.worker != NONE) == taken)
            && self.lost.as_ref().is_none_or(|(wanted, gone)| gone.has(job.connection, job.worker, began()) == *wanted)
            && self
                .stuck
                .as_ref()
                .is_none_or(|(wanted, patience)| patience.is_over(job.connection, job.name, began()) == *wanted)
            && self.waiting.as_ref().is_none_or(|(wanted, waits)| waits.is_over(job) == *wanted)
    }

    /// Leaves the jobs that are wanted.
    pub(super) fn keep(&self, segment: &Segment, selection: &mut Selection) {
        // Few jobs have an error, and then hardly anything is left to look at.
        if let Some(error) = &self.error {
            let mut found = Selection::nothing();
            segment.errors().filter(|(_, text)| error.is_in_lower(text)).for_each(|(place, _)| found.add(place));
            selection.and(&found);
        }
        if let Some(states) = self.states {
            selection.keep(segment.kinds(), |kind| of_state(kind, states));
        }
        if let Some(framework) = self.framework {
            selection.keep(segment.kinds(), |kind| of_framework(kind, framework));
        }
        if let Some(connections) = &self.connections {
            selection.keep(&segment.connections, |code| connections[code as usize]);
        }
        if let Some(names) = &self.names {
            selection.keep(&segment.names, |code| names[code as usize]);
        }
        if let Some(queue) = self.queue {
            selection.keep(&segment.queues, |code| code == queue);
        }
        if let Some(worker) = self.worker {
            selection.keep(&segment.workers, |code| code == worker);
        }
        if let Some(taken) = self.taken {
            selection.keep(&segment.workers, |code| (code != NONE) == taken);
        }
        // Most segments are of the time as a whole, or not at all.
        if !self.is_of_the_time(&segment.spans) {
            let after = self.created_after.map_or(i64::MIN, Timestamp::micros);
            let before = self.created_before.map_or(i64::MAX, Timestamp::micros);
            selection.keep(segment.created(), |created| created >= after && created < before);
        }
        if let Some(attempt) = self.attempt {
            selection.keep_places(|place| segment.attempt(place) >= attempt);
        }
        if let Some(tag) = &self.tag {
            selection.and(&rare(segment, |rare| rare.tags.as_deref().is_some_and(|tags| tag.is_in(tags))));
        }
        if let Some((wanted, gone)) = &self.lost {
            let is_gone =
                |place| gone.has(segment.connections[place], segment.workers[place], runs_since(segment, place));
            selection.keep_unfinished(segment, *wanted, is_gone);
        }
        if let Some((wanted, patience)) = &self.stuck {
            let is_over =
                |place| patience.is_over(segment.connections[place], segment.names[place], runs_since(segment, place));
            selection.keep_unfinished(segment, *wanted, is_over);
        }
        if let Some((wanted, waits)) = &self.waiting {
            let is_over = |place| waits.is_over(&Unfinished::of(segment, place));
            selection.keep_unfinished(segment, *wanted, is_over);
        }
    }
}

/// The jobs of a segment with something rare that is so.
fn rare(segment: &Segment, is_so: impl Fn(&Rare) -> bool) -> Selection {
    let mut selection = Selection::nothing();
    segment.all_rare().filter(|(_, rare)| is_so(rare)).for_each(|(place, _)| selection.add(place));
    selection
}

fn names(filter: &Filter, texts: &Texts) -> Option<Vec<bool>> {
    let search = filter.search.as_deref().filter(|search| !search.is_empty()).map(Needle::new);
    if search.is_none() && filter.name.is_none() {
        return None;
    }
    let is_wanted = |name: &Arc<str>| {
        filter.name.as_deref().is_none_or(|wanted| wanted == &**name)
            && search.as_ref().is_none_or(|search| search.is_in(name))
    };
    Some(texts.names.map(is_wanted))
}

/// A text to be found, whatever the case of its letters.
struct Needle(String);

impl Needle {
    fn new(text: &str) -> Self {
        Self(text.to_lowercase())
    }

    fn is_in(&self, text: &str) -> bool {
        self.is_in_lower(&text.to_lowercase())
    }

    /// The same of a text whose letters are small.
    fn is_in_lower(&self, text: &str) -> bool {
        text.contains(&self.0)
    }
}

/// A label to be found.
struct Label {
    key: String,
    value: Option<String>,
    /// What stands in the JSON text of every object that has it.
    sign: String,
}

impl Label {
    fn new(key: &str, value: Option<&str>) -> Self {
        let sign = format!("{}:", Value::from(key));
        Self { key: key.to_owned(), value: value.map(str::to_owned), sign }
    }

    fn is_in(&self, tags: &str) -> bool {
        if !tags.contains(&self.sign) {
            return false;
        }
        let Ok(Value::Object(tags)) = serde_json::from_str::<Value>(tags) else { return false };
        match (tags.get(&self.key), &self.value) {
            (Some(Value::String(found)), Some(wanted)) => found == wanted,
            // What is no text is compared as it is written.
            (Some(found), Some(wanted)) => serde_json::to_string(found).is_ok_and(|found| found == *wanted),
            (found, None) => found.is_some(),
            (None, Some(_)) => false,
        }
    }
}

/// When a job that runs began, as far as is known.
fn running_since(state: JobState, started: Option<i64>, created: i64) -> Option<i64> {
    (state == JobState::Active).then(|| started.unwrap_or(created))
}

fn runs_since(segment: &Segment, place: usize) -> Option<i64> {
    running_since(segment.state(place), segment.started_ms(place), segment.created_ms(place))
}

/// Workers that are gone, by connection and worker, since when in milliseconds.
struct Gone(HashMap<(u32, u32), i64>);

impl Gone {
    fn of(signs: &Signs, texts: &Texts) -> Self {
        let coded = |((connection, worker), since): (&(Uuid, String), &Timestamp)| {
            let connection = texts.connections.find(&Id(*connection))?;
            Some(((connection, texts.workers.find(worker.as_str())?), since.millis()))
        };
        Self(signs.gone.iter().filter_map(coded).collect())
    }

    fn has(&self, connection: u32, worker: u32, began: Option<i64>) -> bool {
        let Some(began) = began else { return false };
        let since = self.0.get(&(connection, worker));
        since.is_some_and(|since| began < *since)
    }
}

/// Milliseconds after which a job that runs is stuck, by connection and task name.
struct Patience {
    now: i64,
    of_tasks: HashMap<(u32, u32), i64>,
    of_others: i64,
}

impl Patience {
    fn of(signs: &Signs, texts: &Texts) -> Self {
        let coded = |((connection, name), limit): (&(Uuid, String), &Limit)| {
            let connection = texts.connections.find(&Id(*connection))?;
            Some(((connection, texts.names.find(name.as_str())?), ms(limit.most)))
        };
        Self {
            now: signs.now.millis(),
            of_tasks: signs.patience.runs.iter().filter_map(coded).collect(),
            of_others: ms(signs.patience.default),
        }
    }

    fn is_over(&self, connection: u32, name: u32, began: Option<i64>) -> bool {
        let Some(began) = began else { return false };
        let of_task = self.of_tasks.get(&(connection, name));
        self.now.saturating_sub(began) > *of_task.unwrap_or(&self.of_others)
    }
}

/// Milliseconds after which a job waits for too long, by connection and queue.
struct Waits {
    now: i64,
    of_queues: HashMap<(u32, u32), i64>,
    of_others: i64,
}

impl Waits {
    fn of(signs: &Signs, texts: &Texts) -> Self {
        let coded = |((connection, queue), limit): (&(Uuid, String), &Limit)| {
            let connection = texts.connections.find(&Id(*connection))?;
            Some(((connection, texts.queues.find(queue.as_str())?), ms(limit.most)))
        };
        Self {
            now: signs.now.millis(),
            of_queues: signs.patience.waits.iter().filter_map(coded).collect(),
            of_others: ms(signs.patience.default),
        }
    }

    fn is_over(&self, job: &Unfinished) -> bool {
        // Where no queue is known, nobody knows when the job was put into one; an ETA is known all the same.
        let may_wait = job.state == JobState::Scheduled || job.state == JobState::Queued && job.queue != NO_QUEUE;
        let of_queue = self.of_queues.get(&(job.connection, job.queue));
        may_wait && self.now.saturating_sub(job.waits) > *of_queue.unwrap_or(&self.of_others)
    }
}

fn ms(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
