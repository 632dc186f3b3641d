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
use super::cold::{Summary, Tally};
use super::part::{Columns, Part};
use super::plan::{Plan, Selection};
use super::segment::{NONE, SEGMENT, Segment, Span, Spans, of_state};
use super::{Snapshot, Texts};
use crate::error::ViewError;
use crate::query::{Cursor, CursorValue, Query, Signs, SortBy, SortOrder};

/// Segments that are worth a thread.
const SHARE: usize = if cfg!(test) { 1 } else { 100 };

/// A query, and at which slots the jobs are that it is asked of, where that is not all.
pub(crate) type Asked<'a> = (&'a Query, Option<&'a [(u32, Uuid)]>);

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

/// A place in the list, and the job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    key: Key,
    id: Uuid,
    /// What the list is ordered by: a number, the number of a state, or the code of a text.
    value: Option<i64>,
}

impl Snapshot {
    /// A page of the list. `only`: of the jobs at these slots.
    pub(crate) fn find(&self, query: &Query, signs: &Signs, only: Option<&[(u32, Uuid)]>) -> Result<Found, ViewError> {
        let [found] = self.find_each([(query, only)], signs)?;
        Ok(found)
    }

    /// A page of each of these lists, with one pass through all jobs for those of all jobs.
    pub(crate) fn find_each<const N: usize>(
        &self,
        queries: [Asked<'_>; N],
        signs: &Signs,
    ) -> Result<[Found; N], ViewError> {
        let ready = queries.map(|(query, _)| Ready::of(query, signs, &self.texts));
        let mut searches = ready.each_ref().map(Ready::search);
        let mut of_all = Vec::new();
        for (search, (_, only)) in searches.iter_mut().zip(queries) {
            match only {
                Some(jobs) => self.search_only(search, jobs)?,
                None => of_all.push(search),
            }
        }
        self.search_all(&mut of_all)?;
        Ok(searches.map(Search::found))
    }

    fn search_only(&self, search: &mut Search<'_>, jobs: &[(u32, Uuid)]) -> Result<(), ViewError> {
        let mut jobs = jobs.to_vec();
        jobs.sort_unstable();
        jobs.dedup();
        for jobs in jobs.chunk_by(|(a, _), (b, _)| *a as usize / SEGMENT == *b as usize / SEGMENT) {
            // A slot given out after the snapshot was taken is not in it.
            let Some(part) = self.parts.get(jobs[0].0 as usize / SEGMENT) else { continue };
            let segment = part.open()?;
            let mut selection = Selection::nothing();
            for (slot, id) in jobs {
                let place = *slot as usize % SEGMENT;
                if segment.ids.get(place) == Some(id) {
                    selection.add(place);
                }
            }
            search.visit(&segment, selection);
        }
        Ok(())
    }

    /// Goes through all jobs; through very many on all processors.
    fn search_all(&self, searches: &mut [&mut Search<'_>]) -> Result<(), ViewError> {
        let Some(first) = searches.first() else { return Ok(()) };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(self.parts.len() / SHARE);
        // Those first that are most likely to have the first jobs: then hardly any job displaces another, and what is on
        // disk need not be read.
        let mut parts: Vec<&Part> = self.parts.iter().collect();
        first.order.sort(&mut parts);
        let visit = |searches: &mut [&mut Search<'_>], first| {
            let mut share = parts.iter().skip(first).step_by(threads.max(1));
            share.try_for_each(|part| {
                // What is on disk is read once for all that want it.
                let mut open = None;
                searches.iter_mut().try_for_each(|search| search.visit_all(part, &mut open))
            })
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads)
                .map(|first| {
                    let mut others: Vec<_> = searches.iter().map(|search| search.another()).collect();
                    scope.spawn(move || visit(&mut others.iter_mut().collect::<Vec<_>>(), first).map(|()| others))
                })
                .collect();
            visit(searches, 0)?;
            for others in others {
                match others.join() {
                    Ok(others) => searches.iter_mut().zip(others?).for_each(|(search, other)| search.absorb(other)),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(())
        })
    }
}

/// A query, ready for the columns of one snapshot.
struct Ready<'a> {
    query: &'a Query,
    plan: Plan,
    order: Order,
}

impl<'a> Ready<'a> {
    fn of(query: &'a Query, signs: &Signs, texts: &Texts) -> Self {
        let order = Order::of(query.sort_by, query.sort_order, texts);
        Self { query, plan: Plan::of(&query.filter, signs, texts), order }
    }

    fn search(&self) -> Search<'_> {
        let Self { query, plan, order } = self;
        Search {
            plan,
            order,
            sort_by: query.sort_by,
            limit: query.limit,
            after: query.cursor.as_ref().map(|cursor| order.place_of(cursor)),
            total: 0,
            kept: BinaryHeap::new(),
            room: query.limit.saturating_add(1),
        }
    }
}

/// A search under way.
struct Search<'a> {
    plan: &'a Plan,
    order: &'a Order,
    sort_by: SortBy,
    limit: usize,
    after: Option<Key>,
    total: u64,
    /// The first ones so far, the last of them on top; one more than a page.
    kept: BinaryHeap<Hit>,
    room: usize,
}

impl Search<'_> {
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

    fn visit_all<'p>(&mut self, part: &'p Part, open: &mut Option<Columns<'p>>) -> Result<(), ViewError> {
        if self.plan.passes_over(part.spans()) {
            return Ok(());
        }
        if let Part::Cold(cold) = part
            && let Some(count) = self.plan.count(cold.summary())
            && (count == 0 || self.is_off_the_page(cold.summary()))
        {
            self.total += count;
            return Ok(());
        }
        let segment = match open {
            Some(segment) => segment,
            None => open.insert(part.open()?),
        };
        if let Some(candidates) = self.plan.candidates(segment) {
            self.visit(segment, candidates);
        }
        Ok(())
    }

    fn visit(&mut self, segment: &Segment, mut selection: Selection) {
        self.plan.keep(segment, &mut selection);
        let count = selection.count();
        self.total += count;
        if count == 0 || self.order.is_beyond(&segment.spans, self.bound()) {
            return;
        }
        self.narrow(segment, &mut selection);
        // One loop for each order: which one it is, is not asked for every job.
        match &self.order.values {
            Values::Created => self.take(segment, &selection, |place| Some(sortable(segment.created_ms(place)))),
            Values::Started => self.take(segment, &selection, |place| segment.started_ms(place).map(sortable)),
            Values::Duration => self.take(segment, &selection, |place| segment.duration_ms(place)),
            Values::State(ranks) => {
                let ranks = *ranks;
                self.take(segment, &selection, |place| Some(ranks[segment.state(place) as usize]));
            }
            Values::Text(which, ranks, _) => {
                let (column, ranks) = (which.column(segment), Arc::clone(ranks));
                self.take(segment, &selection, |place| ranks.get(column[place] as usize).map(|rank| at(*rank)));
            }
        }
    }

    /// Leaves out what comes after all that there is room for, by its value alone: many jobs at once.
    fn narrow(&self, segment: &Segment, selection: &mut Selection) {
        let Some(last) = self.bound() else { return };
        let order = self.order;
        match &order.values {
            Values::State(ranks) => {
                let may_come = |rank: &u64| !order.comes_after(Some(*rank), &last);
                let states = (0..ranks.len()).filter(|state| may_come(&ranks[*state]));
                let states = states.fold(0, |mask, state| mask | 1 << state);
                selection.keep(segment.kinds(), |kind| of_state(kind, states));
            }
            Values::Text(which, ranks, _) => {
                let may_come = |code: u32| !order.comes_after(ranks.get(code as usize).map(|rank| at(*rank)), &last);
                selection.keep(which.column(segment), may_come);
            }
            Values::Duration => {
                if let Some(times) = segment.plain_times() {
                    let may_come = |ms: Option<u32>| !order.comes_after(ms.map(u64::from), &last);
                    let ms = |started: u32, completed: u32| completed.saturating_sub(started);
                    let took =
                        |started, completed| (started != NONE && completed != NONE).then(|| ms(started, completed));
                    selection.keep_both(times, |started, completed| may_come(took(started, completed)));
                }
            }
            // Of those a segment has a span, which most often says it of all its jobs.
            Values::Created | Values::Started => {}
        }
    }

    /// Whether no job of a segment on disk can be on the page.
    fn is_off_the_page(&self, summary: &Summary) -> bool {
        self.order.is_beyond(&summary.spans, self.bound())
            || self.order.is_before(&summary.spans, self.after)
            || self.is_past(summary)
    }

    /// What comes after this one is not wanted.
    fn bound(&self) -> Option<Key> {
        self.kept.peek().filter(|_| self.kept.len() == self.room).map(|hit| hit.key)
    }

    /// The same for orders of which a segment has no span, but its codes.
    fn is_past(&self, summary: &Summary) -> bool {
        let Some(last) = self.bound() else { return false };
        let order = self.order;
        match &order.values {
            Values::State(ranks) => {
                let has = |state: &JobState| summary.of_kinds(|kind| of_state(kind, 1 << *state as u8)) > 0;
                let mut states = JobState::ALL.iter().filter(|state| has(state));
                states.all(|state| order.comes_after(Some(ranks[*state as usize]), &last))
            }
            Values::Text(which, ranks, _) => {
                let mut codes = which.tally(summary).codes();
                codes.all(|code| order.comes_after(ranks.get(code as usize).map(|rank| at(*rank)), &last))
            }
            Values::Created | Values::Started | Values::Duration => false,
        }
    }

    fn take(&mut self, segment: &Segment, selection: &Selection, value: impl Fn(usize) -> Option<u64>) {
        for place in selection.places() {
            let value = value(place);
            let is_full = self.kept.len() == self.room;
            // Most jobs come after all that there is room for, by their value alone.
            if is_full && self.kept.peek().is_some_and(|last| self.order.comes_after(value, &last.key)) {
                continue;
            }
            let id = segment.ids[place];
            let key = self.order.key(value, id);
            if self.after.is_some_and(|after| key <= after)
                || is_full && self.kept.peek().is_some_and(|last| key >= last.key)
            {
                continue;
            }
            let hit = Hit { key, id, value: self.value(segment, place) };
            if is_full {
                self.kept.pop();
            }
            self.kept.push(hit);
        }
    }

    fn value(&self, segment: &Segment, place: usize) -> Option<i64> {
        let code = |code: u32| (code != NONE).then(|| code.into());
        match &self.order.values {
            Values::Created => Some(segment.created_ms(place)),
            Values::Started => segment.started_ms(place),
            Values::Duration => segment.duration_ms(place).map(u64::cast_signed),
            Values::State(_) => Some(segment.state(place) as i64),
            Values::Text(which, ..) => code(which.column(segment)[place]),
        }
    }

    /// The place after this job.
    fn cursor(&self, hit: &Hit) -> Cursor {
        let value = match (&self.order.values, hit.value) {
            (_, None) => CursorValue::None,
            (Values::Created | Values::Started | Values::Duration, Some(number)) => CursorValue::Number(number),
            (Values::State(_), Some(state)) => CursorValue::text(JobState::ALL[state as usize].as_str()),
            (Values::Text(_, _, codes), Some(code)) => CursorValue::text(codes.value(code as u32)),
        };
        Cursor::new(self.sort_by, value, hit.id)
    }

    fn found(mut self) -> Found {
        let mut hits = std::mem::take(&mut self.kept).into_sorted_vec();
        let more = hits.len() > self.limit;
        hits.truncate(self.limit);
        let next = hits.last().filter(|_| more).map(|hit| self.cursor(hit));
        Found { jobs: hits.iter().map(|hit| hit.id).collect(), next, total: self.total }
    }
}

/// A number of a span as a [`Key`] has it.
type ToValue = fn(i64) -> u64;

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

    fn tally(self, summary: &Summary) -> &Tally {
        match self {
            Self::Name => &summary.names,
            Self::Queue => &summary.queues,
            Self::Worker => &summary.workers,
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

    /// The span that goes by the order, and its numbers as [`Key`]s have them.
    fn span(&self, spans: &Spans) -> Option<(Span, ToValue)> {
        match &self.values {
            Values::Created => Some((spans.created, sortable)),
            Values::Started => Some((spans.started, sortable)),
            Values::Duration => Some((spans.durations, i64::cast_unsigned)),
            Values::State(_) | Values::Text(..) => None,
        }
    }

    /// Whether all jobs of a segment of these spans come after the last one that there is room for.
    fn is_beyond(&self, spans: &Spans, last: Option<Key>) -> bool {
        let (Some(last), Some((span, value))) = (last, self.span(spans)) else { return false };
        match span {
            // Jobs without a value come last, and where those are shown any segment may have one.
            _ if last.lacks_value => false,
            Some((_, highest)) if self.descending => !value(highest) > last.value,
            Some((lowest, _)) => value(lowest) > last.value,
            None => true,
        }
    }

    /// Whether all jobs of a segment of these spans come before a cursor. Said only of the order in which each has a value.
    fn is_before(&self, spans: &Spans, after: Option<Key>) -> bool {
        let (Some(after), Values::Created, Some((lowest, highest))) = (after, &self.values, spans.created) else {
            return false;
        };
        if self.descending { !sortable(lowest) < after.value } else { sortable(highest) < after.value }
    }

    /// Puts the parts that begin first in this order before the others; in an order by text the newest.
    fn sort(&self, parts: &mut [&Part]) {
        let newest = |part: &&Part| part.spans().created.map(|(_, latest)| std::cmp::Reverse(latest));
        let Some(_) = self.span(&Spans::default()) else { return parts.sort_by_key(newest) };
        let begin = |part: &&Part| {
            let (span, value) = self.span(part.spans())?;
            span.map(|(lowest, highest)| if self.descending { !value(highest) } else { value(lowest) })
        };
        // Those without a value are last.
        parts.sort_by_key(|part| begin(part).map_or((true, 0), |begin| (false, begin)));
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
