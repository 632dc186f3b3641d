//! Below a path, behind a proxy, and for who is no admin.

use forebay_tests::{API_KEY, Forebay, Nginx, Options, PASSWORD, Redis, Shop};

use super::{chromium, scenario, succeeds};
use crate::door::provider::{Provider, free_port};

#[test]
fn below_a_path_behind_either_proxy_all_of_it_works_and_a_reader_changes_nothing() {
    let (provider, keeps, strips) = (Provider::start(), free_port(), free_port());
    let [kept, stripped] = [keeps, strips].map(|port| format!("http://127.0.0.1:{port}/forebay"));
    let arguments = [
        ["--public-url", &kept],
        ["--trusted-proxy", "127.0.0.1"],
        ["--oidc-issuer", &provider.address],
        ["--oidc-client-id", "forebay"],
        ["--oidc-allow", "@example.com"],
        ["--oidc-admins", "bob@example.com"],
    ];
    let arguments = arguments.as_flattened().iter().map(|argument| (*argument).to_owned()).collect();
    let environment = vec![("FOREBAY_OIDC_CLIENT_SECRET", "secret".to_owned())];
    let forebay = Forebay::start(Options { arguments, environment, ..Options::default() });
    let _nginx = Nginx::start(forebay.api.address(), "/forebay", keeps, strips);
    let link = forebay.command(&["link"]);
    let link = String::from_utf8(link.stdout).unwrap();
    // No broker is asked for anything.
    let (redis, dir, browser) = (Redis::start(), tempfile::tempdir().unwrap(), chromium());
    let shop = Shop::new(redis.url(0));
    let arguments =
        [forebay.api.token(), API_KEY, browser.to_str().unwrap(), &kept, &stripped, link.trim(), &provider.address];
    succeeds(scenario("proxied.py", &forebay, &shop, PASSWORD, &arguments, &dir.path().join("log")));
}
