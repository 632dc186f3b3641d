use std::sync::Arc;

use bytes::Bytes;
use event_log::EventLog;
use event_log::testing::TestServer;
use parking_lot::Mutex;
use proto_events::{Event, EventType, Framework, Worker, WorkerState, worker_id};
use serde_json::Map;

use super::support::{CONNECTION, connect, project, publish, until};
use crate::{Handle, LiveChange, LiveSettings, LiveState};

fn worker(name: &str, state: WorkerState, pid: i64) -> Event {
    let worker = Worker {
        external_id: name.to_owned(),
        hostname: name.to_owned(),
        state,
        pid: Some(pid),
        active_jobs: Some(0),
        concurrency: None,
        processed_total: None,
        heartbeat_freq: Some(2.0),
        metadata: Map::new(),
        extensions: Map::new(),
    };
    let event = Event::bare(EventType::WorkerStateChange, crate::status::now(), Framework::Celery);
    Event { worker: Some(Box::new(worker)), ..event }
}

async fn beat(log: &EventLog, name: &str, pid: i64) -> bool {
    let payload = Bytes::from(proto_events::encode(&[worker(name, WorkerState::Heartbeat, pid)]));
    log.publish_status(CONNECTION, "worker", name, payload).await.is_ok()
}

fn state(handle: &Handle, name: &str) -> Option<LiveState> {
    let rows = handle.live().workers().rows;
    rows.into_iter().find(|row| row.external_id == name).map(|row| row.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_and_the_events_of_the_log_make_one_picture_through_a_killed_server() {
    let mut server = TestServer::start();
    let log = connect(&server).await;
    let dir = tempfile::tempdir().unwrap();
    assert!(beat(&log, "early", 1).await);
    let (handle, reader) = project(&log, dir.path());
    let told: Arc<Mutex<Vec<LiveChange>>> = Arc::default();
    let (listener, asked) = (Arc::clone(&told), handle.clone());
    let on_change = Arc::new(move |change| {
        // Whoever is told may ask.
        assert!(!asked.live().workers().rows.is_empty());
        listener.lock().push(change);
    });
    handle.live().start(&log, LiveSettings { on_change: Some(on_change), ..LiveSettings::default() });
    until("what was said before", async || state(&handle, "early") == Some(LiveState::Idle)).await;

    publish(&log, &[worker("late", WorkerState::Online, 1)]).await;
    until("what the log says", async || state(&handle, "late") == Some(LiveState::Idle)).await;
    publish(&log, &[worker("late", WorkerState::Offline, 1)]).await;
    until("its end", async || state(&handle, "late") == Some(LiveState::Offline)).await;
    assert!(reader.gone().is_empty());
    publish(&log, &[worker("late", WorkerState::Online, 2)]).await;
    until("another process", async || reader.gone().contains_key(&(CONNECTION, "late".to_owned()))).await;

    server.kill();
    server.restart();
    until("the server", async || beat(&log, "after", 1).await).await;
    until("what is said after it", async || state(&handle, "after") == Some(LiveState::Idle)).await;
    // Nobody beats any more, and time itself makes them offline.
    until("silence", async || {
        let offline = |change: &LiveChange| matches!(change, LiveChange::WorkerState { state: LiveState::Offline, .. });
        told.lock().iter().filter(|change| offline(change)).count() == 4
    })
    .await;
    let of = |name: &str| {
        let wanted = worker_id(CONNECTION, name);
        let state = |change: &LiveChange| match change {
            LiveChange::WorkerState { id, state, .. } if *id == wanted => Some(*state),
            _ => None,
        };
        told.lock().iter().filter_map(state).collect::<Vec<_>>()
    };
    let (idle, offline) = (LiveState::Idle, LiveState::Offline);
    assert_eq!(of("early"), [idle, offline]);
    assert_eq!(of("late"), [idle, offline, idle, offline]);
    assert_eq!(of("after"), [idle, offline]);
    handle.stop().await.unwrap();
}
