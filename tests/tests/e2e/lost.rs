//! Jobs whose worker is gone, and those of which it only looks so.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use forebay_tests::{Api, Forebay, Options, RabbitMq, Redis, Shop, setting, wait_for};
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

/// What a server that only just starts may not know yet: a job as it is, once that is answered.
fn known(api: &Api, id: &str) -> Option<Value> {
    let answer = api.try_get(&format!("/api/jobs/{id}"))?;
    assert!([200, 503].contains(&answer.status), "{id}: {}", answer.body);
    (answer.status == 200).then_some(answer.body)
}

/// Nobody listens for `DOWNTIME_SECONDS`, to either broker, and there is one job on each that takes longer than that, and
/// one whose worker dies meanwhile.
#[test]
#[ignore = "takes nine minutes: `make soak` runs it"]
fn after_five_minutes_of_our_own_downtime_only_who_is_gone_is_lost() {
    let downtime: u32 = setting("DOWNTIME_SECONDS", 300);
    let (redis, rabbitmq) = (Redis::start(), RabbitMq::start());
    let mut forebay = Forebay::start(Options::celery(&[redis.url(6), format!("other={}", rabbitmq.url())]));
    let shops = [Shop::new(redis.url(6)), Shop::new(rabbitmq.url()).with_backend(redis.url(0))];
    let options = |queue| ["-E", "--queues", queue, "--concurrency", "1"];
    let mut workers = Vec::new();
    let (mut long, mut dead) = (Vec::new(), Vec::new());
    for (shop, [lives, dies]) in shops.iter().zip([["lives-1", "dies-1"], ["lives-2", "dies-2"]]) {
        workers.push(shop.workers([(lives, &options("lives")), (dies, &options("dies"))]));
        long.push(shop.nap(downtime + 180, "lives"));
        dead.push(shop.nap(downtime + 900, "dies"));
    }
    for id in long.iter().chain(&dead) {
        until_active(&forebay, id);
    }
    wait_for("the workers to beat while they are busy", 30, || {
        let workers = forebay.api.get("/api/workers?state=busy").body;
        (workers["data"].as_array().unwrap().len() == 4).then_some(())
    });

    forebay.kill();
    let began = Instant::now();
    for [_, dies] in &mut workers {
        dies.kill_all();
    }
    let downtime = Duration::from_secs(downtime.into());
    wait_for("the downtime to be over", downtime.as_secs() + 10, || (began.elapsed() > downtime).then_some(()));
    let back = Utc::now();
    forebay.launch();
    // From its first answer on.
    let mut looks = 0;
    let mut look = |api: &Api| {
        let jobs: Option<Vec<Value>> = long.iter().chain(&dead).map(|id| known(api, id)).collect();
        let jobs = jobs?;
        looks += 1;
        let (running, gone) = jobs.split_at(long.len());
        for job in running {
            assert_eq!(job["lost"], Value::Null, "it has run all the time: {job:#}");
        }
        Some((running.to_vec(), gone.to_vec()))
    };
    let lost = wait_for("those that are gone to be lost", 120, || {
        let (running, gone) = look(&forebay.answering()?)?;
        assert!(running.iter().all(|job| job["state"] == "active"), "{running:#?}");
        gone.iter().map(|job| Some(job["lost"].clone()).filter(|lost| !lost.is_null())).collect::<Option<Vec<_>>>()
    });
    for lost in &lost {
        let since = DateTime::parse_from_rfc3339(lost["listeningSince"].as_str().unwrap()).unwrap();
        assert!(
            lost["evidence"] == "silent" && since > back,
            "only what was listened to counts, since {back}: {lost:#}"
        );
    }
    forebay.wait_until_well();
    wait_for("the long ones to end", 300, || {
        let (running, gone) = look(&forebay.api)?;
        assert!(gone.iter().all(|job| !job["lost"].is_null()), "{gone:#?}");
        running.iter().all(|job| job["state"] == "completed").then_some(())
    });
    let mut expected = dead.clone();
    expected.sort();
    assert_eq!(lost_ids(&forebay), expected);
    println!("looked {looks} times after {downtime:?} of downtime");
    forebay.stop();
}
