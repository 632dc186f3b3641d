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

/// For the golden bytes: as it was written first.
pub(crate) fn kept_alone() -> KeptAlone {
    let cut = Cut { floor: 7, sums: of(&[("a", 300), ("b", -2)]), lapsed: BTreeMap::from([(key("a"), 7)]) };
    KeptAlone {
        created: Timestamp(1_795_440_115_833_834),
        cuts: vec![cut],
        begun: Some((9, of(&[("a", 301)]))),
        owed: of(&[("b", 1)]),
    }
}

/// For the golden bytes: as it is written now.
pub(crate) fn kept() -> Kept {
    let cut = Cut { floor: 1, sums: of(&[("a", 70_000)]), lapsed: BTreeMap::new() };
    let next = Next { generation: "gen-0002".to_owned(), created: Timestamp(1_795_440_115_900_000), cuts: vec![cut] };
    Kept { next: Some(next), ..kept_alone().into() }
}

/// As `CURRENT` of this directory says.
fn open(dir: &tempfile::TempDir, serving: &str) -> Ledger {
    Ledger::open(dir.path(), Some(serving))
}

/// Others take the place of those that serve, and nothing comes between.
fn replace(ledger: &Ledger, old: Known, new: &Known, generation: &str) {
    ledger.carry(old, new, generation);
    ledger.switch(generation, || ());
}

#[test]
fn what_is_forgotten_is_kept_for_every_generation_and_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, "gen-0001");
    let all = |ledger: &Ledger, floor, a| ledger.real(known(LOG, floor, &[("a", a)]));
    ledger.begin(known(LOG, 0, &[("a", 10)]), 50);
    // A part of the rows is changed when it dies, and when it comes to it again.
    let ledger = open(&dir, "gen-0001");
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
    let ledger = open(&dir, "gen-0001");
    assert_eq!((all(&ledger, 50, 7), all(&ledger, 80, 0)), (of(&[("a", 11)]), of(&[("a", 11)])));
    std::fs::write(dir.path().join(FILE), "what is this").unwrap();
    assert_eq!(all(&open(&dir, "gen-0001"), 80, 3), of(&[("a", 3)]), "it begins anew");
}

#[test]
fn views_that_know_less_take_over_without_a_step_down() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, "gen-0001");
    ledger.cut(known(LOG, 0, &[("a", 5)]), 50, &of(&[("a", 1)]));
    let old = || known(LOG, 50, &[("a", 4), ("b", 3)]);
    let same = known(LOG, 50, &[("a", 4), ("b", 3)]);
    replace(&ledger, old(), &same, "gen-0002");
    assert_eq!(ledger.real(same), of(&[("a", 8), ("b", 3)]));
    // Somebody dropped what stood before 70, and the new views know more of something else.
    let less = || known(LOG, 70, &[("a", 1), ("b", 9)]);
    replace(&ledger, old(), &less(), "gen-0003");
    assert_eq!(ledger.real(less()), of(&[("a", 8), ("b", 9)]));
    let other = || known(Timestamp(2), 1, &[("a", 2)]);
    replace(&ledger, less(), &other(), "gen-0004");
    assert_eq!(ledger.real(other()), of(&[("a", 8), ("b", 9)]));
    ledger.cut(other(), 9, &of(&[("a", 1)]));
    let ledger = open(&dir, "gen-0001");
    assert_eq!(ledger.real(known(Timestamp(2), 9, &[("a", 1)])), of(&[("a", 8), ("b", 9)]));
}

#[test]
fn going_back_counts_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, "gen-0001");
    let (old, new) = (|| known(LOG, 1, &[("b", 3)]), || known(LOG, 1, &[]));
    replace(&ledger, old(), &new(), "gen-0002");
    assert_eq!(ledger.real(new()), of(&[("b", 3)]));
    replace(&ledger, new(), &old(), "gen-0001");
    assert_eq!(ledger.real(old()), of(&[("b", 3)]));
}

/// Wherever the process ends between the two, what is kept for the one is not counted with the other.
#[test]
fn what_is_kept_for_the_next_views_counts_when_they_serve_and_not_before() {
    let old = || known(LOG, 50, &[("a", 4), ("b", 3)]);
    let all = of(&[("a", 8), ("b", 3)]);
    // Of another log, of this one without its beginning, and of this one with something else in it.
    for (created, floor, count) in [(Timestamp(2), 1, 2), (LOG, 70, 1), (LOG, 50, 1)] {
        let new = || known(created, floor, &[("a", count)]);
        let carried = || {
            let dir = tempfile::tempdir().unwrap();
            let ledger = open(&dir, "gen-0001");
            ledger.cut(known(LOG, 0, &[("a", 5)]), 50, &of(&[("a", 1)]));
            assert_eq!(ledger.real(old()), all);
            ledger.carry(old(), &new(), "gen-0002");
            (dir, ledger)
        };
        let (dir, ledger) = carried();
        assert_eq!(ledger.real(old()), all, "they serve on");
        assert_eq!(open(&dir, "gen-0002").real(new()), all, "`CURRENT` names the new ones");

        let (dir, _) = carried();
        let ledger = open(&dir, "gen-0001");
        assert_eq!(ledger.real(old()), all, "it names the old ones");
        assert_eq!(open(&dir, "gen-0002").real(old()), all, "and what was for others is not for who has their name");
        ledger.carry(old(), &new(), "gen-0003");
        assert_eq!(ledger.tell(old(), || false), None, "whose readers know of the new ones already");
        ledger.switch("gen-0003", || ());
        assert_eq!((&ledger.real(new()), &open(&dir, "gen-0003").real(new())), (&all, &all));
    }
}

#[test]
fn what_was_kept_for_views_that_did_not_come_to_serve_is_not_what_others_of_their_name_get() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, "gen-0001");
    let sums = || known(LOG, 50, &[("a", 4)]);
    ledger.cut(known(LOG, 0, &[("a", 5)]), 50, &of(&[("a", 4)]));
    ledger.carry(sums(), &known(LOG, 50, &[]), "gen-0002");
    // It failed, and before the next attempt more is forgotten; of what serves nothing can be told then.
    ledger.cut(sums(), 90, &of(&[]));
    ledger.carry_nothing();
    ledger.switch("gen-0002", || ());
    assert_eq!(ledger.real(known(LOG, 90, &[])), of(&[("a", 5)]));
}

#[test]
fn what_was_kept_before_there_was_a_next_generation_is_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), codec::encode(&kept_alone())).unwrap();
    let KeptAlone { created, owed, .. } = kept_alone();
    let ledger = open(&dir, "gen-0001");
    assert_eq!(ledger.real(Known { created, floor: 7, sums: TotalMap::new() }), of(&[("a", 300), ("b", -2)]));
    assert_eq!(ledger.kept.lock().told, owed);
}

#[test]
fn what_the_log_holds_nothing_of_goes_when_there_is_too_much_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(&dir, "gen-0001");
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
        let mut ledger = open(&dir, "gen-0001");
        let mut before = TotalMap::new();
        for (a, b, dies) in &counts {
            let told = ledger.tell(known(LOG, 0, &[("a", *a), ("b", *b)]), || true).unwrap();
            for (key, fields) in &told {
                prop_assert!(before.get(key).is_none_or(|before| before <= fields));
            }
            before = told;
            if *dies {
                ledger = open(&dir, "gen-0001");
                let told = ledger.tell(known(LOG, 0, &[("a", *a), ("b", *b)]), || true);
                prop_assert_eq!(told.as_ref(), Some(&before));
            }
        }
        let most = counts.iter().map(|(a, b, _)| *a.max(b)).max().unwrap();
        let in_the_end = of(&[("a", most), ("b", most)]);
        prop_assert_eq!(ledger.tell(known(LOG, 0, &[("a", most), ("b", most)]), || true), Some(in_the_end));
    }
}
