//! The identity fence, on the newest and the oldest kind of server: they differ where it matters.

use std::fs;
use std::path::Path;
use std::pin::Pin;

use event_log::testing::{TestServer, nats_server, old_nats_server};
use event_log::{Anomaly, EventLog, Fence, Known, ReadError};
use futures_util::FutureExt;

use crate::support::{consumers, fill, open, until, within};

async fn known(log: &EventLog, sequence: u64) -> Known {
    let message = log.message(sequence).await.unwrap().unwrap();
    Known { created: log.info().await.unwrap().created, sequence, fingerprint: message.fingerprint() }
}

async fn check(log: &EventLog, known: &Known) -> Fence {
    log.fence(known).await.unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn restart(server: &mut TestServer, log: &EventLog, while_down: impl FnOnce(&TestServer)) {
    server.stop();
    while_down(server);
    server.restart();
    until("the connection", async || log.connected() && log.info().await.is_ok()).await;
}

/// Here the start beyond the end is honoured: new events under old positions are skipped for ever, and only the fence
/// knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_restored_from_an_older_copy_is_told_on_the_newest_server() {
    let (_server, log) = rolled_back(TestServer::start()).await;
    let mut reader = log.reader(150);
    let mut waiting = Box::pin(reader.next());
    let consumer = consumer_of(&log, waiting.as_mut()).await;
    fill(&log, 9_011..=9_015).await;
    let info = log.jobs_stream().consumer_info(consumer).await.unwrap();
    assert_eq!((info.num_pending, info.delivered.consumer_sequence), (0, 0), "the server changed; see the fence");
    assert!(waiting.now_or_never().is_none());
}

/// Here the start beyond the end is clamped: new events come under positions that were read before.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_restored_from_an_older_copy_is_told_on_the_oldest_server() {
    let (_server, log) = rolled_back(TestServer::with(old_nats_server(), "")).await;
    let mut reader = log.reader(150);
    let mut waiting = Box::pin(reader.next());
    consumer_of(&log, waiting.as_mut()).await;
    fill(&log, 9_011..=9_011).await;
    let told = within("the rewind to be told", waiting).await;
    let cause = Anomaly::Rewound { found: 111, last: 150 };
    assert_eq!(told.map(|_| ()), Err(ReadError::Reconnected { cause }), "a used position is never handed out");
}

/// Polls the reader until it has its consumer.
async fn consumer_of<T: std::fmt::Debug>(log: &EventLog, mut waiting: Pin<&mut impl Future<Output = T>>) -> String {
    let mut found = Vec::new();
    until("the reader to have its consumer", async || {
        let told = waiting.as_mut().now_or_never();
        assert!(told.is_none(), "{told:?}");
        found = consumers(log).await;
        !found.is_empty()
    })
    .await;
    found.remove(0)
}

/// Reads to 150, then finds the log as it was at 100, then with ten other events.
async fn rolled_back(mut server: TestServer) -> (TestServer, EventLog) {
    let log = open(&server).await;
    fill(&log, 1..=100).await;
    let at_100 = known(&log, 100).await;
    restart(&mut server, &log, |server| copy(&server.store(), &server.dir().join("copy"))).await;
    fill(&log, 101..=150).await;
    let (at_101, at_150) = (known(&log, 101).await, known(&log, 150).await);
    assert_eq!(check(&log, &at_150).await, Fence::Same);

    restart(&mut server, &log, |server| {
        fs::remove_dir_all(server.store()).unwrap();
        copy(&server.dir().join("copy"), &server.store());
    })
    .await;
    assert_eq!(check(&log, &at_150).await, Fence::RolledBack { last: 100 });
    assert_eq!(check(&log, &at_100).await, Fence::Same);
    fill(&log, 9_001..=9_010).await;
    assert_eq!(check(&log, &at_150).await, Fence::RolledBack { last: 110 });
    assert_eq!(check(&log, &at_101).await, Fence::RolledBack { last: 100 }, "another event stands there now");
    assert_eq!(check(&log, &at_100).await, Fence::Same);
    (server, log)
}

#[tokio::test]
async fn a_recreated_log_and_a_trimmed_one_are_told_on_both_servers() {
    for binary in [nats_server(), old_nats_server()] {
        let server = TestServer::with(binary, "");
        let log = open(&server).await;
        fill(&log, 1..=20).await;
        let (nothing, at_10) = (Known { sequence: 0, ..known(&log, 1).await }, known(&log, 10).await);

        log.jobs_stream().purge().sequence(10).await.unwrap();
        assert_eq!(check(&log, &at_10).await, Fence::Same, "the known message is the first that is left");
        log.jobs_stream().purge().sequence(11).await.unwrap();
        assert_eq!(check(&log, &at_10).await, Fence::Trimmed { first: 11 });
        log.jobs_stream().purge().await.unwrap();
        assert_eq!(check(&log, &at_10).await, Fence::Trimmed { first: 21 });
        assert_eq!(check(&log, &nothing).await, Fence::Same, "who has read nothing misses nothing");

        log.jetstream().delete_stream("FOREBAY_JOBS").await.unwrap();
        assert_eq!(log.fence(&at_10).await, Err(event_log::LogError::Missing));
        // The same content in the same place: only the time of creation differs.
        let log = open(&server).await;
        fill(&log, 1..=20).await;
        assert_eq!(check(&log, &at_10).await, Fence::Recreated);
        assert_eq!(check(&log, &nothing).await, Fence::Recreated);
    }
}
