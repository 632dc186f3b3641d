//! What an operator writes to name a broker.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

use proptest::prelude::*;
use sources::amqp::QueueKind;
use sources::redis::RedisUrl;
use sources::{BrokerUrl, SpecError, parse_source, parse_sources};

fn redis(url: &BrokerUrl) -> &RedisUrl {
    let BrokerUrl::Redis(url) = url else { panic!("{url} is Redis'") };
    url
}

#[test]
fn the_url_says_where_which_database_and_which_channels() {
    let cases = [
        ("redis://", "redis://localhost:6379/0", "/0.celeryev/*"),
        ("redis://h", "redis://h:6379/0", "/0.celeryev/*"),
        ("redis://h:1/3", "redis://h:1/3", "/3.celeryev/*"),
        ("redis:///2", "redis://localhost:6379/2", "/2.celeryev/*"),
        ("rediss://h:1/0?ssl_cert_reqs=CERT_NONE", "rediss://h:1/0", "/0.celeryev/*"),
        ("redis://[::1]:7/1", "redis://[::1]:7/1", "/1.celeryev/*"),
        ("redis://h/1?global_keyprefix=pfx", "redis://h:6379/1", "pfx/1.celeryev/*"),
        ("redis://h/1?global_keyprefix=a%2A%5Bb%5D", "redis://h:6379/1", r"a\*\[b\]/1.celeryev/*"),
        ("redis://h/1?channels=celeryev/*", "redis://h:6379/1", "celeryev/*"),
        ("redis://h/1?fanout_prefix=False", "redis://h:6379/1", "celeryev/*"),
        ("redis://h/1?fanout_prefix=x%7Bdb%7D.&global_keyprefix=p", "redis://h:6379/1", "px1.celeryev/*"),
        ("redis://h/1?fanout_patterns=false&event_exchange=e", "redis://h:6379/1", "/1.e"),
        (
            "sentinel://h;sentinel://:pw@i:5/2?master_name=m",
            "sentinel://:***@h:26379;i:5/2?master_name=m",
            "/2.celeryev/*",
        ),
        (
            "redis+socket:///run/redis.sock?virtual_host=4",
            "redis+socket:///run/redis.sock?virtual_host=4",
            "/4.celeryev/*",
        ),
    ];
    for (spec, shown, channels) in cases {
        let source = parse_source(spec).unwrap();
        assert_eq!(
            (source.name, source.url.masked(), redis(&source.url).channels()),
            (None, shown, channels),
            "{spec}"
        );
    }
}

/// As kombu reads it: only the slash after the host is no part of the virtual host's name, and none is the usual one.
#[test]
fn a_rabbitmq_url_says_which_virtual_host_which_exchange_and_which_queue() {
    for (spec, shown, vhost) in [
        ("amqp://", "amqp://localhost:5672//", "/"),
        ("amqp://h", "amqp://h:5672//", "/"),
        ("amqp://h/", "amqp://h:5672//", "/"),
        ("amqp://h//", "amqp://h:5672//", "/"),
        ("pyamqp://h:1/shop", "pyamqp://h:1/shop", "shop"),
        ("amqps://h//shop", "amqps://h:5671//shop", "/shop"),
        ("amqp://h/%2Fshop", "amqp://h:5672//shop", "/shop"),
        ("amqp://h/a%20b?heartbeat=5", "amqp://h:5672/a b", "a b"),
        ("amqp://u@/v", "amqp://u@localhost:5672/v", "v"),
        ("librabbitmq://[::1]/v", "librabbitmq://[::1]:5672/v", "v"),
        ("amqp://a/v;amqp://b:7/v;", "amqp://a:5672/v;amqp://b:7/v", "v"),
    ] {
        let source = parse_source(spec).unwrap();
        let BrokerUrl::Amqp(url) = &source.url else { panic!("{spec} is RabbitMQ's") };
        assert_eq!((source.url.masked(), url.virtual_host(), url.exchange()), (shown, vhost, "celeryev"), "{spec}");
        assert_eq!(url.queue_kind(), QueueKind::Quorum);
    }
    let named = parse_source("shop=amqp://h/v?event_exchange=ev&queue_type=classic").unwrap();
    assert_eq!(named.name.as_deref(), Some("shop"));
    let BrokerUrl::Amqp(url) = &named.url else { panic!("it is RabbitMQ's") };
    assert_eq!((url.exchange(), url.queue_kind()), ("ev", QueueKind::Classic));
}

#[test]
fn a_name_before_the_url_names_the_connection() {
    let named = parse_source(" billing-eu.1=redis://h/0?global_keyprefix=a=b ").unwrap();
    assert_eq!(named.name.as_deref(), Some("billing-eu.1"));
    assert_eq!(redis(&named.url).channels(), "a=b/0.celeryev/*");
    assert_eq!(parse_source("redis://h/0?a=b").unwrap().name, None);
    for name in ["", "-a", "a b", "a/b", "ä", &"x".repeat(64)] {
        assert_eq!(parse_source(&format!("{name}=redis://h")).unwrap_err(), SpecError::Name, "{name}");
    }
}

#[test]
fn several_are_separated_by_commas_spaces_and_lines() {
    let sources = parse_sources("a=redis://h/1, redis://i\n\tb=rediss://j:7/2\n").unwrap();
    let shown: Vec<_> = sources.iter().map(|source| (source.name.as_deref(), source.url.masked())).collect();
    let expected = [(Some("a"), "redis://h:6379/1"), (None, "redis://i:6379/0"), (Some("b"), "rediss://j:7/2")];
    assert_eq!(shown, expected);
    assert!(parse_sources(" ,\n").unwrap().is_empty());
}

#[test]
fn no_password_is_ever_shown() {
    for (spec, masked) in [
        ("redis://:s3cret@h/0", "redis://:***@h:6379/0"),
        ("redis://us%40er:s3c%2Fret@h/0?password=s3cret", "redis://us%40er:***@h:6379/0"),
        (
            "sentinel://u:s3cret@h/0;sentinel://i?master_name=m&sentinel_password=s3cret",
            "sentinel://u:***@h:26379;i:26379/0?master_name=m",
        ),
        ("redis+socket://:s3cret@/run/r.sock", "redis+socket://:***@/run/r.sock?virtual_host=0"),
        ("amqp://us%40er:s3c%2Fret@h//?password=s3cret", "amqp://us%40er:***@h:5672//"),
        ("amqp://:s3cret@h;amqp://u:s3cret@i", "amqp://:***@h:5672//;amqp://u:***@i:5672//"),
    ] {
        let source = parse_source(spec).unwrap();
        assert_eq!(source.url.to_string(), masked);
        let debug = format!("{source:?}");
        assert!(!debug.contains("s3c") && debug.contains(masked), "{debug}");
    }
    // Nor by a refusal, whatever was mistyped.
    for spec in [
        "redis://:s3#cret@h/0",
        "redis://:s3cret@h:port/0",
        "redis://:s3cret@h/zero",
        "redis:s3cret@h",
        ":s3cret@h",
        "s3cret",
        "n n=redis://:s3cret@h",
        "amqp://u:s3cret@h:port//",
        "amqp://u:s3cret@h//%ff",
        "amqp://u:s3cret@h//?queue_type=s3cret",
        "amqp://u:s3cret@h//?ssl_ca_certs=s3cret",
        "amqp://u:s3cret@h;redis://u:s3cret@h",
        "sqs://u:s3cret@h//",
        "s3cret-://h",
        "http://u:s3cret@h",
        "redis+socket://:s3cret@",
        "redis://:s3cret@h/0?a,s3cret",
        "redis://u:%ff@s3cret/0",
        "sentinel://:s3cret@h/0;sentinel://i",
        "sentinel://:s3cret@h/0;redis://i?master_name=m",
        "sentinel://h/s3cret?master_name=m",
    ] {
        let refused = parse_sources(spec).expect_err(spec);
        let shown = format!("{refused} {refused:?}");
        assert!(!shown.contains("s3") && !shown.contains('\n'), "{shown}");
    }
}

#[test]
fn other_brokers_are_refused_in_one_line_that_says_what_works() {
    for (spec, expected) in [
        ("sqs://", "brokers of the scheme sqs:// are not supported"),
        ("x=kafka://h", "brokers of the scheme kafka:// are not supported"),
    ] {
        let refused = parse_source(spec).unwrap_err().to_string();
        assert!(refused.starts_with(expected) && refused.contains("redis://"), "{refused}");
    }
}

/// Beginnings and pieces of addresses, in any order, with anything between them.
fn address() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("redis://".to_owned()),
        Just("rediss://".to_owned()),
        Just("amqp://".to_owned()),
        Just("pyamqp://".to_owned()),
        Just("sentinel://".to_owned()),
        Just("unix://".to_owned()),
        Just("name=".to_owned()),
        Just("@".to_owned()),
        Just(":".to_owned()),
        Just("/".to_owned()),
        Just(";".to_owned()),
        Just("?".to_owned()),
        Just("&".to_owned()),
        Just("%".to_owned()),
        Just("[::1]".to_owned()),
        Just("ssl_cert_reqs=".to_owned()),
        Just("queue=".to_owned()),
        Just("master_name=m".to_owned()),
        Just("channels=".to_owned()),
        "\\PC{0,6}",
        "[0-9]{0,6}",
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn whatever_is_given_as_an_address_it_is_read_or_refused_and_its_password_shown_to_nobody(
        text in address(),
        rest in address(),
        scheme in prop::sample::select(vec!["redis", "rediss", "amqp", "amqps", "sentinel"]),
    ) {
        let _ = parse_sources(&text);
        let given = format!("{scheme}://user:s3cr3tW0rd@host{rest}");
        let shown = match parse_source(&given) {
            Ok(spec) => format!("{} {:?} {:?}", spec.url, spec.url, spec),
            Err(error) => format!("{error} {error:?}"),
        };
        prop_assert!(!shown.contains("s3cr3tW0rd"), "{shown}");
    }
}
