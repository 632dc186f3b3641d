//! Jobs that Redis delivers again because nobody acknowledged them in time: they truly run several times.

use chrono::DateTime;
use forebay_tests::{Forebay, Options, Redis, Run, Shop, Truth, job_id, wait_for};
use serde_json::Value;

/// When each run began and ended, by the tasks' own diary.
fn runs(shop: &Shop, id: &str) -> Vec<(Run, Option<f64>)> {
    let mut runs: Vec<(Run, Option<f64>)> = Vec::new();
    for line in shop.runs(id) {
        if line.what == "start" {
            runs.push((line, None));
        } else {
            let open = runs.iter_mut().find(|(run, end)| run.pid == line.pid && end.is_none());
            open.expect("an end without a start").1 = Some(line.time);
        }
    }
    runs
}

/// Waits until nothing is on its way or runs.
fn settle(redis: &Redis, shop: &Shop, truths: &[Truth]) {
    wait_for("all deliveries to be acknowledged and all runs to end", 120, || {
        let idle = [["HLEN", "unacked"], ["LLEN", "celery"]].iter().all(|words| redis.command(words) == ":0");
        let ended = truths.iter().all(|truth| runs(shop, &truth.id).iter().all(|(_, end)| end.is_some()));
        (idle && ended).then_some(())
    });
}

fn seconds(value: &Value) -> f64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
    DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros() as f64 / 1e6
}

fn states(record: &Value) -> Vec<&str> {
    record["stateHistory"].as_array().unwrap().iter().map(|entry| entry["state"].as_str().unwrap()).collect()
}

/// Each run of the diary is one execution, and nothing else is.
fn check_runs(record: &Value, runs: &[(Run, Option<f64>)]) {
    let executions = record["executions"].as_array().unwrap();
    assert_eq!(executions.len(), runs.len(), "{runs:?} {record:#}");
    let mut free: Vec<&Value> = executions.iter().collect();
    for (run, end) in runs {
        let near = |value: &Value, time: f64| (seconds(value) - time).abs() < 1.0;
        let same = |it: &&Value| {
            it["workerId"] == run.hostname.as_str()
                && it["outcome"] == "completed"
                && near(&it["startedAt"], run.time)
                && near(&it["completedAt"], end.expect("all have ended"))
        };
        let place = free.iter().position(same).unwrap_or_else(|| panic!("no execution for {run:?} in {record:#}"));
        free.remove(place);
    }
}

#[test]
fn what_redis_delivers_again_is_one_job_with_each_of_its_runs() {
    let redis = Redis::start();
    let forebay = Forebay::start(Options::celery(&[redis.url(0)]));
    let shop = Shop::new(redis.url(0)).with_visibility_timeout(2);
    let options: &[&str] = &["-E", "--concurrency", "4"];
    let _workers = shop.workers(["one", "two"].map(|name| (name, options)));
    let truths = shop.drive("again");
    settle(&redis, &shop, &truths);
    let record = |truth: &Truth, runs: usize| {
        wait_for(&format!("{} to be recorded with its runs", truth.story), 30, || {
            let record = forebay.api.job(&job_id(&truth.id))?;
            let ended = record["executions"].as_array().unwrap().iter().filter(|it| !it["completedAt"].is_null());
            (record["state"] == "completed" && ended.count() == runs).then_some(record)
        })
    };
    for truth in &truths {
        let runs = runs(&shop, &truth.id);
        assert!(runs.len() >= 2, "{} was not delivered again: {runs:?}", truth.story);
        let record = record(truth, runs.len());
        check_runs(&record, &runs);
        assert_eq!((&record["attempt"], &record["error"]), (&1.into(), &Value::Null), "{record:#}");
        assert!(record["deliveries"].as_u64().unwrap() >= runs.len() as u64, "{record:#}");
        let states = states(&record);
        let first = if truth.story == "slow" { "queued" } else { "scheduled" };
        assert_eq!((states[0], states[1], states[states.len() - 1]), (first, "active", "completed"), "{record:#}");
        assert!(!states.contains(&"retrying") && !states.contains(&"failed"), "{record:#}");
        // The end is that of the run which ended last, and so is the last entry of the history.
        let last = runs.iter().filter_map(|(_, end)| *end).fold(0.0, f64::max);
        assert!((seconds(&record["completedAt"]) - last).abs() < 1.0, "{last} {record:#}");
    }
}

#[test]
fn a_job_whose_worker_is_killed_runs_again_in_the_next_process() {
    let redis = Redis::start();
    let forebay = Forebay::start(Options::celery(&[redis.url(0)]));
    let shop = Shop::new(redis.url(0)).with_visibility_timeout(8);
    let mut killed = shop.worker("killed", &["-E", "--concurrency", "1"]);
    let id = shop.call("shop.nap_late", "[2]", "celery");
    wait_for("the job to run", 30, || (!shop.runs(&id).is_empty()).then_some(()));
    killed.kill_all();
    let _next = shop.worker("killed", &["-E", "--concurrency", "1"]);
    let record = wait_for("the job to run to its end", 120, || {
        forebay.api.job(&job_id(&id)).filter(|record| record["state"] == "completed")
    });
    let executions = record["executions"].as_array().unwrap();
    let told: Vec<(&str, &str)> = executions
        .iter()
        .map(|it| (it["workerId"].as_str().unwrap(), it["outcome"].as_str().unwrap_or("none")))
        .collect();
    assert_eq!(told, [("killed@test", "lost"), ("killed@test", "completed")], "{record:#}");
    assert_eq!(states(&record), ["queued", "active", "queued", "active", "completed"], "{record:#}");
    assert_ne!(executions[0]["pid"], executions[1]["pid"], "{record:#}");
    assert_eq!((&record["attempt"], &record["deliveries"]), (&1.into(), &2.into()), "{record:#}");
}
