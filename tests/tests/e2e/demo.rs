//! `make demo` shows what it promises, and leaves nothing behind.

use std::path::Path;
use std::process::Command;

use forebay_tests::{Api, Process, forebay_binary, python, wait_for};
use rustix::process::{Signal, kill_process};
use serde_json::json;
use ureq::http::Method;

#[test]
fn the_demo_shows_one_of_each_and_cleans_up_after_ctrl_c() {
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/demo.py");
    let mut command = Command::new(python());
    command.arg(script).arg("--forebay").arg(forebay_binary()).env("TMPDIR", dir.path()).env_remove("DEMO_ONCE");
    // The settings of a Forebay in use, which are not the demo's.
    command.env("FOREBAY_NATS_URL", "nats://127.0.0.1:1").env("FOREBAY_CONFIG", "/no/such/file");
    let mut demo = Process::start("demo", &mut command, &dir.path().join("output"));
    wait_for("the demo to have shown everything", 120, || {
        assert!(demo.ended().is_none(), "the demo ended");
        demo.log().contains("stays up until Ctrl-C").then_some(())
    });
    let output = demo.log();
    for line in [
        "shop.send_invoice  completed",
        "shop.charge_card  failed",
        "shop.sync_stock  completed",
        "shop.remind  completed",
        "shop.ship  completed",
        "shop.resize_photo  failed",
        "shop.export_year  cancelled",
        "attempt        3",
        "WorkerLostError",
        "scheduled for",
        "parent ",
        "invoice 1001 sent",
        "http://127.0.0.1:",
        "/login#once=",
    ] {
        assert!(output.contains(line), "{line} is missing in:\n{output}");
    }
    let link = output.split("/login#once=").nth(1).unwrap().split_whitespace().next().unwrap();
    let address = output.split("Forebay listens on http://").nth(1).unwrap().split(',').next().unwrap();
    let log_in = || {
        let once = json!({ "once": link }).to_string();
        Api::new(address, "").send(Method::POST, "/api/session", &[], once.as_bytes()).unwrap().status
    };
    assert_eq!((log_in(), log_in()), (200, 401), "the link is good once");
    let data = output.split("--data-dir ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(Path::new(&data).is_dir() && !with_argument(&data).is_empty());

    kill_process(demo.pid(), Signal::INT).unwrap();
    let status = wait_for("the demo to end after Ctrl-C", 60, || demo.ended());
    assert!(status.success(), "{status}");
    assert!(!Path::new(&data).exists(), "the data is still there");
    wait_for("everything it started to be gone", 10, || with_argument(&data).is_empty().then_some(()));
}

/// The command lines that name this directory or what is in it.
fn with_argument(dir: &str) -> Vec<String> {
    let read = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let lines = std::fs::read_dir("/proc").unwrap().flatten().filter_map(read);
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(dir)).collect()
}
