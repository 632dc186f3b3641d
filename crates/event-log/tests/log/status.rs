use std::collections::BTreeMap;

use bytes::Bytes;
use event_log::testing::TestServer;
use event_log::{EventLog, Status, StatusChange, Statuses};
use futures_util::TryStreamExt;
use proto_events::Timestamp;
use uuid::Uuid;

use crate::support::{CONNECTION, Network, open, until, within};

async fn say(log: &EventLog, kind: &str, name: &str, text: &str) {
    let payload = Bytes::from(format!("{name}={text}"));
    log.publish_status(CONNECTION, kind, name, payload).await.unwrap();
}

/// What was told, by the name that [`say`] puts before the text.
#[derive(Default)]
struct Copy {
    latest: BTreeMap<String, (Status, usize)>,
    begun: Vec<Timestamp>,
    interrupted: usize,
}

impl Copy {
    fn text(&self) -> Vec<String> {
        self.latest.values().map(|(status, _)| String::from_utf8(status.payload.to_vec()).unwrap()).collect()
    }

    /// Follows until this is what is known.
    async fn follow(&mut self, statuses: &mut Statuses, expected: &[&str]) {
        within(&format!("{expected:?}"), async {
            while self.text() != expected {
                match statuses.next().await.expect("the log is open") {
                    StatusChange::Begun { at } => self.begun.push(at),
                    StatusChange::Interrupted => self.interrupted += 1,
                    StatusChange::Said(status) => {
                        assert_eq!(self.begun.len(), self.interrupted + 1, "it is told before that it begins");
                        let text = String::from_utf8(status.payload.to_vec()).unwrap();
                        let name = text.split('=').next().unwrap().to_owned();
                        let times = self.latest.get(&name).map_or(0, |(_, times)| *times) + 1;
                        self.latest.insert(name, (status, times));
                    }
                }
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_of_each_comes_first_then_what_is_said_and_all_again_after_a_killed_server() {
    let mut server = TestServer::start();
    let log = open(&server).await;
    for number in 0..20 {
        say(&log, "worker", "a", &number.to_string()).await;
    }
    say(&log, "queue", "b", "1").await;
    let (mut statuses, mut copy) = (log.statuses(), Copy::default());
    copy.follow(&mut statuses, &["a=19", "b=1"]).await;
    let (a, times) = &copy.latest["a"];
    assert_eq!((a.connection, a.kind.as_str(), *times), (CONNECTION, "worker", 1), "only the latest");
    let (b, _) = &copy.latest["b"];
    assert_eq!(b.kind, "queue");
    let age = copy.begun[0].micros() - b.stored.micros();
    assert!((0..60_000_000).contains(&age), "stored {} and begun {}", b.stored, copy.begun[0]);
    say(&log, "queue", "b", "2").await;
    say(&log, "worker", "c d.*>", "1").await;
    copy.follow(&mut statuses, &["a=19", "b=2", "c d.*>=1"]).await;

    server.kill();
    within("the loss to be told", async {
        assert_eq!(statuses.next().await, Some(StatusChange::Interrupted));
    })
    .await;
    server.restart();
    copy.interrupted += 1;
    until("the server", async || {
        log.publish_status(CONNECTION, "worker", "a", Bytes::from_static(b"a=20")).await.is_ok()
    })
    .await;
    copy.latest.clear();
    copy.follow(&mut statuses, &["a=20", "b=2", "c d.*>=1"]).await;
    log.close().await;
    assert_eq!(within("the end", statuses.next()).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_gone_and_a_connection_that_is_cut_are_got_over() {
    let server = TestServer::start();
    let network = Network::before(&server).await;
    let log = network.open().await;
    let (mut statuses, mut copy) = (log.statuses(), Copy::default());
    say(&log, "worker", "a", "0").await;
    copy.follow(&mut statuses, &["a=0"]).await;
    let stream = log.jetstream().get_stream("FOREBAY_STATUS").await.unwrap();
    let consumers: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
    assert_eq!(consumers.len(), 1, "{consumers:?}");
    stream.delete_consumer(&consumers[0]).await.unwrap();
    say(&log, "worker", "a", "1").await;
    copy.follow(&mut statuses, &["a=1"]).await;
    assert_eq!(copy.interrupted, 1);
    for number in 2..6 {
        network.cut();
        until("the connection", async || {
            let payload = Bytes::from(format!("a={number}"));
            log.publish_status(CONNECTION, "worker", "a", payload).await.is_ok()
        })
        .await;
        copy.follow(&mut statuses, &[&format!("a={number}")]).await;
    }
}

/// Others may publish too, under subjects that name nobody.
#[tokio::test]
async fn a_foreign_subject_is_nobodys() {
    let server = TestServer::start();
    let log = open(&server).await;
    log.jetstream().publish("forebay.v1.status.somebody", Bytes::from_static(b"x")).await.unwrap().await.unwrap();
    let mut statuses = log.statuses();
    assert!(matches!(within("begin", statuses.next()).await, Some(StatusChange::Begun { .. })));
    let Some(StatusChange::Said(status)) = within("it", statuses.next()).await else { panic!("nothing is said") };
    assert_eq!((status.connection, status.kind.as_str()), (Uuid::nil(), ""));
}
