//! Celery's own event stream over RabbitMQ.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use event_log::EventLog;
use event_log::testing::TestServer;
use forebay_tests::{
    CONNECTION, Flood, FloodJob, Forebay, Options, RabbitMq, Redis, Shop, Truth, job_id, setting, wait_for,
    wait_or_show,
};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use sources::amqp::{AmqpConfig, AmqpSource, Bounds};
use sources::{BrokerUrl, SourceHandle, SourceState, SourceStatus, parse_source};

use crate::compare;

/// Events in one message of a flood, and events of one of its jobs, on average.
const EVENTS_EACH: usize = 20;
const EVENTS_OF_JOB: f64 = 4.4;

#[test]
fn every_job_over_rabbitmq_is_recorded_as_celery_reports_it() {
    let rabbitmq = RabbitMq::start();
    let redis = Redis::start();
    let mut forebay = Forebay::start(Options::celery(&[rabbitmq.url().replace("amqp", "pyamqp")]));
    let shop = Shop::new(rabbitmq.url()).with_backend(redis.url(0));
    let [mut fast, mut slow] = shop.workers([
        ("fast", &["-E", "--queues", "celery,mail", "--concurrency", "4"]),
        ("slow", &["-E", "--queues", "slow", "--concurrency", "1"]),
    ]);
    let jobs: Vec<Truth> = shop.drive("stories").into_iter().filter(|truth| truth.status != "NONE").collect();
    assert!(jobs.len() > 25);
    for truth in &jobs {
        compare::check(&compare::record(&forebay.api, truth), truth, &shop);
    }
    let before = records(&forebay, &jobs);
    // What is published meanwhile waits at the broker.
    forebay.kill();
    let meanwhile = shop.drive("simple");
    forebay.restart();
    for truth in &meanwhile {
        compare::check(&compare::record(&forebay.api, truth), truth, &shop);
    }
    assert_eq!(records(&forebay, &jobs), before, "after kill -9 of the server");
    wait_for("the depths of all queues and their consumers", 60, || {
        let queues = forebay.api.get("/api/queues?timeRange=1h").body["data"].as_array()?.clone();
        let known = queues.iter().filter(|queue| queue["depth"] == 0).count();
        (queues.len() == 3 && known == 3).then_some(())
    });
    let workers = forebay.api.get("/api/workers").body["data"].as_array().unwrap().len();
    assert_eq!(workers, 2);
    let told = |metric: &str, queue: &str| {
        let series = format!("celery_{metric}{{queue_name=\"{queue}\",connection=\"default\"}} ");
        forebay.metrics().lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok())
    };
    wait_for("the metrics to tell of the consumers", 60, || {
        let consumers = ["celery", "mail", "slow"].map(|queue| told("active_consumer_count", queue));
        (consumers == [Some(1); 3]).then_some(())
    });
    fast.stop();
    slow.stop();
    // Nobody takes what is sent now.
    let waiting = vec!["{}".to_owned(); 7];
    RabbitMq::publish(&rabbitmq.url(), "", "mail", &waiting);
    wait_for("the depth of what nobody takes", 60, || {
        let queues = forebay.api.get("/api/queues?timeRange=1h").body["data"].as_array()?.clone();
        queues.iter().any(|queue| queue["name"] == "mail" && queue["depth"] == 7).then_some(())
    });
    assert_eq!(told("queue_length", "mail"), Some(7));
    let source = forebay.health()["sources"][0].clone();
    assert_eq!((&source["kind"], &source["decodeErrors"]), (&json!("celery-rabbitmq"), &json!(0)), "{source:#}");
    forebay.stop();
}

/// Every record but for the other runs of the same name that are shown with it.
fn records(forebay: &Forebay, jobs: &[Truth]) -> BTreeMap<String, Value> {
    let record = |truth: &Truth| {
        let mut record = forebay.api.job(&truth.id).unwrap();
        record.as_object_mut().unwrap().remove("recentExecutions");
        (truth.id.clone(), record)
    };
    jobs.iter().map(record).collect()
}

/// All that RabbitMQ has confirmed is in the record in the end: its publisher waits for the confirmation of each message,
/// and everything between them and the record is killed in turn. `OUTAGE_RATE` events a second are published, and the log
/// is away for `OUTAGE_SECONDS`.
#[test]
fn nothing_that_reached_rabbitmq_is_lost_whatever_is_killed() {
    let (rate, outage) = (setting("OUTAGE_RATE", 2_000.0), setting("OUTAGE_SECONDS", 1.0));
    let outage = Duration::from_secs_f64(outage);
    let mut rabbitmq = RabbitMq::start();
    let url = rabbitmq.url();
    let mut forebay = Forebay::start(Options::celery(std::slice::from_ref(&url)));
    // Before it has bound its queue, RabbitMQ takes messages for nobody.
    forebay.wait_until("hear RabbitMQ", |health| health["sources"][0]["state"] == "connected");
    let faults: [&Fault<'_>; 4] = [
        &|forebay, _| forebay.crash_and_restart(),
        &|forebay, _| {
            // The log is away for a while, and then it is killed.
            let began = Instant::now();
            kill_process(forebay.nats(), Signal::STOP).unwrap();
            forebay.wait_for_seconds("miss its log", outage.as_secs() + 60, |health| {
                health["status"] != "ok" && began.elapsed() >= outage
            });
            forebay.kill_nats();
        },
        &|_, rabbitmq| rabbitmq.restart(),
        &|forebay, rabbitmq| {
            forebay.kill();
            rabbitmq.stop();
            rabbitmq.restart();
            forebay.restart();
        },
    ];
    let over = AtomicBool::new(false);
    let jobs: Vec<FloodJob> = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut flood = Flood::new(5, 1_790_000_000.0);
            let (begin, mut jobs) = (Instant::now(), Vec::new());
            while !over.load(Ordering::Relaxed) {
                let due = (begin.elapsed().as_secs_f64() * rate - flood.events() as f64).min(rate / 2.0);
                // Twenty parts a second, which it catches up with when it was held up.
                if due < rate / 20.0 {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                let (arrays, made) = flood.arrays((due / EVENTS_OF_JOB) as usize, EVENTS_EACH);
                RabbitMq::publish(&url, "celeryev", "task.multi", &arrays);
                jobs.extend(made);
            }
            let seconds = begin.elapsed().as_secs_f64();
            eprintln!("{} events in {seconds:.1} s, {:.0} a second", flood.events(), flood.events() as f64 / seconds);
            jobs
        });
        // A panic must not leave it going.
        let stop = Stop(&over);
        for fault in faults {
            let before = recorded(&forebay).unwrap();
            let more = (rate / EVENTS_OF_JOB) as u64;
            wait_for("the flood to go on", 300, || (recorded(&forebay)? > before + more).then_some(()));
            let began = Instant::now();
            fault(&mut forebay, &mut rabbitmq);
            forebay.wait_until_well();
            eprintln!("well after {:.1?}", began.elapsed());
        }
        drop(stop);
        publisher.join().unwrap()
    });
    assert!(jobs.len() > 1_000, "{} jobs", jobs.len());
    forebay.wait_until_well();
    for state in ["completed", "failed"] {
        let expected = jobs.iter().filter(|job| job.state == state).count();
        wait_or_show(&format!("{expected} jobs to be {state}"), 300, || {
            let answer = forebay.api.try_get(&format!("/api/jobs?limit=1&state={state}"));
            let total = answer.map(|answer| answer.body["pagination"]["total"].clone());
            if total == Some(json!(expected)) { Ok(()) } else { Err(total) }
        });
    }
    let all = forebay.api.get("/api/jobs?limit=1").body["pagination"]["total"].clone();
    assert_eq!(all, json!(jobs.len()), "nothing else");
    for job in jobs.iter().step_by(97) {
        assert_eq!(forebay.api.job(&job_id(&job.id)).unwrap()["state"], job.state, "{}", job.id);
    }
    // And all of it is acknowledged: what is delivered again and again would fill the broker.
    forebay.stop();
    assert_eq!(rabbitmq.ready(), 0);
}

/// What happens to them.
type Fault<'a> = dyn Fn(&mut Forebay, &mut RabbitMq) + 'a;

/// Tells the publisher to end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How many jobs the server knows, if it answers.
fn recorded(forebay: &Forebay) -> Option<u64> {
    forebay.api.try_get("/api/jobs?limit=1")?.body["pagination"]["total"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_over_tls_is_heard_where_its_authority_is_known_and_only_there() {
    let files = tempfile::tempdir().unwrap();
    certificates(files.path());
    let rabbitmq = RabbitMq::with_tls(files.path());
    let server = TestServer::start();
    let log = EventLog::open(server.config()).await.unwrap();
    let url = rabbitmq.tls_url();
    let stranger = AmqpSource::spawn(config(&url, |_| {}), &log);
    let reason = status(&stranger, "it is refused", |status| status.state == SourceState::Refused).await.reason;
    assert!(reason.as_ref().unwrap().contains("ssl_ca_certs"), "{reason:?}");
    drop(stranger);
    let ca = files.path().join("ca.pem");
    let source = AmqpSource::spawn(config(&format!("{url}?ssl_ca_certs={}", ca.display()), |_| {}), &log);
    status(&source, "it is connected", |status| status.state == SourceState::Connected).await;
    let (bodies, plain) = (vec![event(1)], rabbitmq.url());
    tokio::task::spawn_blocking(move || RabbitMq::publish(&plain, "celeryev", "task.received", &bodies)).await.unwrap();
    status(&source, "it hears", |status| status.events == 1).await;
    source.remove().await;
}

/// Our authority's certificate, the server's own and its key.
fn certificates(dir: &Path) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    for (name, pem) in
        [("ca.pem", authority.pem()), ("server.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
    {
        std::fs::write(dir.join(name), pem).unwrap();
    }
}

fn config(url: &str, change: impl FnOnce(&mut AmqpConfig)) -> AmqpConfig {
    let BrokerUrl::Amqp(url) = parse_source(url).unwrap().url else { panic!("{url} is RabbitMQ's") };
    let mut config = AmqpConfig::new("main", url, CONNECTION);
    change(&mut config);
    config
}

async fn status(source: &SourceHandle, what: &str, is: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let status = source.status();
        if is(&status) {
            return status;
        }
        assert!(std::time::Instant::now() < deadline, "{what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn event(number: usize) -> String {
    format!(
        r#"{{"type":"task-received","uuid":"job-{number}","name":"a","hostname":"celery@w","pid":1,"clock":{number},"timestamp":1795440115.5}}"#
    )
}

/// Looks on a thread that may wait.
async fn ready(rabbitmq: RabbitMq, expected: u32) -> RabbitMq {
    let look = move || {
        assert_eq!(rabbitmq.ready(), expected);
        rabbitmq
    };
    tokio::task::spawn_blocking(look).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_costs_rabbitmq_no_more_than_agreed_and_nothing_is_left_behind() {
    const MOST: u32 = 100;
    let rabbitmq = RabbitMq::start();
    let server = TestServer::start();
    let log = EventLog::open(server.config()).await.unwrap();
    let bounded = |url: &str| config(url, |config| config.tasks = Bounds { messages: MOST, bytes: 1 << 20 });
    let url = rabbitmq.url();
    let source = AmqpSource::spawn(bounded(&url), &log);
    status(&source, "it is connected", |status| status.state == SourceState::Connected).await;
    source.stop().await;

    let queues = rabbitmq.queues();
    assert_eq!(queues.len(), 2, "a plain stop leaves them: {queues:#?}");
    for queue in &queues {
        let arguments = queue["arguments"].to_string();
        for part in ["x-expires", "86400000", "drop-head", "x-max-length", "x-max-length-bytes"] {
            assert!(arguments.contains(part), "{part} is missing: {queue:#}");
        }
        assert!(queue["name"].as_str().unwrap().starts_with(&format!("forebay.{CONNECTION}.")), "{queue:#}");
        assert_eq!((&queue["type"], &queue["durable"]), (&json!("quorum"), &json!(true)), "{queue:#}");
    }
    let (bodies, to) = ((0..500).map(event).collect::<Vec<_>>(), url.clone());
    tokio::task::spawn_blocking(move || RabbitMq::publish(&to, "celeryev", "task.received", &bodies)).await.unwrap();
    let rabbitmq = ready(rabbitmq, MOST).await;

    // The newest are there, and each once; acknowledged once the log has them.
    let source = AmqpSource::spawn(bounded(&url), &log);
    status(&source, "all is heard", |status| status.events >= u64::from(MOST)).await;
    source.stop().await;
    let rabbitmq = ready(rabbitmq, 0).await;
    let mut jobs: Vec<String> = Vec::new();
    let last = log.info().await.unwrap().last_sequence;
    for sequence in 1..=last {
        let message = log.message(sequence).await.unwrap().unwrap();
        let events = proto_events::decode(&message.payload).unwrap();
        jobs.extend(events.into_iter().filter_map(|event| event.unwrap().job.map(|job| job.external_id)));
    }
    assert_eq!(jobs, (400..500).map(|number| format!("job-{number}")).collect::<Vec<_>>());

    // Other bounds are other queues, so that nothing is refused; and a source that goes for good takes its own with it.
    // Of two brokers the first is not there.
    let other = AmqpSource::spawn(config(&format!("amqp://127.0.0.1:1//;{url}"), |_| {}), &log);
    status(&other, "it is connected", |status| status.state == SourceState::Connected).await;
    assert_eq!(rabbitmq.queues().len(), 3, "the same for workers, another for tasks");
    other.remove().await;
    AmqpSource::spawn(bounded(&url), &log).remove().await;
    assert_eq!(rabbitmq.queues(), Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rabbitmq_forbids_is_said_in_one_line_that_names_the_permission() {
    const OURS: &str = "^forebay\\.";
    let users = [
        ("enough", [OURS, OURS, "^(forebay\\.|celeryev$)"]),
        ("no-configure", ["^$", OURS, "^(forebay\\.|celeryev$)"]),
        ("no-write", [OURS, "^$", "^(forebay\\.|celeryev$)"]),
        ("no-exchange", [OURS, OURS, OURS]),
        ("no-read", [OURS, OURS, "^celeryev$"]),
    ];
    let rabbitmq = RabbitMq::with_users(&users);
    let server = TestServer::start();
    let log = EventLog::open(server.config()).await.unwrap();
    let spawn = |url: &str| AmqpSource::spawn(config(url, |_| {}), &log);
    let refused = async |url: &str| {
        let source = spawn(url);
        let status = status(&source, url, |status| status.state == SourceState::Refused).await;
        let reason = status.reason.unwrap();
        assert!(!reason.contains('\n'), "{reason}");
        reason
    };
    // Before any worker has made the exchange.
    let reason = refused(&rabbitmq.url_of("enough")).await;
    assert!(reason.contains("celeryev is not there yet") && reason.contains("configure"), "{reason}");
    let guest = spawn(&rabbitmq.url());
    status(&guest, "it is connected", |status| status.state == SourceState::Connected).await;
    guest.remove().await;

    for (user, expected) in [
        ("no-configure", "lacks the permission to configure ^forebay"),
        ("no-write", "lacks the permission to write ^forebay"),
        ("no-exchange", "lacks the permission to read celeryev"),
        ("no-read", "lacks the permission to read ^forebay"),
    ] {
        let reason = refused(&rabbitmq.url_of(user)).await;
        assert!(reason.contains(expected) && reason.contains(user), "{user}: {reason}");
    }
    let port = rabbitmq.port();
    let reason = refused(&format!("amqp://enough:s3cret@127.0.0.1:{port}//")).await;
    assert!(reason.contains("refused the user (enough) or password") && !reason.contains("s3cret"), "{reason}");
    let reason = refused(&format!("amqp://enough:enough@127.0.0.1:{port}/nowhere")).await;
    assert!(reason.contains("virtual host nowhere"), "{reason}");

    // And that is all it takes; asking workers for their events takes more.
    let source = AmqpSource::spawn(config(&rabbitmq.url_of("enough"), |config| config.enable_events = true), &log);
    status(&source, "it is connected", |status| status.state == SourceState::Connected).await;
    let body = vec![event(1)];
    let url = rabbitmq.url();
    tokio::task::spawn_blocking(move || RabbitMq::publish(&url, "celeryev", "task.received", &body)).await.unwrap();
    status(&source, "it hears", |status| status.events == 1).await;
    source.remove().await;
}
