//! Events about tasks and about workers come over connections of their own, as far as Redis lets us.

use redis::cmd;
use serde_json::json;
use sources::SourceState;

use crate::harness::{Log, Redis, connected, eventually, publish, spawn, task, worker};
use crate::{ids, status};

/// The ids of the connections that listen, by their pattern's kind as far as it can be seen: in the order of their making.
fn listeners(to: &mut redis::Connection) -> Vec<u64> {
    let list: String = cmd("CLIENT").arg(&["LIST", "TYPE", "pubsub"]).query(to).unwrap();
    let id = |line: &str| line.split(' ').find_map(|word| word.strip_prefix("id=")?.parse().ok());
    list.lines().filter_map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_that_are_cut_off_cost_no_event_of_a_task() {
    let (redis, log) = (Redis::start(), Log::open().await);
    let source = spawn(&redis.url(), &log.log, |_| {});
    connected(&source).await;
    let mut client = redis.client("");
    let both = listeners(&mut client);
    assert_eq!(both.len(), 2);
    // As Redis does with who is too far behind: one of them first, then the other.
    for (round, id) in both.into_iter().enumerate() {
        let before = listeners(&mut client).len();
        let () = cmd("CLIENT").arg("KILL").arg("ID").arg(id).query(&mut client).unwrap();
        let sent = task("sent", &round.to_string());
        // Whoever of the two still stands hears what is its own.
        let tasks = publish(&mut client, "/0", "task.sent", &sent);
        let workers = publish(&mut client, "/0", "worker.heartbeat", &worker("heartbeat", "celery@w"));
        assert_eq!((before, tasks + workers), (2, 1), "each connection has its own kind");
        status(&source, "the loss is noticed", |status| status.reconnects == round as u64 + 1).await;
        connected(&source).await;
        if tasks == 0 {
            assert_eq!(publish(&mut client, "/0", "task.sent", &sent), 1);
        }
    }
    let mut jobs = log.jobs(2).await;
    jobs.sort_by_key(|event| event.job.as_ref().unwrap().external_id.clone());
    assert_eq!(ids(&jobs), ["0", "1"]);
}

/// A user who was allowed what one connection needs.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_listen_only_to_all_of_it_listens_to_all_of_it() {
    let (redis, log) = (Redis::start(), Log::open().await);
    let mut client = redis.client("");
    let rules = ["SETUSER", "forebay", "on", ">pw", "resetchannels", "&/0.celeryev/*", "-@all", "+psubscribe", "+ping"];
    let () = cmd("ACL").arg(&rules).query(&mut client).unwrap();
    let source = spawn(&format!("redis://forebay:pw@127.0.0.1:{}/0", redis.port), &log.log, |_| {});
    connected(&source).await;
    assert_eq!(publish(&mut client, "/0", "task.sent", &task("sent", "a")), 1);
    assert_eq!(publish(&mut client, "/0", "worker.online", &worker("online", "celery@w")), 1);
    eventually("both are heard", || async {
        let status = source.status();
        (status.events == 2 && status.worker_events == 1).then_some(()).ok_or_else(|| format!("{status:?}"))
    })
    .await;
    assert_eq!(source.status().state, SourceState::Connected, "the other connection is not missed");
    // The line of the manual gives two, with nothing more than it says.
    let rules = ["SETUSER", "apart", "on", ">pw", "resetkeys", "resetchannels", "&/0.celeryev/task.*"];
    let rules = rules.iter().chain(&["&/0.celeryev/worker.*", "nocommands", "+psubscribe", "+ping"]);
    let () = cmd("ACL").arg(rules.collect::<Vec<_>>()).query(&mut client).unwrap();
    let apart = spawn(&format!("redis://apart:pw@127.0.0.1:{}/0", redis.port), &log.log, |_| {});
    connected(&apart).await;
    let listeners: String = cmd("CLIENT").arg(&["LIST", "TYPE", "pubsub"]).query(&mut client).unwrap();
    let of = |user: &str| listeners.lines().filter(|line| line.contains(&format!("user={user} "))).count();
    assert_eq!((of("forebay"), of("apart")), (1, 2), "{listeners}");
}

/// All the ways in which Celery may be configured to name its channels.
#[tokio::test(flavor = "multi_thread")]
async fn channels_of_every_setting_of_celery_are_heard() {
    let (redis, log) = (Redis::start(), Log::open().await);
    let mut client = redis.client("");
    for (number, (options, channel)) in [
        ("fanout_prefix=false", "celeryev/task.sent"),
        ("fanout_prefix=%2Fjobs-%7Bdb%7D.", "/jobs-0.celeryev/task.sent"),
        ("fanout_patterns=False", "/0.celeryev"),
        ("fanout_patterns=0&fanout_prefix=False&global_keyprefix=shop:", "shop:celeryev"),
        ("global_keyprefix=shop:", "shop:/0.celeryev/task.multi"),
        ("event_exchange=ours", "/0.ours/task.sent"),
        ("channels=*", "anything/task.sent"),
    ]
    .into_iter()
    .enumerate()
    {
        let source = spawn(&format!("{}?{options}", redis.url()), &log.log, |_| {});
        connected(&source).await;
        let sent = crate::harness::kombu("task.sent", &json!(task("sent", &number.to_string())));
        let heard: usize = cmd("PUBLISH").arg(channel).arg(sent).query(&mut client).unwrap();
        assert_eq!(heard, 1, "{options}");
        status(&source, "it is heard", |status| status.events == 1).await;
        source.stop().await;
    }
    assert_eq!(ids(&log.jobs(7).await), ["0", "1", "2", "3", "4", "5", "6"]);
}
