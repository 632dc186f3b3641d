//! The distinct events of one job, bounded as a set.
//!
//! Whatever the order in which events are added, the same set gives the same evidence. That holds because everything
//! kept is either decided by the set alone (the first 200 and the last 800 events by time and identity: an event that
//! once fell between them can never come back) or only grows (earliest time, highest attempt, the `truncated` mark).

use proto_events::{Event, EventId, Position, Timestamp, limits};
use serde::{Deserialize, Serialize};

use crate::json::JsonText;
use crate::seen::{Left, Said, Seen};

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
    last_position: Option<Position>,
    /// The last message that told of a trim which took a part of what the log said of the job. Only one behind the first
    /// event counts: of an event after it nothing was taken.
    trim: Option<u64>,
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

/// The evidence without what the log forgets.
#[derive(Clone, Debug, PartialEq)]
pub enum Trimmed {
    /// Exactly that of the events that are left; `None` where none is.
    Exact(Option<Box<Evidence>>),
    /// It cannot be told from what is kept: the events that are left have to be read again from the log.
    Inexact,
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
        let first = seen.position;
        self.first_position = Some(self.first_position.map_or(first, |known| known.min(first)));
        self.last_position = self.last_position.max(Some(seen.latest()));
        let place = match self.events.binary_search_by_key(&seen.key(), Seen::key) {
            Ok(known) => {
                self.events[known].stands_also(&seen);
                return Added::Duplicate;
            }
            Err(place) => place,
        };
        // When a result was stored says nothing of the beginning.
        if seen.said != Said::Reconciled {
            self.earliest = Some(self.earliest.map_or(seen.earliest(), |earliest| earliest.min(seen.earliest())));
        }
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

    /// Whether the log has forgotten a part of what it said of the job.
    pub fn is_trimmed(&self) -> bool {
        self.trim.is_some()
    }

    /// The last message that told of a trim which took a part.
    pub fn trim(&self) -> Option<u64> {
        self.trim
    }

    /// Notes that a message tells of a trim which takes a part of what the log said of the job. It says nothing of the
    /// events behind it.
    pub fn note_trim(&mut self, sequence: u64) {
        self.trim = self.trim.max(Some(sequence)).filter(|trim| *trim > self.first_position().sequence);
    }

    /// What is left of the evidence when the log forgets the messages before this one: the evidence of the events that
    /// stand there or behind it, if that can be told.
    #[must_use]
    pub fn trimmed(&self, sequence: u64) -> Trimmed {
        if self.first_position().sequence >= sequence {
            return Trimmed::Exact((!self.is_empty()).then(|| Box::new(self.clone())));
        }
        if self.last_position().sequence < sequence {
            return Trimmed::Exact(None);
        }
        // Where events were left out, nobody knows which of them are left.
        if self.truncated {
            return Trimmed::Inexact;
        }
        let mut left = Self::default();
        for seen in &self.events {
            let (position, again) = match seen.left_from(sequence) {
                Left::Places(position, again) => (position, again),
                Left::Nothing => continue,
                Left::Unclear => return Trimmed::Inexact,
            };
            left.add_fact(Fact(Seen { position, again, ..seen.clone() }));
        }
        if self.has_lost_texts(&left) {
            return Trimmed::Inexact;
        }
        if let Some(trim) = self.trim {
            left.note_trim(trim);
        }
        Trimmed::Exact(Some(Box::new(left)))
    }

    /// Whether an event that is left may have had a long text that was shortened for the sake of one that is not left.
    fn has_lost_texts(&self, left: &Self) -> bool {
        let gone = |key| left.events.binary_search_by_key(&key, Seen::key).is_err();
        let mut kinds = (0..TEXTS).filter(|kind| self.holders[*kind].is_some_and(gone));
        kinds.any(|kind| left.events.iter().any(|seen| may_be_shortened(seen, kind)))
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

    /// The highest log position of any event of the job, repeats included; position 0 where there is none.
    pub fn last_position(&self) -> Position {
        self.last_position.unwrap_or_default()
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
        if let Some(trim) = self.trim.filter(|trim| *trim <= sequence) {
            before.note_trim(trim);
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

/// Whether the event's text of this kind may once have been longer. What is cut ends with the mark of a cut, and what
/// would mislead when cut is left out.
fn may_be_shortened(seen: &Seen, kind: usize) -> bool {
    let of_text = |text: &Option<Box<str>>| text.as_deref().is_some_and(|text| text.ends_with(limits::CUT));
    let of_json = |json: &Option<JsonText>| {
        let text = json.as_ref().and_then(|json| json.as_str().strip_suffix('"'));
        text.is_some_and(|text| text.ends_with(limits::CUT))
    };
    match kind {
        0 => of_text(&seen.error),
        1 => of_text(&seen.stacktrace),
        2 => of_json(&seen.args),
        3 => of_json(&seen.kwargs),
        4 => of_json(&seen.result),
        5 => seen.tags.is_none(),
        _ => seen.extensions.is_none(),
    }
}
