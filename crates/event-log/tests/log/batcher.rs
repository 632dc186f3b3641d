use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use event_log::EventLog;
use event_log::testing::TestServer;
use futures_util::FutureExt;

use crate::support::{CONNECTION, PATIENCE, event, number_of, open, payload, read_to, until, within};

/// The numbers of all events in the log, message by message.
async fn stored(log: &EventLog) -> Vec<Vec<u64>> {
    let last = log.info().await.unwrap().last_sequence;
    let told = read_to(&mut log.reader(0), last).await;
    let decode =
        |payload: &[u8]| proto_events::decode(payload).unwrap().into_iter().map(|event| number_of(&event.unwrap()));
    told.messages.iter().map(|message| decode(&message.payload).collect()).collect()
}

#[tokio::test]
async fn events_are_gathered_into_few_messages_within_the_bounds() {
    let server = TestServer::start();
    let log = open(&server).await;
    let batcher = log.batcher(CONNECTION);
    for number in 0..5_000 {
        batcher.push(event(number)).await;
    }
    within("the flush", batcher.flush()).await;
    let stats = batcher.stats();
    assert_eq!((stats.pushed, stats.acked, stats.failed, stats.pending_bytes), (5_000, 5_000, 0, 0));
    let messages = stored(&log).await;
    assert_eq!(messages.len() as u64, stats.arrays);
    assert!(messages.len() < 200, "{} messages", messages.len());
    assert!(messages.into_iter().flatten().eq(0..5_000), "every event once, in order");
    let told = read_to(&mut log.reader(0), stats.arrays).await;
    assert!(told.messages.iter().all(|message| message.payload.len() <= 256 * 1_024));
}

#[tokio::test]
async fn a_lone_event_goes_out_by_itself_and_the_rest_when_the_batcher_is_dropped() {
    let server = TestServer::start();
    let log = open(&server).await;
    let batcher = log.batcher(CONNECTION);
    batcher.push(event(1)).await;
    until("the lone event", async || log.info().await.unwrap().last_sequence == 1).await;
    let lone = log.message(1).await.unwrap().unwrap().payload;
    assert_eq!(lone, proto_events::encode(&[event(1)]), "one event stands without brackets");
    batcher.push(event(2)).await;
    batcher.push(event(3)).await;
    drop(batcher);
    until("the rest", async || log.info().await.unwrap().last_sequence >= 2).await;
    until("all of it", async || stored(&log).await.concat() == [1, 2, 3]).await;
}

/// A source acknowledges to its broker what it has a receipt for: never before the log has it, and never not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_comes_for_what_the_log_has_and_for_what_it_never_will() {
    let mut server = TestServer::with(event_log::testing::nats_server(), "max_payload: 40000\nmax_pending: 64MB");
    let log = open(&server).await;
    let (batcher, mut receipts) = log.batcher_with_receipts(CONNECTION);
    let mut large = event(2);
    large.job.as_mut().unwrap().error = Some("x".repeat(50_000));
    batcher.push_numbered(event(1), 1).await;
    batcher.push_numbered(large, 2).await;
    batcher.push(event(3)).await;
    batcher.push_numbered(event(4), 2).await;
    within("the flush", batcher.flush()).await;
    let mut told = Vec::new();
    while let Ok(numbers) = receipts.try_recv() {
        told.extend(numbers);
    }
    told.sort_unstable();
    assert_eq!(told, [1, 2, 2], "as often as it was given, and nothing of what has no number");

    server.kill();
    until("the loss of the connection", async || !log.connected()).await;
    batcher.push_numbered(event(5), 5).await;
    until("an attempt to have failed", async || batcher.stats().retries > 0).await;
    assert!(receipts.try_recv().is_err(), "nothing is in a log that is away");
    server.restart();
    assert_eq!(within("the receipt", receipts.recv()).await.unwrap(), [5]);
    assert!(stored(&log).await.concat().contains(&5));
}

/// Events larger than half of what a small server takes go alone; larger than all of it, they are dropped and counted.
#[tokio::test]
async fn an_event_that_can_never_be_stored_harms_no_other() {
    let server = TestServer::with(event_log::testing::nats_server(), "max_payload: 40000\nmax_pending: 64MB");
    let log = open(&server).await;
    let batcher = log.batcher(CONNECTION);
    let sized = |number, size| {
        let mut event = event(number);
        event.job.as_mut().unwrap().error = Some("x".repeat(size));
        event
    };
    for (number, size) in [(1, 10), (2, 30_000), (3, 10), (4, 50_000), (5, 10)] {
        batcher.push(sized(number, size)).await;
    }
    within("the flush", batcher.flush()).await;
    let stats = batcher.stats();
    assert_eq!((stats.pushed, stats.acked, stats.failed, stats.pending_bytes), (5, 4, 1, 0));
    let mut numbers = stored(&log).await.concat();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_again_and_again_loses_no_event() {
    let mut server = TestServer::start();
    let log = open(&server).await;
    let batcher = log.batcher(CONNECTION);
    let pushed = Arc::new(AtomicU64::new(0));
    let producer = tokio::spawn({
        let (batcher, pushed) = (batcher.clone(), Arc::clone(&pushed));
        async move {
            // Slow enough to span the kills, whatever the machine.
            for number in 0..30_000_u64 {
                batcher.push(event(number)).await;
                pushed.store(number + 1, Ordering::Relaxed);
                if number % 100 == 0 {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
        }
    });
    let mut acked = Vec::new();
    for kill in 1..=3_u64 {
        until("some progress", async || pushed.load(Ordering::Relaxed) >= kill * 5_000).await;
        // Acknowledged one by one, right up to the kill.
        for number in 0..50 {
            let payload = payload(kill * 100 + number);
            acked.push((log.append(CONNECTION, payload.clone()).await.unwrap().sequence, payload));
        }
        server.kill();
        server.restart();
    }
    within("the producer", producer).await.unwrap();
    within("the flush", batcher.flush()).await;
    let stats = batcher.stats();
    assert_eq!((stats.pushed, stats.acked, stats.failed, stats.pending_bytes), (30_000, 30_000, 0, 0));
    for (sequence, payload) in &acked {
        let message = log.message(*sequence).await.unwrap();
        assert_eq!(message.map(|message| message.payload).as_ref(), Some(payload), "acknowledged at {sequence}");
    }
    let alone: BTreeSet<u64> = acked.iter().map(|(sequence, _)| *sequence).collect();
    let last = log.info().await.unwrap().last_sequence;
    let told = read_to(&mut log.reader(0), last).await;
    let arrays = told.messages.iter().filter(|message| !alone.contains(&message.sequence));
    let events = arrays.flat_map(|message| proto_events::decode(&message.payload).unwrap());
    let numbers: BTreeSet<u64> = events.map(|event| number_of(&event.unwrap())).collect();
    assert!(numbers.into_iter().eq(0..30_000), "every event that was pushed is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_log_is_away_a_bounded_amount_waits_and_then_all_arrives() {
    let mut server = TestServer::start();
    let log = open(&server).await;
    let batcher = log.batcher(CONNECTION);
    server.kill();
    until("the loss of the connection", async || !log.connected()).await;
    let big = |number| {
        let mut event = event(number);
        event.job.as_mut().unwrap().stacktrace = Some("x".repeat(50_000));
        event
    };
    let mut pushed = 0;
    let mut blocked = loop {
        let mut push = Box::pin({
            let (batcher, event) = (batcher.clone(), big(pushed));
            // Only room may stop it, not tokio's budget.
            tokio::task::unconstrained(async move { batcher.push(event).await })
        });
        pushed += 1;
        if push.as_mut().now_or_never().is_none() {
            break push;
        }
        assert!(pushed < 2_000, "100 MB were taken without a log");
    };
    let waiting = batcher.stats();
    assert!(waiting.pending_bytes <= 32 << 20 && waiting.pending_bytes > 31 << 20, "{waiting:?}");
    assert_eq!(waiting.acked, 0);
    // Longer than an append tries by itself.
    until("the batcher to try again", async || batcher.stats().retries > 0).await;
    server.restart();
    tokio::time::timeout(PATIENCE, &mut blocked).await.expect("there is room again");
    within("the flush", batcher.flush()).await;
    assert_eq!(batcher.stats().acked, pushed);
    let numbers: BTreeSet<u64> = stored(&log).await.concat().into_iter().collect();
    assert!(numbers.into_iter().eq(0..pushed));
}
