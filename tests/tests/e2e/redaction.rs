//! What is to be kept out of the log is not in it, by whichever way it comes.

use std::fs;

use forebay_tests::{Forebay, Options, RabbitMq, Redis, Shop, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

/// All that the log holds.
fn log(forebay: &Forebay) -> String {
    let exported = forebay.command(&["export", "-"]);
    assert!(exported.status.success(), "{exported:?}");
    String::from_utf8(exported.stdout).unwrap()
}

/// Waits until the job of this id has ended, and gives its record.
fn ended(forebay: &Forebay, id: &str) -> Value {
    wait_for(&format!("{id} to end"), 60, || {
        let job = forebay.api.job(id)?;
        ["completed", "failed"].iter().any(|state| job["state"] == *state).then_some(job)
    })
}

fn batch(secret: &str, id: &str) -> Value {
    json!({
        "type": "job.state_change", "timestamp": "2026-02-27T10:29:55.000Z", "framework": "celery",
        "job": {
            "externalId": id, "name": "shop.pay", "state": "failed", "args": [secret, 1], "kwargs": { "token": secret },
            "result": secret, "error": format!("PayError('{secret}')"),
            "stacktrace": format!("Traceback (most recent call last):\nPayError: {secret}"), "extensions": { "of": secret },
        },
    })
}

#[test]
fn what_fits_a_pattern_reaches_no_log_from_a_broker_a_sender_or_the_result_backend() {
    let (redis, rabbitmq) = (Redis::start(), RabbitMq::start());
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("forebay.toml");
    fs::write(&file, r"redact = ['tok_[a-z0-9]+', 'order \d+']").unwrap();
    let mut options = Options::celery(&[redis.url(0), rabbitmq.url()]);
    let more = ["--celery-backend", &redis.url(0), "--celery-backend-after", "2s", "--config", file.to_str().unwrap()];
    options.arguments.extend(more.map(str::to_owned));
    let mut forebay = Forebay::start(options);
    let shop = Shop::new(redis.url(0));

    // Over either broker.
    for shop in [&shop, &Shop::new(rabbitmq.url()).with_backend(redis.url(1))] {
        let mut heard = shop.worker("heard", &["-E", "--concurrency", "1"]);
        let failed = ended(&forebay, &shop.call("shop.fail", "[4711]", "celery"));
        assert_eq!(failed["error"], "ValueError('[redacted] has no address')");
        assert!(failed["stacktrace"].as_str().unwrap().contains("ValueError: [redacted] has no address"), "{failed:#}");
        let said = ended(&forebay, &shop.call("shop.unicode_result", "[\"tok_fromabroker\"]", "celery"));
        assert!(said["args"].as_str().unwrap().contains("[redacted]"), "{said:#}");
        assert!(said["result"].as_str().unwrap().contains("[redacted]"), "{said:#}");
        heard.stop();
    }

    // Nobody hears of the end of this one but from the result backend.
    let _silent = shop.worker("silent", &["--concurrency", "1"]);
    let asked = ended(&forebay, &shop.call("shop.unicode_result", "[\"tok_fromthebackend\"]", "celery"));
    assert_eq!(asked["outcomeFrom"], "result-backend");
    assert!(asked["result"].as_str().unwrap().contains("[redacted]"), "{asked:#}");

    assert_eq!(forebay.api.ingest(&[batch("tok_fromasender", "sent")]).unwrap().body["accepted"], 1);
    let sent = ended(&forebay, "sent");
    let told = [&sent["args"][0], &sent["kwargs"]["token"], &sent["result"], &sent["extensions"]["of"]];
    assert!(told.iter().all(|told| **told == "[redacted]"), "{sent:#}");

    let stored = log(&forebay);
    assert!(stored.matches("[redacted]").count() > 10, "{stored}");
    for secret in ["tok_", "order 4711"] {
        assert!(!stored.contains(secret), "{secret} in {stored}");
        assert!(!forebay.process().log().contains(secret), "{secret}");
    }

    // Another pattern is taken over by whoever sends, without a restart.
    fs::write(&file, "redact = ['rose.']").unwrap();
    forebay.process().signal(Signal::HUP);
    let mut number = 0;
    wait_for("the other pattern to hold", 30, || {
        number += 1;
        let id = format!("again-{number}");
        forebay.api.ingest(&[batch("rosebud tok_now", &id)])?;
        (ended(&forebay, &id)["result"] == "[redacted]ud tok_now").then_some(())
    });
    forebay.crash_and_restart();
    assert_eq!(ended(&forebay, "sent")["result"], "[redacted]");
}

#[test]
fn a_pattern_that_is_none_is_named_before_it_serves() {
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("forebay.toml");
    fs::write(&file, "redact = ['ok', '(unclosed', 'x*']").unwrap();
    let checked = std::process::Command::new(forebay_tests::forebay_binary())
        .env_clear()
        .args(["config", "check", "--config", file.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(!checked.status.success());
    assert!(said.contains("redact in the file: `(unclosed` is no regular expression: unclosed group"), "{said}");
    assert!(said.contains("`x*` fits the empty text") && !said.contains("`ok`"), "{said}");
}
