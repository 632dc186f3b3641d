//! Workers that were started without `-E`.

use std::time::{Duration, Instant};

use forebay_tests::{Forebay, Options, RabbitMq, Redis, Shop, job_id, wait_for};
use serde_json::{Value, json};

use crate::compare;

#[test]
fn workers_without_events_are_asked_for_them_on_either_broker_and_only_when_told_to() {
    let redis = Redis::start();
    let rabbitmq = RabbitMq::start();
    let backend = redis.url(7);
    std::thread::scope(|scope| {
        for broker in [redis.url(6), rabbitmq.url()] {
            let backend = backend.clone();
            scope.spawn(move || on(&broker, backend));
        }
    });
}

fn on(broker: &String, backend: String) {
    let shop = Shop::new(broker.clone()).with_backend(backend);
    // This one is there before Forebay is.
    let mut worker = shop.worker("mute", &["--queues", "celery", "--concurrency", "1"]);
    let forebay = Forebay::start(Options::celery(std::slice::from_ref(broker)));
    let unheard = shop.drive("one").remove(0);
    // The hint names the way out, and nobody was asked.
    wait_for("the hint", 60, || {
        let hint = source(&forebay)["hint"].as_str()?.to_owned();
        hint.contains("--enable-events").then_some(())
    });
    let record = forebay.api.job(&job_id(&unheard.id));
    assert_eq!(record.map(|record| record["state"].clone()), Some(json!("queued")), "only its sender spoke of it");

    let mut forebay = restarted(forebay, broker);
    heard(&forebay, &shop);
    let hint = &source(&forebay)["hint"];
    assert!(hint.is_null(), "{hint}");
    // A worker that comes later, under the same name too, is asked as soon as it is heard.
    worker.stop();
    let mut worker = shop.worker("mute", &["--queues", "celery", "--concurrency", "1"]);
    heard(&forebay, &shop);
    worker.stop();
    forebay.stop();
}

fn restarted(mut forebay: Forebay, broker: &str) -> Forebay {
    forebay.stop();
    drop(forebay);
    let mut options = Options::celery(&[broker.to_owned()]);
    options.arguments.push("--enable-events".to_owned());
    Forebay::start(options)
}

/// A job that its worker tells of. It may be asked only after it has run one; then another is sent.
fn heard(forebay: &Forebay, shop: &Shop) {
    wait_for("a job to be told of by its worker", 60, || {
        let truth = shop.drive("one").remove(0);
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            let record = forebay.api.job(&job_id(&truth.id)).filter(|record| record["state"] == "completed");
            if let Some(record) = record {
                compare::check(&record, &truth, shop);
                return Some(());
            }
        }
        None
    });
}

fn source(forebay: &Forebay) -> Value {
    forebay.health()["sources"][0].clone()
}
