//! The dashboard in a real browser. What is done there is told in `browser/*.py`; each page's picture is in
//! `target/screenshots` afterwards.

use std::path::{Path, PathBuf};
use std::process::Command;

use forebay_tests::{API_KEY, Forebay, Options, PASSWORD, Process, Redis, Shop, tool, wait_for};
use serde_json::Value;

/// Seconds for a scenario as a whole.
const PATIENCE: u64 = 400;

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

#[test]
fn people_find_what_became_of_their_jobs_in_a_real_browser() {
    let redis = Redis::start();
    let forebay = Forebay::start(Options::celery(&[redis.url(0)]));
    let shop = Shop::new(redis.url(0));
    let _worker = shop.worker("w1", &["-E", "--concurrency", "2"]);
    let dir = tempfile::tempdir().unwrap();
    let browser = chromium();
    let arguments = [forebay.api.token(), API_KEY, browser.to_str().unwrap()];
    succeeds(scenario("day.py", &forebay, &shop, PASSWORD, &arguments, &dir.path().join("log")));
}
