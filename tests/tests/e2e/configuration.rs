//! The configuration file: checked, shown, and read again by a running server.

use std::fs;
use std::path::Path;
use std::process::Output;

use forebay_tests::{Forebay, Options, Redis, WEBHOOK_SECRET, Webhook, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What the record of changes says of files that were read again, the latest first.
fn told(forebay: &Forebay) -> Vec<Value> {
    let mut told = forebay.api.get("/api/audit").body["data"].as_array().unwrap().clone();
    told.retain(|change| change["action"] == "configuration.reload");
    told.into_iter().map(|change| change["about"].clone()).collect()
}

/// Lets the server read its file again, and waits until it has.
fn reload(forebay: &Forebay, file: &Path, text: &str) -> String {
    fs::write(file, text).unwrap();
    let told =
        |log: &str| log.matches("the configuration was read again").count() + log.matches("stays as it is").count();
    let before = forebay.process().log();
    forebay.process().signal(Signal::HUP);
    wait_for("the file to be read again", 30, || {
        let log = forebay.process().log();
        (told(&log) > told(&before)).then(|| log[before.len()..].to_owned())
    })
}

fn sources(forebay: &Forebay) -> Vec<String> {
    let listed = forebay.api.get("/api/sources").body;
    listed["data"].as_array().unwrap().iter().map(|source| source["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_changes_in_the_file_is_taken_over_or_said_to_need_a_restart() {
    let (shop, mail, webhook) = (Redis::start(), Redis::start(), Webhook::start());
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("forebay.toml");
    let text = |head: &str, rule: &str| {
        format!(
            "celery = ['shop={}', '{head}\n[alerts]\nevery = '100ms'\n[alerts.webhook.ops]\nurl = '{}'\n\
             secret = '{WEBHOOK_SECRET}'\n{rule}",
            shop.url(0),
            webhook.url()
        )
    };
    let only_shop = |head: &str, rule: &str| text(head, rule).replace("', '", "']");
    fs::write(&file, only_shop("", "")).unwrap();
    let arguments =
        vec!["--config".to_owned(), file.to_str().unwrap().to_owned(), "--scrub".to_owned(), "7d".to_owned()];
    let mut forebay = Forebay::start(Options { arguments, ..Options::default() });
    assert_eq!(sources(&forebay), ["shop"]);

    // A source, how long things are kept, and a rule that has something to tell at once.
    let rule = "[[alerts.rule]]\nname = 'full'\nkind = 'disk'\ntrigger = '0.0001%'\nto = ['ops']\n";
    let head = format!("mail={}']\nretention = '2h'\nscrub = '1h'\nlisten = '127.0.0.1:1'", mail.url(0));
    let log = reload(&forebay, &file, &text(&head, rule));
    forebay.wait_until("hear both", |health| {
        let sources = health["sources"].as_array().unwrap();
        sources.len() == 2 && sources.iter().all(|source| source["state"] == "connected")
    });
    forebay.wait_until("keep two hours", |health| health["retention"]["keepSeconds"] == 7_200);
    wait_for("the alert", 30, || (webhook.received().len() == 1).then_some(()));
    // Flags say where it listens and how often it compares, whatever the file says.
    assert!(!log.contains("scrub") && !log.contains("needs a restart"), "{log}");
    let answers = forebay.api.get("/api/alerts");
    assert_eq!(answers.body["rules"][0]["state"], "firing", "{}", answers.body);

    // A file with mistakes changes nothing.
    let log = reload(&forebay, &file, "retention = 'soon'\nlisen = '127.0.0.1:1'");
    assert!(log.contains("lisen") && log.contains("listen") && !log.contains("T0KEN"), "{log}");
    assert_eq!(sources(&forebay), ["shop", "mail"]);
    assert_eq!(forebay.api.get("/api/alerts").body["rules"][0]["state"], "firing");

    // What is declared no more goes, and ends what it began.
    let log = reload(&forebay, &file, &only_shop("\nlist-memory = '2GB'", ""));
    assert!(log.contains("needs a restart") && log.contains("list-memory"), "{log}");
    wait_for("the one source to be left", 30, || (sources(&forebay) == ["shop"]).then_some(()));
    wait_for("the end of the alert", 30, || (webhook.received().len() == 2).then_some(()));
    let ended = webhook.received().remove(1).body;
    assert_eq!((&ended["event"], &ended["incident"]["why"]), (&json!("resolved"), &json!("ruleRemoved")));
    let rule = ["kind", "name", "to", "trigger"].map(|key| format!("alerts.rule[0].{key}"));
    let taken_over: Vec<String> = ["celery", "retention"].map(str::to_owned).into_iter().chain(rule).collect();
    let changes = [
        json!({ "takenOver": taken_over, "needsRestart": ["list-memory"] }),
        json!({ "takenOver": taken_over, "needsRestart": [] }),
    ];
    assert_eq!(told(&forebay), changes);
    forebay.wait_until("keep a week again", |health| health["retention"]["keepSeconds"] == 7 * 86_400);
    forebay.crash_and_restart();
    assert_eq!(sources(&forebay), ["shop"]);
    assert_eq!(webhook.received().len(), 2);
}

#[test]
fn a_file_is_checked_and_shown_without_secrets_before_it_serves() {
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("forebay.toml");
    let forebay = |arguments: &[&str], text: &str| {
        fs::write(&file, text).unwrap();
        std::process::Command::new(forebay_tests::forebay_binary())
            .env_clear()
            .env("FOREBAY_RETENTION", "3h")
            .env("FOREBAY_CELERY", "shop=redis://:s3cret@cache/0")
            .args(["config"])
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap()
    };
    let good = "listen = '0.0.0.0:1'\nretention = '1h'\nadmin-password = 's3cret'\n\
                [alerts.webhook.ops]\nurl = 'https://hooks.example.com/s3cret'\n";
    let checked = forebay(&["check"], good);
    assert!(checked.status.success(), "{}", said(&checked));
    let wrong = forebay(&["check"], "lisen = 1\nfsync = 'never'\nredact_args = true");
    assert_eq!(wrong.status.code(), Some(1));
    for part in ["forebay.toml:1: ", "`listen`?", "forebay.toml:2: ", "forebay.toml:3: ", "`redact-args`?"] {
        assert!(said(&wrong).contains(part), "{part}: {}", said(&wrong));
    }
    let shown = forebay(&["show", "--json"], good);
    let settings: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(settings["retention"], json!({ "value": "3h", "from": "environment", "variable": "FOREBAY_RETENTION" }));
    assert_eq!(settings["listen"], json!({ "value": "0.0.0.0:1", "from": "file" }));
    assert_eq!(settings["celery"]["value"], json!(["shop=redis://***@cache/0"]));
    let people = forebay(&["show"], good);
    for text in [said(&checked), said(&shown), said(&people)] {
        assert!(!text.contains("s3cret"), "{text}");
    }
}
