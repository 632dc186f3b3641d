use std::collections::BTreeMap;

use bytes::Bytes;
use event_log::testing::TestServer;
use event_log::{EventLog, Kv, KvChange, KvEntry, KvError};

use crate::support::{open, until, within};

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// All but what the log itself keeps there.
async fn entries(kv: &Kv) -> Vec<(String, Bytes)> {
    let entries = kv.entries().await.unwrap().into_iter();
    let ours = entries.filter(|entry| entry.key != "settings.import-secret");
    let mut ours: Vec<_> = ours.map(|entry| (entry.key, entry.value)).collect();
    ours.sort();
    ours
}

#[tokio::test]
async fn keys_are_kept_listed_and_never_created_twice() {
    let server = TestServer::start();
    let log = open(&server).await;
    let kv = log.kv();
    assert_eq!(kv.get("connection.a").await, Ok(None));
    assert_eq!(entries(&kv).await, []);
    kv.create("connection.a", value("1")).await.unwrap();
    let taken = KvError::Exists { key: "connection.a".to_owned() };
    assert_eq!(kv.create("connection.a", value("2")).await, Err(taken));
    kv.put("connection.a", value("3")).await.unwrap();
    kv.put("settings/x=1", value("x")).await.unwrap();
    assert_eq!(entries(&kv).await, [("connection.a".to_owned(), value("3")), ("settings/x=1".to_owned(), value("x"))]);
    kv.delete("connection.a").await.unwrap();
    kv.delete("never.there").await.unwrap();
    assert_eq!(kv.get("connection.a").await, Ok(None));
    assert_eq!(entries(&kv).await.len(), 1);
    kv.create("connection.a", value("4")).await.expect("a deleted key may be created");
    for bad in ["", "a b", ".a", "a*", "ä"] {
        let refused = kv.put(bad, value("")).await;
        assert_eq!(refused, Err(KvError::InvalidKey { key: bad.to_owned() }));
    }
}

#[tokio::test]
async fn of_two_who_change_a_key_that_both_have_read_one_is_told() {
    let server = TestServer::start();
    let kv = open(&server).await.kv();
    let changed = KvError::Changed { key: "a".to_owned() };
    let first = kv.create("a", value("1")).await.unwrap();
    assert_eq!(kv.entry("a").await, Ok(Some(KvEntry { key: "a".to_owned(), value: value("1"), revision: first })));
    let second = kv.update("a", value("2"), first).await.unwrap();
    assert_eq!(kv.update("a", value("3"), first).await, Err(changed.clone()));
    assert_eq!(kv.remove("a", first).await, Err(changed.clone()));
    assert_eq!(kv.get("a").await, Ok(Some(value("2"))));
    kv.remove("a", second).await.unwrap();
    assert_eq!(kv.entry("a").await, Ok(None));
    assert_eq!(kv.update("a", value("3"), second).await, Err(changed), "nothing comes back");
    let third = kv.create("a", value("4")).await.unwrap();
    assert!(third > second);
}

/// Follows the bucket into a copy until the copy is as expected.
async fn follow(kv: &Kv, watch: &mut event_log::KvWatch, copy: &mut BTreeMap<String, Bytes>) {
    let expected: BTreeMap<String, Bytes> =
        kv.entries().await.unwrap().into_iter().map(|entry| (entry.key, entry.value)).collect();
    within("the copy to follow", async {
        while *copy != expected {
            match watch.next().await {
                KvChange::Put(KvEntry { key, value, .. }) => drop(copy.insert(key, value)),
                KvChange::Deleted { key, .. } => drop(copy.remove(&key)),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_is_there_what_changes_and_what_it_missed() {
    let mut server = TestServer::start();
    let log = open(&server).await;
    let kv = log.kv();
    kv.put("a", value("1")).await.unwrap();
    kv.put("b", value("1")).await.unwrap();
    let (mut watch, mut copy) = (kv.watch(), BTreeMap::new());
    follow(&kv, &mut watch, &mut copy).await;
    kv.delete("a").await.unwrap();
    kv.put("c", value("1")).await.unwrap();
    follow(&kv, &mut watch, &mut copy).await;
    server.kill();
    server.restart();
    until("the bucket", async || kv.get("b").await.is_ok()).await;
    kv.delete("b").await.unwrap();
    kv.put("c", value("2")).await.unwrap();
    follow(&kv, &mut watch, &mut copy).await;
    copy.remove("settings.import-secret");
    assert_eq!(copy.into_iter().collect::<Vec<_>>(), [("c".to_owned(), value("2"))]);
}

#[tokio::test]
async fn a_bucket_that_would_lose_keys_is_refused_and_one_that_keeps_them_is_taken_as_it_is() {
    use async_nats::jetstream::{self, kv, stream::StorageType};
    let good = kv::Config { bucket: "FOREBAY".to_owned(), history: 5, ..kv::Config::default() };
    let forgetful = kv::Config { storage: StorageType::Memory, ..good.clone() };
    let expiring = kv::Config { max_age: std::time::Duration::from_secs(3_600), ..good.clone() };
    for (config, complaint) in [(forgetful, Some("kept in memory")), (expiring, Some("entries expire")), (good, None)] {
        let server = TestServer::start();
        let client = async_nats::connect(server.address()).await.unwrap();
        let bucket = jetstream::new(client).create_key_value(config).await.unwrap();
        bucket.put("connection.a", value("1")).await.unwrap();
        let opened = EventLog::open(server.config()).await;
        match complaint {
            Some(complaint) => {
                let error = opened.err().unwrap().to_string();
                assert!(error.contains("KV_FOREBAY") && error.contains(complaint), "{error}");
            }
            None => assert_eq!(opened.unwrap().kv().get("connection.a").await, Ok(Some(value("1")))),
        }
        // Whatever is thought of it, it is not touched.
        assert_eq!(bucket.get("connection.a").await.unwrap(), Some(value("1")));
    }
}
