//! Traces and metrics over OTLP: what a real receiver gets, by OpenTelemetry's own messages, is what happened and what a
//! scrape says; and a receiver that is away costs nobody anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forebay_tests::{API_KEY, CONNECTION, Forebay, Options, Receiver, forebay_binary, wait_for, wait_or_show};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use ureq::http::Method;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SECRET: &str = "otlp-s3cret-value";

fn event(id: &str, state: &str, second: u32) -> Value {
    json!({
        "type": "job_state_change", "timestamp": format!("2026-02-27T10:29:{second:02}.000Z"), "framework": "celery",
        "connectionId": CONNECTION.to_string(),
        "job": { "externalId": id, "name": "app.send", "queue": "mail", "state": state, "workerId": "w@a" },
    })
}

fn options(endpoint: &str, environment: &[(&'static str, &str)]) -> Options {
    let arguments = vec!["--otlp-endpoint".to_owned(), endpoint.to_owned()];
    let environment = environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Options { arguments, environment, ..Options::default() }
}

/// Sends a job's life and gives the position of its last event.
fn ingest(forebay: &Forebay, id: &str, headers: &[(&str, &str)]) -> i64 {
    let events = [event(id, "queued", 1), event(id, "active", 2), event(id, "completed", 5)];
    let key = format!("Bearer {API_KEY}");
    let headers: Vec<_> = [("authorization", &*key)].into_iter().chain(headers.iter().copied()).collect();
    let body = serde_json::to_vec(&json!({ "events": events })).unwrap();
    let answer = forebay.api.send(Method::POST, "/api/ingest", &headers, &body).unwrap();
    assert_eq!(answer.status, 202, "{}", answer.body);
    wait_for("the job to be readable", 10, || forebay.api.job(id));
    answer.body["sequence"].as_i64().unwrap()
}

/// An attribute of a span, a point or a resource.
fn attribute(of: &Value, key: &str) -> Option<Value> {
    let attribute = of["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == key)?;
    attribute["value"].as_object()?.values().next().cloned()
}

fn number(of: &Value, key: &str) -> Option<i64> {
    attribute(of, key)?.as_str()?.parse().ok()
}

/// The name of a span without its ids, as it is to be found.
fn named<'a>(spans: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    spans.iter().filter(move |span| span["name"] == name)
}

fn hex(text: &str) -> String {
    let bytes: Vec<u8> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
    STANDARD.encode(bytes)
}

/// What a scrape says, by series, with what type each family has.
fn scraped(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap()).map(|(series, value)| (series.to_owned(), read(value))).collect()
}

fn read(value: &str) -> f64 {
    value.replace("Inf", "inf").parse().unwrap()
}

/// The metrics of a message as a scrape writes them.
fn written(message: &Value) -> BTreeMap<String, f64> {
    let mut series = BTreeMap::new();
    let scope = &message["resourceMetrics"][0]["scopeMetrics"][0];
    assert_eq!(scope["scope"]["name"], "forebay");
    for metric in scope["metrics"].as_array().unwrap() {
        let name = metric["name"].as_str().unwrap();
        let is_counter = name.ends_with("_total");
        if is_counter {
            assert_eq!(metric["sum"]["isMonotonic"], true, "{metric}");
            assert_eq!(metric["sum"]["aggregationTemporality"], "AGGREGATION_TEMPORALITY_CUMULATIVE", "{metric}");
        }
        let numbers = &metric[if is_counter { "sum" } else { "gauge" }]["dataPoints"];
        for point in numbers.as_array().into_iter().flatten() {
            // What is zero is left out but for the one that was chosen.
            let value = point["asInt"].as_str().map_or_else(|| point["asDouble"].as_f64(), |text| text.parse().ok());
            series.insert(format!("{name}{}", labels(point, None)), value.unwrap());
        }
        for point in metric["histogram"]["dataPoints"].as_array().into_iter().flatten() {
            let bounds = point["explicitBounds"].as_array().unwrap().iter().map(|bound| bound.as_f64().unwrap());
            let counts = point["bucketCounts"].as_array().unwrap();
            let mut count = 0.0;
            for (bound, bucket) in bounds.chain([f64::INFINITY]).zip(counts) {
                count += read(bucket.as_str().unwrap());
                let bound = if bound.is_infinite() { "+Inf".to_owned() } else { format!("{bound:?}") };
                series.insert(format!("{name}_bucket{}", labels(point, Some(&bound))), count);
            }
            assert_eq!(point["count"].as_str().map(read), Some(count), "{metric}");
            series.insert(format!("{name}_count{}", labels(point, None)), count);
            series.insert(format!("{name}_sum{}", labels(point, None)), point["sum"].as_f64().unwrap());
        }
    }
    series
}

fn labels(point: &Value, bound: Option<&str>) -> String {
    let mut text = String::new();
    let attributes = point["attributes"].as_array().into_iter().flatten();
    let own = attributes.map(|it| (it["key"].as_str().unwrap(), it["value"]["stringValue"].as_str().unwrap_or("")));
    for (name, value) in own.chain(bound.map(|bound| ("le", bound))) {
        let between = if text.is_empty() { "{" } else { "," };
        write!(text, "{between}{name}=\"{value}\"").unwrap();
    }
    if text.is_empty() { text } else { text + "}" }
}

/// What changes by itself, or by being looked at.
fn stands_still(series: &str) -> bool {
    let moves = ["process_", "forebay_disk_", "forebay_projector_lag_seconds"];
    !moves.iter().any(|name| series.starts_with(name)) && !series.contains("endpoint=\"/metrics\"")
}

#[test]
fn what_is_sent_over_otlp_is_what_happened_and_what_a_scrape_says() {
    let receiver = Receiver::start();
    let header = format!("authorization=Bearer%20{SECRET},x-tenant=7");
    let environment = [
        // What is traced has nothing to do with what is logged.
        ("RUST_LOG", "error"),
        ("OTEL_EXPORTER_OTLP_HEADERS", &*header),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ];
    let forebay = Forebay::start(options(&format!("{}/", receiver.endpoint()), &environment));
    let position = ingest(&forebay, "a", &[("traceparent", &format!("00-{TRACE}-{PARENT}-01"))]);
    ingest(&forebay, "b", &[("traceparent", "00-not-a-parent")]);
    forebay.api.get("/api/jobs/none/x/y");

    let request = wait_for("the span of the request", 30, || {
        let spans = receiver.spans();
        named(&spans, "POST /api/ingest").find(|span| span["traceId"] == *hex(TRACE)).cloned()
    });
    assert_eq!(request["parentSpanId"], hex(PARENT));
    assert_eq!(request["kind"], "SPAN_KIND_SERVER");
    assert_eq!(attribute(&request, "http.request.method").unwrap(), "POST");
    assert_eq!(attribute(&request, "http.route").unwrap(), "/api/ingest");
    assert_eq!(number(&request, "http.response.status_code"), Some(202));
    assert_eq!((number(&request, "forebay.events"), number(&request, "forebay.position")), (Some(3), Some(position)));
    let is_around = |span: &&Value| {
        number(span, "first").is_some_and(|first| first <= position)
            && number(span, "last").is_some_and(|last| last >= position)
    };
    wait_for("the span of its batch", 30, || named(&receiver.spans(), "batch").find(is_around).cloned());
    wait_for("the other requests", 30, || {
        let spans = receiver.spans();
        let found = named(&spans, "GET /api/jobs/*").any(|span| number(span, "http.response.status_code") == Some(404));
        let own = named(&spans, "POST /api/ingest").any(|span| span.get("parentSpanId").is_none());
        (found && own).then_some(())
    });

    let sent = wait_or_show("the metrics to be those of a scrape", 30, || {
        let before = scraped(&forebay.metrics());
        let seen = receiver.received().len();
        let sent = wait_for("the next metrics", 30, || {
            receiver.received().into_iter().skip(seen).find(|sent| sent.path == "/v1/metrics")
        });
        let told = written(&sent.message);
        let named = |series: &BTreeMap<String, f64>| -> Vec<String> { series.keys().cloned().collect() };
        let is_other = |name: &&String| stands_still(name) && told.get(*name) != before.get(*name);
        let differs: Vec<_> = before.keys().chain(told.keys()).filter(is_other).cloned().collect();
        if differs.is_empty() && named(&told) == named(&before) { Ok(sent) } else { Err(differs) }
    });
    let told = written(&sent.message);
    let of = "{name=\"app.send\",queue_name=\"mail\",connection=\"default\"";
    assert_eq!(told.get(&format!("celery_task_succeeded_total{of}}}")), Some(&2.0));
    assert_eq!(told.get(&format!("celery_task_runtime_bucket{of},le=\"5.0\"}}")), Some(&2.0));
    assert_eq!(told.get("forebay_ingest_requests_total"), Some(&2.0));
    let metrics = sent.message["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap();
    let point = |name: &str| &metrics.iter().find(|it| it["name"] == name).unwrap()["sum"]["dataPoints"][0];
    // Nobody knows when those of the log began, and they go on after a restart.
    assert_eq!(point("celery_task_received_total").get("startTimeUnixNano"), None);
    assert!(point("forebay_ingest_requests_total").get("startTimeUnixNano").is_some());
    let unit = |name: &str| metrics.iter().find(|it| it["name"] == name).unwrap()["unit"].clone();
    assert_eq!((unit("process_resident_memory_bytes"), unit("process_cpu_seconds_total")), (json!("By"), json!("s")));

    for sent in receiver.received() {
        let resources = if sent.path == "/v1/traces" { "resourceSpans" } else { "resourceMetrics" };
        let resource = &sent.message[resources][0]["resource"];
        assert_eq!(attribute(resource, "service.name").unwrap(), "forebay");
        assert_eq!(attribute(resource, "deployment.environment.name").unwrap(), "test");
        assert!(attribute(resource, "service.instance.id").is_some());
        assert_eq!(sent.headers["authorization"], format!("Bearer {SECRET}"));
        assert_eq!((&*sent.headers["x-tenant"], &*sent.headers["content-type"]), ("7", "application/x-protobuf"));
    }
}

/// Somebody who hangs up on all who come to this port, until so many have.
fn hang_up(port: u16, times: usize) {
    let listener = wait_for("the port to be free", 30, || TcpListener::bind(("127.0.0.1", port)).ok());
    for stream in listener.incoming().take(times) {
        // Not before something was sent, or the sender would not know that it was heard.
        let _ = stream.unwrap().read(&mut [0; 1_024]);
    }
}

#[test]
fn a_receiver_that_is_away_is_told_of_once_and_nobody_waits_for_it() {
    let mut receiver = Receiver::start();
    let header = format!("authorization=Bearer%20{SECRET}");
    let environment = [
        ("RUST_LOG", "trace"),
        ("OTEL_EXPORTER_OTLP_HEADERS", &*header),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "30000"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
    ];
    let mut forebay = Forebay::start(options(&receiver.endpoint(), &environment));
    let is_sent = |receiver: &Receiver, position: i64| {
        let spans = receiver.spans();
        named(&spans, "POST /api/ingest").any(|span| number(span, "forebay.position") == Some(position))
    };
    let first = ingest(&forebay, "first", &[]);
    wait_for("the first span", 30, || is_sent(&receiver, first).then_some(()));
    let told = |text: &str| forebay.process().log().lines().filter(|line| line.contains(text)).count();

    receiver.kill();
    for signal in ["traces", "metrics"] {
        wait_for("it to be told", 30, || {
            ingest(&forebay, signal, &[]);
            (told(&format!("the receiver does not take {signal}")) > 0).then_some(())
        });
    }
    // Many attempts later.
    let port = receiver.port();
    let others = std::thread::spawn(move || hang_up(port, 20));
    let mut count = 0;
    while !others.is_finished() {
        ingest(&forebay, &format!("meanwhile-{count}"), &[]);
        count += 1;
    }
    others.join().unwrap();
    for signal in ["traces", "metrics"] {
        assert_eq!(told(&format!("the receiver does not take {signal}")), 1);
    }
    receiver.restart();
    wait_for("it to be told that it is back", 30, || {
        ingest(&forebay, "back", &[]);
        (told("the receiver of traces takes them again") > 0 && told("the receiver of metrics takes them again") > 0)
            .then_some(())
    });
    let last = ingest(&forebay, "last", &[]);
    wait_for("the spans to be sent again", 30, || is_sent(&receiver, last).then_some(()));
    assert_eq!((told("takes them again"), told("the receiver does not take")), (2, 2));

    // One that takes what is sent, and says nothing.
    receiver.stand_still();
    for count in 0..20 {
        ingest(&forebay, &format!("unheard-{count}"), &[]);
    }
    let began = Instant::now();
    forebay.stop();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let log = forebay.process().log();
    let found = log.lines().find(|line| line.contains(SECRET));
    assert!(log.contains("TRACE") && found.is_none(), "{found:?}");
}

#[test]
fn over_tls_and_compressed_the_last_is_sent_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let certify = |certificate: &Path, key: &Path| {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(certificate, cert.pem()).unwrap();
        std::fs::write(key, signing_key.serialize_pem()).unwrap();
    };
    certify(&file("cert.pem"), &file("key.pem"));
    certify(&file("other.pem"), &file("other.key"));
    let receiver = Receiver::start_tls(&file("cert.pem"), &file("key.pem"));
    let started = |trusted: &str, more: &[(&'static str, &str)]| {
        let trusted = file(trusted).display().to_string();
        let environment: Vec<_> =
            [("OTEL_EXPORTER_OTLP_CERTIFICATE", &*trusted), ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")]
                .into_iter()
                .chain(more.iter().copied())
                .collect();
        Forebay::start(options(&receiver.endpoint(), &environment))
    };
    let often = [("OTEL_METRIC_EXPORT_INTERVAL", "50"), ("OTEL_TRACES_EXPORTER", "none")];
    let other = started("other.pem", &often);
    wait_for("the strange certificate to be told", 30, || {
        other.process().log().contains("no TLS with it").then_some(())
    });
    drop(other);
    assert!(receiver.received().is_empty());

    let refusing = format!("x-refuse=7,authorization=Bearer%20{SECRET}");
    // A minute before the first metrics, and five seconds before the first spans.
    let mut forebay = started("cert.pem", &[("OTEL_EXPORTER_OTLP_METRICS_HEADERS", &*refusing)]);
    let position = ingest(&forebay, "a", &[]);
    forebay.stop();
    let log = forebay.process().log();
    let refused = log.lines().find(|line| line.contains("the receiver refuses a part of the metrics")).unwrap();
    assert!(refused.contains("\"count\":7") && refused.contains("too many of ***"), "{refused}");
    assert!(!log.contains(SECRET), "{log}");
    let all = receiver.received();
    assert!(all.iter().all(|sent| sent.headers["content-encoding"] == "gzip"), "{all:?}");
    let metrics = all.iter().find(|sent| sent.path == "/v1/metrics").unwrap();
    assert_eq!(written(&metrics.message).get("forebay_ingest_requests_total"), Some(&1.0));
    let spans = receiver.spans();
    assert!(named(&spans, "POST /api/ingest").any(|span| number(span, "forebay.position") == Some(position)));
    assert!(named(&spans, "batch").next().is_some());

    // What comes through at the second attempt has come through.
    let busy = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-busy=1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRICS_EXPORTER", "none"),
    ];
    let busy = started("cert.pem", &busy);
    ingest(&busy, "b", &[("traceparent", &format!("00-{TRACE}-{PARENT}-01"))]);
    wait_for("the span to be sent again", 30, || {
        receiver.spans().iter().find(|span| span["traceId"] == *hex(TRACE)).cloned()
    });
    assert!(!busy.process().log().contains("the receiver"), "{}", busy.process().log());
}

#[test]
fn what_standard_variables_forbid_is_not_sent_and_what_they_ask_for_in_vain_is_refused() {
    let receiver = Receiver::start();
    let mut forebay = Forebay::start(options(
        &receiver.endpoint(),
        &[("OTEL_SDK_DISABLED", "True"), ("OTEL_METRIC_EXPORT_INTERVAL", "50"), ("OTEL_BSP_SCHEDULE_DELAY", "50")],
    ));
    ingest(&forebay, "a", &[]);
    forebay.stop();
    assert!(forebay.process().log().contains("OTEL_SDK_DISABLED is true"));
    // The last would have come with the end.
    assert!(receiver.received().is_empty());

    for name in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"] {
        for (protocol, is_taken) in [("grpc", false), ("http/json", false), ("http/protobuf", true), ("", true)] {
            let checked = Command::new(forebay_binary())
                .env_clear()
                .env(name, protocol)
                .args(["config", "check", "--otlp-endpoint", "http://127.0.0.1:4317"])
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&checked.stderr);
            assert_eq!(checked.status.success(), is_taken, "{told}");
            assert!(is_taken || (told.contains(name) && told.contains("http/protobuf")), "{told}");
        }
    }
}
