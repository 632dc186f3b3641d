//! Sums by name: of so many names at most, those that came first into the log.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use proto_events::Position;
use uuid::Uuid;

/// A connection and a text that names something of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) connection: Uuid,
    pub(super) text: Arc<str>,
}

/// The same, borrowed.
#[derive(Hash)]
struct Named<'a> {
    connection: Uuid,
    text: &'a str,
}

impl Equivalent<Key> for Named<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.connection == key.connection && *self.text == *key.text
    }
}

/// Something that can be told to have nothing in it.
pub(super) trait Series: Default {
    fn is_empty(&self) -> bool;
}

/// One name.
#[derive(Clone, Debug)]
struct Entry<S> {
    /// Jobs of the name, each with the place of its first event: those that stand first in the log, as far as is known.
    first: Position,
    /// When that place was told: a job may bring several names, and those it says first come first.
    told: u64,
    jobs: u64,
    /// `None` where there were too many names before it.
    series: Option<S>,
}

/// The series of one kind.
#[derive(Clone, Debug)]
pub(super) struct Group<S> {
    entries: HashMap<Key, Entry<S>>,
    /// What the names that were not admitted sum up to, by connection.
    others: BTreeMap<Uuid, S>,
    limit: usize,
    admitted: usize,
    /// How often a name's first place was told.
    told: u64,
    /// The last place of any name that was admitted.
    last: Position,
    /// Whether a name may stand first at a later place than is remembered.
    stale: bool,
    /// Whether who is admitted may not follow from the jobs any more: all has to be made anew.
    pub(super) unsettled: bool,
}

impl<S: Series> Group<S> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            entries: HashMap::default(),
            others: BTreeMap::new(),
            limit,
            admitted: 0,
            told: 0,
            last: Position::default(),
            stale: false,
            unsettled: false,
        }
    }

    /// No jobs, but the names of these, those admitted that stand first in the log. Only of what no job has left.
    pub(super) fn admitting(self) -> Self {
        let names = self.entries.into_iter().map(|(key, entry)| (entry.first, entry.told, key));
        let mut names: Vec<(Position, u64, Key)> = names.collect();
        names.sort_unstable_by_key(|(first, told, _)| (*first, *told));
        let mut group = Self::new(self.limit);
        (group.admitted, group.told) = (names.len().min(self.limit), self.told);
        group.last = group.admitted.checked_sub(1).map(|last| names[last].0).unwrap_or_default();
        let series = |place| (place < group.admitted).then(S::default);
        let entries = names.into_iter().enumerate();
        let entry = |(place, (first, told, key))| (key, Entry { first, told, jobs: 0, series: series(place) });
        group.entries = entries.map(entry).collect();
        group
    }

    /// A job that has this name from now on.
    pub(super) fn join(&mut self, connection: Uuid, text: &str, first: Position) {
        self.told += 1;
        if let Some(entry) = self.entries.get_mut(&Named { connection, text }) {
            entry.jobs += 1;
            if first < entry.first {
                (entry.first, entry.told) = (first, self.told);
                self.unsettled |= entry.series.is_none() && first < self.last;
            }
            return;
        }
        let series = (self.admitted < self.limit).then(S::default);
        if series.is_some() {
            self.admitted += 1;
            self.last = self.last.max(first);
        } else {
            self.unsettled |= self.stale || first < self.last;
        }
        self.entries.insert(Key { connection, text: text.into() }, Entry { first, told: self.told, jobs: 1, series });
    }

    /// A job that has this name no more.
    pub(super) fn leave(&mut self, connection: Uuid, text: &str, first: Position) {
        let named = Named { connection, text };
        let Some(entry) = self.entries.get_mut(&named) else { return };
        entry.jobs -= 1;
        let (is_gone, was_first) = (entry.jobs == 0, entry.first == first);
        let is_admitted = entry.series.is_some();
        self.stale |= was_first && is_admitted;
        self.unsettled |= was_first && is_admitted && self.entries.len() > self.limit;
        if is_gone {
            self.entries.remove(&named);
            self.admitted -= usize::from(is_admitted);
        }
    }

    /// The series that a name counts for.
    pub(super) fn get_mut(&mut self, connection: Uuid, text: &str) -> &mut S {
        let named = Named { connection, text };
        match self.entries.get_mut(&named).and_then(|entry| entry.series.as_mut()) {
            Some(series) => series,
            None => self.others.entry(connection).or_default(),
        }
    }

    /// All series with something in them; without a text, that of all who were not admitted.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Uuid, Option<&Arc<str>>, &S)> {
        let admitted = self
            .entries
            .iter()
            .filter_map(|(key, entry)| Some((key.connection, Some(&key.text), entry.series.as_ref()?)));
        let others = self.others.iter().map(|(connection, series)| (*connection, None, series));
        admitted.chain(others).filter(|(_, _, series)| !series.is_empty())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.entries.values_mut().filter_map(|entry| entry.series.as_mut()).chain(self.others.values_mut())
    }
}
