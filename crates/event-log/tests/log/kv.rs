use std::collections::BTreeMap;

use bytes::Bytes;
use event_log::testing::TestServer;
use event_log::{Kv, KvChange, KvError};

use crate::support::{open, until, within};

fn value(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// All but what the log itself keeps there.
async fn entries(kv: &Kv) -> Vec<(String, Bytes)> {
    let mut entries = kv.entries().await.unwrap();
    entries.retain(|(key, _)| key != "settings.import-secret");
    entries.sort();
    entries
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

/// Follows the bucket into a copy until the copy is as expected.
async fn follow(kv: &Kv, watch: &mut event_log::KvWatch, copy: &mut BTreeMap<String, Bytes>) {
    let expected: BTreeMap<String, Bytes> = kv.entries().await.unwrap().into_iter().collect();
    within("the copy to follow", async {
        while *copy != expected {
            match watch.next().await {
                KvChange::Put { key, value } => drop(copy.insert(key, value)),
                KvChange::Deleted { key } => drop(copy.remove(&key)),
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
