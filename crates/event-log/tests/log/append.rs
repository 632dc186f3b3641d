use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Config;
use event_log::testing::TestServer;
use event_log::{AppendError, Appended, Imported};
use futures_util::StreamExt;
use proto_events::Timestamp;
use uuid::Uuid;

use crate::support::{CONNECTION, fill, open, payload, read_to, until};

#[tokio::test]
async fn what_is_sent_again_is_recognised_per_connection() {
    let server = TestServer::start();
    let log = open(&server).await;
    let other = Uuid::from_u128(2);
    let append = async |connection, number| log.append(connection, payload(number)).await.unwrap();
    assert_eq!(append(CONNECTION, 1).await, Appended { sequence: 1, duplicate: false });
    assert_eq!(append(other, 1).await, Appended { sequence: 2, duplicate: false });
    assert_eq!(append(CONNECTION, 1).await, Appended { sequence: 1, duplicate: true });
    let message = log.message(2).await.unwrap().unwrap();
    assert_eq!((message.sequence, message.connection, message.payload), (2, other, payload(1)));
    assert!(log.message(3).await.unwrap().is_none());
    let info = log.info().await.unwrap();
    assert_eq!((info.first_sequence, info.last_sequence, info.messages), (1, 2, 2));
    assert!(info.bytes > 0 && message.published >= info.created);
}

#[tokio::test]
async fn an_imported_message_keeps_its_publish_time_and_nobody_else_can_set_one() {
    let server = TestServer::start();
    let log = open(&server).await;
    let published = Timestamp::parse("2026-02-27T10:30:02.123456Z").unwrap();
    let imported =
        |sequence| Imported { connection: CONNECTION, published, payload: payload(1), log: Timestamp(7), sequence };
    let append = async |sequence| log.append_imported(&imported(sequence)).await.unwrap();
    assert_eq!(append(1).await, Appended { sequence: 1, duplicate: false });
    assert_eq!(append(2).await, Appended { sequence: 2, duplicate: false }, "the other log had it twice");
    assert_eq!(append(1).await, Appended { sequence: 1, duplicate: true });
    log.append_imported_pipelined(&imported(3)).await.unwrap().await.unwrap();

    // Another publisher repeats what it saw, on a message of its own.
    let header = log.jobs_stream().get_raw_message(1).await.unwrap().headers.get("Forebay-Published").cloned().unwrap();
    let forged = PublishMessage::build().payload(payload(2)).header("Forebay-Published", header);
    let subject = format!("forebay.v1.jobs.{CONNECTION}.0");
    log.jetstream().send_publish(subject, forged).await.unwrap().await.unwrap();

    // A reader that was opened by another process knows the seal too.
    let other = open(&server).await;
    let told = read_to(&mut other.reader(0), 4).await;
    for message in told.messages {
        let same = log.message(message.sequence).await.unwrap().unwrap();
        assert_eq!((same.published, same.stored), (message.published, message.stored));
        assert!(message.stored > published);
        assert_eq!(message.published, if message.sequence == 4 { message.stored } else { published });
    }
}

#[tokio::test]
async fn a_message_too_large_and_a_full_log_are_told_apart() {
    let server = TestServer::start();
    let log = open(&server).await;
    let limit = log.max_payload() - 1_024;
    log.append(CONNECTION, vec![b'x'; limit].into()).await.unwrap();
    let too_large = log.append(CONNECTION, vec![b'x'; limit + 1].into()).await;
    assert_eq!(too_large, Err(AppendError::TooLarge { bytes: limit + 1, limit }));
    let config = log.jobs_stream().cached_info().config.clone();
    let full = Config { max_bytes: 9 << 20, ..config };
    log.jetstream().update_stream(full).await.unwrap();
    let refused = log.append(CONNECTION, vec![b'y'; limit].into()).await;
    assert!(matches!(refused, Err(AppendError::Full { .. })), "{refused:?}");
    assert_eq!(log.info().await.unwrap().last_sequence, 1, "nothing old is dropped to make room");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_an_append_ends_in_time_and_later_ones_succeed() {
    let mut server = TestServer::start();
    let log = open(&server).await;
    fill(&log, 1..=1).await;
    server.kill();
    until("the loss of the connection", async || !log.connected()).await;
    let refused = log.append(CONNECTION, payload(2)).await;
    assert!(matches!(refused, Err(AppendError::Unavailable { .. })), "{refused:?}");
    // One that is waiting when the server comes back goes through.
    let waiting = tokio::spawn({
        let log = log.clone();
        async move { log.append(CONNECTION, payload(2)).await }
    });
    server.restart();
    assert_eq!(waiting.await.unwrap(), Ok(Appended { sequence: 2, duplicate: false }));
}

#[tokio::test]
async fn of_each_thing_only_the_latest_status_is_kept() {
    let server = TestServer::start();
    let log = open(&server).await;
    for beat in 0..50 {
        log.publish_status(CONNECTION, "worker", "celery@one host", payload(beat)).await.unwrap();
        log.publish_status(CONNECTION, "worker", "celery@two", payload(beat)).await.unwrap();
    }
    let mut status = log.jetstream().get_stream("FOREBAY_STATUS").await.unwrap();
    assert_eq!(status.info().await.unwrap().state.messages, 2);
    let subjects = status.info_with_subjects(">").await.unwrap();
    let prefix = format!("forebay.v1.status.{CONNECTION}.worker.");
    let subjects: Vec<String> = subjects.map(|subject| subject.unwrap().0).collect().await;
    assert!(subjects.iter().all(|subject| subject.starts_with(&prefix)), "{subjects:?}");
    assert_eq!(log.info().await.unwrap().messages, 0, "a status is no event");
}

#[tokio::test]
async fn a_stream_that_would_lose_events_is_refused_and_a_lesser_one_improved() {
    let server = TestServer::start();
    let log = open(&server).await;
    let config = log.jobs_stream().cached_info().config.clone();
    log.jetstream().update_stream(Config { allow_direct: false, ..config.clone() }).await.unwrap();
    open(&server).await;
    assert!(log.jobs_stream().get_info().await.unwrap().config.allow_direct);
    log.jetstream().delete_stream("FOREBAY_JOBS").await.unwrap();
    let forgetful = Config { max_messages_per_subject: 5, ..config };
    log.jetstream().create_stream(forgetful).await.unwrap();
    let error = event_log::EventLog::open(server.config()).await.err().unwrap().to_string();
    assert!(error.contains("FOREBAY_JOBS") && error.contains("only so many events per subject"), "{error}");
}
