//! What this process takes, as Linux tells it.

use std::fs;

use super::names::{PROCESS_CPU, PROCESS_FDS, PROCESS_MAX_FDS, PROCESS_RESIDENT, PROCESS_START, PROCESS_VIRTUAL};
use super::sink::Sink;

/// What cannot be told is left out.
pub(super) fn tell(to: &mut dyn Sink) {
    if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
        of_stat(to, &stat);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is that of the directory itself.
        to.one(&PROCESS_FDS, open.count().saturating_sub(1));
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let most = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    if let Some(most) = most.and_then(|most| most.parse::<u64>().ok()) {
        to.one(&PROCESS_MAX_FDS, most);
    }
}

fn of_stat(to: &mut dyn Sink, stat: &str) {
    // The name before may have blanks and parentheses in it.
    let Some((_, rest)) = stat.rsplit_once(')') else { return };
    let fields: Vec<u64> = rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or_default()).collect();
    let (ticks, page) = (rustix::param::clock_ticks_per_second() as f64, rustix::param::page_size() as u64);
    // Field numbers are those of proc(5), of which the fourth comes first here.
    let field = |number: usize| fields.get(number - 4).copied().unwrap_or_default();
    to.one(&PROCESS_CPU, (field(14) + field(15)) as f64 / ticks);
    to.one(&PROCESS_VIRTUAL, field(23));
    to.one(&PROCESS_RESIDENT, field(24) * page);
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    if let Some(booted) = booted {
        to.one(&PROCESS_START, booted + field(22) as f64 / ticks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::text::{Format, Text};

    #[test]
    fn what_the_process_takes_is_told() {
        let mut text = Text::new(Format::Plain);
        tell(&mut text);
        let told = text.finish();
        let value = |name: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} in {told}")).parse::<f64>().unwrap()
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - 3_600.0..=now + 2.0).contains(&value("process_start_time_seconds")), "{told}");
        assert!((1e6..1e11).contains(&value("process_resident_memory_bytes")), "{told}");
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"), "{told}");
        assert!((3.0..=value("process_max_fds")).contains(&value("process_open_fds")), "{told}");
        assert!(value("process_cpu_seconds_total") < 3_600.0, "{told}");
    }
}
