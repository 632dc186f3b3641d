//! Times and sizes as they stand in the configuration.

use std::time::Duration;

use anyhow::{Context as _, bail};
use projector::Most;

/// The log is read once a day to see that the views are right.
const SCRUB: Duration = Duration::from_secs(24 * 60 * 60);
/// A week, in half of the disk.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const HALF: Most = Most::Percent(50);
/// Enough for eleven million jobs.
const LIST_MEMORY: u64 = 1_000_000_000;
/// Hours of most outages.
const SPOOL_BYTES: u64 = 1_000_000_000;
/// The log's server keeps what workers say for a day.
const FORGET_WORKERS: Duration = Duration::from_secs(24 * 60 * 60);

/// By then the events of a job have arrived, if they do.
const BACKEND_AFTER: Duration = Duration::from_secs(60);

/// How often the views are compared with the log; `None` is never.
pub(crate) fn scrub(text: Option<&str>) -> anyhow::Result<Option<Duration>> {
    match text {
        None => Ok(Some(SCRUB)),
        Some("off") => Ok(None),
        Some(text) => time(text).map(Some).context("scrub must be `off` or a time such as 90m, 24h or 7d"),
    }
}

/// For how long events are kept; `None` is for ever.
pub(crate) fn retention(text: Option<&str>) -> anyhow::Result<Option<Duration>> {
    match text {
        None => Ok(Some(RETENTION)),
        Some("off") => Ok(None),
        Some(text) => time(text).map(Some).context("retention must be `off` or a time such as 12h, 7d or 90d"),
    }
}

/// How long after the last news of a job the result backend is asked for it.
pub(crate) fn backend_after(text: Option<&str>) -> anyhow::Result<Duration> {
    let Some(text) = text else { return Ok(BACKEND_AFTER) };
    time(text).context("celery-backend-after must be a time such as 30s or 5m")
}

/// For how long a worker that is gone is remembered.
pub(crate) fn forget_workers(text: Option<&str>) -> anyhow::Result<Duration> {
    let Some(text) = text else { return Ok(FORGET_WORKERS) };
    let kept = time(text).filter(|time| *time <= FORGET_WORKERS);
    kept.context("forget-workers must be a time such as 10m or 12h, and 24h at most: no more is kept")
}

/// How large the log may become, which is or is not on a disk of this machine.
pub(crate) fn most(text: Option<&str>, embedded: bool) -> anyhow::Result<Most> {
    match text {
        None if embedded => Ok(HALF),
        None | Some("off") => Ok(Most::Unlimited),
        Some(text) => {
            match size(text).context("max-log-size must be `off`, a size such as 20GB, or a share such as 50%")? {
                Most::Percent(_) if !embedded => {
                    bail!("max-log-size must be a size or `off`: nobody here knows the disk of the NATS server")
                }
                most => Ok(most),
            }
        }
    }
}

/// How much memory the list of jobs may take, in bytes.
pub(crate) fn list_memory(text: Option<&str>) -> anyhow::Result<u64> {
    match text.map(size) {
        None => Ok(LIST_MEMORY),
        Some(Some(Most::Bytes(bytes))) => Ok(bytes),
        Some(_) => bail!("list-memory must be a size such as 500MB or 2GB"),
    }
}

/// How large the spool may become; `None` is none at all.
pub(crate) fn spool(text: Option<&str>) -> anyhow::Result<Option<u64>> {
    match text {
        None => Ok(Some(SPOOL_BYTES)),
        Some("off") => Ok(None),
        Some(text) => match size(text) {
            Some(Most::Bytes(bytes)) => Ok(Some(bytes)),
            _ => bail!("spool-size must be `off` or a size such as 500MB or 2GB"),
        },
    }
}

/// A size: a whole number, more than 0, and its unit; or a share of the disk.
fn size(text: &str) -> Option<Most> {
    let (number, unit) = text.split_at(text.find(|character: char| !character.is_ascii_digit())?);
    let number = number.parse::<u64>().ok().filter(|number| *number > 0)?;
    let unit: u64 = match unit {
        "%" => return u8::try_from(number).ok().filter(|percent| *percent <= 100).map(Most::Percent),
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit).map(Most::Bytes)
}

/// A time: a whole number, more than 0, and its unit.
pub(crate) fn time(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|character: char| !character.is_ascii_digit())?);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    number
        .parse::<u32>()
        .ok()
        .filter(|number| *number > 0)
        .map(|number| Duration::from_secs(u64::from(number) * seconds))
}

/// A time for people: in the largest unit in which it is whole.
pub(crate) fn in_words(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(24 * 60 * 60, "d"), (60 * 60, "h"), (60, "m")];
    let unit = units.into_iter().find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit));
    let (unit, name) = unit.unwrap_or((1, "s"));
    format!("{}{name}", seconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_given_as_a_time_or_size_it_is_read_or_refused(text in "[0-9]{0,25}(%|[MGT]i?B|[smhd])?|\\PC{0,20}") {
            if let Some(time) = time(&text) {
                prop_assert_eq!(super::time(&in_words(time)), Some(time));
            }
            prop_assert!(size(&text).is_none_or(|size| size != Most::Bytes(0)));
            for read in [scrub, retention] {
                let _ = read(Some(&text));
            }
            let _ = (backend_after(Some(&text)), forget_workers(Some(&text)), list_memory(Some(&text)), spool(Some(&text)));
        }
    }
}
