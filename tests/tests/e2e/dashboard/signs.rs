//! What may be wrong with jobs, tasks and the hearing itself, and who is told.

use forebay_tests::{Forebay, Options, PASSWORD, Redis, Shop, WEBHOOK_SECRET, Webhook};
use serde_json::json;

use super::{chromium, scenario, succeeds};

#[test]
fn what_may_be_wrong_is_shown_with_what_proves_it_and_taken_back() {
    let (mut redis, webhook, files) = (Redis::start(), Webhook::start(), tempfile::tempdir().unwrap());
    // Nobody listens at the second one.
    let rules = format!(
        "[alerts]\nevery = '200ms'\n\
         [alerts.webhook.ops]\nurl = '{}'\nsecret = '{WEBHOOK_SECRET}'\n\
         [alerts.webhook.away]\nurl = 'http://127.0.0.1:9/hook'\n\
         [[alerts.rule]]\nname = 'jobs-lost'\nkind = 'lost'\ntask = 'shop.*'\nto = ['ops']\n\
         [[alerts.rule]]\nname = 'mail-waits'\nkind = 'oldest-queued'\nqueue = 'mail'\ntrigger = '10m'\nto = ['away']\n\
         [[alerts.rule]]\nname = 'disk-full'\nkind = 'disk'\ntrigger = 0.999\nfor = '1m'\nto = ['ops', 'away']\n\
         [[alerts.rule]]\nname = 'payments-fail'\nkind = 'failure-rate'\ntask = 'shop.pay'\ntrigger = '20%'\n",
        webhook.url()
    );
    let file = files.path().join("forebay.toml");
    std::fs::write(&file, rules).unwrap();
    let mut options = Options::celery(&[redis.url(0)]);
    options.arguments.extend(["--config".to_owned(), file.to_str().unwrap().to_owned()]);
    // Whatever proxy there is, the receivers are on this machine.
    options.environment.push(("NO_PROXY", "127.0.0.1".to_owned()));
    let mut forebay = Forebay::start(options);
    redis.stop();
    forebay.wait_until("notice that its broker is away", |health| health["sources"][0]["state"] == "down");
    redis.restart();
    forebay.wait_until_well();

    let (shop, dir, browser) = (Shop::new(redis.url(0)), tempfile::tempdir().unwrap(), chromium());
    let arguments = [forebay.api.token(), browser.to_str().unwrap()];
    succeeds(scenario("signs.py", &forebay, &shop, PASSWORD, &arguments, &dir.path().join("log")));

    let told: Vec<_> = webhook.received().iter().map(|notice| notice.body["event"].clone()).collect();
    assert_eq!(told, [json!("fired"), json!("test"), json!("resolved")], "what the page showed was so");
}
