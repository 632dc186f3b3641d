//! Alerts against a real receiver of webhooks: told once, over once, whatever is killed, emptied or made anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use forebay_tests::{Forebay, Options, Received, WEBHOOK_SECRET, Webhook, wait_for};
use proto_events::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A server with one rule, and the receiver that it tells.
struct Watched {
    forebay: Forebay,
    webhook: Webhook,
    files: TempDir,
    jobs: u64,
}

/// A rule that jobs fail, looked at several times a second.
fn rules(webhook: &Webhook) -> String {
    format!(
        "[alerts]\nevery = '200ms'\n\
         [alerts.webhook.ops]\nurl = '{}'\nsecret = '{WEBHOOK_SECRET}'\n\
         [[alerts.rule]]\nname = 'pay-fails'\nkind = 'failure-rate'\ntask = 'shop.*'\nwindow = '1h'\nmin-jobs = 5\n\
         trigger = '50%'\nresolve = 0.2\ncooldown = '0s'\nto = ['ops']\n",
        webhook.url()
    )
}

impl Watched {
    fn start() -> Self {
        let (webhook, files) = (Webhook::start(), tempfile::tempdir().unwrap());
        let file = files.path().join("forebay.toml");
        fs::write(&file, rules(&webhook)).unwrap();
        let arguments = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
        let mut environment = vec![("FOREBAY_FAILPOINTS", armed(files.path()).to_str().unwrap().to_owned())];
        // Whatever proxy there is, the receiver is on this machine.
        environment.push(("NO_PROXY", "127.0.0.1".to_owned()));
        let forebay = Forebay::start(Options { arguments, environment, ..Options::default() });
        Self { forebay, webhook, files, jobs: 0 }
    }

    /// So many jobs that end so just now.
    fn end(&mut self, jobs: u64, state: &str) {
        let events: Vec<Value> = (0..jobs)
            .map(|job| {
                json!({
                    "type": "job.state_change", "timestamp": now().to_millis_text(), "framework": "celery",
                    "job": { "externalId": format!("job-{}", self.jobs + job), "name": "shop.pay", "state": state },
                })
            })
            .collect();
        self.jobs += jobs;
        assert_eq!(self.forebay.api.ingest(&events).unwrap().status, 202);
    }

    fn alerts(&self) -> Option<Value> {
        let answer = self.forebay.answering()?.try_get("/api/alerts")?;
        (answer.status == 200).then_some(answer.body)
    }

    /// Waits until the rule was measured after this moment, often enough that whatever it had to tell it has told.
    fn wait_until_measured(&self) -> Value {
        let mut seen: Vec<Value> = Vec::new();
        let begin = now();
        wait_for("the rule to be measured", 60, || {
            let rule = self.alerts()?["rules"][0].take();
            let at = Timestamp::parse(rule["measuredAt"].as_str()?)?;
            if at > begin && rule["value"].is_number() && seen.last().is_none_or(|last| *last != rule["measuredAt"]) {
                seen.push(rule["measuredAt"].clone());
            }
            (seen.len() >= 4).then_some(rule)
        })
    }

    /// Waits until so many notices came, and gives their events; more must not come.
    fn told(&self, notices: usize) -> Vec<String> {
        wait_for(&format!("{notices} notices"), 60, || (self.webhook.received().len() >= notices).then_some(()));
        self.wait_until_measured();
        let events: Vec<String> = self.webhook.received().iter().map(event).collect();
        assert_eq!(events.len(), notices, "{events:?}");
        events
    }
}

fn event(received: &Received) -> String {
    received.body["event"].as_str().unwrap_or("-").to_owned()
}

fn armed(files: &Path) -> PathBuf {
    files.join("armed")
}

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64)
}

#[test]
fn an_alert_fires_once_and_resolves_once_whatever_is_killed_rebuilt_or_replayed() {
    let mut watched = Watched::start();
    watched.end(4, "failed");
    // Too few jobs say nothing.
    watched.end(1, "completed");
    watched.end(5, "failed");
    assert_eq!(watched.told(1), ["fired"]);
    let fired = watched.webhook.received().remove(0);
    assert_eq!((fired.signed, fired.path.as_str()), (Some(true), "/services/T0KEN"));
    assert_eq!(fired.delivery, fired.body["id"], "what a receiver can tell repeats by");
    let incident = &fired.body["incident"];
    assert_eq!((&incident["rule"], &incident["subjects"][0]["name"]), (&json!("pay-fails"), &json!("shop.pay")));
    assert_eq!(incident["value"], json!(0.9));

    watched.forebay.crash_and_restart();
    watched.end(5, "failed");
    assert_eq!(watched.wait_until_measured()["state"], "firing");
    let rebuilt = watched.forebay.command(&["rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    watched.told(1);
    // Read again from its beginning, the log tells nobody anything.
    replay(&mut watched);
    watched.told(1);

    // Between the limits nothing happens; the time between is not that of an end.
    watched.end(15, "completed");
    let between = watched.wait_until_measured();
    assert!(between["value"].as_f64().is_some_and(|value| (0.2..0.5).contains(&value)), "{between}");
    watched.told(1);
    watched.end(100, "completed");
    assert_eq!(watched.told(2), ["fired", "resolved"]);
    let resolved = watched.webhook.received().remove(1);
    assert_eq!(resolved.body["incident"]["id"], incident["id"]);
    assert_ne!(resolved.delivery, fired.delivery);

    // On its way a replay goes through all that once fired.
    replay(&mut watched);
    let rebuilt = watched.forebay.command(&["rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    watched.told(2);
    let alerts = watched.alerts().unwrap();
    assert_eq!((&alerts["rules"][0]["state"], &alerts["incidents"][0]["why"]), (&json!("quiet"), &json!("resolved")));
    assert_eq!(alerts["deliveries"].as_array().unwrap().len(), 2);
    let listed = watched.forebay.command(&["alerts"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("pay-fails") && listed.contains("quiet") && listed.contains("shop.pay"), "{listed}");
    assert!(!alerts.to_string().contains("T0KEN") && !watched.forebay.process().log().contains("T0KEN"));
    assert!(!fs::read_to_string(watched.forebay.dir().join("alerts.json")).unwrap().contains("T0KEN"));

    // What begins again is another incident.
    watched.end(400, "failed");
    assert_eq!(watched.told(3), ["fired", "resolved", "fired"]);
    assert_ne!(watched.webhook.received()[2].body["incident"]["id"], incident["id"]);
}

/// Empties the views, so that they are made anew from the whole log.
fn replay(watched: &mut Watched) {
    watched.forebay.stop();
    fs::remove_dir_all(watched.forebay.dir().join("views")).unwrap();
    watched.forebay.restart();
}

#[test]
fn a_notice_arrives_in_its_order_and_under_one_id_whatever_its_receiver_does() {
    let mut watched = Watched::start();
    watched.webhook.answer_with(&[500, 302]);
    watched.end(10, "failed");
    assert_eq!(watched.told(3), ["fired", "fired", "fired"]);
    let received = watched.webhook.received();
    assert_eq!(received.iter().map(|notice| notice.status).collect::<Vec<_>>(), [500, 302, 200]);
    assert!(received.iter().all(|notice| notice.delivery == received[0].delivery && notice.signed == Some(true)));
    let deliveries = watched.alerts().unwrap()["deliveries"].take();
    assert_eq!((&deliveries[0]["state"], &deliveries[0]["attempts"]), (&json!("delivered"), &json!(3)));

    // The receiver is down while the incident ends and the next one begins; then we are killed.
    let port = watched.webhook.port();
    let webhook = std::mem::replace(&mut watched.webhook, Webhook::start());
    drop(webhook);
    watched.end(100, "completed");
    wait_for("the end to be told in vain", 60, || {
        let notice = watched.alerts()?["deliveries"][0].take();
        (notice["event"] == "resolved" && notice["lastError"].is_string()).then_some(())
    });
    watched.end(400, "failed");
    wait_for("two notices to wait", 60, || (watched.alerts()?["webhooks"][0]["waiting"] == 2).then_some(()));
    let said = watched.forebay.command(&["alerts", "test", "pay-fails"]);
    assert!(!said.status.success() && String::from_utf8_lossy(&said.stdout).contains("not delivered"), "{said:?}");
    let listed = watched.forebay.command(&["alerts"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("waits after"), "{listed:?}");
    watched.forebay.kill();
    watched.webhook = Webhook::start_at(port);
    watched.forebay.restart();
    assert_eq!(watched.told(2), ["resolved", "fired"]);

    let said = watched.forebay.command(&["alerts", "test", "ops"]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(watched.told(3), ["resolved", "fired", "test"]);
    assert!(!watched.forebay.command(&["alerts", "test", "nobody"]).status.success());
    assert!(!watched.forebay.process().log().contains("T0KEN"));
}

#[test]
fn a_crash_at_any_step_of_a_notice_loses_none_and_a_repeat_can_be_told() {
    for (point, times) in [("alerts.kept", 1), ("alerts.sent", 2)] {
        let mut watched = Watched::start();
        fs::write(armed(watched.files.path()), format!("{point} 1 0")).unwrap();
        watched.end(10, "failed");
        wait_for("the server to die", 60, || watched.forebay.ended());
        fs::remove_file(armed(watched.files.path())).unwrap();
        let before = watched.webhook.received().len();
        assert!(before < times || point == "alerts.kept", "{point}: {before}");
        watched.forebay.restart();
        wait_for("the notice", 60, || (watched.webhook.received().len() >= times).then_some(()));
        watched.wait_until_measured();
        let received = watched.webhook.received();
        assert!(received.iter().all(|notice| event(notice) == "fired"), "{point}: {received:?}");
        assert!(received.iter().all(|notice| notice.delivery == received[0].delivery), "{point}: {received:?}");
        let alerts = watched.alerts().unwrap();
        assert_eq!(alerts["deliveries"][0]["state"], "delivered", "{point}: {alerts}");
        assert_eq!(alerts["rules"][0]["incident"]["id"], received[0].body["incident"]["id"], "{point}");
    }
}

/// The certificate of an authority, and one that it gave to this machine, with its key.
fn certificates() -> (String, String, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    (authority.pem(), params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
}

#[test]
fn a_webhook_gets_what_its_format_says_and_over_tls_only_who_can_be_trusted() {
    let (ours, strange) = (certificates(), certificates());
    let (trusted, stranger) = (Webhook::start_tls(&ours.1, &ours.2), Webhook::start_tls(&strange.1, &strange.2));
    let (chat, files) = (Webhook::start(), tempfile::tempdir().unwrap());
    let (file, authority) = (files.path().join("forebay.toml"), files.path().join("ca.pem"));
    fs::write(&authority, ours.0).unwrap();
    let webhooks = format!(
        "[alerts.webhook.trusted]\nurl = '{}'\nsecret = '{WEBHOOK_SECRET}'\n[alerts.webhook.stranger]\nurl = '{}'\n\
         [alerts.webhook.chat]\nurl = '{}'\nformat = 'slack'\n\
         [[alerts.rule]]\nname = 'full'\nkind = 'disk'\ntrigger = 1\nto = ['chat', 'trusted']\n",
        trusted.url(),
        stranger.url(),
        chat.url()
    );
    fs::write(&file, webhooks).unwrap();
    let arguments = vec!["--config".to_owned(), file.to_str().unwrap().to_owned()];
    let environment =
        vec![("SSL_CERT_FILE", authority.to_str().unwrap().to_owned()), ("NO_PROXY", "127.0.0.1".to_owned())];
    let forebay = Forebay::start(Options { arguments, environment, ..Options::default() });
    let tested = forebay.command(&["alerts", "test", "full"]);
    assert!(tested.status.success(), "{tested:?}");
    let notice = trusted.received().remove(0);
    assert_eq!((notice.signed, &notice.body["event"]), (Some(true), &json!("test")));
    let notice = chat.received().remove(0);
    assert_eq!((notice.signed, notice.body.as_object().unwrap().len()), (None, 1));
    assert!(notice.body["text"].as_str().unwrap().starts_with("full: this is a test"), "{}", notice.body);
    let refused = forebay.command(&["alerts", "test", "stranger", "--json"]);
    let told = String::from_utf8_lossy(&refused.stdout);
    assert!(!refused.status.success() && told.contains("no TLS") && !told.contains("T0KEN"), "{told}");
    assert!(stranger.received().is_empty());
}
