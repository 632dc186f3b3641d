//! Ends that no event told: Celery's result backend is asked, and only read.

use forebay_tests::{Forebay, Options, Redis, Shop, Truth, job_id, wait_for};
use serde_json::{Value, json};

use crate::compare;

/// Users of Redis who may do just what the README says, and write nothing.
fn allow(redis: &Redis) {
    let listener =
        ["on", ">listens", "resetkeys", "resetchannels", "&/0.celeryev/*", "nocommands", "+psubscribe", "+ping"];
    redis.command(&[&["ACL", "SETUSER", "listener"][..], &listener].concat());
    redis.command(&["ACL", "SETUSER", "reader", "on", ">reads", "~celery-task-meta-*", "nocommands", "+mget"]);
}

fn urls(redis: &Redis) -> [String; 2] {
    let url = |user: &str| redis.url(0).replacen("//", &format!("//{user}@"), 1);
    [url("listener:listens"), url("reader:reads")]
}

/// Waits until the record has the end that Celery knows, and checks it against that.
fn completed(forebay: &Forebay, truth: &Truth) -> Value {
    let record = compare::record(&forebay.api, truth);
    let story = &truth.story;
    assert_eq!(record["outcomeFrom"], "result-backend", "{story}: {record:#}");
    assert_eq!(record["attempt"], json!(truth.retries.unwrap() + 1), "{story}: {record:#}");
    assert_eq!(record["workerId"], json!(truth.worker), "{story}: {record:#}");
    assert_eq!(record["name"], json!(truth.name), "{story}: {record:#}");
    assert_eq!(record["stacktrace"], json!(truth.traceback), "{story}: {record:#}");
    let done = chrono::DateTime::parse_from_rfc3339(record["completedAt"].as_str().unwrap()).unwrap();
    assert_eq!(done.timestamp_millis(), (truth.done_at.unwrap() * 1e3) as i64, "{story}: {record:#}");
    if compare::state(truth) == "completed" {
        assert_eq!(record["result"], json!(truth.value), "{story}: {record:#}");
    } else {
        let (class, text) = (truth.error_type.as_deref().unwrap(), truth.error_text.as_deref().unwrap());
        assert_eq!(record["error"], json!(format!("{class}('{text}')")), "{story}: {record:#}");
    }
    record
}

#[test]
fn ends_that_no_event_told_are_those_of_the_result_backend() {
    let redis = Redis::start();
    allow(&redis);
    let [broker, backend] = urls(&redis);
    let mut options = Options::celery(&[broker]);
    options.arguments.extend(["--celery-backend", &backend, "--celery-backend-after", "2s"].map(str::to_owned));
    let mut forebay = Forebay::start(options);
    let shop = Shop::new(redis.url(0));

    // Workers whose events are off: only their clients tell that a job was sent.
    let mut silent = shop.worker("silent", &["--queues", "celery", "--concurrency", "2"]);
    let jobs = shop.drive("simple");
    let mut records: Vec<Value> = jobs.iter().map(|truth| completed(&forebay, truth)).collect();
    silent.stop();

    // A worker tells of a start, and Forebay is cut off before the end.
    let mut heard = shop.worker("heard", &["-E", "--queues", "slow", "--concurrency", "1"]);
    let cut = std::thread::scope(|scope| {
        let driven = scope.spawn(|| shop.drive("nap"));
        wait_for("the nap to be active", 30, || {
            let listed = forebay.api.get("/api/jobs?state=active&name=shop.nap").body;
            (listed["pagination"]["total"] == 1).then_some(())
        });
        redis.command(&["ACL", "SETUSER", "listener", "resetchannels"]);
        driven.join().unwrap().remove(0)
    });
    let record = completed(&forebay, &cut);
    let runs = record["executions"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[0]["outcome"]), (1, &json!("completed")), "{record:#}");
    records.push(record);
    redis.command(&["ACL", "SETUSER", "listener", "&/0.celeryev/*"]);
    forebay.wait_until_well();
    // Where the end is announced, that counts.
    let told = shop.drive("nap").remove(0);
    assert_eq!(compare::record(&forebay.api, &told)["outcomeFrom"], "event");
    heard.stop();

    let health = forebay.health();
    let asked = &health["backends"][0];
    assert_eq!(
        (&asked["state"], &asked["unreadable"], &asked["reason"]),
        (&json!("connected"), &json!(0), &Value::Null)
    );
    assert!(asked["told"].as_u64().unwrap() >= records.len() as u64, "{health:#}");
    assert!(!health.to_string().contains("reads@") && !health.to_string().contains(":reads"), "{health:#}");

    // What it told is in the log: no backend is needed to know it again.
    let stored = |forebay: &Forebay| -> Vec<Value> {
        let again = |record: &Value| forebay.api.job(&job_id(record["externalId"].as_str().unwrap())).unwrap();
        records.iter().map(again).collect()
    };
    let before = stored(&forebay);
    redis.command(&["ACL", "SETUSER", "reader", "off"]);
    redis.command(&["FLUSHALL"]);
    forebay.kill();
    forebay.launch();
    forebay.wait_until("be ready", |health| health["projector"]["phase"] == "following");
    assert_eq!(stored(&forebay), before, "after kill -9");
    let rebuilt = forebay.command(&["rebuild"]);
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    assert_eq!(stored(&forebay), before, "after a rebuild");
    let verified = forebay.command(&["verify"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let shown = forebay.command(&["job", &cut.id]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("result backend was asked"));
    // Who does not let us in is named, and harms nothing else.
    forebay.wait_until("say that the backend refuses it", |health| {
        health["backends"][0]["state"] == "refused" && health["reason"] == "BACKEND_DOWN"
    });
    forebay.stop();
}
