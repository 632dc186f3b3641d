//! Totals that never go down, though the log forgets its beginning and the views are thrown away and made again.
//!
//! What is known of the jobs that there are is a sum over them, like all statistics. What the log has forgotten is kept
//! beside the generations, in one small file: how much of everything stood before each of the last two places at which
//! the log was cut. Both together are all that there ever was, for every generation, whichever of the two places it has
//! come to: so a rebuild, an upgrade, going back, or a crash in the midst of a trim count nothing twice and lose nothing.
//!
//! A count may still move: a name or queue that is told late takes it along. Whoever was told the higher number before is
//! not told a lower one: the old number stands until there is that much again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use proto_events::Timestamp;
use serde::{Deserialize, Serialize};

use crate::codec::{self, Stored};
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
    /// Everything as it was last told; only of this process.
    #[serde(skip)]
    told: TotalMap,
}

impl Stored for Kept {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "totals";
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
    /// What is kept in this directory. What cannot be read is begun anew: counters may begin anew, too, and Prometheus
    /// knows it when one is lower than before.
    pub(crate) fn open(directory: &Path) -> Self {
        let mut kept = match std::fs::read(directory.join(FILE)) {
            Ok(bytes) => codec::decode(&bytes).unwrap_or_else(|error| {
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
        Self { directory: directory.to_owned(), kept: Mutex::new(kept) }
    }

    /// All that there ever was, nothing of it lower than it was ever told.
    pub(crate) fn tell(&self, known: Known) -> TotalMap {
        let mut kept = self.kept.lock();
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
        told
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
    /// it from the log, or it is another one, is kept from now on.
    pub(crate) fn carry(&self, old: Known, new: &Known) {
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
        kept.of_log(new.created);
        if lacking == kept_of_new {
            return;
        }
        tracing::info!(
            counters = lacking.len(),
            "the views that take over know of less or of more: what they lack is kept"
        );
        kept.cuts.retain(|cut| cut.floor < new.floor);
        if kept.cuts.len() > 1 {
            kept.cuts.remove(0);
        }
        kept.cuts.push(Cut { floor: new.floor, sums: lacking, lapsed: BTreeMap::new() });
        self.write(&kept);
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
pub(crate) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const LOG: Timestamp = Timestamp(1);

    fn key(name: &str) -> TotalKey {
        TotalKey { connection: Uuid::from_u128(2), failed: false, text: Arc::from(name) }
    }

    fn of(counts: &[(&str, i64)]) -> TotalMap {
        counts.iter().map(|(name, count)| (key(name), vec![*count])).collect()
    }

    fn known(created: Timestamp, floor: u64, counts: &[(&str, i64)]) -> Known {
        Known { created, floor, sums: of(counts) }
    }

    /// For the golden bytes.
    pub(crate) fn kept() -> Kept {
        let cut = Cut { floor: 7, sums: of(&[("a", 300), ("b", -2)]), lapsed: BTreeMap::from([(key("a"), 7)]) };
        Kept {
            created: Timestamp(1_795_440_115_833_834),
            cuts: vec![cut],
            begun: Some((9, of(&[("a", 301)]))),
            owed: of(&[("b", 1)]),
            told: TotalMap::new(),
        }
    }

    #[test]
    fn what_is_forgotten_is_kept_for_every_generation_and_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path());
        let all = |ledger: &Ledger, floor, a| ledger.real(known(LOG, floor, &[("a", a)]));
        ledger.begin(known(LOG, 0, &[("a", 10)]), 50);
        // A part of the rows is changed when it dies, and when it comes to it again.
        let ledger = Ledger::open(dir.path());
        ledger.begin(known(LOG, 0, &[("a", 8)]), 50);
        ledger.cut(known(LOG, 0, &[("a", 8)]), 50, &of(&[("a", 6)]));
        assert_eq!((all(&ledger, 0, 10), all(&ledger, 50, 6)), (of(&[("a", 10)]), of(&[("a", 10)])));
        // Another generation comes to the same cut.
        ledger.begin(known(LOG, 0, &[("a", 10)]), 50);
        ledger.cut(known(LOG, 0, &[("a", 10)]), 50, &of(&[("a", 6)]));
        assert_eq!(all(&ledger, 50, 7), of(&[("a", 11)]));
        ledger.begin(known(LOG, 50, &[("a", 7)]), 80);
        ledger.cut(known(LOG, 50, &[("a", 7)]), 80, &of(&[]));
        // One is there, one is not, and the file says the same.
        let ledger = Ledger::open(dir.path());
        assert_eq!((all(&ledger, 50, 7), all(&ledger, 80, 0)), (of(&[("a", 11)]), of(&[("a", 11)])));
        std::fs::write(dir.path().join(FILE), "what is this").unwrap();
        assert_eq!(all(&Ledger::open(dir.path()), 80, 3), of(&[("a", 3)]), "it begins anew");
    }

    #[test]
    fn views_that_know_less_take_over_without_a_step_down() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path());
        ledger.cut(known(LOG, 0, &[("a", 5)]), 50, &of(&[("a", 1)]));
        let old = || known(LOG, 50, &[("a", 4), ("b", 3)]);
        let same = known(LOG, 50, &[("a", 4), ("b", 3)]);
        ledger.carry(old(), &same);
        assert_eq!(ledger.real(same), of(&[("a", 8), ("b", 3)]));
        // Somebody dropped what stood before 70, and the new views know more of something else.
        let less = || known(LOG, 70, &[("a", 1), ("b", 9)]);
        ledger.carry(old(), &less());
        assert_eq!(ledger.real(less()), of(&[("a", 8), ("b", 9)]));
        let other = || known(Timestamp(2), 1, &[("a", 2)]);
        ledger.carry(less(), &other());
        assert_eq!(ledger.real(other()), of(&[("a", 8), ("b", 9)]));
        ledger.cut(other(), 9, &of(&[("a", 1)]));
        let ledger = Ledger::open(dir.path());
        assert_eq!(ledger.real(known(Timestamp(2), 9, &[("a", 1)])), of(&[("a", 8), ("b", 9)]));
    }

    #[test]
    fn going_back_counts_nothing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path());
        let (old, new) = (|| known(LOG, 1, &[("b", 3)]), || known(LOG, 1, &[]));
        ledger.carry(old(), &new());
        assert_eq!(ledger.real(new()), of(&[("b", 3)]));
        ledger.carry(new(), &old());
        assert_eq!(ledger.real(old()), of(&[("b", 3)]));
    }

    #[test]
    fn what_the_log_holds_nothing_of_goes_when_there_is_too_much_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path());
        for cut in 0..3_u64 {
            let names: Vec<String> = (0..2_000).map(|number| format!("{cut}-{number}")).collect();
            let there: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
            ledger.cut(known(LOG, cut, &there), cut + 1, &of(&[]));
        }
        let left = ledger.real(known(LOG, 3, &[]));
        assert_eq!(left.len(), LAPSED);
        assert!(left.contains_key(&key("2-1999")) && left.contains_key(&key("1-0")) && !left.contains_key(&key("0-0")));
    }

    proptest! {
        #[test]
        fn nothing_is_told_lower_than_before_and_all_of_it_in_the_end(
            counts in prop::collection::vec((0_i64..20, 0_i64..20, any::<bool>()), 1..40),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut ledger = Ledger::open(dir.path());
            let mut before = TotalMap::new();
            for (a, b, dies) in &counts {
                let told = ledger.tell(known(LOG, 0, &[("a", *a), ("b", *b)]));
                for (key, fields) in &told {
                    prop_assert!(before.get(key).is_none_or(|before| before <= fields));
                }
                before = told;
                if *dies {
                    ledger = Ledger::open(dir.path());
                    prop_assert_eq!(&ledger.tell(known(LOG, 0, &[("a", *a), ("b", *b)])), &before);
                }
            }
            let most = counts.iter().map(|(a, b, _)| *a.max(b)).max().unwrap();
            prop_assert_eq!(ledger.tell(known(LOG, 0, &[("a", most), ("b", most)])), of(&[("a", most), ("b", most)]));
        }
    }
}
