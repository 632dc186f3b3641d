//! `make bench`: the figures of the real binary on this machine. The client, Redis, nats-server and the binary share its
//! cores, so the ratios say more than the figures.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and ends when something is wrong")]

mod beside;
mod dashboard;
mod drain;
mod huge;
mod measures;
mod million;
mod raw;

use std::time::Duration;

use dashboard::Dashboard;
use forebay_tests::{Forebay, Options, Redis};
use huge::Huge;
use measures::{Ingest, Latency, Percentiles, Reads, Stream};
use million::Million;
use serde::Serialize;

const HELP: &str = "\
Measures the binary that FOREBAY_BIN names (`make bench` builds it first).
  --json    print JSON instead of a table
  --quick   a tenth of the work, for a first look
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
    large: Option<Million>,
    #[serde(skip_serializing_if = "Option::is_none")]
    huge: Option<Huge>,
}

#[derive(Serialize)]
struct Small {
    latency: Latency,
    ingest: Vec<Ingest>,
    reads: Reads,
    streams: Vec<Stream>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) =
        arguments.iter().find(|argument| !["--json", "--quick", "--large", "--huge"].contains(&argument.as_str()))
    {
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
    let small = (!given("--large") && !given("--huge")).then(|| measure(&redis, share));
    let large = (!given("--huge")).then(|| {
        eprintln!("measuring: {} jobs in the views", JOBS / share as usize);
        million::measure(&redis, JOBS / share as usize, Duration::from_secs(20 / u64::from(share).min(4)))
    });
    let huge = given("--huge").then(|| {
        eprintln!("measuring: {} jobs in the views", HUGE / u64::from(share));
        huge::measure(&redis, HUGE / u64::from(share), Duration::from_secs(10))
    });
    let figures = Figures { cores, small, large, huge };
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
    let streams = [Some(5_000), None].map(|rate| {
        let rate_text = rate.map_or("as fast as it goes".to_owned(), |rate| format!("{rate} events/s"));
        let forebay = start(&format!("Celery's stream, {rate_text}"));
        measures::stream(&forebay, redis, rate.unwrap_or(0) as u64, scaled(25_000) as usize, rate)
    });
    Small { latency, ingest: ingest.into(), reads, streams: streams.into() }
}

fn row(what: &str, figure: &str) {
    println!("  {what:<58} {figure}");
}

fn print(figures: &Figures) {
    println!("\non {} cores, shared with the clients\n", figures.cores);
    if let Some(small) = &figures.small {
        print_small(small);
    }
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
    for it in &figures.streams {
        let rate = it.asked_per_second.map_or("as fast as it goes".to_owned(), |rate| format!("{rate} events/s asked"));
        println!("Celery's stream over Redis, {rate}");
        row("events sent / arrived", &format!("{} / {}", it.sent, it.arrived));
        row("jobs sent / recorded", &format!("{} / {}", it.jobs, it.jobs_recorded));
        let speed = format!("{:.1} s, {:.0} events/s", it.seconds, it.events_per_second);
        row("first publish until the last job can be read", &speed);
        let cpu = format!("{:.1} / {:.1} us", it.forebay_us_per_event, it.nats_us_per_event);
        row("processor time per event, forebay / nats-server", &cpu);
    }
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
