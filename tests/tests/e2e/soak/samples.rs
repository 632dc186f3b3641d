//! What a server takes, second by second, and whether that grows.

use std::fmt::Write as _;
use std::time::Instant;

use forebay_tests::{Forebay, descriptors, memory};
use serde_json::Value;

/// Rows of the table that is printed.
const ROWS: usize = 30;

/// Something that is looked at each second.
struct Figure {
    name: &'static str,
    /// The median of the last third of the time may be larger than that of the middle third by this share of it and this
    /// much. The first third does not count: until so much was forgotten for the first time as came in, all of it grows.
    share: f64,
    slack: f64,
}

const fn figure(name: &'static str, share: f64, slack: f64) -> Figure {
    Figure { name, share, slack }
}

/// Medians, since one slow second or one large answer is no growth. What is allowed is what two runs of nothing but the
/// same differ by, and far less than a leak makes of it: ten minutes of a kilobyte for each request are 40 MB, one
/// descriptor for each stream that was closed is 600.
const FIGURES: [Figure; 9] = [
    figure("resident MB", 0.05, 8.0),
    figure("nats resident MB", 0.15, 20.0),
    figure("descriptors", 0.0, 4.0),
    figure("lag ms", 0.0, 250.0),
    figure("queue KB", 0.0, 512.0),
    figure("overview ms", 0.25, 10.0),
    // By whole buckets of a 24th, and a rate that is never quite the same.
    figure("jobs", 0.06, 0.0),
    figure("log MB", 0.06, 5.0),
    // Files of which parts are free are given back when it pays.
    figure("disk MB", 0.25, 50.0),
];

/// One look.
pub(super) struct Sample {
    second: f64,
    figures: [f64; FIGURES.len()],
}

impl Sample {
    pub(super) fn take(forebay: &Forebay, second: f64) -> Self {
        let begin = Instant::now();
        let overview = forebay.api.get("/api/overview?timeRange=1h");
        let overview_ms = begin.elapsed().as_secs_f64() * 1e3;
        let health = forebay.health();
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} is no number: {health:#}"));
        let disk = &health["disk"];
        let bytes = |value: &Value| value.as_f64().unwrap_or_default() / 1e6;
        let process = forebay.process().pid();
        let figures = [
            memory(process, "VmRSS:"),
            memory(forebay.nats(), "VmRSS:"),
            descriptors(process) as f64,
            number(&health["projector"]["lagSeconds"]) * 1e3,
            number(&health["sources"][0]["queueBytes"]) / 1e3,
            overview_ms,
            number(&overview.body["jobs"]["total"]),
            bytes(&health["retention"]["logBytes"]),
            bytes(&disk["logBytes"]) + bytes(&disk["viewsBytes"]),
        ];
        Self { second, figures }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn medians(samples: &[Sample]) -> [f64; FIGURES.len()] {
    std::array::from_fn(|index| median(samples.iter().map(|sample| sample.figures[index]).collect()))
}

/// What was larger in the last third of the samples than it may be, in words.
pub(super) fn growing(samples: &[Sample]) -> Vec<String> {
    let third = samples.len() / 3;
    let (middle, last) = (medians(&samples[third..2 * third]), medians(&samples[2 * third..]));
    let grown = FIGURES.iter().zip(middle.iter().zip(last));
    grown
        .filter(|(figure, (middle, last))| *last > **middle * (1.0 + figure.share) + figure.slack)
        .map(|(figure, (middle, last))| format!("{} grew from {middle:.1} to {last:.1}", figure.name))
        .collect()
}

/// The medians of each part of the time, for people.
pub(super) fn table(samples: &[Sample]) -> String {
    let mut text = "  second".to_owned();
    for figure in &FIGURES {
        let _ = write!(text, "  {:>8}", figure.name);
    }
    for part in samples.chunks(samples.len().div_ceil(ROWS).max(1)) {
        let _ = write!(text, "\n{:>8.0}", part[0].second);
        for (figure, value) in FIGURES.iter().zip(medians(part)) {
            let _ = write!(text, "  {value:>width$.1}", width = figure.name.len().max(8));
        }
    }
    text
}

/// So many samples, of which each figure is what is said of it.
fn made(count: u32, of: impl Fn(&str, f64) -> f64) -> Vec<Sample> {
    let sample = |second: u32| Sample {
        second: second.into(),
        figures: FIGURES.each_ref().map(|figure| of(figure.name, second.into())),
    };
    (0..count).map(sample).collect()
}

#[test]
fn what_grows_for_ever_is_found_and_what_only_goes_up_and_down_is_not() {
    let wave = |second: f64| (second / 7.0).sin();
    let level = |name: &str, second: f64| match name {
        "jobs" => 200_000.0 + 5_000.0 * wave(second),
        "descriptors" => 40.0 + (2.0 * wave(second)).round(),
        _ => 100.0 + 5.0 * wave(second),
    };
    assert_eq!(growing(&made(1_800, level)), Vec::<String>::new());
    // At the beginning all of it grows, and one bad minute is none of it.
    let begins = made(1_800, |name, second| {
        level(name, second) * (second / 300.0).min(1.0) + if (1_300.0..1_360.0).contains(&second) { 1e6 } else { 0.0 }
    });
    assert_eq!(growing(&begins), Vec::<String>::new());
    // Seventy requests a second that leave a kilobyte each, one descriptor of a hundred streams, a millisecond of lag each
    // second, and so on.
    for figure in &FIGURES {
        let each_second = match figure.name {
            "resident MB" => 0.07,
            "descriptors" => 0.01,
            "jobs" => 100.0,
            "queue KB" | "lag ms" | "overview ms" | "disk MB" => 1.0,
            _ => 0.2,
        };
        let leaks = |name: &str, second: f64| {
            level(name, second) + if name == figure.name { second * each_second } else { 0.0 }
        };
        let found = growing(&made(1_800, leaks));
        assert!(found.len() == 1 && found[0].starts_with(figure.name), "{}: {found:?}", figure.name);
    }
}
