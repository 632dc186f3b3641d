//! The stock `sluice-celery` SDK over HTTP.

use forebay_tests::{API_KEY, CONNECTION, Forebay, Options, Redis, Shop, job_id, wait_for};

use crate::compare;

#[test]
fn final_states_from_the_stock_sdk_in_a_solo_pool_are_those_of_celery() {
    final_states("solo");
}

#[test]
fn final_states_from_the_stock_sdk_in_a_threads_pool_are_those_of_celery() {
    final_states("threads");
}

fn final_states(pool: &str) {
    let redis = Redis::start();
    let forebay = Forebay::start(Options::default());
    let shop = Shop::new(redis.url(0)).with_sdk(forebay.api.address(), API_KEY, &CONNECTION.to_string());
    let _worker = shop.worker("sdk", &["--pool", pool, "--concurrency", "2"]);
    let jobs = shop.drive("simple");
    assert_eq!(jobs.len(), 5);
    for truth in &jobs {
        let record = compare::record(&forebay.api, truth);
        assert_eq!(record["id"], job_id(&truth.id));
        assert_eq!(record["externalId"], truth.id.as_str());
        assert_eq!(record["name"], truth.name.as_deref().unwrap());
        assert_eq!(record["workerId"], "sdk@test", "{record:#}");
        assert_eq!(record["attempt"], truth.retries.unwrap() + 1, "{record:#}");
        // The SDK tells the text of an error, not its type.
        let error = truth.error_text.as_deref();
        assert_eq!(record["error"].as_str(), error, "{record:#}");
    }
}

#[test]
fn what_the_sdk_and_the_stream_tell_of_one_job_becomes_one_record() {
    let redis = Redis::start();
    let forebay = Forebay::start(Options::celery(&[redis.url(0)]));
    let shop = Shop::new(redis.url(0)).with_sdk(forebay.api.address(), API_KEY, &CONNECTION.to_string());
    let mut worker = shop.worker("both", &["-E", "--pool", "solo", "--queues", "celery"]);
    let jobs = shop.drive("simple");
    // The SDK sends what it still holds when the worker stops.
    worker.stop();
    for truth in &jobs {
        // Only the SDK tells Celery's own word for the state.
        let record = wait_for("both to be in the record", 30, || {
            let record = compare::record(&forebay.api, truth);
            (record["extensions"]["celeryState"] == truth.status.as_str()).then_some(record)
        });
        compare::check(&record, truth, &shop);
    }
}
