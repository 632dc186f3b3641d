//! What the tests share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use event_log::testing::TestServer;
use event_log::{EventLog, LogMessage, ReadError, Reader, ServerConfig};
use proto_events::{Event, Framework, Job, JobState, Timestamp};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// Far longer than anything here takes; only a failure waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const CONNECTION: Uuid = Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0000);

pub(crate) async fn open(server: &TestServer) -> EventLog {
    EventLog::open(server.config()).await.unwrap()
}

/// The example that embeds a server; it serves as helper and as a parent that can be killed.
pub(crate) fn example() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().and_then(|deps| deps.parent()).unwrap().join("examples/embedded");
    assert!(
        path.is_file(),
        "{} is missing: run the tests of the whole package, so that cargo builds it",
        path.display()
    );
    path
}

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited too long: {what}"))
}

/// Asks again until it holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) fn payload(number: u64) -> Bytes {
    Bytes::from(format!("message {number}"))
}

/// Appends the messages of these numbers, many at a time.
pub(crate) async fn fill(log: &EventLog, numbers: std::ops::RangeInclusive<u64>) {
    let mut acks = Vec::new();
    for number in numbers {
        acks.push(log.append_pipelined(CONNECTION, payload(number)).await.unwrap());
        if acks.len() == 500 {
            for ack in acks.drain(..) {
                ack.await.unwrap();
            }
        }
    }
    for ack in acks {
        ack.await.unwrap();
    }
}

/// What a reader told until a position was reached.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) messages: Vec<LogMessage>,
    pub(crate) interruptions: Vec<ReadError>,
}

impl Told {
    pub(crate) fn sequences(&self) -> Vec<u64> {
        self.messages.iter().map(|message| message.sequence).collect()
    }
}

/// Reads until this position was handed out.
pub(crate) async fn read_to(reader: &mut Reader, last: u64) -> Told {
    let mut told = Told::default();
    let read = async {
        while told.messages.last().is_none_or(|message| message.sequence < last) {
            match reader.next().await {
                Ok(batch) => {
                    assert!(!batch.messages.is_empty(), "a batch is never empty");
                    told.messages.extend(batch.messages);
                }
                Err(error @ ReadError::Reconnected { .. }) => told.interruptions.push(error),
                Err(error) => panic!("{error}"),
            }
        }
    };
    within(&format!("reading to {last}"), read).await;
    told
}

/// Names of the consumers that the jobs stream has now.
pub(crate) async fn consumers(log: &EventLog) -> Vec<String> {
    use futures_util::TryStreamExt;
    log.jobs_stream().consumer_names().try_collect().await.unwrap_or_default()
}

pub(crate) fn event(number: u64) -> Event {
    let mut job = Job::new(format!("job-{number}"), JobState::Active);
    job.name = Some("shop.tasks.charge".to_owned());
    Event::job(Timestamp(1_795_440_115_000_000 + number as i64), Framework::Celery, job)
}

/// The number of the event that [`event`] made.
pub(crate) fn number_of(event: &Event) -> u64 {
    event.job.as_ref().unwrap().external_id.trim_start_matches("job-").parse().unwrap()
}

/// A network between us and the server that can fail: it forwards connections until they are cut or frozen.
pub(crate) struct Network {
    pub(crate) address: std::net::SocketAddr,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    frozen: watch::Sender<u64>,
}

impl Network {
    pub(crate) async fn before(server: &TestServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, target) = (listener.local_addr().unwrap(), server.address());
        let connections = Arc::<Mutex<Vec<JoinHandle<()>>>>::default();
        let (frozen, _) = watch::channel(0);
        tokio::spawn({
            let (connections, frozen) = (Arc::clone(&connections), frozen.clone());
            async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    let (target, mut freezing) = (target.clone(), frozen.subscribe());
                    let forward = async move {
                        let Ok(mut server) = TcpStream::connect(target).await else { return };
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                            // Both ends stay open, and nothing passes any more.
                            _ = freezing.changed() => std::future::pending().await,
                        }
                    };
                    connections.lock().unwrap().push(tokio::spawn(forward));
                }
            }
        });
        Self { address, connections, frozen }
    }

    /// Ends all connections, as seen by both sides; new ones pass.
    pub(crate) fn cut(&self) {
        self.connections.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }

    /// Swallows whatever is sent over the present connections, without a word; new ones pass.
    pub(crate) fn freeze(&self) {
        self.frozen.send_modify(|count| *count += 1);
    }

    pub(crate) async fn open(&self) -> EventLog {
        let url = format!("nats://{}", self.address);
        let (user, password, token, creds, ca) = (None, None, None, None, None);
        let config = ServerConfig::External { url, user, password, token, creds, ca, replicas: 1 };
        EventLog::open(config).await.unwrap()
    }
}
