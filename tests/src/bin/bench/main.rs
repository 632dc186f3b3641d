//! `make bench`: the figures of the real binary on this machine. The client, Redis, nats-server and the binary share its
//! cores, so the ratios say more than the figures.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and ends when something is wrong")]

mod beside;
mod dashboard;
mod drain;
mod guarded;
mod huge;
mod measures;
mod million;
mod raw;
mod stream;

use std::time::Duration;

use dashboard::Dashboard;
use forebay_tests::{Forebay, Options, RabbitMq, Redis};
use guarded::Guarded;
use huge::Huge;
use measures::{Ingest, Latency, Percentiles, Reads};
use million::Million;
use serde::Serialize;
use stream::{Followed, Stream, stream};

const HELP: &str = "\
Measures the binary that FOREBAY_BIN names (`make bench` builds it first).
  --json    print JSON instead of a table
  --quick   a tenth of the work, for a first look
  --streams only Celery's stream: the same events to Forebay and to Flower, over Redis at 5,000, 40,000 and 130,000 events/s
            and as fast as it goes, over RabbitMQ at 5,000
  --door    only what the limits at the door cost, and a scrape of the metrics
  --large   only what is measured with a million jobs in the views
  --huge    only what is measured with twenty million: some twenty minutes, and 40 GB of disk";

/// Jobs in the views for the figures of the large part.
const JOBS: usize = 1_000_000;
/// And of the huge one.
const HUGE: u64 = 20_000_000;

#[derive(Serialize)]
struct Figures {
    cores: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    small: Option<Small>,
    #[serde(skip_serializing_if = "Option::is_none")]
    door: Option<Guarded>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    streams: Vec<Stream>,
    #[serde(skip_serializing_if = "Option::is_none")]
    large: Option<Million>,
    #[serde(skip_serializing_if = "Option::is_none")]
    huge: Option<Huge>,
}

#[derive(Serialize)]
struct Small {
    latency: Latency,
    ingest: Vec<Ingest>,
    reads: Reads,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let known = ["--json", "--quick", "--streams", "--door", "--large", "--huge"];
    if let Some(unknown) = arguments.iter().find(|argument| !known.contains(&argument.as_str())) {
        if unknown != "--help" {
            eprintln!("unknown argument: {unknown}\n");
        }
        println!("{HELP}");
        return;
    }
    let given = |name: &str| arguments.iter().any(|argument| argument == name);
    let share = if given("--quick") { 10 } else { 1 };
    let redis = Redis::start();
    let cores = std::thread::available_parallelism().unwrap().get();
    let all = !["--streams", "--door", "--large", "--huge"].iter().any(|part| given(part));
    let small = all.then(|| measure(&redis, share));
    let door = (all || given("--door")).then(|| {
        eprintln!("measuring: the limits at the door, and a scrape");
        guarded::measure(4, (10 / share).max(1), 100 / share as usize)
    });
    let streams = if all || given("--streams") { streams(share as usize) } else { Vec::new() };
    let large = (all || given("--large")).then(|| {
        eprintln!("measuring: {} jobs in the views", JOBS / share as usize);
        million::measure(&redis, JOBS / share as usize, Duration::from_secs(20 / u64::from(share).min(4)))
    });
    let huge = given("--huge").then(|| {
        eprintln!("measuring: {} jobs in the views", HUGE / u64::from(share));
        huge::measure(&redis, HUGE / u64::from(share), Duration::from_secs(10))
    });
    let figures = Figures { cores, small, door, streams, large, huge };
    if given("--json") {
        println!("{}", serde_json::to_string_pretty(&figures).unwrap());
    } else {
        print(&figures);
    }
}

fn measure(redis: &Redis, share: u32) -> Small {
    // A server of its own for each, so that none is measured while it still digests another's events.
    let start = |what: &str| {
        eprintln!("measuring: {what}");
        Forebay::start(Options::celery(&[redis.url(0)]))
    };
    let scaled = |whole: u32| (whole / share).max(1);
    let forebay = start("latency and reads");
    let latency = measures::latency(&forebay, scaled(2_000) as usize);
    let reads = measures::reads(&forebay, 4, scaled(10));
    drop(forebay);
    let time = Duration::from_secs(scaled(10).into());
    let ingest = [1, 50].map(|batch| measures::ingest(&start(&format!("ingest, batches of {batch}")), batch, 8, time));
    Small { latency, ingest: ingest.into(), reads }
}

/// At a moderate rate for some twenty seconds, and faster than Flower goes for longer than a broker lets it lag behind.
/// As fast as it goes is some hundred thousand events a second from this publisher, several times what one of Python is
/// capable of, which is about the 130,000.
fn streams(share: usize) -> Vec<Stream> {
    let (few, many) = (25_000 / share, 100_000 / share);
    let redis = |jobs, rate| stream(Redis::start, jobs, rate);
    let over_redis =
        [redis(few, Some(5_000)), redis(many, Some(40_000)), redis(many, Some(130_000)), redis(many, None)];
    over_redis.into_iter().chain([stream(RabbitMq::start, few, Some(5_000))]).collect()
}

fn row(what: &str, figure: &str) {
    println!("  {what:<58} {figure}");
}

fn print(figures: &Figures) {
    println!("\non {} cores, shared with the clients\n", figures.cores);
    if let Some(small) = &figures.small {
        print_small(small);
    }
    if let Some(door) = &figures.door {
        print_door(door);
    }
    figures.streams.iter().for_each(print_stream);
    if let Some(large) = &figures.large {
        print_large(large);
    }
    if let Some(huge) = &figures.huge {
        println!("{} jobs in the views", huge.jobs);
        row("filled from the log in", &format!("{:.0} s", huge.fill_seconds));
        row("memory when filled", &format!("{:.0} MB", huge.filled_resident_mb));
        row("start to well, after a clean stop", &format!("{:.1} s", huge.restart_seconds));
        print_dashboard(&huge.dashboard);
    }
}

fn print_small(figures: &Small) {
    let latency = &figures.latency;
    println!("one event at a time ({} samples)", latency.samples);
    for (what, it) in [
        ("POST until acknowledged, p50 / p99", &latency.acknowledged_ms),
        ("acknowledged until GET answers the job, p50 / p99", &latency.readable_after_acknowledgement_ms),
        ("both, p50 / p99", &latency.readable_ms),
    ] {
        row(what, &format!("{:.2} / {:.2} ms", it.p50, it.p99));
    }
    println!("ingest ({} connections)", figures.ingest[0].connections);
    for it in &figures.ingest {
        let figure = format!("{:.0} requests/s, {:.0} events/s", it.requests_per_second, it.events_per_second);
        row(&format!("batches of {}, acknowledged", it.batch), &figure);
        row("  and until all of it can be read", &format!("{:.0} events/s", it.recorded_per_second));
    }
    let reads = &figures.reads;
    println!("reads ({} connections)", reads.connections);
    row("GET one job", &format!("{:.0}/s", reads.jobs_per_second));
    row("GET a constant answer (/api/health/live)", &format!("{:.0}/s", reads.constant_answers_per_second));
    row("ratio", &format!("{:.2}", reads.ratio));
}

fn print_door(figures: &Guarded) {
    println!("GET one job, with limits at the door / without");
    for it in &figures.limits {
        row(it.what, &format!("{:.0} / {:.0} per second", it.with.per_second, it.without.per_second));
        row("  ratio", &format!("{:.2}", it.ratio));
        row("  processor time", &format!("{:.1} / {:.1} us", it.with.us, it.without.us));
    }
    let it = &figures.scrape;
    println!("a scrape of the metrics, {} pairs of task and queue", it.pairs);
    row(
        "until all of it is there, p50 / p99",
        &format!("{:.1} / {:.1} ms ({} scrapes)", it.ms.p50, it.ms.p99, it.samples),
    );
    let share = format!("{:.1} ms, {:.2} % of a processor at one in 15 s", it.cpu_ms, it.cpu_percent);
    row("processor time", &share);
    let kilobytes = |bytes: usize| bytes as f64 / 1e3;
    row("size, and compressed", &format!("{:.0} and {:.0} KB", kilobytes(it.bytes), kilobytes(it.gzipped_bytes)));
}

fn print_stream(figures: &Stream) {
    let rate =
        figures.asked_per_second.map_or("as fast as it goes".to_owned(), |rate| format!("{rate} events/s asked"));
    println!("the same Celery stream over {}, {rate}: {} events", figures.broker, figures.events);
    let (forebay, flower, ratios) = (&figures.forebay, &figures.flower, &figures.flower_to_forebay);
    let both = |what: &str, of: &dyn Fn(&Followed) -> String| {
        row(&format!("{what}: Forebay / Flower"), &format!("{} / {}", of(forebay), of(flower)));
    };
    both("published per second", &|it| format!("{:.0}", it.published_per_second));
    both("events lost", &|it| format!("{} ({:.1} %)", figures.events.saturating_sub(it.arrived), it.lost_percent));
    let ended = format!("jobs that it knows the end of, of {}", figures.jobs);
    both(&ended, &|it| it.jobs_ended.to_string());
    both("first publish until done with all", &|it| format!("{:.1} s", it.seconds));
    both("processor time per event", &|it| format!("{:.1} us", it.us_per_event));
    row("  ratio", &format!("{:.1}", ratios.us_per_event));
    both("the same with nats-server", &|it| format!("{:.1} us", it.us_per_event_in_all));
    row("  ratio", &format!("{:.1}", ratios.us_per_event_in_all));
    both("memory per job", &|it| format!("{:.1} KB", it.kb_per_job));
    row("  ratio", &format!("{:.1}", ratios.kb_per_job));
    let memory =
        |it: &Followed| format!("{:.0}, {:.0}, {:.0} MB", it.resident_before_mb, it.resident_mb, it.peak_resident_mb);
    both("memory before, after, at most", &memory);
}

fn print_dashboard(figures: &Dashboard) {
    let window = figures.window.map_or(String::new(), |window| format!(", asked for those of {window}"));
    let rate = figures.events_per_second;
    println!("a dashboard's reads, {} jobs{window}, while {rate:.0} events/s come in", figures.jobs);
    for read in &figures.reads {
        row(read.what, &format!("p50 / p99 {:.1} / {:.1} ms ({} reads)", read.ms.p50, read.ms.p99, read.samples));
        row("  the slowest of them", &format!("{:.1} ms  {}", read.slowest_ms, read.slowest));
    }
    let live = &figures.live_ms;
    row("acknowledged until a reader of the stream has it", &format!("p50 / p99 {:.1} / {:.1} ms", live.p50, live.p99));
    row("memory", &format!("{:.0} MB", figures.resident_mb));
}

fn print_large(figures: &Million) {
    println!("{} jobs in the views, {} events in the log", figures.jobs, figures.events);
    for it in &figures.following {
        println!("following {:.0} events/s, {} in a message", it.events_per_second, it.events_per_message);
        let of = |it: &Percentiles| format!("{:.1} / {:.1} ms", it.p50, it.p99);
        row("published until GET answers the job, p50 / p99", &of(&it.lag_ms));
        row("GET one job, p50 / p99", &of(&it.get_ms));
    }
    print_dashboard(&figures.dashboard);
    let rebuild = &figures.rebuild;
    println!("rebuild");
    row("rate", &format!("{:.0} events/s, {:.1} s in all", rebuild.events_per_second, rebuild.seconds));
    row("reading and decoding the same log", &format!("{:.0} events/s", figures.drain_events_per_second));
    row("ratio", &format!("{:.2}", figures.rebuild_to_drain));
    let (before, during) = (&rebuild.get_before_ms, &rebuild.get_during_ms);
    row("GET one job before / during, p99", &format!("{:.2} / {:.2} ms", before.p99, during.p99));
    row("ratio", &format!("{:.1}", rebuild.get_ratio));
    row("most memory of the process", &format!("{:.0} MB", rebuild.peak_resident_mb));
    println!("sizes");
    for it in &figures.sizes {
        let live = it.live_data_mb.map_or(String::new(), |live| format!(", {:.2} times the data", it.views_mb / live));
        let figure = format!("{:.0} MB in memory, {:.0} MB of views{live}", it.resident_mb, it.views_mb);
        row(it.when, &figure);
    }
    for it in &figures.restarts {
        row(&format!("start to first answer, after {}", it.after), &format!("{:.2} s", it.first_answer_seconds));
    }
}
