//! Totals that never go down, though the log forgets its beginning and the views are thrown away and made again.
//!
//! What is known of the jobs that there are is a sum over them, like all statistics. What the log has forgotten is kept
//! beside the generations, in one small file: how much of everything stood before each of the last two places at which
//! the log was cut. Both together are all that there ever was, for every generation, whichever of the two places it has
//! come to: so a rebuild, an upgrade, going back, or a crash in the midst of a trim count nothing twice and lose nothing.
//!
//! What other views lack that are about to serve is kept for them, and counts from the moment at which they do: before it
//! `CURRENT` names the old ones, whatever becomes of the process, and with those it would count twice.
//!
//! A count may still move: a name or queue that is told late takes it along. Whoever was told the higher number before is
//! not told a lower one: the old number stands until there is that much again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use proto_events::Timestamp;
use serde::{Deserialize, Serialize};

use crate::codec::{self, Stored};
use crate::error::ViewError;
use crate::stats::{TotalKey, TotalMap};

/// Beside the generations.
const FILE: &str = "TOTALS";
/// Of so many things that the log holds nothing of any more totals are kept; those go first that it forgot first.
const LAPSED: usize = 5_000;

/// What is kept beside the generations of a directory.
pub(crate) struct Ledger {
    directory: PathBuf,
    kept: Mutex<Kept>,
}

/// What is in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The log that the places are in, by its creation.
    created: Timestamp,
    /// What stood before the last two places at which it was cut, the older one first.
    cuts: Vec<Cut>,
    /// What there was in all when a cut was begun, until it is done.
    begun: Option<(u64, TotalMap)>,
    /// What was told and is higher than what is known.
    owed: TotalMap,
    /// What is kept once another generation serves.
    next: Option<Next>,
    /// Everything as it was last told; only of this process.
    #[serde(skip)]
    told: TotalMap,
}

impl Stored for Kept {
    const FORMAT: u8 = 2;
    const NAME: &'static str = "totals";
}

/// What is kept in the place of `created` and `cuts` once `CURRENT` names this generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Next {
    generation: String,
    created: Timestamp,
    cuts: Vec<Cut>,
}

/// The file as it was written before there was a next generation in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptAlone {
    created: Timestamp,
    cuts: Vec<Cut>,
    begun: Option<(u64, TotalMap)>,
    owed: TotalMap,
}

impl Stored for KeptAlone {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "totals";
}

impl From<KeptAlone> for Kept {
    fn from(KeptAlone { created, cuts, begun, owed }: KeptAlone) -> Self {
        Self { created, cuts, begun, owed, next: None, told: TotalMap::new() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cut {
    /// The first message that is left.
    floor: u64,
    sums: TotalMap,
    /// Of what the log holds nothing any more, since which cut.
    lapsed: BTreeMap<TotalKey, u64>,
}

/// What is known of the jobs of a generation, and where its log begins.
pub(crate) struct Known {
    pub(crate) created: Timestamp,
    pub(crate) floor: u64,
    pub(crate) sums: TotalMap,
}

impl Ledger {
    /// What is kept in this directory, whose `CURRENT` names this generation. What cannot be read is begun anew: counters
    /// may begin anew, too, and Prometheus knows it when one is lower than before.
    pub(crate) fn open(directory: &Path, serving: Option<&str>) -> Self {
        let mut kept = match std::fs::read(directory.join(FILE)) {
            Ok(bytes) => Kept::read(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "the totals of what the log has forgotten cannot be read, and begin anew");
                Kept::default()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept::default(),
            Err(error) => {
                tracing::warn!(%error, "the totals of what the log has forgotten cannot be read, and begin anew");
                Kept::default()
            }
        };
        kept.told = kept.owed.clone();
        let next = kept.next.take();
        let is_news = next.is_some();
        if let Some(next) = next.filter(|next| serving == Some(next.generation.as_str())) {
            kept.go_on_with(next);
        }
        let ledger = Self { directory: directory.to_owned(), kept: Mutex::default() };
        if is_news {
            // Once and for all: another generation may come to have that name.
            ledger.write(&kept);
        }
        *ledger.kept.lock() = kept;
        ledger
    }

    /// All that there ever was, nothing of it lower than it was ever told; `None` where what is known is not of the
    /// generation that serves any more.
    pub(crate) fn tell(&self, known: Known, still_serves: impl FnOnce() -> bool) -> Option<TotalMap> {
        let mut kept = self.kept.lock();
        if !still_serves() {
            return None;
        }
        let mut told = kept.all(known);
        let mut owed = TotalMap::new();
        for (key, fields) in &mut told {
            let Some(before) = kept.told.get(key) else { continue };
            if before.iter().zip(&*fields).any(|(before, now)| before > now) {
                fields.iter_mut().zip(before).for_each(|(field, before)| *field = (*field).max(*before));
                owed.insert(key.clone(), fields.clone());
            }
        }
        kept.told.clone_from(&told);
        if kept.owed != owed {
            kept.owed = owed;
            self.write(&kept);
        }
        Some(told)
    }

    /// All that there ever was, lower than it was told or not.
    #[cfg(test)]
    pub(crate) fn real(&self, known: Known) -> TotalMap {
        self.kept.lock().all(known)
    }

    /// A cut is about to change what is known. It may end before it is done, with a part of the rows changed, and is then
    /// made again: what there was before it is kept.
    pub(crate) fn begin(&self, known: Known, floor: u64) {
        let mut kept = self.kept.lock();
        let is_known = kept.is_cut_at(known.created, floor)
            || kept.created == known.created && kept.begun.as_ref().is_some_and(|(begun, _)| *begun == floor);
        if is_known {
            return;
        }
        let created = known.created;
        let all = kept.all(known);
        kept.of_log(created);
        kept.begun = Some((floor, all));
        self.write(&kept);
    }

    /// The log is cut: of what there was, this is left. To be called before that is lasting in the views.
    pub(crate) fn cut(&self, before: Known, floor: u64, left: &TotalMap) {
        let mut kept = self.kept.lock();
        if kept.is_cut_at(before.created, floor) {
            return;
        }
        let (created, floor_before) = (before.created, before.floor);
        let kept_before = kept.at(created, floor_before).map(|cut| cut.sums.clone()).unwrap_or_default();
        let begun = kept.begun.take().filter(|(begun, _)| *begun == floor && kept.created == created);
        let mut sums = begun.map_or_else(|| kept.all(before), |(_, all)| all);
        kept.of_log(created);
        if kept.cuts.is_empty() {
            // For whoever has not come to this cut yet: it is the first one.
            kept.cuts.push(Cut { floor: floor_before, sums: kept_before, lapsed: BTreeMap::new() });
        }
        add(&mut sums, left, -1);
        let mut lapsed = kept.cuts.last().map(|cut| cut.lapsed.clone()).unwrap_or_default();
        lapsed.retain(|key, _| sums.contains_key(key) && !left.contains_key(key));
        for key in sums.keys().filter(|key| !left.contains_key(*key)) {
            lapsed.entry(key.clone()).or_insert(floor);
        }
        let mut order: Vec<(u64, TotalKey)> = lapsed.iter().map(|(key, since)| (*since, key.clone())).collect();
        order.sort_unstable();
        for (_, key) in order.into_iter().take(lapsed.len().saturating_sub(LAPSED)) {
            lapsed.remove(&key);
            sums.remove(&key);
        }
        if kept.cuts.len() > 1 {
            kept.cuts.remove(0);
        }
        kept.cuts.push(Cut { floor, sums, lapsed });
        self.write(&kept);
    }

    /// Other views are about to serve, at the same message. What they do not know of what these did, since somebody dropped
    /// it from the log, or it is another one, is kept for them.
    pub(crate) fn carry(&self, old: Known, new: &Known, generation: &str) {
        let mut kept = self.kept.lock();
        let is_other_log = kept.created != new.created && !kept.cuts.is_empty() || old.created != new.created;
        let mut lacking = kept.all(old);
        let mut kept_of_new = TotalMap::new();
        if !is_other_log && let Some(cut) = kept.at(new.created, new.floor) {
            kept_of_new.clone_from(&cut.sums);
        }
        // All that they lack of what was told, and not what is kept and something beside it: whoever takes over may be
        // going back to what it was before, and what was kept for others is not to count twice.
        add(&mut lacking, &new.sums, -1);
        for (key, fields) in &mut lacking {
            let kept = kept_of_new.get(key);
            for (place, field) in fields.iter_mut().enumerate() {
                let least = kept.and_then(|kept| kept.get(place)).map_or(0, |kept| *kept.min(&0));
                *field = (*field).max(least);
            }
        }
        lacking.retain(|_, fields| fields.iter().any(|field| *field != 0));
        let mut cuts = if kept.created == new.created { kept.cuts.clone() } else { Vec::new() };
        if lacking != kept_of_new {
            tracing::info!(
                counters = lacking.len(),
                "the views that take over know of less or of more: what they lack is kept"
            );
            cuts.retain(|cut| cut.floor < new.floor);
            if cuts.len() > 1 {
                cuts.remove(0);
            }
            cuts.push(Cut { floor: new.floor, sums: lacking, lapsed: BTreeMap::new() });
        }
        let holds_nothing = cuts.is_empty() && kept.cuts.is_empty() && kept.begun.is_none();
        let changes = !holds_nothing && (cuts != kept.cuts || kept.created != new.created);
        let next = changes.then(|| Next { generation: generation.to_owned(), created: new.created, cuts });
        if kept.next != next {
            kept.next = next;
            self.write(&kept);
        }
    }

    /// Forgets what was kept for views that were about to serve and did not come to it: it may be older than what is known
    /// by now.
    pub(crate) fn carry_nothing(&self) {
        let mut kept = self.kept.lock();
        if kept.next.take().is_some() {
            self.write(&kept);
        }
    }

    /// Lets readers know of the generation that serves from now on, and what was kept for it counts: nobody is told the one
    /// without the other.
    pub(crate) fn switch<T>(&self, generation: &str, switch: impl FnOnce() -> T) -> T {
        let mut kept = self.kept.lock();
        let switched = switch();
        if let Some(next) = kept.next.take_if(|next| next.generation == generation) {
            kept.go_on_with(next);
            self.write(&kept);
        }
        switched
    }

    /// What cannot be written costs counters their past at the next start, and stops nothing: least of all a trim, which
    /// makes room on a full disk.
    fn write(&self, kept: &Kept) {
        if let Err(error) = crate::generation::write_totals(&self.directory, FILE, &codec::encode(kept)) {
            tracing::warn!(%error, "the totals of what the log has forgotten cannot be written");
        }
    }
}

impl Kept {
    fn read(bytes: &[u8]) -> Result<Self, ViewError> {
        codec::decode(bytes).or_else(|error| codec::decode::<KeptAlone>(bytes).map(Self::from).map_err(|_| error))
    }

    /// Another generation serves, for which this was kept.
    fn go_on_with(&mut self, next: Next) {
        self.of_log(next.created);
        self.cuts = next.cuts;
    }

    /// What stood before the first message of a generation: exactly, for each of the last two cuts.
    fn at(&self, created: Timestamp, floor: u64) -> Option<&Cut> {
        if created != self.created {
            return self.cuts.last();
        }
        self.cuts.iter().rev().find(|cut| cut.floor <= floor).or_else(|| self.cuts.first())
    }

    fn is_cut_at(&self, created: Timestamp, floor: u64) -> bool {
        created == self.created && self.cuts.last().is_some_and(|cut| cut.floor >= floor)
    }

    /// All that there ever was.
    fn all(&self, known: Known) -> TotalMap {
        let mut all = known.sums;
        if let Some(cut) = self.at(known.created, known.floor) {
            add(&mut all, &cut.sums, 1);
        }
        all
    }

    /// From now on places are those of this log.
    fn of_log(&mut self, created: Timestamp) {
        if self.created != created {
            self.created = created;
            (self.cuts, self.begun) = (Vec::new(), None);
        }
    }
}

/// Adds these, so many times each.
pub(crate) fn add(sums: &mut TotalMap, more: &TotalMap, times: i64) {
    for (key, more) in more {
        let fields = sums.entry(key.clone()).or_insert_with(|| vec![0; more.len()]);
        for (field, more) in fields.iter_mut().zip(more) {
            *field = field.wrapping_add(more.wrapping_mul(times));
        }
        if fields.iter().all(|field| *field == 0) {
            sums.remove(key);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
