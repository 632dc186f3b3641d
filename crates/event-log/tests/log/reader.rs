use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use event_log::testing::TestServer;
use event_log::{Anomaly, ReadError};
use futures_util::{FutureExt, StreamExt};

use crate::support::{CONNECTION, Network, consumers, event, fill, open, payload, read_to, until, within};

/// The client library's own ordered consumer starts again at 1 when it loses its consumer before the first message.
#[tokio::test]
async fn a_consumer_lost_while_idle_is_replaced_at_the_right_place() {
    let server = TestServer::start();
    let log = open(&server).await;
    fill(&log, 1..=10).await;
    let mut reader = log.reader(10);
    let mut first = Box::pin(reader.next());
    until("the reader to have its consumer", async || {
        assert!(first.as_mut().now_or_never().is_none(), "there is nothing to read");
        !consumers(&log).await.is_empty()
    })
    .await;
    for name in consumers(&log).await {
        log.jobs_stream().delete_consumer(&name).await.unwrap();
    }
    let told = within("the loss to be reported", first).await;
    assert!(matches!(told, Err(ReadError::Reconnected { cause: Anomaly::ConsumerLost(_) })), "{told:?}");
    fill(&log, 11..=12).await;
    assert_eq!(read_to(&mut reader, 12).await.sequences(), [11, 12]);
}

/// A subscription that is full drops messages in silence; so what the server may send must always fit.
#[tokio::test]
async fn a_slow_reader_of_a_large_backlog_loses_nothing() {
    const MANY: u64 = 20_000;
    let server = TestServer::start();
    let log = open(&server).await;
    fill(&log, 1..=MANY).await;
    let mut reader = log.reader(0);
    let mut sequences = Vec::new();
    for round in 0_u32.. {
        let batch = within("the next batch", reader.next()).await.expect("nothing interrupts a reader for being slow");
        sequences.extend(batch.messages.iter().map(|message| message.sequence));
        if sequences.last() == Some(&MANY) {
            break;
        }
        if round < 5 {
            // The stall itself: time for the server to send more than we take.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
    assert!(sequences.into_iter().eq(1..=MANY), "every message once, in order");
}

#[tokio::test]
async fn messages_that_somebody_else_took_are_noticed_and_read_again() {
    let server = TestServer::start();
    let log = open(&server).await;
    let mut reader = log.reader(0);
    fill(&log, 1..=5).await;
    read_to(&mut reader, 5).await;
    let [consumer] = consumers(&log).await.try_into().expect("one reader, one consumer");
    let thief = async_nats::connect(server.address()).await.unwrap();
    let mut loot = thief.subscribe("loot").await.unwrap();
    // Requests take turns: the reader's own is first, then the thief's, and so on.
    let request = format!("$JS.API.CONSUMER.MSG.NEXT.FOREBAY_JOBS.{consumer}");
    for _ in 0..5 {
        thief.publish_with_reply(request.clone(), "loot", Bytes::from_static(b"1")).await.unwrap();
    }
    thief.flush().await.unwrap();
    let mut last = 5;
    until("the thief to get something", async || {
        last += 1;
        fill(&log, last..=last).await;
        loot.next().now_or_never().is_some()
    })
    .await;
    fill(&log, last + 1..=last + 10).await;
    let told = read_to(&mut reader, last + 10).await;
    assert!(told.sequences().into_iter().eq(6..=last + 10), "{:?}", told.sequences());
    let gap = |error: &ReadError| matches!(error, ReadError::Reconnected { cause: Anomaly::DeliveryGap { .. } });
    assert!(told.interruptions.iter().any(gap), "{:?}", told.interruptions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_while_it_is_read_interrupts_and_no_more() {
    let mut server = TestServer::start();
    let log = open(&server).await;
    fill(&log, 1..=5_000).await;
    let mut reader = log.reader(0);
    let begun = within("the first batch", reader.next()).await.unwrap().messages;
    server.kill();
    until("the loss of the connection", async || !log.connected()).await;
    server.restart();
    let rest = read_to(&mut reader, 5_000).await;
    let sequences = begun.iter().map(|message| message.sequence).chain(rest.sequences());
    assert!(sequences.eq(1..=5_000), "every message once, in order");
    assert!(!rest.interruptions.is_empty(), "the caller must hear of it to check the fence");
    // And a reader that had read everything, on a server that is killed while nothing happens.
    server.kill();
    server.restart();
    until("the connection", async || log.connected()).await;
    fill(&log, 5_001..=5_002).await;
    let told = read_to(&mut reader, 5_002).await;
    assert_eq!(told.sequences(), [5_001, 5_002]);
    assert!(!told.interruptions.is_empty());
}

#[tokio::test]
async fn a_hole_in_the_log_is_reported_once_and_then_passed() {
    let server = TestServer::start();
    let log = open(&server).await;
    fill(&log, 1..=6_000).await;
    let mut reader = log.reader(0);
    let begun = within("the first batch", reader.next()).await.unwrap().messages;
    // Beyond anything that is on its way to the reader already.
    log.jobs_stream().purge().sequence(5_901).await.unwrap();
    let rest = read_to(&mut reader, 6_000).await;
    let sequences: BTreeSet<u64> = begun.iter().map(|message| message.sequence).chain(rest.sequences()).collect();
    let before: Vec<u64> = sequences.range(..5_901).copied().collect();
    assert!(before.iter().copied().eq(1..=before.len() as u64), "no position is missing before the hole");
    assert!(sequences.range(5_901..).copied().eq(5_901..=6_000), "nor after it");
    let after = before.len() as u64;
    let cause = Anomaly::Hole { after, next: 5_901 };
    assert_eq!(rest.interruptions, [ReadError::Reconnected { cause }]);
}

#[tokio::test]
async fn the_largest_messages_arrive_one_by_one() {
    let server = TestServer::start();
    let log = open(&server).await;
    let largest = log.max_payload() - 1_024;
    for byte in 0..4_u8 {
        log.append(CONNECTION, vec![byte; largest].into()).await.unwrap();
    }
    let mut reader = log.reader(0);
    for byte in 0..4_u8 {
        let batch = within("a large message", reader.next()).await.unwrap();
        let [message] = &batch.messages[..] else { panic!("{} at once", batch.messages.len()) };
        assert!(message.payload.len() == largest && message.payload[0] == byte);
    }
}

#[tokio::test]
async fn a_dropped_future_loses_nothing() {
    let server = TestServer::start();
    let log = open(&server).await;
    let mut reader = log.reader(0);
    let mut sequences = Vec::new();
    for number in 1..=300 {
        log.append(CONNECTION, payload(number)).await.unwrap();
        // Polled once and dropped, wherever it stands.
        if let Some(batch) = reader.next().now_or_never() {
            sequences.extend(batch.unwrap().messages.iter().map(|message| message.sequence));
        }
    }
    if sequences.last() != Some(&300) {
        sequences.extend(read_to(&mut reader, 300).await.sequences());
    }
    assert!(sequences.into_iter().eq(1..=300));
}

#[tokio::test]
async fn closing_the_log_ends_its_readers_and_a_deleted_stream_is_told() {
    let server = TestServer::start();
    let log = open(&server).await;
    let mut reader = log.reader(0);
    fill(&log, 1..=1).await;
    read_to(&mut reader, 1).await;
    let other = open(&server).await;
    other.jetstream().delete_stream("FOREBAY_JOBS").await.unwrap();
    assert_eq!(within("the news", reader.next()).await.map(|_| ()), Err(ReadError::Missing));
    let mut waiting = other.reader(0);
    other.close().await;
    assert_eq!(within("the end", waiting.next()).await.map(|_| ()), Err(ReadError::Closed));
}

/// The server, the stream and even the consumer live on, only the connection went: what was under way is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_again_and_again_loses_nothing() {
    const MANY: u64 = 10_000;
    let server = TestServer::start();
    fill(&open(&server).await, 1..=MANY).await;
    let network = Network::before(&server).await;
    let log = network.open().await;
    let mut reader = log.reader(0);
    let mut sequences = Vec::new();
    let mut interruptions = 0;
    while sequences.last() != Some(&MANY) {
        match within("the next batch", reader.next()).await {
            Ok(batch) => sequences.extend(batch.messages.iter().map(|message| message.sequence)),
            Err(ReadError::Reconnected { .. }) => interruptions += 1,
            Err(error) => panic!("{error}"),
        }
        if sequences.len() >= (interruptions + 1) * 1_500 {
            network.cut();
        }
    }
    assert!(sequences.into_iter().eq(1..=MANY), "every message once, in order");
    assert!(interruptions >= 3, "{interruptions}");
}

/// No error ever arrives from such a network; only the silence tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_swallows_everything_is_given_up() {
    let server = TestServer::start();
    let network = Network::before(&server).await;
    let log = network.open().await;
    let batcher = log.batcher(CONNECTION);
    let mut reader = log.reader(0);
    batcher.push(event(1)).await;
    batcher.flush().await;
    assert_eq!(read_to(&mut reader, 1).await.sequences(), [1]);
    network.freeze();
    batcher.push(event(2)).await;
    let told = read_to(&mut reader, 2).await;
    assert_eq!(told.sequences(), [2]);
    assert!(!told.interruptions.is_empty());
    within("the flush", batcher.flush()).await;
    assert_eq!(log.info().await.unwrap().last_sequence, 2, "sent again, stored once");
}
