//! Jobs whose worker is gone, and those of which it only looks so.

use std::time::{Duration, Instant};

use forebay_tests::{Forebay, Options, Redis, Shop, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How long a silence lasts until it proves something: six seconds of missed beats, twelve in which the source could have
/// said that it hears nothing, and some more for a busy machine.
const SILENCE: u64 = 60;

fn job(forebay: &Forebay, id: &str) -> Value {
    let answer = forebay.api.get(&format!("/api/jobs/{id}"));
    assert_eq!(answer.status, 200, "{id}: {}", answer.body);
    answer.body
}

fn until_active(forebay: &Forebay, id: &str) {
    wait_for(&format!("{id} to run"), 60, || {
        let answer = forebay.api.get(&format!("/api/jobs/{id}"));
        (answer.status == 200 && answer.body["state"] == "active").then_some(())
    });
}

/// Waits until the job is lost; meanwhile these must not be.
fn until_lost(forebay: &Forebay, id: &str, healthy: &[&str]) -> Value {
    wait_for(&format!("{id} to be lost"), SILENCE, || {
        for healthy in healthy {
            let job = job(forebay, healthy);
            assert_eq!(job["lost"], Value::Null, "it runs on a healthy worker: {job:#}");
        }
        Some(job(forebay, id)["lost"].clone()).filter(|lost| !lost.is_null())
    })
}

fn lost_ids(forebay: &Forebay) -> Vec<String> {
    let list = forebay.api.get("/api/jobs?lost=true&limit=100").body;
    let mut ids: Vec<String> =
        list["data"].as_array().unwrap().iter().map(|job| job["externalId"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    assert_eq!(forebay.api.get("/api/overview").body["lost"]["count"], json!(ids.len()));
    ids
}

#[test]
fn a_job_whose_worker_is_gone_is_lost_and_no_other() {
    let redis = Redis::start();
    let mut forebay = Forebay::start(Options::celery(&[redis.url(6)]));
    let shop = Shop::new(redis.url(6));
    let options = |queue| ["-E", "--queues", queue, "--concurrency", "1"];
    let [mut killed, mut quiet, _healthy, _solo] = shop.workers([
        ("killed", &options("killed")),
        ("quiet", &options("quiet")),
        ("healthy", &options("healthy")),
        // It runs its jobs where it speaks, so that it is silent for as long as one takes.
        ("solo", &["-E", "--queues", "solo", "--pool", "solo"]),
    ]);
    let (dead, mute) = (shop.nap(900, "killed"), shop.nap(900, "quiet"));
    let (long, alone) = (shop.nap(900, "healthy"), shop.nap(30, "solo"));
    for id in [&dead, &mute, &long] {
        until_active(&forebay, id);
    }
    let busy = |name: &str| {
        let workers = forebay.api.get("/api/workers").body;
        workers["data"].as_array().unwrap().iter().any(|it| it["hostname"] == name && it["state"] == "busy")
    };
    wait_for("the workers to beat while they are busy", 30, || {
        (busy("quiet@test") && busy("killed@test")).then_some(())
    });

    // Killed, and started again under its name.
    let old = killed.pid().as_raw_nonzero().get();
    killed.kill_all();
    let killed = shop.worker("killed", &options("killed"));
    let lost = until_lost(&forebay, &dead, &[&mute, &long, &alone]);
    let new = killed.pid().as_raw_nonzero().get();
    assert_eq!(
        (&lost["evidence"], &lost["pid"], &lost["newPid"], &lost["workerId"]),
        (&json!("newProcess"), &json!(old), &json!(new), &json!("killed@test")),
        "{lost:#}"
    );
    assert_eq!(lost_ids(&forebay), [dead.as_str()]);

    // It stands still: nobody hears it. Then it goes on.
    quiet.signal(Signal::STOP);
    let silence = until_lost(&forebay, &mute, &[&long, &alone]);
    assert_eq!((&silence["evidence"], &silence["newPid"]), (&json!("silent"), &Value::Null), "{silence:#}");
    assert!(silence["lastHeard"].is_string() && silence["listeningSince"].is_string(), "{silence:#}");
    assert_eq!(lost_ids(&forebay).len(), 2);
    let shown = forebay.command(&["job", &mute]);
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("LOST") && shown.contains("was last heard at"), "{shown}");
    quiet.signal(Signal::CONT);
    wait_for("it to be heard again", 30, || (job(&forebay, &mute)["lost"].is_null()).then_some(()));
    assert_eq!(lost_ids(&forebay), [dead.as_str()]);

    wait_for("the lonely one to end", 90, || (job(&forebay, &alone)["state"] == "completed").then_some(()));

    // What was found out is in the log: neither a crash nor a rebuild changes it.
    forebay.crash_and_restart();
    assert_eq!(job(&forebay, &dead)["lost"], lost);
    assert!(forebay.command(&["rebuild"]).status.success());
    assert_eq!(job(&forebay, &dead)["lost"], lost, "made anew from the log it is the same");

    // Nobody listens for longer than a silence takes, and meanwhile one of them dies.
    forebay.stop();
    let began = Instant::now();
    quiet.kill_all();
    wait_for("the downtime to be over", 60, || (began.elapsed() > Duration::from_secs(20)).then_some(()));
    forebay.restart();
    assert_eq!(lost_ids(&forebay), [dead.as_str()], "nobody's silence was listened to");
    let silence = until_lost(&forebay, &mute, &[&long]);
    assert_eq!(silence["evidence"], "silent", "{silence:#}");
    let both = lost_ids(&forebay);
    assert!(both.len() == 2 && both.contains(&dead) && both.contains(&mute), "{both:?}");
    assert_eq!((&job(&forebay, &long)["state"], &job(&forebay, &long)["lost"]), (&json!("active"), &Value::Null));
    forebay.stop();
}
