//! A log that is not the one that the views were made from: told, marked, and put right as a person says, on the oldest
//! and on the newest nats-server.

use std::fs;
use std::path::Path;

use event_log::EventLog;
use event_log::testing::{TestServer, nats_server, old_nats_server};
use proto_events::{Event, EventType, Framework, Job, JobState, Timestamp};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{CONNECTION, JOB, KEY, Server, complaint, printed, run, text, until};

const VARIABLES: [(&str, &str); 2] = [("FOREBAY_API_KEY", KEY), ("FOREBAY_CONNECTION_ID", CONNECTION)];

/// A server whose log is kept by this one.
fn launch(nats: &TestServer, dir: &Path) -> Server {
    Server::launch(dir, &["--nats-url", &format!("nats://{}", nats.address())], &VARIABLES)
}

fn until_well(server: &Server) {
    server.until_health(|status, health| {
        status == 200 && health["status"] == "ok" && health["log"]["identity"] == "same"
    });
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Does something with the log itself.
fn with_log<T>(nats: &TestServer, work: impl AsyncFnOnce(&EventLog) -> T) -> T {
    Runtime::new().unwrap().block_on(async { work(&EventLog::open(nats.config()).await.unwrap()).await })
}

/// Puts a job into the log, as any publisher may.
async fn append(log: &EventLog, job: &str) -> u64 {
    let event = Event::job(Timestamp(1), Framework::Celery, Job::new(job, JobState::Queued));
    let payload = proto_events::encode(&[event]).into();
    log.append(CONNECTION.parse().unwrap(), payload).await.unwrap().sequence
}

/// More than new views may lack when they are compared.
fn append_many(nats: &TestServer) {
    with_log(nats, async |log| {
        let mut last = 0;
        for job in 0..600 {
            last = append(log, &format!("old-{job}")).await;
        }
        last
    });
}

fn get(server: &Server, path: &str) -> (u16, Option<String>, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
    let request = ureq::http::Request::builder().uri(format!("http://{}{path}", server.address));
    let request = request.header("authorization", format!("Bearer {}", server.token())).body(()).unwrap();
    let mut response = agent.run(request).unwrap();
    let stale = response.headers().get("forebay-stale").map(|value| value.to_str().unwrap().to_owned());
    let body = response.body_mut().read_to_vec().unwrap();
    (response.status().as_u16(), stale, serde_json::from_slice(&body).unwrap())
}

/// The old views answer and say so, nothing is applied, and the new ones serve when a person says so and not before.
fn replaced_by_hand(nats: &TestServer, dir: &Path, identity: &str, header: &str) {
    let server = launch(nats, dir);
    server.until_health(|status, health| {
        let told = (&health["reason"], &health["log"]["identity"], &health["projector"]["phase"]);
        let fenced = status == 503 && told == (&json!("LOG_CHANGED"), &json!(identity), &json!("fenced"));
        fenced && health["message"].as_str().unwrap().contains("`forebay rebuild`")
    });
    assert!(server.rest.iter().any(|line| line.contains("no longer applied") && line.contains("ERROR")));
    let (status, stale, record) = get(&server, &format!("/api/jobs/{JOB}"));
    assert_eq!((status, stale.as_deref(), &record["state"]), (200, Some(header), &json!("failed")));
    let (_, _, list) = get(&server, "/api/jobs");
    with_log(nats, async |log| append(log, "unseen").await);
    let compared = run(dir, &["verify"]);
    assert_eq!(compared.status.code(), Some(2), "nothing is compared with another log: {}", text(&compared.stdout));
    assert!(text(&compared.stderr).contains("`forebay rebuild`"), "{}", text(&compared.stderr));

    let rebuilt = run(dir, &["rebuild"]);
    let said = text(&rebuilt.stdout);
    assert_eq!(rebuilt.status.code(), Some(1), "{said}");
    assert!(said.contains("waits to be promoted by hand"), "{said}");
    let id = said.split("--promote ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(get(&server, "/api/jobs").2["data"], list["data"], "nothing is replaced");
    assert!(complaint(&run(dir, &["rebuild"])).contains("under way"));

    // It waits again after a crash, under the same id, and the old views still answer.
    server.kill();
    let server = launch(nats, dir);
    server.until_health(|_, health| health["reason"] == "LOG_CHANGED");
    until("the rebuild waits again", || {
        let told = get(&server, &format!("/api/rebuilds/{id}")).2;
        told["state"] == "verifying" && told["reason"].as_str().is_some_and(|reason| reason.contains("by hand"))
    });
    assert_eq!(get(&server, "/api/jobs").2["data"], list["data"], "nothing is replaced");

    assert!(printed(&run(dir, &["rebuild", "--promote", &id])).contains("rebuilt"));
    until_well(&server);
    let (status, stale, list) = get(&server, "/api/jobs");
    assert_eq!((status, stale), (200, None));
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|job| job["externalId"].clone()).collect();
    assert!(ids.contains(&json!("unseen")) && !ids.contains(&json!("lost")), "{ids:?}");
    let next = with_log(nats, async |log| append(log, "next").await);
    assert_eq!(get(&server, &format!("/api/jobs/next?atLeast={next}")).0, 200, "it follows the log that is there");
    assert!(printed(&run(dir, &["verify"])).contains("equal"));
    server.stop();
}

#[test]
fn views_of_a_log_that_was_made_anew_are_stale_until_a_person_promotes_others() {
    for binary in [nats_server(), old_nats_server()] {
        let (mut nats, dir) = (TestServer::with(binary, ""), tempfile::tempdir().unwrap());
        let server = launch(&nats, dir.path());
        until_well(&server);
        server.ingest(KEY);
        append_many(&nats);
        server.stop();
        nats.stop();
        fs::remove_dir_all(nats.store()).unwrap();
        nats.restart();
        // Fewer messages than the views have applied of the other log.
        with_log(&nats, async |log| {
            for job in ["other-1", "other-2", "other-3", "other-4"] {
                append(log, job).await;
            }
        });
        replaced_by_hand(&nats, dir.path(), "recreated", "log-recreated");
    }
}

#[test]
fn views_of_a_log_that_was_rolled_back_are_stale_until_a_person_promotes_others() {
    for binary in [nats_server(), old_nats_server()] {
        let (mut nats, dir) = (TestServer::with(binary, ""), tempfile::tempdir().unwrap());
        let server = launch(&nats, dir.path());
        until_well(&server);
        server.stop();
        nats.stop();
        copy(&nats.store(), &nats.dir().join("copy"));
        nats.restart();
        let server = launch(&nats, dir.path());
        until_well(&server);
        server.ingest(KEY);
        append_many(&nats);
        let lost = with_log(&nats, async |log| append(log, "lost").await);
        assert_eq!(get(&server, &format!("/api/jobs/lost?atLeast={lost}")).0, 200);
        server.stop();
        nats.stop();
        fs::remove_dir_all(nats.store()).unwrap();
        copy(&nats.dir().join("copy"), &nats.store());
        nats.restart();
        replaced_by_hand(&nats, dir.path(), "rolled_back", "log-rolled-back");
    }
}

#[test]
fn a_log_that_is_deleted_while_it_is_followed_is_told() {
    for binary in [nats_server(), old_nats_server()] {
        let (nats, dir) = (TestServer::with(binary, ""), tempfile::tempdir().unwrap());
        let server = launch(&nats, dir.path());
        until_well(&server);
        server.ingest(KEY);
        with_log(&nats, async |log| log.jetstream().delete_stream("FOREBAY_JOBS").await.map(|_| ()).unwrap());
        server.until_health(|status, health| {
            status == 503 && health["reason"] == "LOG_CHANGED" && health["log"]["identity"] == "missing"
        });
        let (status, stale, record) = get(&server, &format!("/api/jobs/{JOB}"));
        assert_eq!((status, stale.as_deref(), &record["state"]), (200, Some("log-missing"), &json!("failed")));
        server.stop();
        // The next start makes one anew, which is not the one that the views know.
        let server = launch(&nats, dir.path());
        server.until_health(|_, health| health["log"]["identity"] == "recreated");
        assert_eq!(get(&server, &format!("/api/jobs/{JOB}")).2["state"], "failed");
    }
}

#[test]
fn what_the_log_dropped_before_it_was_applied_is_told_until_the_views_are_made_anew() {
    for binary in [nats_server(), old_nats_server()] {
        let (nats, dir) = (TestServer::with(binary, ""), tempfile::tempdir().unwrap());
        let server = launch(&nats, dir.path());
        until_well(&server);
        server.ingest(KEY);
        server.stop();
        let first = with_log(&nats, async |log| {
            for number in 0..5 {
                append(log, &format!("dropped-{number}")).await;
            }
            let first = append(log, "kept").await;
            log.purge_before(first).await.unwrap();
            first
        });
        for _ in 0..2 {
            // A restart does not bring them back.
            let server = launch(&nats, dir.path());
            server.until_health(|status, health| {
                let told = (&health["status"], &health["reason"], &health["projector"]["trimmedTo"]);
                status == 200 && told == (&json!("degraded"), &json!("LOG_TRIMMED"), &json!(first))
            });
            server.until_health(|_, health| health["log"]["identity"] == "trimmed");
            assert!(server.rest.iter().any(|line| line.contains("WARN") && line.contains("the views lack them")));
            assert_eq!(get(&server, "/api/jobs/kept").2["state"], "queued");
            server.kill();
        }
        let server = launch(&nats, dir.path());
        server.until_health(|_, health| health["reason"] == "LOG_TRIMMED");
        assert!(printed(&run(dir.path(), &["rebuild"])).contains("rebuilt: 1 jobs"));
        until_well(&server);
        server.stop();
        let server = launch(&nats, dir.path());
        until_well(&server);
    }
}

#[test]
fn an_export_that_cannot_be_continued_without_a_hole_is_refused() {
    let (nats, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let server = launch(&nats, dir.path());
    until_well(&server);
    with_log(&nats, async |log| {
        for number in 0..40 {
            append(log, &format!("job-{number}")).await;
        }
    });
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let whole = file("whole.jsonl");
    printed(&run(dir.path(), &["export", &whole]));
    let text = fs::read_to_string(&whole).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    // The header and twenty messages, as if the rest had not come.
    let begun = lines[..21].concat();
    let last: Value = serde_json::from_str(lines[20]).unwrap();
    let last = last["sequence"].as_u64().unwrap();
    let go_on = |name: &str, first: u64| {
        fs::write(file(name) + ".part", &begun).unwrap();
        with_log(&nats, async |log| log.purge_before(first).await.unwrap());
        run(dir.path(), &["export", &file(name)])
    };
    assert!(printed(&go_on("goes-on.jsonl", last + 1)).contains("exported"), "nothing is missing");
    assert_eq!(fs::read_to_string(file("goes-on.jsonl")).unwrap(), text);
    let refused = complaint(&go_on("refused.jsonl", last + 2));
    assert!(refused.contains("the log has forgotten messages that it lacks: remove it"), "{refused}");
    assert_eq!(fs::read_to_string(file("refused.jsonl.part")).unwrap(), begun, "what there is stays");
    assert!(!Path::new(&file("refused.jsonl")).exists());
    server.stop();
}

#[test]
fn clock_ticks_arrive_in_the_log_and_change_no_record() {
    let (nats, dir) = (TestServer::start(), tempfile::tempdir().unwrap());
    let server = launch(&nats, dir.path());
    until_well(&server);
    server.ingest(KEY);
    let shown = || (get(&server, &format!("/api/jobs/{JOB}")).2, get(&server, "/api/jobs").2["data"].clone());
    let (before, mut ticks) = (shown(), 0);
    let next = with_log(&nats, async |log| log.info().await.unwrap().last_sequence) + 1;
    with_log(&nats, async |log| {
        let mut reader = log.reader(next - 1);
        while ticks < 2 {
            for message in tokio::time::timeout(super::DEADLINE, reader.next()).await.unwrap().unwrap().messages {
                let events = proto_events::decode(&message.payload).unwrap();
                let is_tick = |event: &Event| event.kind == EventType::ClockTick && event.job.is_none();
                assert!(events.iter().all(|event| event.as_ref().is_ok_and(is_tick)), "nothing else was sent");
                ticks += events.len();
            }
        }
    });
    assert_eq!(get(&server, &format!("/api/jobs?atLeast={}", next + 1)).0, 200, "they are applied");
    assert_eq!(shown(), before);
    let (_, _, health) = get(&server, "/api/health");
    assert_eq!((&health["projector"]["quarantined"], &health["status"]), (&json!(0), &json!("ok")));
    assert!(printed(&run(dir.path(), &["verify"])).contains("equal: 1 jobs"));
}
