//! Faults at random moments, round after round. `make test` runs a few rounds, `make soak` many: `SOAK_ROUNDS`,
//! `SOAK_SEED`, and `SOAK_FAULT` for one kind alone. What happens in a round depends on the seed and the number of the round alone, as far as the machine
//! lets it.

use std::time::{Duration, Instant};

use event_log::testing::{NoDisk, SmallDisk};
use forebay_tests::wait_for;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use super::people::{People, Shift};
use super::world::{Server, World, copy, place, reason};

const WRITERS: u64 = 3;
const READERS: u64 = 2;
/// After so many rounds everything begins anew, or each would take longer than the one before.
const ROUNDS_OF_A_WORLD: u64 = 20;
/// Room for all that is written to a world, and for a rebuild of it.
const DISK_MEGABYTES: u32 = 512;
/// So many jobs are written before a log is put back to before them.
const DOOMED: usize = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillForebay,
    KillNats,
    KillBoth,
    PauseNats,
    OldLog,
    FullDisk,
    DamagedViews,
}

const FAULTS: [Fault; 7] = [
    Fault::KillForebay,
    Fault::KillNats,
    Fault::KillBoth,
    Fault::PauseNats,
    Fault::OldLog,
    Fault::FullDisk,
    Fault::DamagedViews,
];

/// What is done to one world, fault after fault.
struct Life {
    server: Server,
    faults: Vec<Fault>,
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Each kind of fault comes once before any comes again.
fn lives(rounds: Option<u64>, random: &mut StdRng) -> Vec<Life> {
    let only = std::env::var("SOAK_FAULT").ok();
    let mut deck = Vec::new();
    let mut draw = |server, count: u64| {
        let mut faults = Vec::new();
        for _ in 0..count {
            if deck.is_empty() {
                deck = FAULTS.to_vec();
                deck.retain(|fault| only.as_ref().is_none_or(|only| *only == format!("{fault:?}")));
                deck.shuffle(random);
            }
            faults.extend(deck.pop());
        }
        Life { server, faults }
    };
    let Some(rounds) = rounds else {
        // The short share: each kind once, and those again that are another matter where the log is somebody else's.
        let external = vec![Fault::KillNats, Fault::OldLog];
        return vec![draw(Server::Embedded, FAULTS.len() as u64), Life { server: Server::External, faults: external }];
    };
    let firsts = (0..rounds).step_by(ROUNDS_OF_A_WORLD as usize);
    let servers = [Server::Embedded, Server::External].into_iter().cycle();
    firsts.zip(servers).map(|(first, server)| draw(server, ROUNDS_OF_A_WORLD.min(rounds - first))).collect()
}

#[test]
fn every_acknowledged_event_is_in_the_record_whatever_is_killed() {
    let name = "crashes::faults::every_acknowledged_event_is_in_the_record_whatever_is_killed";
    let disk = match SmallDisk::or_why_not(DISK_MEGABYTES, name) {
        Err(NoDisk::RanElsewhere) => return,
        Err(NoDisk::Forbidden) => None,
        Ok(disk) => Some(disk),
    };
    let seed = setting("SOAK_SEED").unwrap_or(1);
    let mut round = 0;
    for life in lives(setting("SOAK_ROUNDS"), &mut StdRng::seed_from_u64(seed)) {
        round = live(&life, seed, round, disk.as_ref());
    }
}

fn live(life: &Life, seed: u64, first: u64, disk: Option<&SmallDisk>) -> u64 {
    let mut world = World::new(life.server, seed, disk);
    let people = People::new(&world.forebay.api);
    for (round, fault) in (first..).zip(&life.faults) {
        if *fault == Fault::FullDisk && disk.is_none() {
            eprintln!(
                "!!! seed {seed}, round {round}: LEFT OUT, this user may neither mount a small disk nor use `unshare -rm`"
            );
            continue;
        }
        let mut random = StdRng::seed_from_u64(seed ^ (round << 32));
        let (began, reads, from) = (Instant::now(), people.reads(), people.ledger.len());
        eprintln!("seed {seed}, round {round}: {fault:?}, log {:?}", life.server);
        suffer(&mut world, &people, *fault, &mut random);
        check(&mut world, &people, from);
        let (reads, jobs) = (people.reads() - reads, people.ledger.len() - from);
        let seconds = began.elapsed().as_secs_f64();
        eprintln!("seed {seed}, round {round}: well after {seconds:.1} s; {jobs} jobs, {reads} reads");
    }
    world.forebay.stop();
    world.start_forebay(&people);
    check(&mut world, &people, 0);
    first + life.faults.len() as u64
}

/// One fault, while people write and read, and maybe while the views are rebuilt, until all is well again.
fn suffer(world: &mut World<'_>, people: &People, fault: Fault, random: &mut StdRng) {
    let (rebuilds, delay, seed) = (random.random_bool(0.3), random.random_range(20..500), random.random::<u64>());
    std::thread::scope(|scope| {
        let _shift: Shift = people.begin();
        (0..WRITERS).for_each(|writer| drop(scope.spawn(move || people.write(seed ^ writer))));
        (0..READERS).for_each(|reader| drop(scope.spawn(move || people.read(seed ^ reader))));
        if rebuilds {
            // It may be too early for one; then there is none.
            let _ = world.forebay.api.try_post("/api/rebuilds", &json!({}));
        }
        // The random moment of the fault; nothing is waited for.
        std::thread::sleep(Duration::from_millis(delay));
        strike(world, people, fault, random);
        world.wait_until_well(people);
        // Then work goes on, too.
        let (reads, jobs) = (people.reads(), people.ledger.len());
        let goes_on = || (people.reads() > reads && people.ledger.len() > jobs).then_some(());
        wait_for("somebody to write and somebody to read", 60, goes_on);
    });
}

fn strike(world: &mut World<'_>, people: &People, fault: Fault, random: &mut StdRng) {
    let mut moment = |most| Duration::from_millis(random.random_range(0..most));
    match fault {
        Fault::KillForebay => {
            world.kill_forebay(people);
            std::thread::sleep(moment(300));
            world.start_forebay(people);
        }
        Fault::KillNats => {
            world.kill_nats(moment(1_500));
            world.stream_goes_on();
        }
        Fault::KillBoth => {
            let (first, pause) = (random.random_bool(0.5), Duration::from_millis(random.random_range(0..300)));
            if first {
                world.strike_nats_down();
                std::thread::sleep(pause);
                world.kill_forebay(people);
            } else {
                world.kill_forebay(people);
                std::thread::sleep(pause);
                world.raise_nats();
                return world.start_forebay(people);
            }
            world.raise_nats();
            world.start_forebay(people);
        }
        Fault::PauseNats => {
            world.pause_nats(moment(3_000));
            world.wait_until_well(people);
            world.stream_goes_on();
        }
        Fault::OldLog => put_back_the_log(world, people),
        Fault::FullDisk => {
            // It may end because of this, with one clear line, and is started again.
            people.down();
            world.fill_disk(moment(1_500));
        }
        Fault::DamagedViews => {
            if random.random_bool(0.5) {
                world.kill_forebay(people);
            } else {
                people.down();
                world.forebay.stop();
            }
            let damage = world.damage_views(random);
            eprintln!("    {damage}");
            world.start_forebay(people);
        }
    }
}

/// The log is put back to what it was some events before. Nothing of what the views know may be lost by that before a
/// person says so; then what the log lost is lost, and nothing else.
fn put_back_the_log(world: &mut World<'_>, people: &People) {
    let backup = place();
    let backup = backup.path().join("log");
    people.pause();
    world.with_log_stopped(people, |log| copy(log, &backup));
    world.wait_until_well(people);
    let before = people.ledger.len();
    people.resume();
    let enough = || (people.ledger.len() >= before + DOOMED).then_some(());
    wait_for("some jobs to be written", 60, enough);
    people.pause();
    let doomed = before..people.ledger.len();
    world.wait_until_whole();
    world.with_log_stopped(people, |log| copy(&backup, log));
    world.forebay.wait_until("notice the other log", |health| reason(health) == "LOG_CHANGED");
    people.up(&world.forebay.api);
    // All that was known still answers, and says that it may be out of date.
    people.ledger.check(&world.forebay.api, 0..doomed.end);
    assert!(world.forebay.api.get("/api/jobs?limit=1").headers.contains_key("forebay-stale"));
    people.resume();
    people.ledger.lose(doomed);
    people.new_log();
    let rebuilt = world.forebay.command(&["rebuild", "--promote"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
}

/// What was acknowledged is recorded, nothing else is, and the views are the fold of the log.
fn check(world: &mut World<'_>, people: &People, from: usize) {
    world.wait_until_whole();
    people.ledger.check(&world.forebay.api, from..people.ledger.len());
    let (least, most) = people.ledger.count();
    assert_eq!(least, most, "every writer finished its batches");
    assert_eq!(world.jobs(), least + world.streamed());
    world.verify();
}
