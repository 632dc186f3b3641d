//! The dashboard in a real browser. What is done there is told in `browser/*.py`; each page's picture is in
//! `target/screenshots` afterwards.

mod proxied;
mod signs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use forebay_tests::{API_KEY, Flood, Forebay, Options, PASSWORD, Process, Redis, Shop, setting, tool, wait_for};
use serde_json::Value;

/// Seconds for a scenario as a whole.
const PATIENCE: u64 = 280;

/// Debian's name, and that of others.
fn chromium() -> PathBuf {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs)
        .flat_map(|dir| ["chromium", "chromium-browser", "google-chrome"].map(|name| dir.join(name)))
        .find(|path| path.is_file());
    found.expect("chromium is missing: run `make test-tools`")
}

/// Where pictures go: beside what the compiler makes.
fn screenshots() -> PathBuf {
    let dir = tool("venv-browser/bin/playwright").ancestors().nth(3).unwrap().join("screenshots");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// A scenario, under way.
fn scenario(name: &str, forebay: &Forebay, shop: &Shop, password: &str, arguments: &[&str], log: &Path) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser").join(name);
    let mut command = Command::new(tool("venv-browser/bin/playwright").with_file_name("python"));
    shop.lend(&mut command);
    command
        .arg(script)
        .args(arguments)
        .env("FOREBAY_URL", format!("http://{}", forebay.api.address()))
        .env("FOREBAY_PASSWORD", password)
        .env("SCREENSHOTS", screenshots());
    Process::start(name, &mut command, log)
}

fn succeeds(mut scenario: Process) {
    let status = wait_for("the scenario in the browser to end", PATIENCE, || scenario.ended());
    assert!(status.success(), "{}", scenario.log());
}

#[test]
fn a_first_run_says_what_to_do_and_turns_into_the_overview_by_itself() {
    let redis = Redis::start();
    let forebay = Forebay::start(Options { own_credentials: true, ..Options::celery(&[redis.url(0)]) });
    let read = std::fs::read(forebay.dir().join("credentials.json")).unwrap();
    let kept: Value = serde_json::from_slice(&read).unwrap();
    let [connection, key, password] =
        ["connectionId", "apiKey", "adminPassword"].map(|name| kept[name].as_str().unwrap());
    let shop = Shop::new(redis.url(0));
    let mut silent = shop.worker("silent", &["--concurrency", "1"]);
    let dir = tempfile::tempdir().unwrap();
    let (wanted, done) = (dir.path().join("wanted"), dir.path().join("done"));
    let (browser, [wants, says]) = (chromium(), [&wanted, &done].map(|path| path.to_str().unwrap()));
    let arguments = [connection, key, wants, says, browser.to_str().unwrap()];
    let mut shown = scenario("first_run.py", &forebay, &shop, password, &arguments, &dir.path().join("log"));
    wait_for("the page to have said what is wrong", 90, || {
        assert!(shown.ended().is_none(), "{}", shown.log());
        wanted.exists().then_some(())
    });
    silent.stop();
    let _worker = shop.worker("heard", &["-E", "--concurrency", "1"]);
    std::fs::write(&done, "").unwrap();
    succeeds(shown);
}

/// A part of `day.py`, beside a worker.
fn day(part: &str) {
    let redis = Redis::start();
    let forebay = Forebay::start(Options::celery(&[redis.url(0)]));
    let shop = Shop::new(redis.url(0));
    let _worker = shop.worker("w1", &["-E", "--concurrency", "2"]);
    let dir = tempfile::tempdir().unwrap();
    let browser = chromium();
    let arguments = [forebay.api.token(), API_KEY, browser.to_str().unwrap(), part];
    succeeds(scenario("day.py", &forebay, &shop, PASSWORD, &arguments, &dir.path().join("log")));
}

#[test]
fn people_find_what_became_of_their_jobs_in_a_real_browser() {
    day("does");
}

#[test]
fn every_page_can_be_read_by_those_who_do_not_see_in_the_dark_and_on_a_phone() {
    day("looks");
}

/// Events that Redis and the source may hold.
const UNDER_WAY: u64 = 100_000;

#[test]
#[ignore = "a million jobs and ten minutes: `make soak` runs it"]
fn with_a_million_jobs_the_list_is_there_at_once_and_the_tab_stays_small() {
    let (jobs, minutes) = (setting("DASHBOARD_JOBS", 1_000_000), setting("DASHBOARD_MINUTES", 10));
    let redis = Redis::start();
    let forebay = Forebay::start(Options::celery(&[redis.url(0)]));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let mut flood = Flood::new(1, now - jobs as f64 * 0.001);
    let heard = || forebay.health()["sources"][0]["events"].as_u64().unwrap();
    let publish = |flood: &mut Flood, jobs: usize| {
        let (messages, _) = flood.messages(jobs, 20);
        redis.publish("/0.celeryev/task.multi", &messages);
        // Redis drops whoever listens too slowly.
        wait_for("what is under way to be heard", 600, || (flood.events() < heard() + UNDER_WAY).then_some(()));
    };
    while flood.jobs() < jobs {
        let missing = jobs - flood.jobs();
        publish(&mut flood, missing.min(10_000));
    }
    wait_for("all to be in the views", 600, || {
        let listed = forebay.api.get("/api/jobs?limit=1").body;
        (listed["pagination"]["total"].as_u64()? >= jobs as u64).then_some(())
    });
    let (dir, shop, browser) = (tempfile::tempdir().unwrap(), Shop::new(redis.url(0)), chromium());
    let (log, url) = (dir.path().join("log"), format!("http://{}", forebay.api.address()));
    let arguments = [&minutes.to_string(), browser.to_str().unwrap(), &url];
    let mut shown = scenario("million.py", &forebay, &shop, PASSWORD, &arguments, &log);
    let status = wait_for("the browser to be done", minutes as u64 * 60 + PATIENCE, || {
        // Some twenty jobs a second: `wait_for` looks every few milliseconds.
        let due = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() - now;
        if (flood.jobs() - jobs) as f64 * 0.05 < due {
            publish(&mut flood, 1);
        }
        shown.ended()
    });
    println!("{}", shown.log());
    assert!(status.success(), "{}", shown.log());
}
