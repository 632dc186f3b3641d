//! A day's work on five queues by three workers, and what the dashboard's reads say of it beside what Celery says.

use std::collections::{BTreeMap, BTreeSet};

use forebay_tests::{Forebay, Options, Redis, Run, Shop, Truth, job_id, wait_for};
use serde_json::{Value, json};

use crate::compare;

/// By how much a percentile may be off: buckets of a sixteenth of an octave, and the times that Celery's events take.
const STATED_ERROR: f64 = 0.07;

#[test]
fn what_the_dashboard_reads_say_is_what_celery_says() {
    let redis = Redis::start();
    let mut forebay = Forebay::start(Options::celery(&[redis.url(5)]));
    let shop = Shop::new(redis.url(5));
    let workers = shop.workers([
        ("front", &["-E", "--queues", "celery,mail", "--concurrency", "2"]),
        ("back", &["-E", "--queues", "slow,reports", "--concurrency", "2"]),
        ("art", &["-E", "--queues", "images", "--concurrency", "2"]),
    ]);
    let jobs = shop.drive("day");
    for truth in &jobs {
        compare::record(&forebay.api, truth);
    }
    let day = Day { forebay: &forebay, jobs: &jobs, shop: &shop };
    day.all();
    day.workers();
    let before = day.answers();
    forebay.crash_and_restart();
    let day = Day { forebay: &forebay, jobs: &jobs, shop: &shop };
    day.all();
    let rebuilt = forebay.command(&["rebuild"]);
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    day.all();
    assert_eq!(day.answers(), before, "after kill -9 and a rebuild");
    for mut worker in workers {
        worker.stop();
    }
    let day = Day { forebay: &forebay, jobs: &jobs, shop: &shop };
    day.workers_are_offline();
    forebay.stop();
}

struct Day<'a> {
    forebay: &'a Forebay,
    jobs: &'a [Truth],
    shop: &'a Shop,
}

impl Day<'_> {
    fn get(&self, path: &str) -> Value {
        let answer = self.forebay.api.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    fn data(&self, path: &str) -> Vec<Value> {
        self.get(path)["data"].as_array().unwrap_or_else(|| panic!("{path} has no data")).clone()
    }

    fn runs(&self, truth: &Truth) -> Vec<Run> {
        self.shop.runs(&truth.id).into_iter().filter(|run| run.what == "start").collect()
    }

    fn count(&self, is_so: impl Fn(&Truth) -> bool) -> usize {
        self.jobs.iter().filter(|truth| is_so(truth)).count()
    }

    /// What must not change by a crash or a rebuild.
    fn answers(&self) -> Vec<Value> {
        let paths = ["/api/failures?timeRange=24h", "/api/jobs?sortBy=durationMs&sortOrder=asc&limit=100"];
        paths.iter().map(|path| self.get(path)["data"].clone()).collect()
    }

    fn all(&self) {
        self.tasks();
        self.queues();
        self.failures();
        self.overview();
        self.lists();
        self.workflows();
    }

    fn tasks(&self) {
        let tasks = self.data("/api/tasks?timeRange=1h&limit=100");
        let names: BTreeSet<&str> = self.jobs.iter().filter_map(|truth| truth.name.as_deref()).collect();
        let told: BTreeSet<&str> = tasks.iter().map(|task| task["name"].as_str().unwrap()).collect();
        assert_eq!(told, names);
        for task in &tasks {
            let name = task["name"].as_str().unwrap();
            let of_name: Vec<&Truth> = self.jobs.iter().filter(|truth| truth.name.as_deref() == Some(name)).collect();
            let of_state = |state| of_name.iter().filter(|truth| compare::state(truth) == state).count();
            let (completed, failed) = (of_state("completed"), of_state("failed"));
            assert_eq!(
                (&task["completed"], &task["failed"], &task["cancelled"]),
                (&json!(completed), &json!(failed), &json!(0)),
                "{task:#}"
            );
            let runs: usize = of_name.iter().map(|truth| self.runs(truth).len()).sum();
            let retried = of_name.iter().map(|truth| self.runs(truth).len() - 1).sum::<usize>();
            assert_eq!((&task["started"], &task["retried"]), (&json!(runs), &json!(retried)), "{task:#}");
            assert_eq!(task["failureRate"], json!(failed as f64 / (completed + failed) as f64), "{task:#}");
            assert_eq!(task["retryRate"], json!(retried as f64 / runs as f64), "{task:#}");
            assert_eq!(task["overdue"], false, "{task:#}");
            assert!(task["waitMs"]["max"].is_u64(), "the queue wait is known: {task:#}");
        }
        let nap = tasks.iter().find(|task| task["name"] == "shop.nap").unwrap();
        for percentile in ["p50", "p95", "p99", "max"] {
            let ms = nap["runtimeMs"][percentile].as_f64().unwrap();
            assert!((250.0 * (1.0 - STATED_ERROR)..5_000.0).contains(&ms), "{percentile}: {nap:#}");
        }
        let one = self.get("/api/tasks/shop.nap?timeRange=1h");
        let of = |key: &str| {
            let buckets = one["data"][0]["buckets"].as_array().unwrap();
            buckets.iter().map(|bucket| bucket[key].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!((of("completed"), of("started")), (6, 6), "{one:#}");
    }

    fn queues(&self) {
        let queues = self.data("/api/queues?timeRange=1h");
        let mut expected: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for truth in self.jobs {
            let (completed, failed) = expected.entry(&truth.queue).or_default();
            if compare::state(truth) == "failed" { *failed += 1 } else { *completed += 1 }
        }
        assert_eq!(queues.len(), 5, "{queues:#?}");
        for queue in &queues {
            let (completed, failed) = expected[queue["name"].as_str().unwrap()];
            let sum = |key: &str| {
                let buckets = queue["healthBar"]["buckets"].as_array().unwrap();
                buckets.iter().map(|bucket| bucket[key].as_u64().unwrap()).sum::<u64>() as usize
            };
            assert_eq!((sum("succeeded"), sum("failed")), (completed, failed), "{queue:#}");
            assert_eq!(queue["failureRate"], json!(failed as f64 / (completed + failed) as f64), "{queue:#}");
            assert!(queue["throughput"].as_f64().unwrap() > 0.0 && queue["avgLatencyMs"].is_number(), "{queue:#}");
            assert_eq!(queue["oldestQueuedAt"], Value::Null, "{queue:#}");
        }
        // The broker is asked for their depths: of queues that are empty nothing is left in Redis.
        wait_for("the depths to be known", 30, || {
            let queues = self.data("/api/queues?timeRange=1h");
            queues.iter().all(|queue| queue["depth"] == 0).then_some(())
        });
    }

    fn failures(&self) {
        let groups = self.data("/api/failures?timeRange=1h");
        let told: BTreeSet<(String, String, u64)> = groups
            .iter()
            .map(|group| {
                let text = |key: &str| group[key].as_str().unwrap_or_default().to_owned();
                (text("name"), text("errorClass"), group["count"].as_u64().unwrap())
            })
            .filter(|(_, _, count)| *count > 0)
            .collect();
        let group = |name: &str, class: &str, count| (name.to_owned(), class.to_owned(), count);
        let expected = BTreeSet::from([
            group("shop.fail", "ValueError", 5),
            group("shop.give_up", "ConnectionError", 2),
            group("shop.too_long_soft", "SoftTimeLimitExceeded", 1),
            group("shop.die", "WorkerLostError", 1),
        ]);
        assert_eq!(told, expected, "{groups:#?}");
        let fails = groups.iter().find(|group| group["name"] == "shop.fail").unwrap();
        assert_eq!(fails["message"], "order # has no address");
        let gave_up = groups.iter().find(|group| group["name"] == "shop.give_up").unwrap();
        assert_eq!((&gave_up["count"], &gave_up["attempts"]), (&json!(2), &json!(4)), "{gave_up:#}");
        let samples = fails["sampleJobs"].as_array().unwrap();
        let failed: BTreeSet<String> =
            self.jobs.iter().filter(|truth| truth.story == "fail").map(|truth| job_id(&truth.id)).collect();
        assert!(!samples.is_empty() && samples.iter().all(|job| failed.contains(job["id"].as_str().unwrap())));
    }

    fn overview(&self) {
        let overview = self.get("/api/overview?timeRange=1h");
        let (completed, failed) = (
            self.count(|truth| compare::state(truth) == "completed"),
            self.count(|truth| compare::state(truth) == "failed"),
        );
        assert_eq!(overview["jobs"]["total"], json!(self.jobs.len()), "{overview:#}");
        assert_eq!(overview["jobs"]["completed"], json!(completed), "{overview:#}");
        assert_eq!(overview["jobs"]["failed"], json!(failed), "{overview:#}");
        assert_eq!((&overview["work"]["completed"], &overview["work"]["failed"]), (&json!(completed), &json!(failed)));
        let most = &overview["mostFailingTasks"][0];
        assert_eq!((&most["name"], &most["failed"]), (&json!("shop.fail"), &json!(5)), "{overview:#}");
        assert_eq!((&overview["lost"]["count"], &overview["stuck"]["count"]), (&json!(0), &json!(0)), "{overview:#}");
    }

    fn lists(&self) {
        let total = |query: &str| self.get(&format!("/api/jobs?limit=1&{query}"))["pagination"]["total"].clone();
        let failed = |truth: &Truth| compare::state(truth) == "failed";
        let cases = [
            ("queue=reports".to_owned(), self.count(|truth| truth.queue == "reports")),
            ("queue=reports&state=failed".to_owned(), self.count(|truth| truth.queue == "reports" && failed(truth))),
            ("state=failed,completed".to_owned(), self.jobs.len()),
            ("worker=art@test".to_owned(), self.count(|truth| truth.queue == "images")),
            ("name=shop.add".to_owned(), self.count(|truth| truth.name.as_deref() == Some("shop.add"))),
            ("errorContains=NO%20ADDRESS".to_owned(), 5),
            ("attemptAtLeast=2".to_owned(), self.count(|truth| truth.retries.unwrap_or(0) > 0)),
            (format!("externalId={}", self.jobs[0].id), 1),
            ("lost=true".to_owned(), 0),
            ("framework=sidekiq".to_owned(), 0),
        ];
        for (query, expected) in cases {
            assert_eq!(total(&query), json!(expected), "{query}");
        }
        let longest = self.data("/api/jobs?sortBy=durationMs&limit=100");
        let durations: Vec<u64> = longest.iter().filter_map(|job| job["durationMs"].as_u64()).collect();
        assert!(durations.is_sorted_by(|a, b| a >= b) && durations.len() > 20, "{durations:?}");
    }

    fn workflows(&self) {
        let chain: Vec<&Truth> = self.jobs.iter().filter(|truth| truth.story == "chain").collect();
        for truth in &chain {
            let tree = self.get(&format!("/api/jobs/{}/tree", truth.id));
            let nodes: Vec<(String, u64)> = tree["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|node| (node["externalId"].as_str().unwrap().to_owned(), node["depth"].as_u64().unwrap()))
                .collect();
            let expected: Vec<(String, u64)> = chain.iter().map(|truth| truth.id.clone()).zip(0..).collect();
            assert_eq!(nodes, expected, "{tree:#}");
            assert_eq!((&tree["total"], &tree["rootId"]), (&json!(3), &json!(job_id(&chain[0].id))));
        }
    }

    fn workers(&self) {
        let workers = wait_for("the workers to have told of all that they ran", 30, || {
            let workers = self.data("/api/workers");
            let told: u64 = workers.iter().filter_map(|worker| worker["processedTotal"].as_u64()).sum();
            // A worker counts what it was given, and what it retries is given anew.
            let given: usize = self.jobs.iter().map(|truth| self.runs(truth).len()).sum();
            (told >= given as u64).then_some(workers)
        });
        let expected =
            [("art@test", &["images"][..]), ("back@test", &["reports", "slow"]), ("front@test", &["celery", "mail"])];
        assert_eq!(workers.len(), expected.len(), "{workers:#?}");
        for (worker, (hostname, queues)) in workers.iter().zip(expected) {
            assert_eq!(worker["hostname"], hostname, "sorted by hostname: {worker:#}");
            assert_eq!(worker["queues"], json!(queues), "{worker:#}");
            assert!(["idle", "busy", "online"].contains(&worker["state"].as_str().unwrap()), "{worker:#}");
            let ended: usize = self
                .jobs
                .iter()
                .filter(|truth| queues.contains(&truth.queue.as_str()))
                .map(|truth| self.runs(truth).len())
                .sum();
            let per_minute = worker["taskRate"].as_f64().unwrap();
            assert!((per_minute * 60.0 - ended as f64).abs() < 0.01, "{ended} in an hour: {worker:#}");
            assert!(worker["pid"].is_i64() && worker["lastHeartbeat"].is_string(), "{worker:#}");
        }
        let busy = self.data("/api/workers?state=offline");
        assert!(busy.is_empty(), "{busy:?}");
    }

    fn workers_are_offline(&self) {
        wait_for("the workers to be offline", 30, || {
            (self.data("/api/workers?state=offline").len() == 3).then_some(())
        });
    }
}
