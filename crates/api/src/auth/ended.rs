//! Sessions that were ended before they expired. A cookie that was copied is good no more either.

use std::collections::BTreeMap;
use std::io;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::cookie::Session;

/// So many are known one by one; with more of them, all that were issued up to now are ended.
const SINGLE: usize = 10_000;

/// What is kept of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndedSessions {
    /// All that were issued up to this second since the epoch.
    all_until: u64,
    /// Single ones, and when they would have expired.
    single: BTreeMap<String, u64>,
}

/// Keeps them where a restart finds them.
pub type KeepSessions = Box<dyn Fn(&EndedSessions) -> io::Result<()> + Send + Sync>;

/// The sessions that were ended.
#[derive(Default)]
pub(super) struct Ended {
    known: Mutex<EndedSessions>,
    keep: Option<KeepSessions>,
}

impl Ended {
    pub(super) fn new(known: EndedSessions, keep: KeepSessions) -> Self {
        Self { known: Mutex::new(known), keep: Some(keep) }
    }

    pub(super) fn has(&self, session: &Session) -> bool {
        let known = self.known.lock();
        session.issued <= known.all_until || known.single.contains_key(&id(session))
    }

    /// When a session may be issued that is to be good, at the earliest.
    pub(super) fn earliest(&self, now: u64) -> u64 {
        now.max(self.known.lock().all_until + 1)
    }

    /// Ends one.
    pub(super) fn end(&self, session: &Session, now: u64) -> io::Result<()> {
        let mut known = self.known.lock();
        known.single.retain(|_, expiry| now < *expiry);
        if known.single.len() >= SINGLE {
            known.end_all(now);
        } else {
            known.single.insert(id(session), session.expiry);
        }
        self.keep(&known)
    }

    /// Ends all.
    pub(super) fn end_all(&self, now: u64) -> io::Result<()> {
        let mut known = self.known.lock();
        known.end_all(now);
        self.keep(&known)
    }

    /// They are ended even if that cannot be kept.
    fn keep(&self, known: &EndedSessions) -> io::Result<()> {
        self.keep.as_ref().map_or(Ok(()), |keep| keep(known))
    }
}

impl EndedSessions {
    fn end_all(&mut self, now: u64) {
        self.all_until = self.all_until.max(now);
        self.single.clear();
    }
}

fn id(session: &Session) -> String {
    blake3::hash(&session.nonce).to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::person::{Login, Person};

    fn session(number: u8, issued: u64) -> Session {
        Session { person: Person::admin(Login::Password), nonce: [number; 16], issued, expiry: issued + 100 }
    }

    #[test]
    fn one_or_all_are_ended_and_those_that_come_after_are_not() {
        let ended = Ended::default();
        ended.end(&session(1, 10), 11).unwrap();
        assert!(ended.has(&session(1, 10)) && !ended.has(&session(2, 10)));
        ended.end_all(12).unwrap();
        assert!(ended.has(&session(2, 10)) && ended.has(&session(3, 12)));
        assert!(!ended.has(&session(4, ended.earliest(12))), "within the same second too");
        for number in 0..=255 {
            ended.end(&session(number, 20), 20).unwrap();
        }
        ended.end(&session(0, 200), 200).unwrap();
        assert_eq!(ended.known.lock().single.len(), 1, "what has expired is forgotten");
    }
}
