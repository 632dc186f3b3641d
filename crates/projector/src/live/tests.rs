//! The registry alone: what it says is compared with what follows from the set of all that was said.

use bytes::Bytes;
use event_log::Status;
use projection::fleet::{Fleet, FleetFact, Gone, Proof};
use proptest::collection::vec;
use proptest::prelude::*;
use proto_events::{
    Event, EventType, Framework, Position, Producer, Queue, Source, SourceState, Timestamp, Worker, WorkerState,
    worker_id,
};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::registry::Registry;
use super::{LiveChange, LiveState, LiveWorker};

const CONNECTION: Uuid = Uuid::from_u128(7);
const DAY: i64 = 24 * 3_600;
const NAME: &str = "celery@w";

/// A time of a day in this century, in seconds.
fn at(seconds: f64) -> Timestamp {
    Timestamp(1_795_440_000_000_000 + (seconds * 1e6) as i64)
}

fn worker(name: &str, state: WorkerState, said: f64) -> Event {
    let worker = Worker {
        external_id: name.to_owned(),
        hostname: name.to_owned(),
        state,
        pid: Some(7),
        active_jobs: None,
        concurrency: None,
        processed_total: None,
        heartbeat_freq: None,
        metadata: Map::new(),
        extensions: Map::new(),
    };
    let event = Event::bare(EventType::WorkerStateChange, at(said), Framework::Celery);
    Event { worker: Some(Box::new(worker)), ..event }
}

fn with(mut event: Event, change: impl FnOnce(&mut Worker)) -> Event {
    change(event.worker.as_mut().unwrap());
    event
}

fn source(state: SourceState, said: f64) -> Event {
    let source = Source { name: "main".to_owned(), state, reason: None };
    let event = Event::bare(EventType::SourceStateChange, at(said), Framework::Celery);
    Event { source: Some(Box::new(source)), ..event }
}

fn queue(name: &str, depth: u64) -> Event {
    let queue = Queue { name: name.to_owned(), depth: Some(depth), consumers: None, extensions: Map::new() };
    Event { queue: Some(Box::new(queue)), ..Event::bare(EventType::QueueSnapshot, at(0.0), Framework::Bullmq) }
}

/// A registry with time going forward, which follows the statuses from the beginning.
struct Watched(Registry, Fleet, u64);

impl Watched {
    fn new() -> Self {
        let mut registry = Registry::new(DAY * 1_000_000);
        registry.begun(at(0.0));
        Self(registry, Fleet::default(), 0)
    }

    /// Said and stored at this time; all but heartbeats in the log, too.
    fn hears(&mut self, event: Event, now: f64) -> Vec<LiveChange> {
        let event = Event { timestamp: at(now), ..event };
        if event.worker.as_ref().is_none_or(|worker| worker.state != WorkerState::Heartbeat) {
            self.logs(&event, now);
        }
        self.0.event(CONNECTION, at(now), event, at(now))
    }

    fn logs(&mut self, event: &Event, now: f64) {
        self.2 += 1;
        if let Some(fact) = FleetFact::of(CONNECTION, Position::new(self.2, 0), at(now), event) {
            self.1.add(fact);
        }
    }

    fn beats(&mut self, now: f64) -> Vec<LiveChange> {
        self.hears(worker(NAME, WorkerState::Heartbeat, now), now)
    }

    fn row(&self, now: f64) -> Option<LiveWorker> {
        self.0.workers(at(now)).rows.into_iter().find(|row| row.external_id == NAME)
    }

    fn state(&self, now: f64) -> LiveState {
        self.row(now).unwrap().state
    }

    /// Before when what the worker began is lost, once the log is told all that is found out.
    fn gone(&mut self, now: f64) -> Option<Timestamp> {
        for finding in self.0.findings(&self.1, at(now), true) {
            self.logs(&finding.event, now);
        }
        assert!(self.0.findings(&self.1, at(now), true).is_empty(), "once the log knows, there is no more to tell");
        self.1.gone(CONNECTION, NAME).map(Gone::before)
    }
}

/// One thing that a worker said: how, by its own clock when, how much later it was stored, and from which process.
#[derive(Clone, Debug)]
struct Said {
    state: WorkerState,
    at: f64,
    stored: f64,
    pid: i64,
    active: Option<u64>,
}

impl Said {
    fn event(&self, freq: Option<f64>) -> Event {
        with(worker(NAME, self.state, self.at), |worker| {
            (worker.pid, worker.active_jobs, worker.heartbeat_freq) = (Some(self.pid), self.active, freq);
        })
    }

    /// No clock runs ahead of the server's for us.
    fn when(&self) -> f64 {
        self.at.min(self.stored)
    }

    fn is_alive(&self) -> bool {
        self.state != WorkerState::Offline
    }
}

/// What is said in the course of a minute or so, no two things at the same time.
fn stories() -> impl Strategy<Value = Vec<Said>> {
    let state = prop_oneof![
        3 => Just(WorkerState::Heartbeat),
        1 => Just(WorkerState::Online),
        1 => Just(WorkerState::Offline),
    ];
    let one = (state, 0_u8..200, -1_000_i32..3_000, 1_i64..4, proptest::option::of(0_u64..3));
    vec(one, 1..12).prop_map(|said| {
        let said = said.into_iter().enumerate().map(|(index, (state, second, late, pid, active))| {
            let at = f64::from(second) / 3.0 + index as f64 / 1_000.0;
            Said { state, at, stored: (at + f64::from(late) / 1e3).max(0.0), pid, active }
        });
        said.collect()
    })
}

/// The state that follows from all that was said.
fn true_state(story: &[Said], freq: Option<f64>, now: f64) -> LiveState {
    let last = |alive: bool, time: fn(&Said) -> f64| {
        story.iter().filter(|said| said.is_alive() == alive).map(time).fold(f64::MIN, f64::max)
    };
    let has_left = last(false, Said::when) > f64::MIN && last(false, Said::when) >= last(true, Said::when);
    let silence = now - last(true, |said| said.stored);
    if has_left || silence > freq.map_or(6.0, |freq| f64::max(6.0, 3.0 * freq)) {
        return LiveState::Offline;
    }
    let mut in_order: Vec<&Said> = story.iter().collect();
    in_order.sort_by(|a, b| a.when().total_cmp(&b.when()));
    let process = in_order.last().unwrap().pid;
    let mut its_words = in_order.into_iter().rev().take_while(|said| said.pid == process);
    match its_words.find_map(|said| said.active) {
        None => LiveState::Online,
        Some(0) => LiveState::Idle,
        Some(_) => LiveState::Busy,
    }
}

/// When the last process began, if all others were silent by then.
fn true_restart(story: &[Said]) -> Option<f64> {
    let of = |pid: i64| story.iter().filter(move |said| said.pid == pid).map(Said::when);
    let first = |pid: i64| of(pid).fold(f64::MAX, f64::min);
    let mut pids: Vec<i64> = story.iter().map(|said| said.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    let youngest = *pids.iter().max_by(|a, b| first(**a).total_cmp(&first(**b)))?;
    let others: Vec<i64> = pids.into_iter().filter(|pid| *pid != youngest).collect();
    let ended = others.iter().all(|pid| of(*pid).fold(f64::MIN, f64::max) <= first(youngest));
    (!others.is_empty() && ended).then(|| first(youngest))
}

proptest! {
    #[test]
    fn a_worker_is_what_it_said_last_in_whatever_order_that_comes(
        story in stories(),
        shuffle in any::<u64>(),
        freq in prop_oneof![Just(None), (0.5..10.0).prop_map(Some)],
        later in 0.0..40.0,
    ) {
        let now = story.iter().map(|said| said.stored).fold(0.0, f64::max) + later;
        let mut in_order = story.clone();
        in_order.sort_by(|a, b| a.when().total_cmp(&b.when()));
        let mut shuffled: Vec<&Said> = story.iter().chain(&story[..story.len() / 2]).collect();
        shuffled.sort_by_key(|said| (said.at.to_bits() ^ shuffle).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let expected = true_state(&story, freq, now);

        let mut straight = Watched::new();
        for said in &in_order {
            straight.0.event(CONNECTION, at(said.stored), said.event(freq), at(now));
        }
        prop_assert_eq!(straight.state(now), expected);
        let mut mixed = Watched::new();
        for said in shuffled {
            mixed.0.event(CONNECTION, at(said.stored), said.event(freq), at(now));
        }
        prop_assert_eq!(mixed.state(now) == LiveState::Offline, expected == LiveState::Offline);
        prop_assert_eq!(mixed.row(now).unwrap().restarted_at, true_restart(&story).map(at));
        let heartbeats = story.iter().filter(|said| said.state == WorkerState::Heartbeat);
        prop_assert_eq!(mixed.row(now).unwrap().last_heartbeat, heartbeats.map(|said| at(said.stored)).max());
    }
}

#[test]
fn silence_is_six_seconds_or_three_missed_beats() {
    let mut live = Watched::new();
    live.beats(10.0);
    assert_eq!((live.state(16.0), live.state(16.1)), (LiveState::Online, LiveState::Offline));
    live.hears(with(worker(NAME, WorkerState::Heartbeat, 0.0), |worker| worker.heartbeat_freq = Some(30.0)), 20.0);
    assert_eq!((live.state(110.0), live.state(110.1)), (LiveState::Online, LiveState::Offline));
    // What is no interval is no promise.
    live.hears(with(worker(NAME, WorkerState::Heartbeat, 0.0), |worker| worker.heartbeat_freq = Some(-1.0)), 200.0);
    assert_eq!(live.row(200.0).unwrap().heartbeat_freq, Some(30.0));
    for (state, active, expected) in [
        (WorkerState::Busy, None, LiveState::Busy),
        (WorkerState::Idle, None, LiveState::Idle),
        (WorkerState::Heartbeat, Some(2), LiveState::Busy),
        (WorkerState::Heartbeat, None, LiveState::Busy),
        (WorkerState::Heartbeat, Some(0), LiveState::Idle),
        (WorkerState::Silent, Some(9), LiveState::Idle),
    ] {
        live.hears(with(worker(NAME, state, 0.0), |worker| worker.active_jobs = active), 201.0);
        assert_eq!(live.state(201.0), expected, "{state:?} {active:?}");
    }
}

#[test]
fn a_heartbeat_that_reaches_us_after_the_leave_revives_nobody() {
    let mut live = Watched::new();
    live.beats(10.0);
    live.hears(worker(NAME, WorkerState::Offline, 0.0), 11.0);
    // Beaten before, and stored after.
    live.0.event(CONNECTION, at(11.9), worker(NAME, WorkerState::Heartbeat, 10.9), at(11.9));
    assert_eq!(live.state(12.0), LiveState::Offline);
    live.beats(12.0);
    assert_eq!(live.state(12.0), LiveState::Online);
    // A clock that runs ahead neither keeps a worker offline nor brings it back for ever.
    live.0.event(CONNECTION, at(13.0), worker(NAME, WorkerState::Offline, 90_000.0), at(13.0));
    assert_eq!(live.state(13.0), LiveState::Offline);
    live.beats(14.0);
    assert_eq!((live.state(14.0), live.state(30.0)), (LiveState::Online, LiveState::Offline));
}

#[test]
fn a_silent_worker_is_gone_only_where_it_would_have_been_heard() {
    let mut live = Watched::new();
    live.hears(source(SourceState::Connected, 0.0), 1.0);
    live.beats(10.0);
    assert_eq!((live.gone(17.0), live.state(17.0)), (None, LiveState::Offline), "the source may be about to say why");
    assert!(live.0.findings(&live.1, at(29.0), false).is_empty(), "what is not applied yet may tell that it is away");
    // It did not beat while it ran anything, as far as is known: what began since may well run.
    assert_eq!(live.gone(29.0), Some(at(10.0)));
    assert_eq!(live.gone(35.0), Some(at(10.0)));
    live.beats(40.0);
    assert_eq!(live.gone(41.0), None, "it is heard again");
    // One that beats while it runs something is not silent because of that.
    let busy = with(worker(NAME, WorkerState::Heartbeat, 0.0), |worker| worker.active_jobs = Some(1));
    live.hears(busy, 42.0);
    assert_eq!((live.gone(60.0), live.gone(61.0)), (None, Some(at(61.0))));
    live.beats(62.0);
    assert_eq!(live.gone(62.0), None);
    // The source is away, and comes back: then the worker has its time again.
    live.hears(source(SourceState::Disconnected, 0.0), 72.0);
    assert_eq!(live.gone(120.0), None);
    live.hears(source(SourceState::Connected, 0.0), 130.0);
    assert_eq!((live.gone(147.0), live.gone(149.0)), (None, Some(at(149.0))));
    live.beats(150.0);
    // The same for the log itself.
    live.0.interrupted(at(151.0));
    assert_eq!(live.gone(190.0), None);
    live.0.begun(at(200.0));
    assert_eq!(live.gone(217.0), None);
    // And where a source cannot keep up with what is said.
    live.0.is_behind(at(217.0));
    assert_eq!((live.gone(234.0), live.gone(236.0)), (None, Some(at(236.0))));
    // A clean stop is no loss.
    live.beats(240.0);
    live.hears(worker(NAME, WorkerState::Offline, 0.0), 241.0);
    assert_eq!(live.gone(300.0), None);

    // A source that never came about says nothing.
    let mut live = Watched::new();
    live.0.expect_source(CONNECTION, "main", at(0.0));
    live.0.event(CONNECTION, at(-100.0), source(SourceState::Connected, -100.0), at(0.0));
    live.beats(1.0);
    assert_eq!(live.gone(100.0), None);
    live.hears(source(SourceState::Connected, 0.0), 101.0);
    assert!(live.gone(120.0).is_some());
    // One that is expected and does not come may know more, until it is removed for good.
    live.beats(121.0);
    live.0.expect_source(CONNECTION, "other", at(121.0));
    assert_eq!(live.gone(150.0), None);
    live.0.forget_source(CONNECTION, "other");
    assert!(live.gone(151.0).is_some());
    // The last words of one that was removed may come after that; when it is said to listen, somebody has it again.
    live.beats(152.0);
    live.0.forget_source(CONNECTION, "main");
    live.hears(source(SourceState::Disconnected, 153.0), 153.0);
    assert_eq!(live.gone(180.0), None, "nobody listens");
    live.hears(source(SourceState::Connected, 181.0), 181.0);
    assert!(live.gone(210.0).is_some());
    live.beats(211.0);
    live.hears(source(SourceState::Disconnected, 212.0), 212.0);
    assert_eq!(live.gone(250.0), None);
    // Where no source is known the worker reports by itself, and who knows whether it can reach us.
    let mut live = Watched::new();
    live.beats(1.0);
    assert_eq!((live.state(100.0), live.gone(100.0)), (LiveState::Offline, None));
}

#[test]
fn who_is_there_by_the_log_and_was_not_heard_since_the_start_is_silent() {
    let mut live = Watched::new();
    let came = with(worker(NAME, WorkerState::Online, -900.0), |worker| worker.heartbeat_freq = Some(2.0));
    live.logs(&came, -900.0);
    assert_eq!(live.gone(100.0), None, "nobody listens");
    live.hears(source(SourceState::Connected, 0.0), 101.0);
    assert_eq!((live.gone(119.0), live.gone(120.0)), (None, Some(at(-900.0))));
    live.beats(121.0);
    assert_eq!(live.gone(121.0), None);
    // One that never said that it would beat is expected to say nothing.
    let mut live = Watched::new();
    live.logs(&worker(NAME, WorkerState::Online, -900.0), -900.0);
    live.hears(source(SourceState::Connected, 0.0), 1.0);
    assert_eq!(live.gone(100.0), None);
}

#[test]
fn another_process_under_the_same_name_ends_the_one_before() {
    let mut live = Watched::new();
    let beat = |pid: i64, processed: u64| {
        with(worker(NAME, WorkerState::Heartbeat, 0.0), |worker| {
            (worker.pid, worker.processed_total, worker.concurrency) = (Some(pid), Some(processed), None);
        })
    };
    live.hears(with(beat(1, 5), |worker| worker.concurrency = Some(8)), 1.0);
    live.hears(beat(1, 9), 2.0);
    assert_eq!((live.gone(2.0), live.row(2.0).unwrap().concurrency), (None, Some(8)));
    live.hears(with(beat(2, 0), |worker| worker.state = WorkerState::Online), 3.0);
    assert_eq!((live.gone(3.0), live.row(3.0).unwrap().concurrency), (Some(at(3.0)), None));
    // In a container the number may be the same, but what was counted begins anew.
    live.hears(beat(2, 4), 4.0);
    live.hears(beat(2, 1), 5.0);
    assert_eq!(live.gone(5.0), Some(at(5.0)));
    // So does the logical clock.
    let clocked = |clock: i64, now: f64| Event {
        producer: Some(Producer { hostname: NAME.to_owned(), pid: Some(2), clock: Some(clock) }),
        ..with(worker(NAME, WorkerState::Heartbeat, now), |worker| worker.pid = Some(2))
    };
    live.hears(clocked(900, 6.0), 6.0);
    live.hears(clocked(3, 7.0), 7.0);
    // What grows again before anybody looks does not hide it.
    live.hears(clocked(905, 7.5), 7.5);
    assert_eq!(live.gone(8.0), Some(at(7.0)));
    let proof =
        |live: &Watched, began: f64| live.1.gone(CONNECTION, NAME).unwrap().lost(at(began)).unwrap().proof.clone();
    assert_eq!(proof(&live, 6.5), Proof::ClockRestarted { pid: 2, from: 900, to: 3 });
    assert_eq!(proof(&live, 4.5), Proof::CountRestarted { pid: 2, from: 4, to: 1 });
    assert_eq!(proof(&live, 1.5), Proof::NewProcess { from: 1, to: 2 });
    // Two at the same time: nobody can say that one of them is gone.
    live.hears(with(beat(10, 0), |worker| worker.state = WorkerState::Online), 9.0);
    live.hears(with(beat(11, 0), |worker| worker.state = WorkerState::Online), 10.0);
    assert_eq!(live.gone(10.0), Some(at(10.0)));
    live.hears(beat(10, 1), 11.0);
    assert_eq!(live.gone(11.0), Some(at(9.0)));
}

#[test]
fn while_the_log_is_away_nobody_falls_silent() {
    let mut live = Watched::new();
    live.beats(10.0);
    live.0.interrupted(at(12.0));
    assert_eq!(live.state(500.0), LiveState::Online);
    live.0.begun(at(500.0));
    assert_eq!((live.state(503.9), live.state(504.1)), (LiveState::Online, LiveState::Offline));
    // Away again before anybody could be heard.
    live.0.interrupted(at(503.0));
    live.0.begun(at(600.0));
    assert_eq!((live.state(603.9), live.state(604.1)), (LiveState::Online, LiveState::Offline));
    // Later, what was in between counts.
    live.0.interrupted(at(700.0));
    live.0.begun(at(701.0));
    assert_eq!(live.state(701.0), LiveState::Offline);
}

#[test]
fn a_change_is_told_once_and_heartbeats_once_a_second() {
    let id = worker_id(CONNECTION, NAME);
    let in_words = |change: LiveChange| match change {
        LiveChange::WorkerHeartbeat { id: of, state, .. } if of == id => format!("beat {}", state.as_str()),
        LiveChange::WorkerState { id: of, state, .. } if of == id => format!("is {}", state.as_str()),
        LiveChange::Queue { name, depth, .. } => format!("{name} {}", depth.unwrap()),
        other => panic!("{other:?}"),
    };
    let names = |changes: Vec<LiveChange>| changes.into_iter().map(in_words).collect::<Vec<_>>();
    let mut live = Watched::new();
    // What was said before our time is no news.
    assert_eq!(live.0.event(CONNECTION, at(-20.0), worker(NAME, WorkerState::Heartbeat, -20.0), at(0.0)), []);
    assert_eq!(live.0.event(CONNECTION, at(-20.0), queue("q", 1), at(0.0)), []);
    assert_eq!(names(live.beats(1.0)), ["is online", "beat online"]);
    assert_eq!(names(live.beats(1.5)), [""; 0]);
    assert_eq!(names(live.beats(2.0)), ["beat online"]);
    assert_eq!(names(live.beats(2.0)), [""; 0], "the same once more");
    assert_eq!(names(live.0.tick(at(8.0))), [""; 0]);
    assert_eq!(names(live.0.tick(at(9.0))), ["is offline"]);
    assert_eq!(names(live.0.tick(at(10.0))), [""; 0]);
    assert_eq!(names(live.hears(worker(NAME, WorkerState::Offline, 0.0), 11.0)), [""; 0]);
    assert_eq!(names(live.beats(12.0)), ["is online", "beat online"]);
    assert_eq!(names(live.hears(worker(NAME, WorkerState::Offline, 0.0), 13.0)), ["is offline"]);
    assert_eq!(names(live.0.event(CONNECTION, at(14.0), queue("q", 2), at(14.0))), ["q 2"]);
    assert_eq!(names(live.0.event(CONNECTION, at(14.0), queue("q", 2), at(14.0))), [""; 0]);
}

#[test]
fn who_is_not_there_for_long_is_forgotten_and_an_old_depth_is_none() {
    let mut live = Watched::new();
    live.beats(10.0);
    live.0.event(CONNECTION, at(10.0), queue("q", 3), at(10.0));
    let day = DAY as f64;
    let depth = |live: &Watched, now: f64| live.0.queues(at(now)).rows.first().map(|row| row.depth);
    assert_eq!(live.state(day + 9.0), LiveState::Offline);
    assert_eq!((depth(&live, 310.0), depth(&live, 311.0)), (Some(Some(3)), Some(None)));
    assert_eq!(live.row(day + 11.0), None);
    live.0.tick(at(day + 11.0));
    assert_eq!((live.row(20.0), depth(&live, 20.0)), (None, None), "it takes no memory either");
    // What comes that late is not taken in again.
    live.0.event(CONNECTION, at(10.0), worker(NAME, WorkerState::Online, 10.0), at(day + 11.0));
    assert_eq!(live.row(20.0), None);
}

#[test]
fn a_flood_of_names_takes_no_more_room_than_there_is_and_those_who_are_there_stay() {
    let mut live = Watched::new();
    live.hears(with(worker(NAME, WorkerState::Heartbeat, 0.0), |worker| worker.heartbeat_freq = Some(3_000.0)), 1.0);
    for number in 0..6_000 {
        let now = 2.0 + f64::from(number) / 100.0;
        live.hears(worker(&format!("made-up-{number}"), WorkerState::Online, now), now);
        live.hears(queue(&format!("made-up-{number}"), 1), now);
    }
    let workers = live.0.workers(at(62.0));
    assert_eq!((workers.rows.len(), workers.truncated), (2_000, true));
    assert!(live.row(62.0).is_some());
    let youngest = workers.rows.iter().filter(|row| row.external_id == "made-up-5999").count();
    assert_eq!(youngest, 1, "the longest silent give way");
    let queues = live.0.queues(at(62.0));
    assert_eq!((queues.rows.len(), queues.truncated), (5_000, true));
    // Where all are there, a new one has to wait.
    let mut live = Watched::new();
    for number in 0..2_001 {
        live.hears(worker(&format!("made-up-{number}"), WorkerState::Online, 1.0), 1.0);
    }
    let rows = live.0.workers(at(1.0)).rows;
    assert!(rows.len() == 2_000 && rows.iter().all(|row| row.external_id != "made-up-2000"));
    live.hears(worker("made-up-2000", WorkerState::Heartbeat, 9.0), 9.0);
    assert!(live.0.workers(at(9.0)).rows.iter().any(|row| row.external_id == "made-up-2000"));
}

#[test]
fn what_a_worker_adds_is_bounded_and_nonsense_is_passed_over() {
    let mut live = Watched::new();
    for number in 0..100 {
        let metadata = Map::from_iter([(format!("{number}"), Value::String("x".repeat(1_000)))]);
        live.hears(with(worker(NAME, WorkerState::Heartbeat, 0.0), |worker| worker.metadata = metadata), 1.0);
    }
    assert!(proto_events::wire::encoded_len(&*live.row(1.0).unwrap().metadata) < 10_000);
    let status = |connection: Uuid, payload: &[u8]| Status {
        connection,
        kind: "worker".to_owned(),
        payload: Bytes::copy_from_slice(payload),
        stored: at(2.0),
    };
    let good = proto_events::encode(&[worker("other", WorkerState::Heartbeat, 2.0)]);
    for payload in
        [&b""[..], b"{", b"[]", b"[7]", &[0xff; 9], &proto_events::encode(&[source(SourceState::Connected, 2.0)])]
    {
        assert_eq!(live.0.status(&status(CONNECTION, payload), at(2.0)), []);
    }
    assert_eq!(live.0.status(&status(Uuid::nil(), &good), at(2.0)), []);
    assert_eq!(live.0.workers(at(2.0)).rows.len(), 1);
    assert_eq!(live.0.status(&status(CONNECTION, &good), at(2.0)).len(), 2);
}
