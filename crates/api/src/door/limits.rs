//! How many requests an address and a key may make, and how many wrong keys an address may try.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use warp::http::{HeaderMap, StatusCode};

use crate::auth::{credential, network};
use crate::errors::ApiError;

/// How much of everything. `None` is without limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all; more wait.
    pub connections: usize,
    /// Connections of one address, where it is no trusted proxy.
    pub connections_per_address: Option<usize>,
    /// Requests of one key or session in a second, and twice as many at once.
    pub requests_per_key: Option<NonZeroU32>,
    /// Requests of one address in a second, and twice as many at once.
    pub requests_per_address: Option<NonZeroU32>,
    /// Wrong keys of one address in a minute.
    pub wrong_keys: Option<NonZeroU32>,
    /// For how long the client of a whole list may take nothing of it.
    pub list_silence: Duration,
}

impl Default for Limits {
    /// Beyond what an SDK at full speed, or a host full of workers, comes to.
    fn default() -> Self {
        Self {
            connections: 4_096,
            connections_per_address: Some(2_048),
            requests_per_key: NonZeroU32::new(10_000),
            requests_per_address: NonZeroU32::new(20_000),
            wrong_keys: NonZeroU32::new(300),
            list_silence: Duration::from_secs(60),
        }
    }
}

/// Between two clearings of what has no bearing any more.
const SWEEP: Duration = Duration::from_secs(5);
/// Addresses and keys remembered at most.
const REMEMBERED: usize = 20_000;
/// For so long it is remembered that a key was good.
const GOOD: Duration = Duration::from_secs(60 * 60);
/// The stock SDK waits for as long as it is told to, on its only thread: never long, then.
const LONGEST_WAIT: u64 = 5;

/// Stands for a key or a session, without being it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Credential([u8; 16]);

impl Credential {
    /// What a request has with it, good or not.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let hash = *blake3::hash(credential(headers)?.as_bytes()).as_bytes();
        hash.first_chunk().copied().map(Self)
    }
}

/// Keeps the limits.
pub(crate) struct Guard {
    keys: Option<DefaultKeyedRateLimiter<Credential>>,
    addresses: Option<DefaultKeyedRateLimiter<IpAddr>>,
    wrong: Option<DefaultKeyedRateLimiter<IpAddr>>,
    memory: Mutex<Memory>,
}

struct Memory {
    swept: Instant,
    /// Addresses that have tried too many wrong keys, and until when nothing but what was good before is heard of them.
    closed: HashMap<IpAddr, Instant>,
    /// Keys that were good from an address, and when that was last noted: workers on the host of somebody who guesses,
    /// or who has mistyped a key, go on.
    good: HashMap<(IpAddr, Credential), Instant>,
}

impl Guard {
    pub(crate) fn new(limits: &Limits) -> Self {
        let per_second = |most: NonZeroU32| Quota::per_second(most).allow_burst(most.saturating_mul(TWO));
        Self {
            keys: limits.requests_per_key.map(|most| RateLimiter::keyed(per_second(most))),
            addresses: limits.requests_per_address.map(|most| RateLimiter::keyed(per_second(most))),
            wrong: limits.wrong_keys.map(|most| RateLimiter::keyed(Quota::per_minute(most))),
            memory: Mutex::new(Memory { swept: Instant::now(), closed: HashMap::new(), good: HashMap::new() }),
        }
    }

    /// Lets a request through, or says when to come back.
    pub(crate) fn admit(&self, peer: IpAddr, credential: Option<Credential>) -> Result<(), ApiError> {
        let address = network(peer);
        self.sweep();
        let mut wait = over(self.addresses.as_ref(), &address);
        if let Some(credential) = credential {
            wait = wait.or_else(|| self.closed(address, credential)).or_else(|| over(self.keys.as_ref(), &credential));
        }
        match wait {
            None => Ok(()),
            Some(wait) => Err(ApiError::TooManyRequests { retry_after: wait.as_secs().clamp(1, LONGEST_WAIT) }),
        }
    }

    /// Notes what became of a request.
    pub(crate) fn note(&self, peer: IpAddr, credential: Option<Credential>, status: StatusCode) {
        let Some(credential) = credential else { return };
        let (address, now) = (network(peer), Instant::now());
        if status.is_success() {
            self.memory.lock().note_good((address, credential), now);
        } else if status == StatusCode::UNAUTHORIZED
            && let Some(wait) = over(self.wrong.as_ref(), &address)
        {
            let is_new = self.memory.lock().close(address, now + wait);
            if is_new {
                tracing::warn!(%peer, "too many wrong keys: for a while only those are heard that were good before");
            }
        }
    }

    /// How long only what was good before is heard of this address.
    fn closed(&self, address: IpAddr, credential: Credential) -> Option<Duration> {
        let memory = self.memory.lock();
        let left = memory.closed.get(&address)?.checked_duration_since(Instant::now())?;
        (!memory.good.contains_key(&(address, credential))).then_some(left)
    }

    fn sweep(&self) {
        let now = Instant::now();
        {
            let mut memory = self.memory.lock();
            if now.saturating_duration_since(memory.swept) < SWEEP {
                return;
            }
            memory.swept = now;
            memory.closed.retain(|_, until| now < *until);
            memory.good.retain(|_, noted| now.saturating_duration_since(*noted) < GOOD);
        }
        if let Some(keys) = &self.keys {
            keys.retain_recent();
        }
        for addresses in [&self.addresses, &self.wrong].into_iter().flatten() {
            addresses.retain_recent();
        }
    }
}

const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

impl Memory {
    fn note_good(&mut self, which: (IpAddr, Credential), now: Instant) {
        if let Some(noted) = self.good.get_mut(&which) {
            *noted = now;
        } else if self.good.len() < REMEMBERED {
            self.good.insert(which, now);
        }
    }

    /// Tells whether it was open lately.
    fn close(&mut self, address: IpAddr, until: Instant) -> bool {
        let is_known = self.closed.contains_key(&address);
        if is_known || self.closed.len() < REMEMBERED {
            self.closed.insert(address, until);
        }
        !is_known
    }
}

/// Counts one, or says how long until there is room for it.
fn over<K: Clone + Eq + std::hash::Hash>(limit: Option<&DefaultKeyedRateLimiter<K>>, key: &K) -> Option<Duration> {
    let clock = DefaultClock::default();
    limit?.check_key(key).err().map(|until| until.wait_time_from(clock.now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Limits = Limits {
        connections: 1,
        connections_per_address: None,
        requests_per_key: None,
        requests_per_address: None,
        wrong_keys: None,
        list_silence: Duration::from_secs(60),
    };

    fn credential(number: u8) -> Credential {
        Credential([number; 16])
    }

    fn passed(guard: &Guard, peer: &str, number: u8, times: usize) -> usize {
        (0..times).filter(|_| guard.admit(peer.parse().unwrap(), Some(credential(number))).is_ok()).count()
    }

    #[test]
    fn one_key_and_one_address_have_so_many_and_others_are_not_touched() {
        let few = NonZeroU32::new(2);
        let guard = Guard::new(&Limits { requests_per_key: few, ..NOBODY });
        assert!((4..=6).contains(&passed(&guard, "192.0.2.1", 1, 50)));
        assert_eq!(passed(&guard, "192.0.2.1", 2, 1), 1);
        let guard = Guard::new(&Limits { requests_per_address: few, ..NOBODY });
        let mut hosts = (1..=50).map(|host| format!("2001:db8::{host}"));
        let admitted = hosts.by_ref().filter(|host| passed(&guard, host, 1, 1) == 1).count();
        assert!((4..=6).contains(&admitted), "one household is one: {admitted}");
        assert_eq!(passed(&guard, "2001:db8:0:1::1", 1, 1), 1);
        let refused = guard.admit("2001:db8::1".parse().unwrap(), None).unwrap_err();
        assert!(matches!(refused, ApiError::TooManyRequests { retry_after: 1..=LONGEST_WAIT }), "{refused:?}");
        assert_eq!(passed(&Guard::new(&NOBODY), "192.0.2.1", 1, 1_000), 1_000);
    }

    #[test]
    fn who_guesses_is_not_heard_for_a_while_and_who_was_good_before_goes_on() {
        let guard = Guard::new(&Limits { wrong_keys: NonZeroU32::new(10), ..NOBODY });
        let (peer, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        guard.note(peer, Some(credential(1)), StatusCode::ACCEPTED);
        let mut tried = 0;
        while guard.admit(peer, Some(credential(9))).is_ok() {
            guard.note(peer, Some(credential(9)), StatusCode::UNAUTHORIZED);
            tried += 1;
        }
        assert_eq!(tried, 11);
        assert!(guard.admit(peer, Some(credential(2))).is_err(), "a right guess would be heard as little");
        assert!(guard.admit(peer, Some(credential(1))).is_ok());
        assert!(guard.admit(peer, None).is_ok(), "who shows nothing guesses nothing");
        assert!(guard.admit(other, Some(credential(9))).is_ok());
    }
}
