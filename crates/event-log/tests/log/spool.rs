use std::path::Path;

use event_log::testing::{SmallDisk, TestServer};
use event_log::{Batcher, EventLog, Outlet, Spool};
use proto_events::{Event, EventType, Framework, Timestamp, Worker};
use redb::ReadableTable as _;
use uuid::Uuid;

use crate::support::{CONNECTION, event, number_of, open, read_to, until, within};

const OTHER: Uuid = Uuid::from_u128(9);
const LARGE: u64 = 1 << 30;
/// Where the spool keeps arrays of events about tasks.
const TASKS: Rows = redb::TableDefinition::new("tasks.1");
type Rows = redb::TableDefinition<'static, (u128, u64), (i64, u32, u32, &'static [u8])>;

/// The numbers of all events about jobs of a connection in the log, in its order.
async fn jobs(log: &EventLog, connection: Uuid) -> Vec<u64> {
    let last = log.info().await.unwrap().last_sequence;
    let told = read_to(&mut log.reader(0), last).await;
    let of = told.messages.iter().filter(|message| message.connection == connection);
    let events = of.flat_map(|message| proto_events::decode(&message.payload).unwrap()).map(Result::unwrap);
    events.filter(|event| event.job.is_some()).map(|event| number_of(&event)).collect()
}

fn worker(number: u64) -> Event {
    let worker: Worker = serde_json::from_value(serde_json::json!({
        "externalId": format!("celery@w{number}"), "hostname": "w", "state": "online",
    }))
    .unwrap();
    let bare = Event::bare(EventType::WorkerStateChange, Timestamp(1_795_440_115_000_000), Framework::Celery);
    Event { worker: Some(Box::new(worker)), ..bare }
}

/// What cannot be packed any smaller.
fn large(number: u64) -> Event {
    let mut event = event(number);
    let noise: String = (0..1_000).map(|_| Uuid::new_v4().simple().to_string()).collect();
    event.job.as_mut().unwrap().stacktrace = Some(noise);
    event
}

/// One array for each.
async fn push_alone(batcher: &Batcher, events: impl IntoIterator<Item = Event>) {
    for event in events {
        batcher.push(event).await;
        within("the spool to have it", batcher.flush()).await;
    }
}

fn spool(dir: &Path) -> Spool {
    Spool::open(dir, LARGE).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_take_waits_on_disk_and_comes_before_anything_newer() {
    let (mut server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let outlet = Outlet::new(Some(spool(dir.path())));
    let (batcher, other) = (outlet.batcher(CONNECTION), outlet.batcher(OTHER));
    // Before anybody knows of a log.
    push_alone(&batcher, (0..20).map(event)).await;
    batcher.push(worker(1)).await;
    other.push(event(0)).await;
    within("the flush", batcher.flush()).await;
    within("the flush", other.flush()).await;
    let depth = outlet.spool().unwrap().depth(CONNECTION);
    assert_eq!((depth.arrays, depth.tasks, depth.others), (21, 20, 1));
    assert_eq!(outlet.spool().unwrap().total().events(), 22);
    assert!(depth.oldest.is_some() && depth.bytes > 0);
    assert_eq!((batcher.stats().spooled, batcher.stats().acked), (21, 0));
    outlet.spool().unwrap().close().await;

    // Another process finds it, and adds to it.
    let outlet = Outlet::new(Some(spool(dir.path())));
    let batcher = outlet.batcher(CONNECTION);
    assert_eq!(outlet.spool().unwrap().depth(CONNECTION), depth);
    push_alone(&batcher, (20..30).map(event)).await;
    let log = open(&server).await;
    outlet.attach(&log);
    push_alone(&batcher, (30..40).map(event)).await;
    until("the spool to be empty", async || outlet.spool().unwrap().total().arrays == 0).await;
    assert!(jobs(&log, CONNECTION).await.into_iter().eq(0..40), "in order");
    assert_eq!(jobs(&log, OTHER).await, [0]);
    push_alone(&batcher, (40..45).map(event)).await;
    let spooled = batcher.stats().spooled;

    server.kill();
    until("the loss of the connection", async || !log.connected()).await;
    push_alone(&batcher, (45..50).map(event)).await;
    assert_eq!(batcher.stats().spooled, spooled + 5, "at once, not after a while");
    server.restart();
    push_alone(&batcher, (50..60).map(event)).await;
    until("the spool to be empty", async || outlet.spool().unwrap().total().arrays == 0).await;
    assert!(jobs(&log, CONNECTION).await.into_iter().eq(0..60), "in order, each once");
    assert_eq!(outlet.spool().unwrap().total(), event_log::SpoolDepth::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_disk_does_not_take_waits_in_memory_and_comes_in_its_place() {
    let name = "spool::what_a_full_disk_does_not_take_waits_in_memory_and_comes_in_its_place";
    let Some(disk) = SmallDisk::mount(64, name) else { return };
    let outlet = Outlet::new(Some(spool(disk.path())));
    let batcher = outlet.batcher(CONNECTION);
    push_alone(&batcher, (0..20).map(large)).await;
    disk.fill(0);
    let mut pushed = 20;
    within("the disk to be full", async {
        while batcher.stats().retries == 0 {
            batcher.push(large(pushed)).await;
            pushed += 1;
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
    })
    .await;
    let waiting = outlet.spool().unwrap().total().tasks;
    assert!((20..pushed).contains(&waiting) && batcher.stats().pending_bytes > 0, "{waiting} of {pushed}");
    // Somebody frees some of it, and more comes.
    disk.relieve();
    push_alone(&batcher, [large(pushed)]).await;
    pushed += 1;
    assert_eq!(outlet.spool().unwrap().total().tasks, pushed);

    let server = TestServer::start();
    let log = open(&server).await;
    outlet.attach(&log);
    until("the spool to be empty", async || outlet.spool().unwrap().total().arrays == 0).await;
    assert!(jobs(&log, CONNECTION).await.into_iter().eq(0..pushed), "all of them, in order, each once");
    assert_eq!(outlet.spool().unwrap().total().dropped_tasks, 0);
}

#[tokio::test]
async fn a_full_spool_drops_workers_first_then_the_oldest_tasks_and_counts_each_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    // Each large event takes 32 KB; there is room for ten of them.
    let limit = 10 * 32_768;
    let outlet = Outlet::new(Some(Spool::open(dir.path(), limit).unwrap()));
    let (batcher, other) = (outlet.batcher(CONNECTION), outlet.batcher(OTHER));
    let depth = |connection| outlet.spool().unwrap().depth(connection);
    push_alone(&batcher, [large(0), worker(1), worker(2), large(1)]).await;
    push_alone(&other, (2..8).map(large)).await;
    push_alone(&batcher, [large(8)]).await;
    assert_eq!((depth(CONNECTION).dropped_tasks, depth(CONNECTION).dropped_others), (0, 0));
    // There is no room for a tenth beside the workers.
    push_alone(&other, [large(9)]).await;
    assert_eq!((depth(CONNECTION).dropped_tasks, depth(CONNECTION).dropped_others), (0, 2));
    assert_eq!((depth(CONNECTION).others, outlet.spool().unwrap().total().tasks), (0, 10));
    // Now the oldest of all go, whose ever they are.
    push_alone(&batcher, (10..13).map(large)).await;
    push_alone(&batcher, [worker(3)]).await;
    assert_eq!((depth(CONNECTION).dropped_tasks, depth(OTHER).dropped_tasks), (2, 1));
    let total = outlet.spool().unwrap().total();
    assert_eq!((total.tasks, total.others), (10, 0), "a worker makes no room for itself among tasks");
    assert!(total.bytes <= limit);
    outlet.spool().unwrap().close().await;

    let server = TestServer::start();
    let log = open(&server).await;
    let outlet = Outlet::new(Some(Spool::open(dir.path(), limit).unwrap()));
    outlet.attach(&log);
    let spool = outlet.spool().unwrap().clone();
    until("the spool to be empty", async || spool.total().arrays == 0).await;
    assert_eq!(jobs(&log, CONNECTION).await, [8, 10, 11, 12]);
    assert!(jobs(&log, OTHER).await.into_iter().eq((3..8).chain([9])));
    let total = spool.total();
    assert_eq!((total.events(), total.bytes, total.dropped_tasks, total.dropped_others), (0, 0, 3, 3));
}

/// The server may turn out to take less than was thought before it was known.
#[tokio::test]
async fn what_was_gathered_before_the_servers_limit_was_known_arrives_piece_by_piece() {
    let server = TestServer::with(event_log::testing::nats_server(), "max_payload: 40000\nmax_pending: 64MB");
    let dir = tempfile::tempdir().unwrap();
    let outlet = Outlet::new(Some(spool(dir.path())));
    let batcher = outlet.batcher(CONNECTION);
    let sized = |number, size| {
        let mut event = event(number);
        event.job.as_mut().unwrap().error = Some("x".repeat(size));
        event
    };
    for (number, size) in [(1, 10_000), (2, 30_000), (3, 50_000), (4, 10_000)] {
        batcher.push(sized(number, size)).await;
    }
    within("the flush", batcher.flush()).await;
    assert!(outlet.spool().unwrap().total().arrays < 4, "gathered");
    let log = open(&server).await;
    outlet.attach(&log);
    until("the spool to be empty", async || outlet.spool().unwrap().total().arrays == 0).await;
    assert_eq!(jobs(&log, CONNECTION).await, [1, 2, 4]);
    assert_eq!(outlet.spool().unwrap().total().dropped_tasks, 1);
}

#[tokio::test]
async fn a_damaged_spool_is_set_aside_and_events_are_taken_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for (damage, aside) in [(7, "spool.damaged.1.redb"), (8, "spool.damaged.2.redb")] {
        std::fs::write(dir.path().join("spool.redb"), vec![damage; 100_000]).unwrap();
        let outlet = Outlet::new(Some(spool(dir.path())));
        let batcher = outlet.batcher(CONNECTION);
        push_alone(&batcher, [event(1)]).await;
        assert_eq!(outlet.spool().unwrap().total().events(), 1);
        assert_eq!(std::fs::read(dir.path().join(aside)).unwrap(), vec![damage; 100_000]);
        outlet.spool().unwrap().close().await;
    }
    assert_eq!(std::fs::read(dir.path().join("spool.damaged.1.redb")).unwrap()[0], 7, "it is still there");
}

#[tokio::test]
async fn a_spool_of_another_format_stops_the_start_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    spool(dir.path()).close().await;
    let file = dir.path().join("spool.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    // Where redb keeps the version of either of its two last transactions.
    for offset in [64, 192] {
        assert_eq!(std::mem::replace(&mut bytes[offset], 2), 3);
    }
    std::fs::write(&file, &bytes).unwrap();
    let error = Spool::open(dir.path(), LARGE).err().unwrap().to_string();
    assert!(error.contains("of format 2") && error.contains("move the file away"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is set aside");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_that_is_damaged_is_counted_and_holds_nothing_up() {
    let (server, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let outlet = Outlet::new(Some(spool(dir.path())));
    let batcher = outlet.batcher(CONNECTION);
    push_alone(&batcher, (0..6).map(event)).await;
    outlet.spool().unwrap().close().await;
    let database = redb::Database::open(dir.path().join("spool.redb")).unwrap();
    let work = database.begin_write().unwrap();
    // One is cut off, one says that it is of four gigabytes.
    for (number, is_cut) in [(2, true), (5, false)] {
        let mut table = work.open_table(TASKS).unwrap();
        let key = (CONNECTION.as_u128(), number);
        let (at, tasks, others, mut packed) = {
            let row = table.get(key).unwrap().unwrap();
            let (at, tasks, others, packed) = row.value();
            (at, tasks, others, packed.to_vec())
        };
        if is_cut {
            packed.truncate(packed.len() / 2);
        } else {
            packed[..4].fill(0xff);
        }
        table.insert(key, (at, tasks, others, packed.as_slice())).unwrap();
    }
    work.commit().unwrap();
    drop(database);

    let log = open(&server).await;
    let outlet = Outlet::new(Some(spool(dir.path())));
    outlet.attach(&log);
    let spool = outlet.spool().unwrap().clone();
    until("the spool to be empty", async || spool.total().arrays == 0).await;
    assert_eq!(jobs(&log, CONNECTION).await, [0, 2, 3, 5]);
    assert_eq!((spool.total().events(), spool.total().dropped_tasks), (0, 2));
}
