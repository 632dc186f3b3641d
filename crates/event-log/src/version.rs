//! Versions of nats-server, and the oldest one that keeps our promises.

use std::fmt;
use std::str::FromStr;

/// The oldest nats-server that is accepted: earlier ones drop options in silence or have lost whole streams.
pub(crate) const MINIMUM: Version = Version(2, 10, 25);

/// A version of nats-server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32, u32, u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The text holds no version.
#[derive(Debug)]
pub(crate) struct NoVersion;

impl FromStr for Version {
    type Err = NoVersion;

    /// Reads `2.10.26`, `v2.10.26-beta.1` and the like; what follows the three numbers is ignored.
    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let mut numbers = text.trim().trim_start_matches('v').splitn(3, '.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse::<u32>().map_err(|_| NoVersion)
        });
        let mut next = || numbers.next().unwrap_or(Err(NoVersion));
        Ok(Self(next()?, next()?, next()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        let read = |text: &str| text.parse::<Version>().ok();
        assert_eq!(read("2.10.26"), Some(Version(2, 10, 26)));
        assert_eq!(read("v2.15.1-beta.2\n"), Some(Version(2, 15, 1)));
        assert_eq!(read("2.15"), None);
        assert_eq!(read("nats"), None);
        assert!(read("2.9.10") < Some(MINIMUM) && read("2.10.24") < Some(MINIMUM));
        assert!(read("2.10.25") >= Some(MINIMUM) && read("2.15.1") > Some(MINIMUM));
    }
}
