//! The fleet against the plain set of facts, and the stories that it tells apart.

use proptest::collection::vec;
use proptest::prelude::*;
use proto_events::{Position, Timestamp};
use uuid::Uuid;

use super::{FACTS, Fleet, FleetFact, Gap, Gone, Proof, What, Word};

const CONNECTION: Uuid = Uuid::from_u128(1);
const NAME: &str = "celery@w";

fn at(second: i64) -> Timestamp {
    Timestamp(1_700_000_000_000_000 + second * 1_000_000)
}

fn fact(sequence: u64, second: i64, what: What) -> FleetFact {
    let (name, position) = (NAME.into(), Position::new(sequence, 0));
    FleetFact { connection: CONNECTION, name, position, at: at(second), what }
}

fn spoke(word: Word, pid: i64, clock: i64) -> What {
    What::Spoke { word, pid: Some(pid), clock: Some(clock), processed: None, freq: Some(2.0) }
}

fn silent(pid: i64, heard: i64, beats_while_busy: bool) -> What {
    What::Silent { pid: Some(pid), heard: at(heard), listening: None, beats_while_busy }
}

fn source(connected: bool) -> What {
    What::Source { connected, reason: None }
}

fn told(story: &[(i64, What)]) -> Fleet {
    let mut fleet = Fleet::default();
    for (sequence, (second, what)) in (1..).zip(story) {
        fleet.add(fact(sequence, *second, what.clone()));
    }
    fleet
}

fn proof(story: &[(i64, What)], began: i64) -> Option<Proof> {
    told(story).gone(CONNECTION, NAME)?.lost(at(began)).map(|lost| lost.proof.clone())
}

#[test]
fn a_process_is_gone_when_another_one_speaks_under_its_name() {
    let killed = [(0, spoke(Word::Online, 1, 5)), (10, spoke(Word::Online, 2, 7))];
    assert_eq!(proof(&killed, 9), Some(Proof::NewProcess { from: 1, to: 2 }));
    assert_eq!(proof(&killed, 10), None, "it was begun by the new one");
    // Celery comes and goes whenever its broker does: the same process, and its clock goes on.
    let back = [(0, spoke(Word::Online, 1, 5)), (8, spoke(Word::Offline, 1, 90)), (10, spoke(Word::Online, 1, 92))];
    assert_eq!(proof(&back, 9), None);
    assert_eq!(proof(&back[..2], 7), None, "a leave alone proves nothing");
    let container = [(0, spoke(Word::Online, 1, 5)), (8, spoke(Word::Alive, 1, 90)), (10, spoke(Word::Online, 1, 4))];
    assert_eq!(proof(&container, 9), Some(Proof::ClockRestarted { pid: 1, from: 90, to: 4 }));
    // The old one speaks after the new one came: nobody is gone.
    let shared = [killed.as_slice(), &[(11, spoke(Word::Alive, 1, 90))]].concat();
    assert_eq!(proof(&shared, 9), None);
    // Of two that came one after the other the first counts.
    let twice = [killed.as_slice(), &[(20, spoke(Word::Online, 3, 7))]].concat();
    assert_eq!(proof(&twice, 9), Some(Proof::NewProcess { from: 1, to: 2 }));
    assert_eq!(proof(&twice, 15), Some(Proof::NewProcess { from: 2, to: 3 }));
}

#[test]
fn a_wall_clock_that_is_set_back_is_no_new_process() {
    let ran = |clock, processed| What::Spoke {
        word: Word::Alive,
        pid: Some(1),
        clock: Some(clock),
        processed: Some(processed),
        freq: Some(2.0),
    };
    // By the wall clock, 93 comes before 90.
    let set_back = [(98, ran(88, 7)), (100, ran(90, 8)), (97, ran(91, 9)), (99, ran(93, 10)), (101, ran(95, 11))];
    for length in 1..=set_back.len() {
        assert_eq!(proof(&set_back[..length], 0), None, "{length}");
    }
    // One that really begins anew after that is known.
    let anew = [set_back.as_slice(), &[(105, ran(4, 0))]].concat();
    assert_eq!(proof(&anew, 104), Some(Proof::ClockRestarted { pid: 1, from: 95, to: 4 }));
    // What the old one said arrives behind the first word of the new one: that one is known by what stands before it.
    let late = [(10, ran(90, 7)), (12, ran(4, 0)), (11, ran(91, 7)), (14, ran(6, 0))];
    assert_eq!(proof(&late, 11), Some(Proof::ClockRestarted { pid: 1, from: 90, to: 4 }));
    assert_eq!(proof(&late, 12), None);
}

#[test]
fn a_silent_process_is_gone_until_it_is_heard() {
    let story = [(0, spoke(Word::Online, 1, 5)), (50, silent(1, 30, false))];
    let told_of = |began| proof(&story, began);
    assert!(matches!(told_of(29), Some(Proof::Silent { pid: Some(1), .. })));
    assert_eq!(told_of(31), None, "what runs where the worker beats makes it silent");
    let busy = [(0, spoke(Word::Online, 1, 5)), (50, silent(1, 30, true))];
    assert!(proof(&busy, 49).is_some() && proof(&busy, 50).is_none());
    for word in [Word::Alive, Word::Online, Word::Offline] {
        let heard = [busy.as_slice(), &[(51, spoke(word, 1, 80))]].concat();
        assert_eq!(proof(&heard, 20), None, "{word:?}");
    }
    // What was said before it fell silent, and comes late, is no sign of life.
    let late = [busy.as_slice(), &[(29, spoke(Word::Online, 1, 60))]].concat();
    assert!(proof(&late, 20).is_some());
    // Who was only ever heard by its heartbeats is known by its silence.
    let replaced = [(50, silent(1, 30, true)), (60, spoke(Word::Online, 2, 1))];
    assert_eq!(proof(&replaced, 20), Some(Proof::NewProcess { from: 1, to: 2 }));
}

#[test]
fn a_source_did_not_listen_from_its_leave_to_its_return() {
    let story = [
        (0, source(false)),
        (1, source(true)),
        (5, source(false)),
        (6, source(false)),
        (9, source(true)),
        (12, source(false)),
    ];
    let gap = |from, to: Option<i64>| Gap { from: at(from), to: to.map(at), reason: None };
    let fleet = told(&story);
    let gaps: Vec<_> = fleet.gaps().collect();
    assert_eq!(gaps, [((CONNECTION, NAME), vec![gap(5, Some(9)), gap(12, None)])]);
}

fn stories() -> impl Strategy<Value = Vec<FleetFact>> {
    let word = prop_oneof![Just(Word::Online), Just(Word::Alive), Just(Word::Offline)];
    let what = prop_oneof![
        6 => (word, 1_i64..4, 0_i64..50).prop_map(|(word, pid, clock)| spoke(word, pid, clock)),
        2 => (1_i64..4, 0_i64..90, any::<bool>()).prop_map(|(pid, heard, busy)| silent(pid, heard, busy)),
        1 => any::<bool>().prop_map(source),
    ];
    vec((0_i64..100, what, 0_u8..3), 1..100).prop_map(|told| {
        let named = |(sequence, (second, what, name)): (u64, (i64, What, u8))| FleetFact {
            name: format!("w{name}").into(),
            ..fact(sequence, second, what)
        };
        (1..).zip(told).map(named).collect()
    })
}

/// Who is gone, what was missed, and what is kept.
type Answers = (Vec<(String, Gone)>, Vec<(String, Vec<Gap>)>, Vec<Position>);

/// What anybody may ask of it.
fn answers(fleet: &Fleet) -> Answers {
    let mut gone: Vec<_> = fleet.all_gone().map(|((_, name), gone)| (name.to_owned(), gone.clone())).collect();
    let mut gaps: Vec<_> = fleet.gaps().map(|((_, name), gaps)| (name.to_owned(), gaps)).collect();
    let mut kept: Vec<_> = fleet.facts().map(|fact| fact.position).collect();
    gone.sort_by(|a, b| a.0.cmp(&b.0));
    gaps.sort_by(|a, b| a.0.cmp(&b.0));
    kept.sort_unstable();
    (gone, gaps, kept)
}

proptest! {
    #[test]
    fn what_is_known_of_workers_is_a_function_of_the_log(
        story in stories(),
        shuffle in any::<u64>(),
        cut in 0_u64..100,
    ) {
        let of = |facts: &[FleetFact]| {
            let mut fleet = Fleet::default();
            let left_out: Vec<Position> = facts.iter().flat_map(|fact| fleet.add(fact.clone())).collect();
            (fleet, left_out)
        };
        let (straight, left_out) = of(&story);
        // What is kept and what is told not to be kept is all there is.
        prop_assert_eq!(straight.facts().count() + left_out.len(), story.len());
        prop_assert!(straight.facts().all(|fact| !left_out.contains(&fact.position)));
        // In another order, some of them twice, and in parts that are put together.
        let mut mixed: Vec<FleetFact> = story.iter().chain(&story[..story.len() / 2]).cloned().collect();
        mixed.sort_by_key(|fact| (fact.position.sequence ^ shuffle).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        prop_assert_eq!(answers(&of(&mixed).0), answers(&straight));
        let (mut one, other) = (of(&mixed[..mixed.len() / 2]).0, of(&mixed[mixed.len() / 2..]).0);
        one.absorb(other);
        prop_assert_eq!(answers(&one), answers(&straight));
        // What the log forgets is forgotten as if it had never been.
        let mut forgetful = straight;
        forgetful.forget(cut);
        let rest: Vec<FleetFact> = story.into_iter().filter(|fact| fact.position.sequence >= cut).collect();
        prop_assert_eq!(answers(&forgetful), answers(&of(&rest).0));
    }
}

#[test]
fn of_each_only_the_last_is_kept_and_made_up_names_take_no_room_without_bound() {
    let mut fleet = Fleet::default();
    for sequence in 0..100 {
        fleet.add(fact(sequence, 0, spoke(Word::Alive, 1, 1)));
    }
    assert_eq!(fleet.facts().count(), FACTS);
    for number in 0..30_000_u64 {
        let name = format!("made-up-{number}").into();
        fleet.add(FleetFact { name, ..fact(1_000 + number, 0, spoke(Word::Online, 1, 1)) });
    }
    assert_eq!(fleet.facts().count(), super::MEMBERS);
}
