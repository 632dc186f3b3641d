//! One-time links: a token that is good for one log-in, soon. They are kept in memory, as hashes, and are gone with the
//! process.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;

/// How long a token is good.
pub(crate) const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// So many at a time; a new one takes the place of the oldest.
const PENDING: usize = 16;

/// The tokens that were given out and not used.
#[derive(Default)]
pub(super) struct Tokens(Mutex<VecDeque<(blake3::Hash, Instant)>>);

impl Tokens {
    /// A new one.
    pub(super) fn issue(&self, now: Instant) -> String {
        let token = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let mut pending = self.0.lock();
        while pending.len() >= PENDING {
            pending.pop_front();
        }
        pending.push_back((blake3::hash(token.as_bytes()), now + LIFETIME));
        token
    }

    /// Whether it was good; it is not any more.
    pub(super) fn redeem(&self, token: &str, now: Instant) -> bool {
        let hash = blake3::hash(token.as_bytes());
        let mut pending = self.0.lock();
        pending.retain(|(_, until)| now < *until);
        // Comparing two of BLAKE3's hashes takes the same time wherever they differ.
        let place = pending.iter().position(|(known, _)| *known == hash);
        place.and_then(|place| pending.remove(place)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once_and_not_for_long() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let (one, other) = (tokens.issue(now), tokens.issue(now));
        assert!(!tokens.redeem("", now) && !tokens.redeem(&one[1..], now));
        assert!(tokens.redeem(&one, now) && !tokens.redeem(&one, now));
        assert!(!tokens.redeem(&other, now + LIFETIME));
    }

    #[test]
    fn a_flood_of_tokens_takes_no_more_room_than_there_is() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let all: Vec<String> = (0..=PENDING).map(|_| tokens.issue(now)).collect();
        assert_eq!(tokens.0.lock().len(), PENDING);
        assert!(!tokens.redeem(&all[0], now));
        assert!(all[1..].iter().all(|token| tokens.redeem(token, now)));
    }
}
