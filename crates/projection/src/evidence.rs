//! The distinct events of one job, bounded as a set.
//!
//! Whatever the order in which events are added, the same set gives the same evidence. That holds because everything
//! kept is either decided by the set alone (the first 200 and the last 800 events by time and identity: an event that
//! once fell between them can never come back) or only grows (earliest time, highest attempt, the `truncated` mark).

use proto_events::{Event, EventId, Position, Timestamp, limits};
use serde::{Deserialize, Serialize};

use crate::json::JsonText;
use crate::seen::Seen;

/// How many events are kept from the beginning of a job's life, and how many from its end.
const FIRST: usize = 200;
const LAST: usize = 800;

/// Bytes up to which a text is kept with every event; longer ones are kept in full only once.
const LONG: usize = 1_024;
/// Characters that remain of a long text elsewhere.
const SHORTENED: usize = 256;

/// The distinct events of one job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Sorted by [`Seen::key`], each key once.
    events: Vec<Seen>,
    earliest: Option<Timestamp>,
    highest_attempt: u32,
    truncated: bool,
    /// For each kind of long text, the key of the last event that ever had one: that event keeps it in full.
    holders: [Option<(Timestamp, EventId)>; TEXTS],
    first_position: Option<Position>,
}

/// What one event says of its job, as the evidence keeps it: what a bulk pass carries from the log to the fold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact(Seen);

impl Fact {
    /// What the event at this place in the log says; `None` when it is not a job event.
    pub fn of(position: Position, event: &Event) -> Option<Self> {
        Seen::of(position, event).map(Self)
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        self.0.position
    }
}

/// What adding an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It was not known, and the record may change.
    New,
    /// The same event was there already.
    Duplicate,
    /// There are too many events, and this one stands in the middle.
    LeftOut,
    /// It is not a job event.
    NotAJob,
}

impl Evidence {
    /// Adds an event that stands at this place in the log.
    pub fn add(&mut self, position: Position, event: &Event) -> Added {
        match Fact::of(position, event) {
            Some(fact) => self.add_fact(fact),
            None => Added::NotAJob,
        }
    }

    /// Adds what an event says.
    pub fn add_fact(&mut self, Fact(seen): Fact) -> Added {
        let position = seen.position;
        self.first_position = Some(self.first_position.map_or(position, |first| first.min(position)));
        let place = match self.events.binary_search_by_key(&seen.key(), Seen::key) {
            Ok(known) => {
                let known = &mut self.events[known];
                known.position = known.position.min(position);
                return Added::Duplicate;
            }
            Err(place) => place,
        };
        self.earliest = Some(self.earliest.map_or(seen.earliest(), |earliest| earliest.min(seen.earliest())));
        self.highest_attempt = self.highest_attempt.max(seen.attempt.unwrap_or(0));
        let key = seen.key();
        let changed = self.claim_texts(&seen);
        self.events.insert(place, seen);
        if changed {
            self.events.iter_mut().for_each(|seen| shorten(seen, &self.holders));
        } else {
            shorten(&mut self.events[place], &self.holders);
        }
        if self.events.len() > FIRST + LAST {
            self.truncated = true;
            let left_out = self.events.remove(FIRST);
            if left_out.key() == key {
                return Added::LeftOut;
            }
        }
        Added::New
    }

    /// Makes the event the holder of those of its long texts that no later event has; tells whether it did.
    fn claim_texts(&mut self, seen: &Seen) -> bool {
        let key = seen.key();
        let mut changed = false;
        for (holder, length) in self.holders.iter_mut().zip(lengths(seen)) {
            if length > LONG && holder.is_none_or(|held| held < key) {
                *holder = Some(key);
                changed = true;
            }
        }
        changed
    }

    /// The events, in the order of time and identity.
    pub(crate) fn events(&self) -> &[Seen] {
        &self.events
    }

    /// The earliest moment that any event testified to.
    pub(crate) fn earliest(&self) -> Option<Timestamp> {
        self.earliest
    }

    /// The highest attempt that any event named; 0 where none did.
    pub(crate) fn highest_attempt(&self) -> u32 {
        self.highest_attempt
    }

    /// Whether events were left out because there were too many.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// How many distinct events are kept.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The lowest log position of any event of the job; position 0 where there is none.
    pub fn first_position(&self) -> Position {
        self.first_position.unwrap_or_default()
    }

    /// What is kept, event by event, in the order of the log.
    pub fn into_facts(self) -> Vec<Fact> {
        let mut facts: Vec<Fact> = self.events.into_iter().map(Fact).collect();
        facts.sort_by_key(Fact::position);
        facts
    }

    /// The evidence as it was when the log ended at this message, as far as what is kept tells: of a job with so many
    /// events that some were left out, not more than that.
    #[must_use]
    pub fn up_to(&self, sequence: u64) -> Self {
        let mut before = Self { truncated: self.truncated, ..Self::default() };
        for seen in self.events.iter().filter(|seen| seen.position.sequence <= sequence) {
            before.add_fact(Fact(seen.clone()));
        }
        before
    }

    /// Whether any event stands behind this message of the log.
    pub fn reaches_beyond(&self, sequence: u64) -> bool {
        self.events.iter().any(|seen| seen.position.sequence > sequence)
    }

    /// The log positions of the events that are kept, in their order of time.
    pub fn positions(&self) -> impl Iterator<Item = Position> + '_ {
        self.events.iter().map(|seen| seen.position)
    }
}

/// The kinds of texts that can be long.
const TEXTS: usize = 7;

fn lengths(seen: &Seen) -> [usize; TEXTS] {
    let of_text = |text: &Option<Box<str>>| text.as_deref().map_or(0, str::len);
    let of_json = |json: &Option<JsonText>| json.as_ref().map_or(0, |json| json.as_str().len());
    [
        of_text(&seen.error),
        of_text(&seen.stacktrace),
        of_json(&seen.args),
        of_json(&seen.kwargs),
        of_json(&seen.result),
        of_json(&seen.tags),
        of_json(&seen.extensions),
    ]
}

/// Shortens the long texts of which another event is the holder. A shortened text is no longer long, so that doing it
/// again changes nothing.
fn shorten(seen: &mut Seen, holders: &[Option<(Timestamp, EventId)>; TEXTS]) {
    let key = seen.key();
    let surplus = |kind: usize, length: usize| length > LONG && holders[kind] != Some(key);
    let lengths = lengths(seen);
    for (kind, text) in [(0, &mut seen.error), (1, &mut seen.stacktrace)] {
        if let Some(long) = text.as_mut().filter(|_| surplus(kind, lengths[kind])) {
            let mut short = std::mem::take(long).into_string();
            limits::cut(&mut short, SHORTENED);
            *long = short.into();
        }
    }
    for (kind, json) in [(2, &mut seen.args), (3, &mut seen.kwargs), (4, &mut seen.result)] {
        if let Some(long) = json.as_mut().filter(|_| surplus(kind, lengths[kind])) {
            *long = long.shortened(SHORTENED);
        }
    }
    // Half an object would mislead; these are free-form and large only when somebody misuses them.
    for (kind, json) in [(5, &mut seen.tags), (6, &mut seen.extensions)] {
        if surplus(kind, lengths[kind]) {
            *json = None;
        }
    }
}
