//! `forebay jobs`.

use serde_json::{Value, json};

use crate::{CONNECTION, KEY, Server, complaint, forebay, printed, run, text};

/// So many jobs of two kinds: every fourth has failed.
fn jobs(count: usize) -> Value {
    let events: Vec<Value> = (0..count)
        .map(|number| {
            let failed = number.is_multiple_of(4);
            json!({
                "type": "job.state_change", "timestamp": format!("2026-02-27T10:{:02}:{:02}.000Z", number / 60, number % 60),
                "framework": "celery",
                "job": {
                    "externalId": format!("job-{number}"), "state": if failed { "failed" } else { "completed" },
                    "name": if failed { "=cmd()\u{1b}[2J" } else { "shop.pay" }, "queue": "mail",
                    "error": failed.then_some("ValueError('order 7')\nmore"),
                },
            })
        })
        .collect();
    json!({ "events": events })
}

#[test]
fn jobs_are_listed_by_every_filter_beside_a_server_and_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_key(dir.path());
    for half in [0, 60] {
        let mut batch = jobs(120);
        let events: Vec<Value> = batch["events"].as_array_mut().unwrap().drain(half..half + 60).collect();
        let (status, answer) = server.request("POST", "/api/ingest", KEY, &json!({ "events": events }).to_string());
        assert_eq!(status, 202, "{answer}");
        server.request("GET", &format!("/api/jobs?atLeast={}", answer["sequence"]), &server.token(), "");
    }
    let listed = |arguments: &[&str]| printed(&run(dir.path(), &[&["jobs"], arguments].concat()));
    let lines = |arguments: &[&str]| -> Vec<Value> {
        let text = listed(&[arguments, &["--json"]].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let check = || {
        let table = listed(&[]);
        let rows: Vec<&str> = table.lines().collect();
        assert!(rows[0].trim_start().starts_with("created") && rows[1].contains("job-119"), "{table}");
        assert_eq!(
            (rows.len(), rows.last().copied()),
            (53, Some("50 of 120 jobs: --limit shows more, --json and --csv write all of them"))
        );
        let failed = listed(&["--state", "failed", "--limit", "1000", "--asc"]);
        assert_eq!(failed.lines().count(), 31, "{failed}");
        assert!(failed.lines().nth(1).unwrap().contains("job-0 "), "{failed}");
        assert!(
            !failed.contains('\u{1b}') && failed.contains("ValueError('order 7')") && !failed.contains("more"),
            "{failed}"
        );
        assert_eq!(listed(&["--search", "nothing like it"]), "no job is like that\n");

        assert_eq!(lines(&[]).len(), 120, "all of them, without a limit");
        let ids = |arguments: &[&str]| -> Vec<String> {
            lines(arguments).iter().map(|job| job["externalId"].as_str().unwrap().to_owned()).collect()
        };
        let some = ["--name", "shop.pay", "--queue", "mail", "--created-after", "2026-02-27T10:01:00Z", "--limit", "2"];
        assert_eq!(ids(&some), ["job-119", "job-118"]);
        assert_eq!(
            ids(&["--error-contains", "ORDER", "--connection", "default", "--sort-by", "state", "--limit", "1"]).len(),
            1
        );
        assert_eq!(ids(&["--external-id", "job-7", "--connection", CONNECTION]), ["job-7"]);
        assert!(ids(&["--created-after", "15m"]).is_empty(), "they were all created long ago");
        assert_eq!((ids(&["--lost"]).len(), ids(&["--lost=false"]).len()), (0, 120));

        let csv = listed(&["--csv", "--state", "failed,completed"]);
        let first = csv.lines().next().unwrap();
        assert!(first.starts_with("\"id\",\"externalId\",\"framework\","), "{first}");
        assert!(csv.contains(",\"'=cmd()") && !csv.contains(",\"=cmd()"), "no spreadsheet runs a name");
    };
    check();
    let wrong = complaint(&run(dir.path(), &["jobs", "--state", "broken"]));
    assert!(wrong.contains("Invalid state: must be one of unknown, queued"), "{wrong}");
    let nobody = complaint(&run(dir.path(), &["jobs", "--connection", "nobody"]));
    assert!(nobody.contains("there is no connection named nobody"), "{nobody}");
    let time = complaint(&run(dir.path(), &["jobs", "--created-before", "noon"]));
    assert!(time.contains("how long ago as 15m, 6h or 7d"), "{time}");
    server.kill();
    check();
    // Without the log that they were made from, the views say so, and all that they hold.
    std::fs::remove_dir_all(dir.path().join("nats")).unwrap();
    for form in ["--csv", "--json"] {
        let last = run(dir.path(), &["jobs", "--name", "shop.pay", "--limit", "7", form]);
        assert_eq!(printed(&last).lines().filter(|line| line.contains("shop.pay")).count(), 7);
        assert!(text(&last.stderr).contains("this may be out of date"), "{}", text(&last.stderr));
    }
    let help = forebay(&["jobs", "--help"]).output().unwrap();
    assert!(text(&help.stdout).contains("forebay jobs --state failed --created-after 1h"));
}
