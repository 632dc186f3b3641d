//! How many wrong passwords one address may try, and all of them together.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// So many wrong attempts within [`WINDOW`] close the door.
const ATTEMPTS: usize = 5;
/// The time in which they count.
const WINDOW: Duration = Duration::from_secs(60);
/// So many of all addresses together close it to those from which nobody has logged in lately: there is one password,
/// and many addresses are to be had.
const ALL_ATTEMPTS: usize = 50;
/// How long an address is known from which somebody logged in.
const KNOWN: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Addresses remembered at most; beyond, those whose attempts are over are forgotten, then the oldest.
const ADDRESSES: usize = 10_000;

/// The wrong attempts of the last minute, by address and in all.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    wrong: HashMap<IpAddr, VecDeque<Instant>>,
    all: VecDeque<Instant>,
    /// From where the password was known, and when.
    known: HashMap<IpAddr, Instant>,
}

impl Throttle {
    /// Seconds until this address may try again; `None` when it may now.
    pub(super) fn blocked(&self, peer: IpAddr, now: Instant) -> Option<u64> {
        let address = network(peer);
        let here = self.wrong.get(&address).and_then(|attempts| wait(attempts, ATTEMPTS, now));
        let is_known = self.known.get(&address).is_some_and(|at| now.saturating_duration_since(*at) < KNOWN);
        here.or_else(|| if is_known { None } else { wait(&self.all, ALL_ATTEMPTS, now) })
    }

    /// Notes a wrong attempt.
    pub(super) fn wrong(&mut self, peer: IpAddr, now: Instant) {
        let address = network(peer);
        if self.wrong.len() >= ADDRESSES && !self.wrong.contains_key(&address) {
            self.forget(now);
        }
        push(self.wrong.entry(address).or_default(), ATTEMPTS, now);
        push(&mut self.all, ALL_ATTEMPTS, now);
    }

    /// A right password wipes the slate.
    pub(super) fn right(&mut self, peer: IpAddr, now: Instant) {
        let address = network(peer);
        self.wrong.remove(&address);
        if self.known.len() < ADDRESSES || self.known.contains_key(&address) {
            self.known.insert(address, now);
        }
    }

    fn forget(&mut self, now: Instant) {
        let last = |attempts: &VecDeque<Instant>| attempts.back().copied();
        self.wrong.retain(|_, attempts| last(attempts).is_some_and(|at| now.saturating_duration_since(at) < WINDOW));
        if self.wrong.len() >= ADDRESSES
            && let Some(oldest) = self.wrong.iter().min_by_key(|(_, attempts)| last(attempts)).map(|(peer, _)| *peer)
        {
            self.wrong.remove(&oldest);
        }
    }
}

fn push(attempts: &mut VecDeque<Instant>, most: usize, now: Instant) {
    attempts.push_back(now);
    if attempts.len() > most {
        attempts.pop_front();
    }
}

/// Seconds until the first of the last so many attempts counts no more.
fn wait(attempts: &VecDeque<Instant>, most: usize, now: Instant) -> Option<u64> {
    let first = attempts.len().checked_sub(most).and_then(|at| attempts.get(at))?;
    let left = WINDOW.checked_sub(now.saturating_duration_since(*first)).filter(|left| !left.is_zero())?;
    Some(left.as_secs() + u64::from(left.subsec_nanos() > 0))
}

/// One household has one IPv4 address, and a whole /64 of IPv6.
pub(crate) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_try_within_a_minute_waits_for_the_first_to_be_a_minute_old() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let mut throttle = Throttle::default();
        for second in 0..5 {
            assert_eq!(throttle.blocked(peer, at(second)), None, "only {second} were wrong");
            throttle.wrong(peer, at(second));
        }
        assert_eq!(throttle.blocked(peer, at(5)), Some(55));
        assert_eq!(throttle.blocked("192.0.2.2".parse().unwrap(), at(5)), None);
        assert_eq!(throttle.blocked(peer, at(59)), Some(1));
        assert_eq!(throttle.blocked(peer, at(60)), None);
        throttle.wrong(peer, at(60));
        assert_eq!(throttle.blocked(peer, at(60)), Some(1), "those of seconds 1 to 4 still count");
        throttle.right(peer, at(60));
        assert_eq!(throttle.blocked(peer, at(60)), None);
    }

    #[test]
    fn many_addresses_together_are_stopped_and_who_has_logged_in_before_is_not() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        let home: IpAddr = "198.51.100.1".parse().unwrap();
        throttle.right(home, now);
        let strangers = (0..ALL_ATTEMPTS as u32).map(|host| IpAddr::V4((0xC000_0200 + host).into()));
        for stranger in strangers {
            assert_eq!(throttle.blocked(stranger, now), None);
            throttle.wrong(stranger, now);
        }
        let another: IpAddr = "203.0.113.1".parse().unwrap();
        assert_eq!(throttle.blocked(another, now), Some(60));
        assert_eq!(throttle.blocked(home, now), None);
        assert_eq!(throttle.blocked(another, now + WINDOW), None);
        assert_eq!(throttle.blocked(home, now + KNOWN), None, "the attempts are over by then");
    }

    #[test]
    fn neighbours_in_one_ipv6_network_are_one() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        for host in 1..=5 {
            throttle.wrong(format!("2001:db8::{host}").parse().unwrap(), now);
        }
        assert!(throttle.blocked("2001:db8::99".parse().unwrap(), now).is_some());
        assert!(throttle.blocked("2001:db8:0:1::1".parse().unwrap(), now).is_none());
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        for host in 0..ADDRESSES as u32 + 50 {
            throttle.wrong(IpAddr::V4(host.into()), now);
        }
        assert_eq!(throttle.wrong.len(), ADDRESSES);
    }
}
