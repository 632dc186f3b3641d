//! The page of a list: which jobs a query finds, in its order, and how many there are of them.
//!
//! A query walks the columns that it asks about, some thousand jobs at a time: comparisons of numbers side by side, about
//! a nanosecond each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use proto_events::JobState;
use uuid::Uuid;

use super::codes::Codes;
use super::plan::{Plan, Selection};
use super::segment::{SEGMENT, Segment};
use super::{Snapshot, Texts};
use crate::query::{Cursor, CursorValue, Query, Signs, SortBy, SortOrder};

/// Segments that are worth a thread.
const SHARE: usize = if cfg!(test) { 1 } else { 100 };

/// What a query found.
pub(crate) struct Found {
    /// The page.
    pub(crate) jobs: Vec<Uuid>,
    pub(crate) next: Option<Cursor>,
    pub(crate) total: u64,
}

/// The place of a job in a list: those without a value last, equal ones by id. Lists that go down have all bits turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    lacks_value: bool,
    value: u64,
    id: u128,
}

/// A place, and where the job is.
type Hit = (Key, u32);

impl Snapshot {
    /// A page of the list. `only`: of the jobs in these slots.
    pub(crate) fn find(&self, query: &Query, signs: &Signs, only: Option<&[u32]>) -> Found {
        let plan = Plan::of(&query.filter, signs, &self.texts);
        let order = Order::of(query.sort_by, query.sort_order, &self.texts);
        let mut search = Search::new(query, &order, &plan);
        match only {
            Some(slots) => {
                for (index, selection) in self.segments_of(slots) {
                    search.visit(self, index, selection);
                }
            }
            None => self.search_all(&mut search),
        }
        search.found(self, query)
    }

    /// Goes through all jobs; through very many on all processors.
    fn search_all(&self, search: &mut Search<'_>) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(self.segments.len() / SHARE);
        // Backwards, since the last put in tend to be the newest: then hardly any job displaces another.
        let places = |first: usize| (0..self.segments.len()).rev().skip(first).step_by(threads.max(1));
        let visit = |search: &mut Search<'_>, first| {
            for index in places(first) {
                search.visit(self, index, Selection::first(self.segments[index].len()));
            }
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads)
                .map(|first| {
                    let mut other = search.another();
                    scope.spawn(move || {
                        visit(&mut other, first);
                        other
                    })
                })
                .collect();
            visit(search, 0);
            for other in others {
                match other.join() {
                    Ok(other) => search.absorb(other),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
    }

    fn segments_of(&self, slots: &[u32]) -> impl Iterator<Item = (usize, Selection)> {
        let mut slots = slots.to_vec();
        slots.sort_unstable();
        slots.dedup();
        let by_segment: Vec<_> = slots
            .chunk_by(|a, b| *a as usize / SEGMENT == *b as usize / SEGMENT)
            .map(|slots| {
                let mut selection = Selection::nothing();
                for slot in slots {
                    selection.add(*slot as usize % SEGMENT);
                }
                (slots[0] as usize / SEGMENT, selection)
            })
            .collect();
        // A slot given out after the snapshot was taken is not in it.
        let segments = self.segments.len();
        by_segment.into_iter().filter(move |(index, _)| *index < segments)
    }

    fn cursor(&self, query: &Query, slot: u32) -> Cursor {
        let (segment, place) = (&self.segments[slot as usize / SEGMENT], slot as usize % SEGMENT);
        let text = |codes: &Codes<Arc<str>>, code: u32| {
            if code == u32::MAX { CursorValue::None } else { CursorValue::text(codes.value(code)) }
        };
        let number = |value: Option<i64>| value.map_or(CursorValue::None, CursorValue::Number);
        let value = match query.sort_by {
            SortBy::CreatedAt => CursorValue::Number(segment.created_ms(place)),
            SortBy::StartedAt => number(segment.started_ms(place)),
            SortBy::DurationMs => number(segment.duration_ms(place).map(u64::cast_signed)),
            SortBy::State => CursorValue::text(segment.state(place).as_str()),
            SortBy::Name => text(&self.texts.names, segment.names[place]),
            SortBy::Queue => text(&self.texts.queues, segment.queues[place]),
            SortBy::Worker => text(&self.texts.workers, segment.workers[place]),
        };
        Cursor::new(query.sort_by, value, segment.ids[place])
    }
}

/// A search under way.
struct Search<'a> {
    plan: &'a Plan,
    order: &'a Order,
    after: Option<Key>,
    total: u64,
    /// The first ones so far, the last of them on top; one more than a page.
    kept: BinaryHeap<Hit>,
    room: usize,
}

impl<'a> Search<'a> {
    fn new(query: &Query, order: &'a Order, plan: &'a Plan) -> Self {
        let after = query.cursor.as_ref().map(|cursor| order.place_of(cursor));
        Self { plan, order, after, total: 0, kept: BinaryHeap::new(), room: query.limit.saturating_add(1) }
    }

    /// One for a part of the same jobs.
    fn another(&self) -> Self {
        Self { total: 0, kept: BinaryHeap::new(), ..*self }
    }

    /// Takes in what was found in another part.
    fn absorb(&mut self, other: Self) {
        self.total += other.total;
        self.kept.extend(other.kept);
        while self.kept.len() > self.room {
            self.kept.pop();
        }
    }

    fn visit(&mut self, snapshot: &Snapshot, index: usize, mut selection: Selection) {
        let segment = &snapshot.segments[index];
        if self.plan.passes_over(segment) {
            return;
        }
        self.plan.keep(segment, &mut selection);
        let count = selection.count();
        self.total += count;
        if count == 0 || self.order.is_beyond(segment, self.last_kept()) {
            return;
        }
        let base = (index * SEGMENT) as u32;
        // One loop for each order: which one it is, is not asked for every job.
        match &self.order.values {
            Values::Created => self.take(segment, &selection, base, |place| Some(sortable(segment.created_ms(place)))),
            Values::Started => self.take(segment, &selection, base, |place| segment.started_ms(place).map(sortable)),
            Values::Duration => self.take(segment, &selection, base, |place| segment.duration_ms(place)),
            Values::State(ranks) => {
                let ranks = *ranks;
                self.take(segment, &selection, base, |place| Some(ranks[segment.state(place) as usize]));
            }
            Values::Text(which, ranks, _) => {
                let (column, ranks) = (which.column(segment), Arc::clone(ranks));
                self.take(segment, &selection, base, |place| ranks.get(column[place] as usize).map(|rank| at(*rank)));
            }
        }
    }

    fn last_kept(&self) -> Option<Key> {
        self.kept.peek().filter(|_| self.kept.len() == self.room).map(|(key, _)| *key)
    }

    fn take(&mut self, segment: &Segment, selection: &Selection, base: u32, value: impl Fn(usize) -> Option<u64>) {
        let Self { order, after, kept, room, .. } = self;
        for place in selection.places() {
            let value = value(place);
            // Most jobs come after all that there is room for, by their value alone.
            if kept.len() == *room
                && let Some((last, _)) = kept.peek()
                && order.comes_after(value, last)
            {
                continue;
            }
            let key = order.key(value, segment.ids[place]);
            if after.is_some_and(|after| key <= after) {
                continue;
            }
            let hit = (key, base + place as u32);
            if kept.len() < *room {
                kept.push(hit);
            } else if let Some(mut last) = kept.peek_mut()
                && hit < *last
            {
                *last = hit;
            }
        }
    }

    fn found(self, snapshot: &Snapshot, query: &Query) -> Found {
        let mut hits = self.kept.into_sorted_vec();
        let more = hits.len() > query.limit;
        hits.truncate(query.limit);
        let next = hits.last().filter(|_| more).map(|(_, slot)| snapshot.cursor(query, *slot));
        let id = |(_, slot): &Hit| snapshot.segments[*slot as usize / SEGMENT].ids[*slot as usize % SEGMENT];
        Found { jobs: hits.iter().map(id).collect(), next, total: self.total }
    }
}

/// An order, ready for the columns of one snapshot.
struct Order {
    values: Values,
    descending: bool,
}

enum Values {
    Created,
    Started,
    Duration,
    /// With the rank of each state.
    State([u64; JobState::ALL.len()]),
    /// With the rank of each code.
    Text(Text, Arc<[u32]>, Arc<Codes<Arc<str>>>),
}

#[derive(Clone, Copy)]
enum Text {
    Name,
    Queue,
    Worker,
}

impl Text {
    fn column(self, segment: &Segment) -> &[u32] {
        match self {
            Self::Name => &segment.names,
            Self::Queue => &segment.queues,
            Self::Worker => &segment.workers,
        }
    }
}

impl Order {
    fn of(sort_by: SortBy, sort_order: SortOrder, texts: &Texts) -> Self {
        let text = |which, codes: &Arc<Codes<Arc<str>>>| Values::Text(which, codes.ranks(), Arc::clone(codes));
        let values = match sort_by {
            SortBy::CreatedAt => Values::Created,
            SortBy::StartedAt => Values::Started,
            SortBy::DurationMs => Values::Duration,
            SortBy::State => Values::State(JobState::ALL.map(state_rank)),
            SortBy::Name => text(Text::Name, &texts.names),
            SortBy::Queue => text(Text::Queue, &texts.queues),
            SortBy::Worker => text(Text::Worker, &texts.workers),
        };
        Self { values, descending: sort_order == SortOrder::Descending }
    }

    fn key(&self, value: Option<u64>, id: Uuid) -> Key {
        let (lacks_value, value, id) = (value.is_none(), value.unwrap_or_default(), id.as_u128());
        if self.descending { Key { lacks_value, value: !value, id: !id } } else { Key { lacks_value, value, id } }
    }

    /// Whether a job of this value comes after this one, whatever its id.
    fn comes_after(&self, value: Option<u64>, last: &Key) -> bool {
        match value {
            None => !last.lacks_value,
            Some(_) if last.lacks_value => false,
            Some(value) if self.descending => !value > last.value,
            Some(value) => value > last.value,
        }
    }

    /// The place of a cursor, whose value may be none of the present ones.
    fn place_of(&self, cursor: &Cursor) -> Key {
        let value = match (cursor.value(), &self.values) {
            (CursorValue::None, _) => None,
            (CursorValue::Number(number), Values::Duration) => Some(number.cast_unsigned()),
            (CursorValue::Number(number), _) => Some(sortable(*number)),
            (text @ CursorValue::Text { .. }, Values::Text(_, ranks, codes)) => Some(text_place(text, ranks, codes)),
            (CursorValue::Text { beginning, .. }, _) => {
                JobState::ALL.into_iter().find(|state| state.as_str() == beginning).map(state_rank)
            }
        };
        self.key(value, cursor.id())
    }

    /// Whether all jobs of this segment come after the last one that there is room for.
    fn is_beyond(&self, segment: &Segment, last: Option<Key>) -> bool {
        let Some(last) = last else { return false };
        let (span, value): (_, fn(i64) -> u64) = match &self.values {
            Values::Created => (segment.created_between, sortable),
            Values::Started => (segment.started_between, sortable),
            Values::Duration => (segment.durations_between, i64::cast_unsigned),
            Values::State(_) | Values::Text(..) => return false,
        };
        match span {
            // Jobs without a value come last, and where those are shown any segment may have one.
            _ if last.lacks_value => false,
            Some((_, highest)) if self.descending => !value(highest) > last.value,
            Some((lowest, _)) => value(lowest) > last.value,
            None => true,
        }
    }
}

/// Signed numbers in the order of unsigned ones.
fn sortable(number: i64) -> u64 {
    number.cast_unsigned() ^ 1 << 63
}

/// A rank, with room before and after each.
fn at(rank: u32) -> u64 {
    u64::from(rank) * 2 + 1
}

/// Where a text stands among those that there are.
fn text_place(text: &CursorValue, ranks: &[u32], codes: &Codes<Arc<str>>) -> u64 {
    let same = codes.values().iter().position(|value| text.is_of(value));
    if let Some(code) = same {
        return at(ranks[code]);
    }
    let before = codes.values().iter().filter(|value| text.comes_after(value)).count();
    before as u64 * 2
}

/// The place of a state in the order of the names of all states.
fn state_rank(state: JobState) -> u64 {
    JobState::ALL.iter().filter(|other| other.as_str() < state.as_str()).count() as u64
}

/// The highest of the values, highest first.
pub(super) fn highest<T: Ord>(values: impl Iterator<Item = T>, count: usize) -> Vec<T> {
    let mut kept = BinaryHeap::new();
    for value in values {
        if kept.len() < count {
            kept.push(Reverse(value));
        } else if let Some(mut lowest) = kept.peek_mut()
            && value > lowest.0
        {
            *lowest = Reverse(value);
        }
    }
    kept.into_sorted_vec().into_iter().map(|Reverse(value)| value).collect()
}
