//! The same run of Celery, watched by Flower and by Forebay: what scripts read of either.

use std::collections::{BTreeMap, BTreeSet};

use forebay_tests::{Flower, Forebay, Options, Redis, Shop, Truth, wait_for, wait_or_show};
use proto_events::Timestamp;
use serde_json::{Value, json};

/// The fields of a task that are the same.
const SAME: [&str; 19] = [
    "uuid",
    "name",
    "state",
    "args",
    "kwargs",
    "result",
    "exception",
    "traceback",
    "expires",
    "retries",
    "worker",
    "exchange",
    "routing_key",
    "client",
    "root",
    "root_id",
    "parent",
    "parent_id",
    "runtime",
];

/// Those that are times, kept here to the microsecond.
const TIMES: [&str; 9] =
    ["sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "timestamp"];

/// The rest. Of events of one moment Flower takes the clock of that which came last; an ETA is told in UTC here.
const OTHERS: [&str; 3] = ["clock", "eta", "children"];

fn forebay_api(forebay: &Forebay, path: &str) -> Value {
    let answer = forebay.api.get(&format!("/flower{path}"));
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body
}

fn flower_api(flower: &Flower, path: &str) -> Value {
    let (status, body) = flower.api(path);
    assert_eq!(status, 200, "{path}");
    body
}

/// When tasks began, in milliseconds, in their order.
fn started(tasks: &Value) -> Vec<i64> {
    let times =
        tasks.as_object().unwrap().values().map(|task| (task["started"].as_f64().unwrap() * 1e3).floor() as i64);
    let mut times: Vec<i64> = times.collect();
    times.sort_unstable();
    times
}

fn states(tasks: &Value) -> BTreeMap<String, String> {
    let tasks = tasks.as_object().unwrap().iter();
    tasks.map(|(id, task)| (id.clone(), task["state"].as_str().unwrap_or_default().to_owned())).collect()
}

fn set(values: &Value) -> BTreeSet<String> {
    values.as_array().into_iter().flatten().map(|value| value.as_str().unwrap_or("-").to_owned()).collect()
}

/// The same without what Celery says of a task that is tried again: that it is its own parent.
fn disowned(mut task: Value) -> Value {
    let own = task["uuid"].clone();
    for name in ["parent", "parent_id"] {
        if task[name] == own {
            task[name] = Value::Null;
        }
    }
    task["children"].as_array_mut().unwrap().retain(|child| *child != own);
    task
}

/// In which fields two objects of a task differ.
fn differences(theirs: &Value, ours: &Value) -> Vec<String> {
    // In Flower's list a task that no worker has lacks the field.
    let names = |task: &Value| -> BTreeSet<String> {
        task.as_object().unwrap().keys().cloned().chain(["worker".to_owned()]).collect()
    };
    assert_eq!(names(ours).len(), ours.as_object().unwrap().len());
    assert_eq!(names(theirs), names(ours));
    assert_eq!(names(theirs), SAME.iter().chain(&TIMES).chain(&OTHERS).map(|name| (*name).to_owned()).collect());
    let near = |a: &Value, b: &Value| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() < 2e-6,
        _ => a == b,
    };
    let eta = |task: &Value| task["eta"].as_str().map(|eta| Timestamp::parse(eta).unwrap_or_else(|| panic!("{eta}")));
    let mut differing: Vec<&str> = SAME.into_iter().filter(|name| theirs[name] != ours[name]).collect();
    differing.extend(TIMES.iter().filter(|name| !near(&theirs[**name], &ours[**name])));
    differing.extend((!ours["clock"].is_u64()).then_some("clock"));
    differing.extend((eta(theirs) != eta(ours)).then_some("eta"));
    differing.extend((set(&theirs["children"]) != set(&ours["children"])).then_some("children"));
    differing.into_iter().map(|name| format!("{name}: {} and here {}", theirs[name], ours[name])).collect()
}

#[test]
fn scripts_read_of_forebay_what_they_read_of_flower() {
    let redis = Redis::start();
    let forebay = Forebay::start(Options::celery(&[redis.url(0)]));
    let shop = Shop::new(redis.url(0));
    let flower = Flower::of(&shop, &redis.url(0));
    let _worker = shop.worker("w1", &["-E", "--concurrency", "2", "--prefetch-multiplier", "2"]);
    let ended: Vec<Truth> = shop.drive_with("mixed", &["20"]);
    let mut sent: BTreeMap<String, &str> =
        ended.iter().map(|truth| (truth.id.clone(), truth.status.as_str())).collect();
    // Two of three run, the third one waits for them at the worker; and nobody takes what waits on another queue.
    let naps: Vec<String> = (0..3).map(|_| shop.nap(120, "celery")).collect();
    sent.extend(naps[..2].iter().map(|id| (id.clone(), "STARTED")));
    sent.insert(naps[2].clone(), "RECEIVED");
    sent.insert(shop.nap(1, "nobody"), "PENDING");
    let wanted: BTreeMap<String, String> = sent.iter().map(|(id, state)| (id.clone(), (*state).to_owned())).collect();
    let both = |path: &str| (flower_api(&flower, path), forebay_api(&forebay, path));
    let (theirs, ours) = wait_or_show("both to have heard all of it", 90, || {
        let (theirs, ours) = both("/api/tasks");
        if states(&theirs) == wanted && states(&ours) == wanted {
            Ok((theirs, ours))
        } else {
            Err(json!([theirs, ours]))
        }
    });
    let mut wrong = Vec::new();
    for id in wanted.keys() {
        for (theirs, ours) in [(theirs[id].clone(), ours[id].clone()), both(&format!("/api/task/info/{id}"))] {
            let differing = differences(&disowned(theirs.clone()), &ours);
            if !differing.is_empty() {
                wrong.push(format!("{} {id}: {}", theirs["name"], differing.join("; ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The same tasks by each parameter; in orders that say all, the same order.
    for query in [
        "state=SUCCESS",
        "state=FAILURE",
        "state=RECEIVED",
        "state=PENDING",
        "taskname=shop.add",
        "workername=w1@test",
        "workername=nobody",
        "search=state:STARTED",
        "search=name:fail",
        "limit=0",
    ] {
        let (theirs, ours) = both(&format!("/api/tasks?{query}"));
        assert_eq!(states(&theirs), states(&ours), "{query}");
    }
    for query in ["sort_by=started&limit=5&offset=2&state=SUCCESS", "sort_by=-started&limit=3&state=SUCCESS"] {
        let (theirs, ours) = both(&format!("/api/tasks?{query}"));
        // Of those that began within one millisecond any may come first.
        assert_eq!(started(&theirs), started(&ours), "{query}: {theirs} {ours}");
    }
    let (theirs, ours) = both("/api/task/types");
    assert_eq!(theirs, ours);
    // Which queues the workers consume Flower has to ask; how full each of those is, is the same.
    let lengths = |answer: &Value| -> BTreeMap<String, u64> {
        let queues = answer["active_queues"].as_array().unwrap().iter();
        queues.map(|queue| (queue["name"].as_str().unwrap().to_owned(), queue["messages"].as_u64().unwrap())).collect()
    };
    wait_for("both to count what waits", 60, || {
        let theirs = flower.api("/api/workers?refresh=1");
        assert_eq!(theirs.0, 200, "{}", theirs.1);
        let (theirs, ours) = both("/api/queues/length");
        let (theirs, ours) = (lengths(&theirs), lengths(&ours));
        let agree = theirs.contains_key("celery") && theirs.iter().all(|(name, depth)| ours.get(name) == Some(depth));
        (agree && ours.get("nobody") == Some(&1)).then_some(())
    });
    let (theirs, ours) = both("/api/workers?status=1");
    assert_eq!((&theirs, &ours), (&json!({ "w1@test": true }), &json!({ "w1@test": true })));
    let (theirs, ours) = both("/api/workers?workername=w1@test");
    let (theirs, ours) = (&theirs["w1@test"], &ours["w1@test"]);
    assert_eq!(theirs["stats"]["pid"], ours["stats"]["pid"]);
    assert_eq!(theirs["active_queues"][0]["name"], ours["active_queues"][0]["name"]);
    // Values of the result backend, and here what Celery's events have of them, which of an object is its Python text.
    let of = |state: &str, is_wanted: &dyn Fn(&Value) -> bool| {
        let mut ids = sent.iter().filter(|(_, it)| **it == state).map(|(id, _)| id);
        ids.find(|id| is_wanted(&both(&format!("/api/task/result/{id}")).0["result"])).unwrap()
    };
    for id in [of("SUCCESS", &Value::is_number), of("FAILURE", &|_| true)] {
        let (theirs, ours) = both(&format!("/api/task/result/{id}"));
        assert_eq!((&theirs["task-id"], &theirs["state"]), (&ours["task-id"], &ours["state"]));
        let text =
            |value: &Value| value.as_str().map_or_else(|| value.to_string(), |text| text.trim_matches('\'').to_owned());
        assert_eq!(text(&theirs["result"]), text(&ours["result"]), "{theirs:#} {ours:#}");
        assert_eq!(theirs["traceback"], ours["traceback"]);
    }
    for path in ["/api/task/info/nobody", "/api/workers?workername=nobody"] {
        assert_eq!((flower.api(path).0, forebay.api.get(&format!("/flower{path}")).status), (404, 404), "{path}");
    }
    let unknown = both("/api/task/result/nobody");
    assert_eq!(unknown.0, unknown.1);
}
