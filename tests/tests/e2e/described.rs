//! The API tried against its own description: schemathesis makes requests that the document allows, and some that it
//! does not, and looks at every answer.

use std::process::Command;

use forebay_tests::{API_KEY, CONNECTION, Forebay, Options, tool};
use serde_json::{Value, json};

/// Of what schemathesis makes up; another one finds other things.
const SEED: u32 = 1;
/// Requests made up for each operation, beside those that follow from its description.
const EXAMPLES: u32 = 30;

/// An import reads its body as it comes, and until it breaks off; what it makes of anything else than an export, the
/// tests of the backup say. A stream of events does not end, and is tested by itself.
const EXCLUDED: [&str; 2] = ["importLog", "streamEvents"];

/// What schemathesis has to know: who asks, and values that stand for something here.
fn settings(forebay: &Forebay, cursor: &str) -> String {
    format!(
        r#"
        [cache]
        enabled = false

        [warnings]
        fail-on = [
            "base_url_mismatch", "dictionary_mismatch", "method_not_allowed", "missing_auth", "unmatched_filter",
            "unresolvable_reference", "unsupported_regex", "unused_openapi_auth",
        ]

        [auth.openapi.adminToken]
        bearer = "{token}"

        [auth.openapi.ingestKey]
        bearer = "{API_KEY}"

        [dictionaries.jobs]
        values = ["failed", "a/b", "none"]

        [dictionaries.moments]
        values = ["0", "1", "1.1", "2026-02-27T10:30:02Z", "2100-01-01T00:00:00.5+01:00"]

        # A read waits for a position that the log does not have yet, and then it is 503, as documented.
        [parameters]
        "query.atLeast" = "1"
        "query.asOf" = {{ dictionary = "moments", probability = 1.0 }}
        "query.maxStaleness" = "60000"

        # A text is a cursor only if it was given as one, and in the order that it was given in.
        [[operations]]
        include-operation-id = "listJobs"
        parameters = {{ "query.cursor" = "{cursor}", "query.sortBy" = "createdAt" }}

        # It takes a parameter that it leaves out of the request itself for one that was sent.
        [[operations]]
        include-operation-id = "listFailures"
        checks = {{ negative_data_rejection = {{ enabled = false }} }}

        [[operations]]
        include-operation-id = ["getJob", "listJobEvents"]
        parameters = {{ "path.id" = {{ dictionary = "jobs", probability = 0.5 }} }}

        # The views that served before a rebuild can be gone back to only once they are closed; until then it is 503.
        [[operations]]
        include-operation-id = "beginRebuild"
        checks = {{ not_a_server_error = {{ expected-statuses = ["2xx", "4xx", "503"] }} }}

        # Which texts are URLs of which brokers is beyond a schema.
        [[operations]]
        include-operation-id = "addSource"
        checks = {{ positive_data_acceptance = {{ enabled = false }} }}

        # A bad event is named in the answer, and never refuses its batch.
        [[operations]]
        include-operation-id = "ingest"
        checks = {{ negative_data_rejection = {{ enabled = false }} }}
        "#,
        token = forebay.api.token(),
    )
}

fn event(external_id: &str, state: &str, more: &Value) -> Value {
    let mut job = json!({ "externalId": external_id, "name": "app.tasks.send_email", "state": state });
    job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "type": "job_state_change", "timestamp": "2026-02-27T10:30:02Z", "framework": "celery",
        "connectionId": CONNECTION.to_string(), "job": job,
    })
}

#[test]
fn whatever_is_asked_is_answered_as_the_document_says() {
    // It tries what shows nothing, or something wrong, more often than anybody should.
    let arguments = vec!["--max-wrong-keys".to_owned(), "off".to_owned()];
    let mut forebay = Forebay::start(Options { arguments, ..Options::default() });
    let events = [
        event("failed", "active", &json!({ "workerId": "celery@worker-1", "queue": "high", "tags": { "team": "a" } })),
        event("failed", "failed", &json!({ "error": "KeyError('x')", "args": [1, null] })),
        event("a/b", "queued", &json!({})),
        event("waiting", "scheduled", &json!({ "scheduledFor": "2026-02-28T10:30:02Z" })),
    ];
    let sequence = forebay.api.ingest(&events).unwrap().body["sequence"].as_u64().unwrap();
    let page = forebay.api.get(&format!("/api/jobs?limit=1&atLeast={sequence}")).body;
    let cursor = page["pagination"]["nextCursor"].as_str().unwrap();

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("settings.toml"), settings(&forebay, cursor)).unwrap();
    let mut command = Command::new(tool("venv-schemathesis/bin/schemathesis"));
    command.current_dir(dir.path()).args(["--config-file", "settings.toml", "run"]);
    command.arg(format!("http://{}/api/openapi.json", forebay.api.address()));
    command.args(["--phases", "coverage,fuzzing", "--generation-database", "none", "--no-color"]);
    command.args(["--seed", &SEED.to_string(), "--max-examples", &EXAMPLES.to_string()]);
    for operation in EXCLUDED {
        command.args(["--exclude-operation-id", operation]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));

    let document = forebay.api.get("/api/openapi.json").body;
    let described: usize =
        document["paths"].as_object().unwrap().values().map(|it| it.as_object().unwrap().len()).sum();
    // It leaves out where it read the document.
    let tried = described - EXCLUDED.len() - 1;
    assert!(said.contains(&format!("Tested: {tried}\n")), "of {described}: {said}");
    forebay.wait_until_well();
    assert!(forebay.api.job("failed").is_some_and(|job| job["state"] == "failed"), "and nothing has come of it");
}
