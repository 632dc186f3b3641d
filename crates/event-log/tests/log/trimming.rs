//! Dropping the beginning of the log, on the newest and the oldest kind of server.

use async_nats::jetstream::stream::Config;
use event_log::testing::{TestServer, nats_server, old_nats_server};
use event_log::{Anomaly, EventLog, Fence, Known, LogError, ReadError};
use proto_events::Timestamp;

use crate::support::{fill, open, read_to, until, within};

async fn known(log: &EventLog, sequence: u64) -> Known {
    let message = log.message(sequence).await.unwrap().unwrap();
    Known { created: log.info().await.unwrap().created, sequence, fingerprint: message.fingerprint() }
}

async fn ends(log: &EventLog) -> (u64, u64) {
    let info = log.info().await.unwrap();
    (info.first_sequence, info.last_sequence)
}

/// Makes the stream before Forebay does.
async fn make_stream(server: &TestServer, config: Config) {
    let client = async_nats::connect(server.address()).await.unwrap();
    let (name, subjects) = ("FOREBAY_JOBS".to_owned(), vec!["forebay.v1.jobs.*.*".to_owned()]);
    let config = Config { name, subjects, allow_direct: true, ..config };
    async_nats::jetstream::new(client).create_stream(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_is_gone_and_no_position_is_given_out_twice() {
    for binary in [nats_server(), old_nats_server()] {
        let mut server = TestServer::with(binary, "");
        let log = open(&server).await;
        fill(&log, 1..=5_000).await;
        let (at_1000, at_4000, at_5000) =
            (known(&log, 1_000).await, known(&log, 4_000).await, known(&log, 5_000).await);
        let (mut behind, mut past) = (log.reader(0), log.reader(3_999));
        let begun = within("the first batch", behind.next()).await.unwrap().messages;
        read_to(&mut past, 5_000).await;

        assert_eq!(log.purge_before(4_001).await.unwrap(), 4_000);
        assert_eq!(log.purge_before(4_001).await.unwrap(), 0, "once is enough");
        assert_eq!(log.purge_before(17).await.unwrap(), 0, "what is gone stays gone");
        assert_eq!(ends(&log).await, (4_001, 5_000));
        assert_eq!(log.fence(&at_1000).await.unwrap(), Fence::Trimmed { first: 4_001 });
        assert_eq!(log.fence(&at_4000).await.unwrap(), Fence::Trimmed { first: 4_001 }, "nothing was missed");
        assert_eq!(log.fence(&at_5000).await.unwrap(), Fence::Same);

        // What is on its way to a reader still arrives; then it is told what it missed, and goes on.
        let rest = read_to(&mut behind, 5_000).await;
        let read: Vec<u64> = begun.iter().map(|message| message.sequence).chain(rest.sequences()).collect();
        let before = read.partition_point(|sequence| *sequence <= 4_000);
        assert!(read[..before].iter().copied().eq(1..=before as u64), "no position is missing before the cut");
        assert!(read[before..].iter().copied().eq(4_001..=5_000), "nor after it");
        if before < 4_000 {
            let cause = Anomaly::Hole { after: before as u64, next: 4_001 };
            assert_eq!(rest.interruptions, [ReadError::Reconnected { cause }]);
        }

        assert_eq!(log.purge_before(u64::MAX).await.unwrap(), 1_000, "all of it, and not beyond");
        assert_eq!(ends(&log).await, (5_001, 5_000));
        assert_eq!(log.fence(&at_5000).await.unwrap(), Fence::Trimmed { first: 5_001 });
        assert_eq!(log.first_at(Timestamp(0)).await.unwrap(), None);

        // Nothing but the server's own memory says where an empty log ends.
        server.restart();
        until("the connection", async || log.connected() && log.info().await.is_ok()).await;
        assert_eq!(ends(&log).await, (5_001, 5_000));
        fill(&log, 5_001..=5_002).await;
        assert_eq!(ends(&log).await, (5_001, 5_002));
        assert_eq!(read_to(&mut behind, 5_002).await.sequences(), [5_001, 5_002]);
        let mut gone = read_to(&mut past, 5_002).await;
        assert_eq!(gone.sequences(), [5_001, 5_002]);
        gone.interruptions.retain(|told| matches!(told, ReadError::Reconnected { cause: Anomaly::Hole { .. } }));
        assert_eq!(gone.interruptions, [], "who is past the cut misses nothing");
    }
}

#[tokio::test]
async fn a_time_finds_its_place_in_the_log() {
    for binary in [nats_server(), old_nats_server()] {
        let server = TestServer::with(binary, "");
        make_stream(&server, Config::default()).await;
        let log = open(&server).await;
        assert_eq!(log.first_at(Timestamp(0)).await.unwrap(), None, "there is nothing yet");
        fill(&log, 1..=300).await;
        log.purge_before(41).await.unwrap();
        // Of our own making there are no holes within, but somebody else's stream or damage may have some.
        for sequence in 100..150 {
            log.jobs_stream().delete_message(sequence).await.unwrap();
        }
        let mut stored = Vec::new();
        for sequence in 41..=300 {
            stored.extend(log.message(sequence).await.unwrap().map(|message| (sequence, message.stored)));
        }
        assert!(stored.is_sorted_by_key(|(_, stored)| *stored));
        for (_, time) in stored.iter().step_by(7) {
            let first = stored.iter().find(|(_, stored)| stored >= time).map(|(sequence, _)| *sequence);
            assert_eq!(log.first_at(*time).await.unwrap(), first);
            let after = Timestamp(time.micros() + 1);
            let first = stored.iter().find(|(_, stored)| *stored >= after).map(|(sequence, _)| *sequence);
            assert_eq!(log.first_at(after).await.unwrap(), first);
        }
        assert_eq!(log.first_at(Timestamp(0)).await.unwrap(), Some(41));
        assert_eq!(log.first_at(Timestamp(i64::MAX)).await.unwrap(), None);
    }
}

#[tokio::test]
async fn an_operator_who_forbids_to_drop_events_is_told_which_setting_it_is() {
    let server = TestServer::start();
    make_stream(&server, Config { deny_purge: true, ..Config::default() }).await;
    let log = open(&server).await;
    fill(&log, 1..=10).await;
    let refused = log.purge_before(5).await.unwrap_err();
    assert!(
        matches!(&refused, LogError::TrimRefused { .. }) && refused.to_string().contains("deny_purge"),
        "{refused}"
    );
    assert_eq!(ends(&log).await, (1, 10));
    log.jetstream().delete_stream("FOREBAY_JOBS").await.unwrap();
    assert_eq!(log.purge_before(5).await, Err(LogError::Missing));
    assert_eq!(log.first_at(Timestamp(0)).await, Err(LogError::Missing));
}
