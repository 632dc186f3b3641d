//! Connections and their keys.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::connections::DEFAULT;
use api::{ConnectionError, Connections, DefaultConnection};
use event_log::{KvChange, KvEntry};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Answer, CONNECTION, Client, DEADLINE, KEY, Server, event, until};

/// Whether the key may send.
fn is_good(client: &Client, key: &str) -> bool {
    client.post("/api/ingest", &json!({ "events": [] })).bearer(key).send().status != 401
}

fn names(list: &Answer) -> Vec<&str> {
    list.body["data"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect()
}

/// Where the bucket keeps something under a name.
fn key_of_name(prefix: &str, name: &str) -> String {
    format!("{prefix}.{}", &blake3::hash(name.as_bytes()).to_hex()[..32])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_made_used_listed_and_deleted() {
    let server = Server::start().await;
    let create = |name: Value| server.client.post("/api/connections", &json!({ "name": name })).admin().send();
    let made = create(json!("billing"));
    assert_eq!(made.status, 201);
    let (id, key) = (made.body["id"].as_str().unwrap(), made.body["apiKey"].as_str().unwrap());
    assert!(key.starts_with("sk_live_") && key.len() >= 40, "{key}");
    create(json!("billing")).error(409, "CONFLICT");
    for bad in
        [json!(""), json!("   "), json!("a\nb"), json!("x".repeat(256)), json!(CONNECTION), json!(7), Value::Null]
    {
        create(bad).error(400, "VALIDATION_ERROR");
    }

    let mut own = event("a", "queued", "2026-02-27T10:29:55Z");
    own["connectionId"] = json!(id);
    let body = json!({ "events": [own, event("b", "queued", "2026-02-27T10:29:55Z")] });
    let answer = server.client.post("/api/ingest", &body).bearer(key).send();
    assert_eq!(
        (&answer.body["accepted"], &answer.body["rejected"][0]["code"]),
        (&json!(1), &json!("CONNECTION_MISMATCH"))
    );
    let read = server.client.get("/api/jobs/a?atLeast=1").admin().send();
    assert_eq!((read.status, &read.body["connectionId"]), (200, &json!(id)), "found over all connections");

    let list = server.client.get("/api/connections").admin().send();
    let shown: Vec<_> = list.body["data"].as_array().unwrap().iter().map(|it| (&it["name"], &it["hasKey"])).collect();
    assert_eq!(shown, [(&json!("default"), &json!(true)), (&json!("billing"), &json!(true))]);
    let text = list.body.to_string();
    assert!(!text.contains(key) && !text.contains("apiKey") && !text.contains("Hash"), "{text}");

    let delete = |name: &str| server.client.delete(&format!("/api/connections/{name}")).admin().send();
    assert_eq!(delete(id).status, 200);
    delete("billing").error(404, "NOT_FOUND");
    delete("default").error(409, "CONFLICT");
    server.client.post("/api/ingest", &body).bearer(key).send().error(401, "UNAUTHORIZED");
    let kept = server.client.get(&format!("/api/jobs/{}", read.body["id"].as_str().unwrap())).admin().send();
    assert_eq!(kept.status, 200, "its jobs stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_learns_of_keys_and_no_key_is_stored() {
    let server = Server::start().await;
    let other = Connections::open(server.log.kv()).await.unwrap();
    assert_eq!(other.by_key(KEY), Some(CONNECTION));
    let (made, key) = server.connections.create("shared").await.unwrap();
    until("the other node learns of the key", || other.by_key(&key) == Some(made.id));
    let read = server.client.post("/api/keys", &json!({ "name": "script" })).admin().send();
    let (_, rotated) = server.connections.rotate("shared").await.unwrap();
    let keys = [KEY, &key, &rotated, read.body["apiKey"].as_str().unwrap()];
    for KvEntry { key: name, value, .. } in server.log.kv().entries().await.unwrap() {
        let value = String::from_utf8_lossy(&value);
        assert!(keys.iter().all(|key| !value.contains(key)), "{name}: {value}");
    }
    server.connections.delete("shared").await.unwrap();
    until("the other node learns that it is gone", || other.by_key(&rotated).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_connection_follows_the_configuration() {
    let server = Server::start().await;
    let connections = &server.connections;
    let key = |key: &str| DefaultConnection { key: Some(key.to_owned()), ..DefaultConnection::default() };
    let configured = |id: u128, it: &str| DefaultConnection { id: Some(Uuid::from_u128(id)), ..key(it) };
    let same = connections.ensure_default(&DefaultConnection::default()).await.unwrap();
    assert_eq!((same.id, connections.by_key(KEY)), (CONNECTION, Some(CONNECTION)), "nothing said, nothing changed");
    connections.ensure_default(&key("another key of a user")).await.unwrap();
    assert_eq!((connections.by_key(KEY), connections.by_key("another key of a user")), (None, Some(CONNECTION)));
    connections.ensure_default(&configured(1, KEY)).await.unwrap();
    assert_eq!(connections.by_key(KEY), Some(Uuid::from_u128(1)));
    assert!(connections.ids().contains(&CONNECTION), "the jobs of the former id can still be found");
    assert_eq!(connections.by_key("another key of a user"), None);

    let (_, key) = connections.create("older").await.unwrap();
    connections.ensure_default(&configured(1, &key)).await.unwrap();
    for _ in 0..20 {
        // Each node holds them in another order.
        let node = Connections::open(server.log.kv()).await.unwrap();
        assert_eq!(node.by_key(&key), Some(Uuid::from_u128(1)), "what is configured wins everywhere");
    }

    let first = connections.ensure("celery").await.unwrap();
    let again = Connections::open(server.log.kv()).await.unwrap().ensure("celery").await.unwrap();
    assert_eq!((again.id, again.has_key()), (first.id, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_and_rotated_on_one_node_it_is_so_on_every_node() {
    let server = Server::start().await;
    let other = server.another().await;
    let (here, there) = (&server.client, &other.client);
    let create = |name: &str| here.post("/api/connections", &json!({ "name": name })).admin().send();
    let (made, beside) = (create("a billing/eu"), create("mail"));
    let (id, key) = (made.body["id"].as_str().unwrap(), made.body["apiKey"].as_str().unwrap());
    let beside = beside.body["apiKey"].as_str().unwrap();
    until("the other node learns of both", || is_good(there, key) && is_good(there, beside));
    let mut own = event("a", "queued", "2026-02-27T10:29:55Z");
    own["connectionId"] = json!(id);
    let sent = there.post("/api/ingest", &json!({ "events": [own] })).bearer(key).send();
    assert_eq!(sent.body["accepted"], 1, "{}", sent.body);

    let rename = |client: &Client, which: &str, name: &str| {
        client.patch(&format!("/api/connections/{which}"), &json!({ "name": name })).admin().send()
    };
    let renamed = rename(there, "a%20billing%2Feu", " invoices ");
    let expected = json!({
        "id": id, "name": "invoices", "createdAt": made.body["createdAt"], "hasKey": true,
    });
    assert_eq!((renamed.status, &renamed.body), (200, &expected));
    let list = || here.get("/api/connections").admin().send();
    until("the first node learns of the name", || names(&list()) == ["default", "invoices", "mail"]);
    for client in [here, there] {
        assert!(is_good(client, key), "the key stays");
        let job = client.get(&format!("/api/jobs/a?atLeast={}", sent.body["sequence"])).admin().send();
        assert_eq!((job.status, &job.body["connectionId"]), (200, &json!(id)), "its jobs stay");
    }
    for (which, name, status) in [
        ("invoices", "mail", 409),
        ("invoices", "default", 409),
        ("default", "other", 409),
        ("nobody", "other", 404),
        ("%ff", "other", 404),
        ("invoices", CONNECTION.to_string().as_str(), 400),
        ("invoices", "", 400),
    ] {
        assert_eq!(rename(here, which, name).status, status, "{which} to {name}");
    }
    create("invoices").error(409, "CONFLICT");
    assert_eq!(rename(here, id, "invoices").status, 200, "it has that name already");
    assert_eq!(create("a billing/eu").status, 201, "the former name is free");
    rename(here, id, "a billing/eu").error(409, "CONFLICT");
    assert_eq!(rename(here, id, "back").status, 200, "by its id");

    let rotate = |client: &Client, which: &str| {
        client.request(ureq::http::Method::POST, &format!("/api/connections/{which}/rotate")).admin().send()
    };
    let rotated = rotate(here, "back");
    let new = rotated.body["apiKey"].as_str().unwrap();
    assert_eq!((rotated.status, &rotated.body["id"], new.starts_with("sk_live_")), (200, &json!(id), true));
    assert!(!is_good(here, key) && is_good(here, new), "at once");
    until("the other node learns of the new key", || is_good(there, new));
    assert!(!is_good(there, key), "and with it that the old one is not good any more");
    assert!([here, there].iter().all(|client| is_good(client, beside) && is_good(client, KEY)), "others stay");
    rotate(here, "nobody").error(404, "NOT_FOUND");
    let refused = rotate(here, "default");
    assert!(refused.error(409, "CONFLICT")["message"].as_str().unwrap().contains("FOREBAY_API_KEY"));
    assert!(is_good(here, KEY));
    let gone = server.client.delete(&format!("/api/connections/{id}")).admin().send();
    assert_eq!((gone.status, is_good(here, new)), (200, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_refused_and_changes_nothing() {
    let server = Server::start().await;
    let made = server.client.post("/api/connections", &json!({ "name": "billing" })).admin().send();
    let client = &server.client;
    for (path, body) in [
        ("/api/connections/billing", json!({ "name": "other", "key": "mine" })),
        ("/api/connections/billing", json!({ "title": "other" })),
        ("/api/connections/billing?force=true", json!({ "name": "other" })),
    ] {
        client.patch(path, &body).admin().send().error(400, "VALIDATION_ERROR");
    }
    for (path, body) in [
        ("/api/connections/billing/rotate", json!({ "key": "mine" })),
        ("/api/connections/billing/rotate?key=mine", json!({})),
        ("/api/connections", json!({ "name": "other", "id": CONNECTION })),
        ("/api/keys", json!({ "name": "other", "scope": "all" })),
        ("/api/keys?scope=all", json!({ "name": "other" })),
    ] {
        client.post(path, &body).admin().send().error(400, "VALIDATION_ERROR");
    }
    for path in ["/api/connections/billing", "/api/keys/other"] {
        client.delete(path).body(r#"{"force":true}"#).admin().send().error(400, "VALIDATION_ERROR");
    }
    for path in ["/api/connections?page=2", "/api/keys?limit=1"] {
        client.get(path).admin().send().error(400, "VALIDATION_ERROR");
    }
    client.post("/api/connections/billing", &json!({})).admin().send().error(405, "METHOD_NOT_ALLOWED");
    client.get("/api/connections/billing/rotate").admin().send().error(405, "METHOD_NOT_ALLOWED");
    let list = client.get("/api/connections").admin().send();
    assert_eq!(names(&list), ["default", "billing"]);
    assert!(is_good(client, made.body["apiKey"].as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_key_of_the_default_connection_is_rotated_for_good() {
    let server = Server::start().await;
    let connections = &server.connections;
    let refused = connections.rotate(DEFAULT).await;
    assert!(matches!(refused, Err(ConnectionError::KeyIsConfigured)));
    // Another node, or a command without a server, does not know this configuration.
    let offline = Connections::open(server.log.kv()).await.unwrap();
    assert!(matches!(offline.rotate(DEFAULT).await, Err(ConnectionError::KeyIsConfigured)));

    let made_up = DefaultConnection { first_key: Some("made up once".to_owned()), ..DefaultConnection::default() };
    connections.ensure_default(&made_up).await.unwrap();
    assert_eq!(connections.by_key(KEY), Some(CONNECTION), "it has a key");
    let (_, rotated) = connections.rotate(DEFAULT).await.unwrap();
    for _ in 0..2 {
        connections.ensure_default(&made_up).await.unwrap();
        assert_eq!(connections.by_key(&rotated), Some(CONNECTION));
        assert_eq!((connections.by_key(KEY), connections.by_key("made up once")), (None, None));
    }
}

/// Both kinds of leftovers: of a process that died with a claim and before it took the name, and after.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_claimed_and_not_taken_is_soon_free() {
    let server = Server::start().await;
    let (connections, kv) = (&server.connections, server.log.kv());
    let (made, key) = connections.create("billing").await.unwrap();
    let dead = || Uuid::new_v4().to_string().into();
    kv.create(&key_of_name("names", "invoices"), dead()).await.unwrap();
    assert_eq!(connections.rename("billing", "invoices").await.unwrap().id, made.id);
    let held = kv.entry(&key_of_name("names", "billing")).await.unwrap();
    assert_eq!(held, None, "the former name is given up");
    kv.create(&key_of_name("names", "billing"), made.id.to_string().into()).await.unwrap();
    assert_ne!(connections.create("billing").await.unwrap().0.id, made.id);
    assert_eq!(connections.by_key(&key), Some(made.id));
    assert!(matches!(connections.rename("invoices", "billing").await, Err(ConnectionError::Taken(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_a_claim_before_the_name_is_taken_takes_back_what_it_did() {
    let server = Server::start().await;
    let (connections, kv) = (&server.connections, server.log.kv());
    let (made, key) = connections.create("billing").await.unwrap();
    // Takes every claim of a name away as soon as it hears of it; now and then that is soon enough.
    let thief = tokio::spawn(async move {
        let mut changes = kv.watch();
        let theirs = Uuid::new_v4().to_string();
        loop {
            if let KvChange::Put(KvEntry { key, value, .. }) = changes.next().await
                && key.starts_with("names.")
                && value != theirs
            {
                kv.put(&key, theirs.clone().into()).await.unwrap();
            }
        }
    });
    let (deadline, mut lost, mut name) = (Instant::now() + DEADLINE, (0, 0), "billing".to_owned());
    for round in 0.. {
        assert!(Instant::now() < deadline, "no claim was lost in {round} rounds: {lost:?}");
        let (new, created) = (format!("invoices {round}"), format!("new {round}"));
        match connections.rename(&made.id.to_string(), &new).await {
            Ok(_) => name = new,
            Err(ConnectionError::Taken(_)) => lost.0 += 1,
            Err(error) => panic!("{error}"),
        }
        let made_now = match connections.create(&created).await {
            Ok(_) => true,
            Err(ConnectionError::Taken(_)) => false,
            Err(error) => panic!("{error}"),
        };
        lost.1 += usize::from(!made_now);
        let fresh = Connections::open(server.log.kv()).await.unwrap();
        assert_eq!((fresh.by_key(&key), &fresh.find(&name).unwrap().id), (Some(made.id), &made.id));
        assert_eq!(fresh.find(&created).is_some(), made_now);
        if lost.0 > 0 && lost.1 > 0 {
            break;
        }
    }
    thief.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_an_earlier_version_is_renamed_where_it_stands() {
    let server = Server::start().await;
    let id = Uuid::from_u128(77);
    let stored = json!({ "id": id, "name": "shop", "createdAt": "2026-02-27T10:29:55.000000Z", "keyHash": null });
    let place = key_of_name("connections", "shop");
    server.log.kv().create(&place, serde_json::to_vec(&stored).unwrap().into()).await.unwrap();
    let connections = Connections::open(server.log.kv()).await.unwrap();
    assert_eq!(connections.ensure("shop").await.unwrap().id, id);
    assert!(matches!(connections.create("shop").await, Err(ConnectionError::Taken(_))));
    connections.rename("shop", "shop 2").await.unwrap();
    let (new, _) = connections.create("shop").await.unwrap();
    let (_, key) = connections.rotate("shop 2").await.unwrap();
    let fresh = Connections::open(server.log.kv()).await.unwrap();
    assert_eq!((fresh.find("shop").unwrap().id, fresh.find("shop 2").unwrap().id), (new.id, id));
    assert_eq!(fresh.by_key(&key), Some(id), "it had none, and has one now");
    fresh.delete("shop 2").await.unwrap();
    assert_eq!(server.log.kv().get(&place).await, Ok(None));
}

/// Renames end at any await, as those of a process that is killed do, while keys are rotated, on two nodes at once.
#[tokio::test(flavor = "multi_thread")]
async fn renames_cut_off_anywhere_lose_and_double_no_connection_no_key_and_no_name() {
    const CONNECTIONS: usize = 4;
    const CHANGES: usize = 40;
    let server = Server::start().await;
    let nodes = [Arc::clone(&server.connections), Connections::open(server.log.kv()).await.unwrap()];
    let mut made = Vec::new();
    for number in 0..CONNECTIONS {
        made.push(nodes[0].create(&format!("first {number}")).await.unwrap());
    }
    until("the other node learns of all", || made.iter().all(|(it, _)| nodes[1].ids().contains(&it.id)));
    // What a change overwrites of another one is soon overwritten itself, so every version is looked at.
    let hashes: Arc<Mutex<HashMap<String, Vec<Value>>>> = Arc::default();
    let (seen, mut changes) = (Arc::clone(&hashes), server.log.kv().watch());
    let looking = tokio::spawn(async move {
        loop {
            if let KvChange::Put(KvEntry { key, value, .. }) = changes.next().await
                && key.starts_with("connections.")
            {
                let hash = serde_json::from_slice::<Value>(&value).unwrap()["keyHash"].clone();
                let mut seen = seen.lock().unwrap();
                let hashes = seen.entry(key).or_default();
                if hashes.last() != Some(&hash) {
                    hashes.push(hash);
                }
            }
        }
    });
    let renaming = (0..CONNECTIONS * 2).map(|task| {
        let (node, id) = (Arc::clone(&nodes[task % 2]), made[task / 2].0.id.to_string());
        tokio::spawn(async move {
            let (mut random, mut done, mut cut_off) = (StdRng::seed_from_u64(task as u64), 0, 0);
            for _ in 0..CHANGES {
                let name = format!("name {}", random.random_range(0..CONNECTIONS * 2));
                // Some wait for whatever they must.
                let time = match random.random_range(8..18) {
                    17 => DEADLINE,
                    power => Duration::from_micros(random.random_range(0..1 << power)),
                };
                match tokio::time::timeout(time, node.rename(&id, &name)).await {
                    Ok(Ok(_) | Err(ConnectionError::Taken(_))) => done += 1,
                    Err(_) => cut_off += 1,
                    Ok(Err(error)) => panic!("{id} to {name}: {error}"),
                }
            }
            (done, cut_off)
        })
    });
    let over = Arc::new(AtomicBool::new(false));
    let rotating = made.iter().cloned().enumerate().map(|(number, (connection, key))| {
        let (node, over) = (Arc::clone(&nodes[number % 2]), Arc::clone(&over));
        tokio::spawn(async move {
            let mut keys = vec![key];
            while !over.load(Ordering::Relaxed) {
                assert_eq!(node.by_key(keys.last().unwrap()), Some(connection.id), "it is good until the next");
                let (rotated, key) = node.rotate(&connection.id.to_string()).await.unwrap();
                assert_eq!((rotated.id, node.by_key(&key)), (connection.id, Some(connection.id)));
                assert_eq!(node.by_key(keys.last().unwrap()), None, "the old one is good for nothing at once");
                keys.push(key);
            }
            (connection.id, keys)
        })
    });
    let (renaming, rotating): (Vec<_>, Vec<_>) = (renaming.collect(), rotating.collect());
    let mut renames = (0, 0);
    for task in renaming {
        let (done, cut_off) = task.await.unwrap();
        renames = (renames.0 + done, renames.1 + cut_off);
    }
    assert!(renames.0 > 0 && renames.1 > 0, "{renames:?}");
    over.store(true, Ordering::Relaxed);
    let mut keys = Vec::new();
    for task in rotating {
        keys.push(task.await.unwrap());
    }
    looking.abort();
    for (place, hashes) in hashes.lock().unwrap().iter() {
        let different: HashSet<_> = hashes.iter().map(Value::to_string).collect();
        assert_eq!(different.len(), hashes.len(), "{place}: an old key came back");
    }
    // What was cut off may have sent its last write before.
    let fresh = Connections::open(server.log.kv()).await.unwrap();
    for (node, what) in [(&nodes[0], "first"), (&nodes[1], "second"), (&fresh, "new")] {
        let same = || node.list() == fresh.list() && node.list().len() == CONNECTIONS + 1;
        until(what, same);
        let all = node.list();
        let ids: HashSet<_> = all.iter().map(|connection| connection.id).collect();
        let names: HashSet<_> = all.iter().map(|connection| &connection.name).collect();
        assert_eq!((ids.len(), names.len()), (CONNECTIONS + 1, CONNECTIONS + 1), "{what}: {all:?}");
        for (id, keys) in &keys {
            let (last, former) = keys.split_last().unwrap();
            assert_eq!(node.by_key(last), Some(*id), "{what}");
            assert!(former.iter().all(|key| node.by_key(key).is_none()), "{what}: an old key is good again");
        }
    }
    assert!(fresh.list().iter().any(|connection| connection.name.starts_with("name ")), "some were renamed");
    for (number, (connection, _)) in made.iter().enumerate() {
        let name = format!("last {number}");
        assert_eq!(fresh.rename(&connection.id.to_string(), &name).await.unwrap().name, name);
    }
}
