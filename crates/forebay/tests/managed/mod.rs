//! Connections and read keys, managed beside a server and without one.

use serde_json::Value;

use crate::{JOB, KEY, Server, complaint, printed, run};

#[test]
fn connections_are_managed_beside_a_server_and_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let made = printed(&run(dir.path(), &["connection", "create", "billing", "--json"]));
    let made: Value = serde_json::from_str(&made).unwrap();
    let key = made["apiKey"].as_str().unwrap();
    let server = Server::with_key(dir.path());
    server.ingest(key);
    let taken = complaint(&run(dir.path(), &["connection", "create", "billing"]));
    assert_eq!(taken, "A connection named \"billing\" exists already");
    let list = printed(&run(dir.path(), &["connection", "list"]));
    assert!(list.contains("billing") && list.contains("default") && !list.contains(key), "{list}");
    let renamed = printed(&run(dir.path(), &["connection", "rename", "billing", "the invoices/eu"]));
    assert_eq!(renamed, "connection billing is the invoices/eu now\n");
    server.ingest(key);
    let rotated = printed(&run(dir.path(), &["connection", "rotate", "the invoices/eu"]));
    let new = rotated.split_whitespace().find(|word| word.starts_with("sk_live_")).unwrap();
    assert!(rotated.contains(made["id"].as_str().unwrap()) && rotated.contains("shown this once"), "{rotated}");
    assert_eq!(server.request("POST", "/api/ingest", key, "{}").0, 401);
    server.ingest(new);
    server.stop();
    printed(&run(dir.path(), &["connection", "rename", made["id"].as_str().unwrap(), "billing"]));
    let server = Server::with_key(dir.path());
    server.ingest(new);
    printed(&run(dir.path(), &["connection", "delete", "billing"]));
    assert_eq!(server.request("POST", "/api/ingest", new, "{}").0, 401);
    server.stop();
    let list = printed(&run(dir.path(), &["connection", "list", "--json"]));
    let names: Vec<Value> =
        serde_json::from_str::<Vec<Value>>(&list).unwrap().iter().map(|it| it["name"].clone()).collect();
    assert_eq!(names, ["default"]);
}

#[test]
fn read_keys_are_managed_beside_a_server_and_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let made = printed(&run(dir.path(), &["key", "create", "a script"]));
    let key = made.split_whitespace().find(|word| word.starts_with("rk_live_")).unwrap();
    let server = Server::with_key(dir.path());
    server.ingest(KEY);
    let reads = |key: &str| server.request("GET", &format!("/api/jobs/{JOB}"), key, "").0;
    assert_eq!((reads(key), server.request("POST", "/api/keys", key, "{\"name\":\"x\"}").0), (200, 403));
    let other = printed(&run(dir.path(), &["key", "create", "other", "--json"]));
    let other: Value = serde_json::from_str(&other).unwrap();
    assert_eq!(reads(other["apiKey"].as_str().unwrap()), 200);
    assert_eq!(complaint(&run(dir.path(), &["key", "create", "other"])), "An API key named \"other\" exists already");
    let list = printed(&run(dir.path(), &["key", "list"]));
    assert!(list.contains("a script") && list.contains("other") && !list.contains("rk_live_"), "{list}");
    assert_eq!(printed(&run(dir.path(), &["key", "delete", "a script"])), "read key a script deleted\n");
    assert_eq!((reads(key), reads(other["apiKey"].as_str().unwrap())), (401, 200));
    server.stop();
    printed(&run(dir.path(), &["key", "delete", other["id"].as_str().unwrap()]));
    assert_eq!(printed(&run(dir.path(), &["key", "list", "--json"])), "[]\n");
    assert_eq!(complaint(&run(dir.path(), &["key", "delete", "other"])), "API key not found");
}
