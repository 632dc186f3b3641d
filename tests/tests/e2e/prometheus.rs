//! The real Prometheus scrapes the real server beside real workers: what its queries answer is what Celery says, and no
//! counter begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use forebay_tests::{Api, Forebay, Options, Process, Redis, Shop, Truth, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::compare;

/// What the dashboards for celery-exporter say of which series they mean.
const SELECTOR: &str = r#"cluster="",namespace="",job=~"celery-exporter""#;
const OF_QUEUES: &str = r#"queue_name=~".+",queue_name!~"None""#;
const OF_TASKS: &str = r#"queue_name=~".+",queue_name!~"None",name=~".+",name!~"None""#;
const KINDS: [&str; 7] = ["sent", "received", "succeeded", "failed", "retried", "revoked", "rejected"];

struct Prometheus {
    // Before its directory, so that it is ended first.
    _process: Process,
    dir: TempDir,
    api: Api,
}

impl Prometheus {
    /// Begins to scrape with a read key.
    fn start(forebay: &Forebay) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = forebay.api.try_post("/api/keys", &json!({ "name": "prometheus" })).unwrap();
        std::fs::write(dir.path().join("key"), key.body["apiKey"].as_str().unwrap()).unwrap();
        // A server that is started again has another port, and stays the same instance.
        let config = format!(
            r"
            global: {{ scrape_interval: 1s }}
            scrape_configs:
              - job_name: celery-exporter
                authorization: {{ credentials_file: {key} }}
                file_sd_configs: [{{ files: [{targets}] }}]
                relabel_configs: [{{ target_label: instance, replacement: forebay }}]
            ",
            key = dir.path().join("key").display(),
            targets = dir.path().join("targets.json").display(),
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        aim(&dir, forebay);
        let (process, api) = wait_for("Prometheus to start", 30, || launch(&dir));
        Self { _process: process, dir, api }
    }

    /// Waits until it has scraped what there is now.
    fn scrape(&self) {
        let at = || {
            let scraped = self.query("timestamp(forebay_build_info)").pop();
            scraped.map_or(0.0, |(_, value)| value)
        };
        let before = at();
        // The next scrape may have begun already.
        wait_for("Prometheus to scrape twice", 60, || (at() > before + 1.0).then_some(()));
    }

    /// What an instant query answers: the labels and the value of each series.
    fn query(&self, query: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let mut encoded = String::new();
        for byte in query.bytes() {
            write!(encoded, "%{byte:02X}").unwrap();
        }
        let answer = self.api.get(&format!("/api/v1/query?query={encoded}")).body;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = |series: &Value| {
            let labels = serde_json::from_value(series["metric"].clone()).unwrap();
            (labels, series["value"][1].as_str().unwrap().parse().unwrap())
        };
        answer["data"]["result"].as_array().unwrap().iter().map(series).collect()
    }

    /// The same by one label.
    fn by(&self, label: &str, query: &str) -> BTreeMap<String, u64> {
        let series = self.query(query).into_iter();
        series.map(|(mut labels, value)| (labels.remove(label).unwrap_or_default(), value as u64)).collect()
    }

    fn count(&self, query: &str) -> u64 {
        self.one(query) as u64
    }

    fn one(&self, query: &str) -> f64 {
        match self.query(query).as_slice() {
            [(_, value)] => *value,
            other => panic!("{query} answered {other:?}"),
        }
    }
}

/// Lets Prometheus know where the server is.
fn aim(dir: &TempDir, forebay: &Forebay) {
    let (new, targets) = (dir.path().join("targets.new"), dir.path().join("targets.json"));
    std::fs::write(&new, json!([{ "targets": [forebay.api.address()] }]).to_string()).unwrap();
    std::fs::rename(new, targets).unwrap();
}

/// `None` where its port was taken in the meantime.
fn launch(dir: &TempDir) -> Option<(Process, Api)> {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
        .arg(format!("--web.listen-address={address}"));
    let mut process = Process::start("prometheus", &mut command, &dir.path().join("log"));
    let api = Api::new(&address, "");
    let is_ready = wait_for("Prometheus to be ready or to end", 30, || {
        if process.ended().is_some() {
            return Some(false);
        }
        api.try_get("/-/ready").filter(|answer| answer.status == 200).map(|_| true)
    });
    is_ready.then_some((process, api))
}

/// What Celery says, by the name of the task: runs, those that ended well, those that failed, and those that were retried.
fn truth(jobs: &[Truth], shop: &Shop) -> BTreeMap<String, [u64; 4]> {
    let mut truth: BTreeMap<String, [u64; 4]> = BTreeMap::new();
    for job in jobs {
        let runs = shop.runs(&job.id).iter().filter(|run| run.what == "start").count() as u64;
        let counts = truth.entry(job.name.clone().unwrap()).or_default();
        counts[0] += runs;
        match compare::state(job) {
            "completed" => counts[1] += 1,
            "failed" => counts[2] += 1,
            _ => {}
        }
        counts[3] += runs - 1;
    }
    truth
}

#[test]
fn what_prometheus_says_is_what_celery_says_and_no_counter_begins_anew() {
    let redis = Redis::start();
    let mut forebay = Forebay::start(Options::celery(&[redis.url(5)]));
    let prometheus = Prometheus::start(&forebay);
    let shop = Shop::new(redis.url(5));
    let workers = [
        shop.worker("front", &["-E", "--queues", "celery,mail", "--concurrency", "2"]),
        shop.worker("back", &["-E", "--queues", "slow,reports,images", "--concurrency", "2"]),
    ];
    let jobs = shop.drive("day");
    for truth in &jobs {
        compare::record(&forebay.api, truth);
    }
    let truth = truth(&jobs, &shop);
    prometheus.scrape();
    assert_counts(&prometheus, &truth, &jobs);
    assert_present(&prometheus);
    assert_dashboards(&prometheus, &truth);
    assert_lints(&forebay);

    forebay.crash_and_restart();
    aim(&prometheus.dir, &forebay);
    let rebuilt = forebay.command(&["rebuild"]);
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    wait_for("Prometheus to scrape the server again", 60, || {
        let up = prometheus.query(r#"up{job="celery-exporter"}"#);
        (up.iter().any(|(_, value)| *value > 0.0)).then_some(())
    });
    prometheus.scrape();
    assert_counts(&prometheus, &truth, &jobs);
    assert_lints(&forebay);
    // It would see each step down of any of them.
    for kind in KINDS.into_iter().chain(["started"]) {
        let resets = prometheus.query(&format!("resets(celery_task_{kind}_total[1h]) > 0"));
        assert!(resets.is_empty(), "{resets:?}");
    }
    for name in ["celery_task_runtime", "celery_task_queue_wait_time"] {
        for of in ["bucket", "sum", "count"] {
            let resets = prometheus.query(&format!("resets({name}_{of}[1h]) > 0"));
            assert!(resets.is_empty(), "{resets:?}");
        }
    }
    // It saw another process.
    assert!(prometheus.one("changes(process_start_time_seconds{job='celery-exporter'}[1h])") >= 1.0);

    for mut worker in workers {
        worker.stop();
    }
    wait_for("the host to be told as down", 60, || {
        (prometheus.query("celery_worker_up == 0").len() == 1).then_some(())
    });
    forebay.stop();
}

fn assert_counts(prometheus: &Prometheus, truth: &BTreeMap<String, [u64; 4]>, jobs: &[Truth]) {
    let of = |kind: &str| prometheus.by("name", &format!("sum(celery_task_{kind}_total) by (name)"));
    let expected = |count: usize| -> BTreeMap<String, u64> {
        truth.iter().map(|(name, counts)| (name.clone(), counts[count])).collect()
    };
    for kind in ["sent", "received", "started"] {
        assert_eq!(of(kind), expected(0), "{kind}");
    }
    for (kind, count) in [("succeeded", 1), ("failed", 2), ("retried", 3)] {
        assert_eq!(of(kind), expected(count), "{kind}");
    }
    assert!(of("revoked").values().chain(of("rejected").values()).all(|count| *count == 0));
    let by_queue = prometheus.by("queue_name", "sum(celery_task_received_total) by (queue_name)");
    let queues: BTreeSet<&str> = jobs.iter().map(|job| job.queue.as_str()).collect();
    assert_eq!(by_queue.keys().map(String::as_str).collect::<BTreeSet<_>>(), queues);
    let failed = prometheus.by("exception", "sum(celery_task_failed_total) by (exception) > 0");
    let exceptions = [("ConnectionError", 2), ("SoftTimeLimitExceeded", 1), ("ValueError", 5), ("WorkerLostError", 1)];
    assert_eq!(failed, exceptions.map(|(class, count)| (class.to_owned(), count)).into());
    let timed = prometheus.by("name", "sum(celery_task_runtime_count) by (name)");
    let well = expected(1).into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(timed, well);
}

fn assert_present(prometheus: &Prometheus) {
    // Two workers on one host are one there, as with celery-exporter.
    assert_eq!(prometheus.count("count(celery_worker_up == 1)"), 1);
    // As they said with their last heartbeat.
    wait_for("no worker to run anything", 60, || {
        (prometheus.count("sum(celery_worker_tasks_active)") == 0).then_some(())
    });
    let lengths = prometheus.by("queue_name", "sum(celery_queue_length) by (queue_name)");
    assert_eq!(lengths.len(), 5, "{lengths:?}");
    assert_eq!(prometheus.count(r#"celery_active_worker_count{queue_name="celery"}"#), 1);
    assert_eq!(prometheus.count("forebay_projector_following"), 1);
    assert_eq!(prometheus.count("forebay_source_up"), 1);
    assert!(prometheus.one("process_resident_memory_bytes") > 1e6);
}

/// The queries of the dashboards for celery-exporter: that they answer, with what can be true.
fn assert_dashboards(prometheus: &Prometheus, truth: &BTreeMap<String, [u64; 4]>) {
    let counter = |kind: &str, of: &str, range: &str| format!("celery_task_{kind}_total{{{SELECTOR},{of}}}[{range}]");
    for kind in KINDS {
        for of in [OF_QUEUES, OF_TASKS] {
            let all = prometheus.one(&format!("sum(round(increase({})))", counter(kind, of, "1w")));
            assert!(all >= 0.0, "{kind}");
        }
        let by_task = prometheus.query(&format!("sum(round(increase({}))) by (name)", counter(kind, OF_TASKS, "1w")));
        assert_eq!(by_task.len(), truth.len(), "{kind}: each task has a line");
        let by_job = prometheus.query(&format!("sum(round(increase({}))) by (job)", counter(kind, OF_QUEUES, "6h")));
        assert_eq!(by_job.len(), 1, "{kind}");
    }
    for label in ["name", "queue_name"] {
        let rate = counter("received", OF_QUEUES, "6h");
        let top = prometheus.query(&format!("topk(10, sum(rate({rate})) by ({label}))"));
        assert!(top.len() >= 4, "{label}: {top:?}");
    }
    let failures =
        prometheus.query(&format!("round(sum(increase({})) by (name, exception))", counter("failed", OF_TASKS, "1w")));
    assert!(failures.iter().all(|(labels, _)| labels.contains_key("name")), "{failures:?}");
    let (well, badly) = (counter("succeeded", OF_TASKS, "1w"), counter("failed", OF_TASKS, "1w"));
    let share =
        format!("sum(round(increase({well}))) / (sum(round(increase({well}))) + sum(round(increase({badly}))))");
    let share = prometheus.one(&share);
    assert!(share.is_nan() || (0.0..=1.0).contains(&share), "{share}");
    for quantile in ["0.50", "0.95", "0.99"] {
        let bucket = format!("celery_task_runtime_bucket{{{SELECTOR},{OF_TASKS}}}");
        // As it stands, since a rate needs runs between two scrapes.
        let query = format!("histogram_quantile({quantile}, sum({bucket}) by (name, job, le))");
        let told = prometheus.query(&query);
        let nap = told.iter().find(|(labels, _)| labels["name"] == "shop.nap").unwrap();
        assert!((0.1..=2.5).contains(&nap.1), "a nap of a quarter of a second: {told:?}");
        prometheus.query(&format!("histogram_quantile({quantile}, sum(irate({bucket}[1m])) by (job, le))"));
    }
    let means = "sum(celery_task_runtime_sum) by (name) / sum(celery_task_runtime_count) by (name)";
    assert!(prometheus.query(means).iter().all(|(_, mean)| *mean >= 0.0));
    assert_eq!(prometheus.count(&format!("count(group by (queue_name) (celery_queue_length{{{SELECTOR}}}))")), 5);
}

/// `promtool` complains about nothing but names that are celery-exporter's.
fn assert_lints(forebay: &Forebay) {
    let told = forebay.metrics();
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(told.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    for line in said.lines().filter(|line| !line.trim().is_empty()) {
        let is_theirs = line.starts_with("celery_active_") && line.contains("\"_count\" suffix");
        assert!(is_theirs, "promtool says: {line}\n{told}");
    }
}
