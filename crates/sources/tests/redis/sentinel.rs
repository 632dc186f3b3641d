//! Redis behind Sentinels: who is the primary is asked, and followed.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Client, Connection, Value, cmd};
use sources::SourceState;
use tempfile::TempDir;

use crate::harness::{Log, Redis, SOON, connected, eventually, publish, spawn, task};
use crate::{ids, status};

/// A Sentinel of our own, killed when dropped.
struct Sentinel {
    port: u16,
    child: Child,
    _dir: TempDir,
}

impl Sentinel {
    /// Watches this primary, and makes another one when it is gone for half a second.
    fn of(primary: u16) -> Self {
        loop {
            let dir = tempfile::tempdir().unwrap();
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = dir.path().join("sentinel.conf");
            let text = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {primary} 1\n\
                 sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
            );
            std::fs::write(&config, text).unwrap();
            let mut child = start(&config);
            let deadline = Instant::now() + SOON;
            while child.try_wait().unwrap().is_none() {
                assert!(Instant::now() < deadline, "the Sentinel does not answer");
                if connect(port).is_ok_and(|mut to| cmd("PING").exec(&mut to).is_ok()) {
                    return Self { port, child, _dir: dir };
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            // Somebody else took the port.
        }
    }

    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        cmd("SENTINEL").arg(words).query(&mut connect(self.port).unwrap()).unwrap()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The program is the same; only its name makes a Sentinel of it, or this argument.
fn start(config: &Path) -> Child {
    let mut command = Command::new("redis-server");
    command.arg(config).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().unwrap()
}

fn connect(port: u16) -> redis::RedisResult<Connection> {
    Client::open(format!("redis://127.0.0.1:{port}"))?.get_connection()
}

/// A port where nobody listens.
fn nobody() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_primary_that_sentinels_name_is_listened_to_and_the_next_one_after_a_failover() {
    let mut primary = Redis::start();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let (sentinel, log) = (Sentinel::of(primary.port), Log::open().await);
    eventually("the Sentinel knows both", || async {
        let replicas: Vec<Value> = sentinel.ask(&["replicas", "main"]);
        (replicas.len() == 1).then_some(()).ok_or_else(|| format!("{replicas:?}"))
    })
    .await;
    // One of them is down, as happens.
    let url = format!("sentinel://127.0.0.1:{};sentinel://127.0.0.1:{}/0?master_name=main", nobody(), sentinel.port);
    let source = spawn(&url, &log.log, |_| {});
    connected(&source).await;
    publish(&mut primary.client(""), "/0", "task.sent", &task("sent", "before"));
    assert_eq!(ids(&log.jobs(1).await), ["before"]);
    primary.kill();
    let down = status(&source, "the loss is noticed", |status| status.state == SourceState::Down).await;
    assert!(down.reason.is_some());
    connected(&source).await;
    let (_, port): (String, u16) = sentinel.ask(&["get-master-addr-by-name", "main"]);
    assert_eq!(port, replica.port, "there was a failover");
    assert_eq!(publish(&mut replica.client(""), "/0", "task.sent", &task("sent", "after")), 1);
    assert_eq!(ids(&log.jobs(2).await), ["before", "after"]);
    assert!(source.status().missed > 0.0 && source.status().reconnects == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_do_not_know_the_primary_are_told_of() {
    let (redis, log) = (Redis::start(), Log::open().await);
    let sentinel = Sentinel::of(redis.port);
    let source = spawn(&format!("sentinel://127.0.0.1:{}?master_name=other", sentinel.port), &log.log, |_| {});
    let down = status(&source, "it says why", |status| status.reason.is_some()).await;
    assert!(down.reason.unwrap().contains("knows no primary named other"));
}
