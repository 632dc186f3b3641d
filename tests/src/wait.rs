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
