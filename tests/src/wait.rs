//! Waiting for what another process does.

use std::time::{Duration, Instant};

/// Looks again and again until there is something to see; panics after so many seconds.
pub fn wait_for<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "gave up after {seconds} s waiting for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The same, where what is not yet as it should be is shown after so many seconds.
pub fn wait_or_show<T, S: std::fmt::Debug>(what: &str, seconds: u64, mut look: impl FnMut() -> Result<T, S>) -> T {
    let mut last = None;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < deadline {
        match look() {
            Ok(seen) => return seen,
            Err(seen) => last = Some(seen),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("gave up after {seconds} s waiting for: {what}; last seen: {last:#?}");
}
