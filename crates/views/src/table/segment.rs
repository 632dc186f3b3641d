//! A few thousand jobs as columns: about 80 bytes each, and what only few jobs have beside them.

use std::collections::HashMap;
use std::sync::Arc;

use proto_events::{Framework, JobState, Position, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codes::{Id, Recoded, Texts, code};
use crate::codec::{Head, Rare};
use crate::query::hash;
use crate::stats::failure_shown;

/// Jobs in one segment. Whoever reads holds segments as they were, and one that is changed meanwhile is copied: so many
/// jobs are copied in some ten microseconds.
/// Tests have few jobs, and are to fill several.
pub(super) const SEGMENT: usize = if cfg!(test) { 64 } else { 4_096 };

/// No value.
pub(super) const NONE: u32 = u32::MAX;
/// A value that does not fit, to be found in [`Segment::wide`].
const WIDE: u32 = u32::MAX - 1;
/// The same, of four bits.
const MANY: u8 = 0b1111;

/// The bits of [`Segment::kinds`]: three for the state, two for the framework, one for what is rare.
const STATE: u8 = 0b111;
/// So many kinds there are, but for what is rare.
pub(super) const KINDS: usize = 1 << 5;
const FRAMEWORK_SHIFT: u32 = 3;
const RARE: u8 = 1 << 5;

/// The states of jobs that wait or run, a bit for each.
pub(super) const UNFINISHED: u8 =
    1 << JobState::Queued as u8 | 1 << JobState::Scheduled as u8 | 1 << JobState::Active as u8;

const FRAMEWORKS: [Framework; 3] = [Framework::Celery, Framework::Bullmq, Framework::Sidekiq];

/// Columns of numbers that are small as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Column {
    Started,
    Completed,
    Duration,
    Wait,
    Last,
    Attempt,
    Sent,
    Received,
}

/// The lowest and the highest of some numbers, and maybe some more.
pub(super) type Span = Option<(i64, i64)>;

/// What can be said of all jobs of a segment without a look at any.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Spans {
    /// Milliseconds.
    pub(super) created: Span,
    /// Milliseconds, of those that began.
    pub(super) started: Span,
    /// Milliseconds, of those that ran.
    pub(super) durations: Span,
    /// The messages of their first events.
    pub(super) first: Span,
    /// The messages of their last events.
    pub(super) last: Span,
}

/// Columns, each as long as there are jobs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) ids: Vec<Uuid>,
    /// Of the rows on disk.
    pub(super) numbers: Vec<u64>,
    /// Microseconds.
    created: Vec<i64>,
    /// Milliseconds since the creation.
    started: Vec<u32>,
    /// The same.
    completed: Vec<u32>,
    /// Milliseconds.
    wait: Vec<u32>,
    first_sequences: Vec<u64>,
    first_indices: Vec<u32>,
    /// The message of the last event, counted from that of the first.
    last: Vec<u32>,
    pub(super) names: Vec<u32>,
    pub(super) queues: Vec<u32>,
    pub(super) workers: Vec<u32>,
    pub(super) connections: Vec<u32>,
    attempts: Vec<u16>,
    /// How often a job was sent, in the upper half of the bits, and received, in the lower one.
    handed: Vec<u8>,
    kinds: Vec<u8>,
    /// Values that do not fit into their columns.
    wide: HashMap<(u16, Column), i64>,
    rare: HashMap<u16, Arc<Rare>>,
    /// The kinds of failure of jobs that failed, or that show an error, as hashes.
    failures: HashMap<u16, u64>,
    /// The errors that are shown, in lower case: what is searched.
    errors: HashMap<u16, Box<str>>,
    pub(super) spans: Spans,
    /// The jobs that wait or run, a bit for each.
    unfinished: Vec<u64>,
    /// Bytes of what is rare, roughly.
    rare_bytes: usize,
}

impl Segment {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Puts a job at a place that is taken, or at the next one.
    pub(super) fn put(&mut self, place: usize, id: Uuid, number: u64, head: &Head<'_>, texts: &mut Texts) {
        if place == self.len() {
            self.push(id);
        }
        self.numbers[place] = number;
        self.created[place] = head.created_at.micros();
        self.first_sequences[place] = head.first.sequence;
        self.first_indices[place] = head.first.index;
        self.names[place] = code(&mut texts.names, head.name);
        self.queues[place] = head.queue.map_or(NONE, |queue| code(&mut texts.queues, queue));
        self.workers[place] = head.worker.map_or(NONE, |worker| code(&mut texts.workers, worker));
        self.connections[place] = code(&mut texts.connections, &Id(head.connection));
        self.put_numbers(place, head);
        let framework = FRAMEWORKS.iter().position(|it| *it == head.framework).unwrap_or_default() as u8;
        let rare = if head.rare.is_some() { RARE } else { 0 };
        if head.queue.is_some() {
            let queue = (self.connections[place], self.queues[place]);
            if !texts.frameworks.contains_key(&queue) {
                Arc::make_mut(&mut texts.frameworks).insert(queue, head.framework);
            }
        }
        self.mark(place, of_state(head.state as u8, UNFINISHED));
        self.kinds[place] = head.state as u8 | framework << FRAMEWORK_SHIFT | rare;
        let before = match &head.rare {
            Some(rare) => self.rare.insert(place as u16, Arc::clone(rare)),
            None if self.rare.is_empty() => None,
            None => self.rare.remove(&(place as u16)),
        };
        self.rare_bytes -= before.as_deref().map_or(0, bytes);
        self.rare_bytes += head.rare.as_deref().map_or(0, bytes);
        match failure_shown(head) {
            Some(text) => drop(self.failures.insert(place as u16, hash(&text))),
            None if self.failures.is_empty() => {}
            None => drop(self.failures.remove(&(place as u16))),
        }
        match head.rare.as_deref().and_then(|rare| rare.error.as_deref()) {
            Some(error) => drop(self.errors.insert(place as u16, error.to_lowercase().into())),
            None if self.errors.is_empty() => {}
            None => drop(self.errors.remove(&(place as u16))),
        }
        widen(&mut self.spans.created, Some(head.created_at.millis()));
        widen(&mut self.spans.started, head.started_at.map(Timestamp::millis));
        widen(&mut self.spans.durations, head.duration_ms.map(u64::cast_signed));
        widen(&mut self.spans.first, Some(head.first.sequence.cast_signed()));
        widen(&mut self.spans.last, Some(head.last.cast_signed()));
    }

    /// Gives all codes those of another table.
    pub(super) fn recode(&mut self, recoded: &Recoded) {
        let recode = |codes: &mut [u32], to: &[u32]| {
            for code in codes.iter_mut().filter(|code| **code != NONE) {
                *code = to[*code as usize];
            }
        };
        recode(&mut self.names, &recoded.names);
        recode(&mut self.queues, &recoded.queues);
        recode(&mut self.workers, &recoded.workers);
        recode(&mut self.connections, &recoded.connections);
    }

    fn put_numbers(&mut self, place: usize, head: &Head<'_>) {
        let since = |time: Option<Timestamp>| time.map(|time| time.millis() - head.created_at.millis());
        self.started[place] = self.narrow(place, Column::Started, since(head.started_at));
        self.completed[place] = self.narrow(place, Column::Completed, since(head.completed_at));
        self.wait[place] = self.narrow(place, Column::Wait, head.wait_ms.map(u64::cast_signed));
        self.last[place] = self.narrow(place, Column::Last, Some((head.last - head.first.sequence).cast_signed()));
        // Kept only where it is not what the times say.
        let said = (head.duration_ms != between(head.started_at, head.completed_at)).then_some(head.duration_ms);
        self.put_wide(place, Column::Duration, said.map(|ms| ms.map_or(-1, u64::cast_signed)));
        self.attempts[place] = u16::try_from(head.attempt).unwrap_or(u16::MAX);
        let wide = self.attempts[place] == u16::MAX;
        self.put_wide(place, Column::Attempt, wide.then_some(head.attempt.into()));
        let (sent, received) = (nibble(head.sent), nibble(head.received));
        self.handed[place] = sent << 4 | received;
        self.put_wide(place, Column::Sent, (sent == MANY).then_some(head.sent.into()));
        self.put_wide(place, Column::Received, (received == MANY).then_some(head.received.into()));
    }

    fn push(&mut self, id: Uuid) {
        self.ids.push(id);
        self.numbers.push(0);
        self.created.push(0);
        self.started.push(NONE);
        self.completed.push(NONE);
        self.wait.push(NONE);
        self.first_sequences.push(0);
        self.first_indices.push(0);
        self.last.push(0);
        self.names.push(0);
        self.queues.push(NONE);
        self.workers.push(NONE);
        self.connections.push(0);
        self.attempts.push(0);
        self.handed.push(0);
        self.kinds.push(0);
    }

    /// Takes out all jobs but these, which move up.
    pub(super) fn retain(&mut self, stays: &[bool]) {
        fn column<T>(values: &mut Vec<T>, stays: &[bool]) {
            let mut stays = stays.iter();
            values.retain(|_| stays.next().copied().unwrap_or_default());
        }
        column(&mut self.ids, stays);
        column(&mut self.numbers, stays);
        column(&mut self.created, stays);
        column(&mut self.started, stays);
        column(&mut self.completed, stays);
        column(&mut self.wait, stays);
        column(&mut self.first_sequences, stays);
        column(&mut self.first_indices, stays);
        column(&mut self.last, stays);
        column(&mut self.names, stays);
        column(&mut self.queues, stays);
        column(&mut self.workers, stays);
        column(&mut self.connections, stays);
        column(&mut self.attempts, stays);
        column(&mut self.handed, stays);
        column(&mut self.kinds, stays);
        let mut next = 0;
        let places = stays.iter().map(|stays| {
            let place = stays.then_some(next);
            next += u16::from(*stays);
            place
        });
        let places: Vec<Option<u16>> = places.collect();
        let moved = |place: u16| places[usize::from(place)];
        self.wide = drain(&mut self.wide, |(place, column)| Some((moved(place)?, column)));
        self.rare = drain(&mut self.rare, moved);
        self.failures = drain(&mut self.failures, moved);
        self.errors = drain(&mut self.errors, moved);
        self.rare_bytes = self.rare.values().map(|rare| bytes(rare)).sum();
        self.unfinished.clear();
        for place in 0..self.len() {
            self.mark(place, of_state(self.kinds[place], UNFINISHED));
        }
    }

    /// Notes whether a job waits or runs.
    fn mark(&mut self, place: usize, is_unfinished: bool) {
        let (word, bit) = (place / 64, place % 64);
        if self.unfinished.len() <= word {
            self.unfinished.resize(word + 1, 0);
        }
        let others = self.unfinished[word] & !(1 << bit);
        self.unfinished[word] = others | u64::from(is_unfinished) << bit;
    }

    /// Bytes of memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        const COLUMNS: usize = 80;
        const BESIDE: usize = 32;
        self.ids.capacity() * COLUMNS + self.rare_bytes + (self.wide.len() + self.failures.len()) * BESIDE
    }

    /// What is put into the column; what does not fit goes beside it.
    fn narrow(&mut self, place: usize, column: Column, value: Option<i64>) -> u32 {
        let small = value.map(|value| u32::try_from(value).ok().filter(|value| *value < WIDE));
        self.put_wide(place, column, value.filter(|_| small == Some(None)));
        match small {
            None => NONE,
            Some(None) => WIDE,
            Some(Some(small)) => small,
        }
    }

    fn put_wide(&mut self, place: usize, column: Column, value: Option<i64>) {
        match value {
            Some(value) => drop(self.wide.insert((place as u16, column), value)),
            // Most segments have none.
            None if self.wide.is_empty() => {}
            None => drop(self.wide.remove(&(place as u16, column))),
        }
    }

    fn widened(&self, place: usize, column: Column, narrow: u32) -> Option<i64> {
        match narrow {
            NONE => None,
            WIDE => self.wide.get(&(place as u16, column)).copied(),
            small => Some(small.into()),
        }
    }

    /// Microseconds.
    pub(super) fn created(&self) -> &[i64] {
        &self.created
    }

    /// Milliseconds.
    pub(super) fn created_ms(&self, place: usize) -> i64 {
        self.created[place].div_euclid(1_000)
    }

    /// Milliseconds.
    pub(super) fn started_ms(&self, place: usize) -> Option<i64> {
        self.widened(place, Column::Started, self.started[place]).map(|since| self.created_ms(place) + since)
    }

    fn completed_ms(&self, place: usize) -> Option<i64> {
        self.widened(place, Column::Completed, self.completed[place]).map(|since| self.created_ms(place) + since)
    }

    pub(super) fn duration_ms(&self, place: usize) -> Option<u64> {
        if !self.wide.is_empty()
            && let Some(said) = self.wide.get(&(place as u16, Column::Duration))
        {
            return u64::try_from(*said).ok();
        }
        // Both count from the creation.
        let (started, completed) = (self.started[place], self.completed[place]);
        if started < WIDE && completed < WIDE {
            return Some(completed.saturating_sub(started).into());
        }
        match (self.started_ms(place), self.completed_ms(place)) {
            (Some(started), Some(completed)) => Some((completed - started).max(0).cast_unsigned()),
            _ => None,
        }
    }

    /// When jobs began and ended, in milliseconds since their creation or [`NONE`], where that says all of how long they
    /// took.
    pub(super) fn plain_times(&self) -> Option<(&[u32], &[u32])> {
        self.wide.is_empty().then_some((&self.started, &self.completed))
    }

    pub(super) fn attempt(&self, place: usize) -> u32 {
        match self.attempts[place] {
            u16::MAX => self.wide.get(&(place as u16, Column::Attempt)).map_or(u32::MAX, |attempt| *attempt as u32),
            small => small.into(),
        }
    }

    fn handed(&self, place: usize, column: Column, narrow: u8) -> u32 {
        match narrow {
            MANY => self.wide.get(&(place as u16, column)).map_or(MANY.into(), |count| *count as u32),
            few => few.into(),
        }
    }

    pub(super) fn state(&self, place: usize) -> JobState {
        JobState::ALL[usize::from(self.kinds[place] & STATE)]
    }

    /// The kinds of all jobs, for [`of_state`] and [`of_framework`].
    pub(super) fn kinds(&self) -> &[u8] {
        &self.kinds
    }

    /// The jobs that wait or run.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = usize> + '_ {
        places(&self.unfinished)
    }

    /// The same, a bit for each.
    pub(super) fn unfinished_bits(&self) -> &[u64] {
        &self.unfinished
    }

    pub(super) fn first(&self, place: usize) -> Position {
        Position::new(self.first_sequences[place], self.first_indices[place])
    }

    /// The message of the job's last event.
    pub(super) fn last(&self, place: usize) -> u64 {
        let since = self.widened(place, Column::Last, self.last[place]).unwrap_or_default();
        self.first_sequences[place] + since.cast_unsigned()
    }

    pub(super) fn rare(&self, place: usize) -> Option<&Arc<Rare>> {
        if self.kinds[place] & RARE == 0 { None } else { self.rare.get(&(place as u16)) }
    }

    /// Every job with something rare, in no order.
    pub(super) fn all_rare(&self) -> impl Iterator<Item = (usize, &Rare)> {
        self.rare.iter().map(|(place, rare)| (usize::from(*place), &**rare))
    }

    /// The errors that are shown, in lower case, in no order.
    pub(super) fn errors(&self) -> impl Iterator<Item = (usize, &str)> {
        self.errors.iter().map(|(place, error)| (usize::from(*place), &**error))
    }

    /// The jobs that failed or show an error, each with the hash of its kind of failure, in no order.
    pub(super) fn failures(&self) -> impl Iterator<Item = (usize, u64)> {
        self.failures.iter().map(|(place, kind)| (usize::from(*place), *kind))
    }

    pub(super) fn head<'a>(&self, place: usize, texts: &'a Texts) -> Head<'a> {
        let text = |codes: &'a super::codes::Codes<Arc<str>>, code: u32| (code != NONE).then(|| &**codes.value(code));
        let time = |ms: Option<i64>| ms.map(|ms| Timestamp(ms * 1_000));
        let framework = FRAMEWORKS[usize::from(self.kinds[place] >> FRAMEWORK_SHIFT & 0b11)];
        Head {
            first: self.first(place),
            last: self.last(place),
            created_at: Timestamp(self.created[place]),
            started_at: time(self.started_ms(place)),
            completed_at: time(self.completed_ms(place)),
            duration_ms: self.duration_ms(place),
            wait_ms: self.widened(place, Column::Wait, self.wait[place]).map(i64::cast_unsigned),
            attempt: self.attempt(place),
            sent: self.handed(place, Column::Sent, self.handed[place] >> 4),
            received: self.handed(place, Column::Received, self.handed[place] & MANY),
            state: self.state(place),
            framework,
            connection: texts.connections.value(self.connections[place]).0,
            name: texts.names.value(self.names[place]),
            queue: text(&texts.queues, self.queues[place]),
            worker: text(&texts.workers, self.workers[place]),
            rare: self.rare(place).cloned(),
        }
    }
}

/// The places of the bits that are set.
pub(super) fn places(words: &[u64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(index, word)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(index * 64 + bit as usize)
        })
    })
}

/// Whether a kind is of one of the states of this mask, a bit for each.
pub(super) fn of_state(kind: u8, states: u8) -> bool {
    states >> (kind & STATE) & 1 == 1
}

/// Whether a kind is of this framework.
pub(super) fn of_framework(kind: u8, framework: Framework) -> bool {
    FRAMEWORKS[usize::from(kind >> FRAMEWORK_SHIFT & 0b11)] == framework
}

/// A count in four bits; all of them are set where it does not fit.
fn nibble(count: u32) -> u8 {
    u8::try_from(count).unwrap_or(MANY).min(MANY)
}

/// Bytes of memory, roughly: also those of the error in small letters.
fn bytes(rare: &Rare) -> usize {
    const EACH: usize = 200;
    const RUN: usize = 120;
    let Rare { error, tags, runs, .. } = rare;
    let text = |text: &Option<Box<str>>| text.as_deref().map_or(0, str::len);
    EACH + text(error) * 2 + text(tags) + runs.as_ref().map_or(0, Vec::len) * RUN
}

/// The same under other keys, but for those that have none.
fn drain<K, V>(map: &mut HashMap<K, V>, to: impl Fn(K) -> Option<K>) -> HashMap<K, V>
where
    K: Eq + std::hash::Hash,
{
    map.drain().filter_map(|(key, value)| Some((to(key)?, value))).collect()
}

/// Makes a span hold a value, too.
fn widen(span: &mut Span, value: Option<i64>) {
    let Some(value) = value else { return };
    let (from, to) = span.unwrap_or((value, value));
    *span = Some((from.min(value), to.max(value)));
}

fn between(started: Option<Timestamp>, completed: Option<Timestamp>) -> Option<u64> {
    Some((completed?.millis() - started?.millis()).max(0).cast_unsigned())
}
