//! What to keep of the log: numbers in, a decision out. No clock, no disk.
//!
//! The log forgets in buckets of an hour, or of a 24th of what is kept where that is less than a day. What is older than
//! the retention goes. Where the log takes [`SHORTEN`] of what it may, the oldest buckets go before their time, but never
//! the youngest: were it to go too, a flood would wash away the very events that tell of it. Then who can wait is asked
//! to ([`REFUSE`]), and only what cannot, the events of brokers, pushes the oldest out ([`PUSH`]).

use std::time::Duration;

use proto_events::Timestamp;

const HOUR: Duration = Duration::from_secs(60 * 60);
const SECOND: Duration = Duration::from_secs(1);

/// Percent of the allowed bytes: from here on, less is kept than asked for.
const SHORTEN: u64 = 80;
/// A bucket that holds more than this beyond what must go does not go whole.
const COARSE: u64 = 10;
/// A part of a bucket goes at once, so that it is not one after the other.
const PART: u64 = 75;
/// From here on nothing is taken from whoever can wait, if nothing but the youngest bucket is left.
const REFUSE: u64 = 95;
/// Down to here.
const ACCEPT: u64 = 90;
/// From here on the oldest goes, whatever it is.
const PUSH: u64 = 100;

/// What is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// For how long after the log took it; `None` is for ever.
    pub keep: Option<Duration>,
    /// In how much of the disk.
    pub most: Most,
}

/// How large the log may become. The disk itself is a limit to each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Most {
    /// So many hundredths of the disk. Of a log that is elsewhere nobody knows the disk, and it is not limited.
    Percent(u8),
    /// So many bytes, as the stream counts them: before they are compressed.
    Bytes(u64),
    /// As large as it likes: nothing is forgotten for the sake of room.
    Unlimited,
}

/// The disk and the log on it, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// What the log takes, as the stream counts it.
    pub(super) log: u64,
    /// Size of the disk and what is free of it, if the log is on a disk of ours.
    pub(super) disk: Option<(u64, u64)>,
}

impl Room {
    /// Kept free for the views, and for whatever else is on the disk.
    fn reserve(total: u64) -> u64 {
        (total / 20).min(64 << 20)
    }
}

impl Policy {
    /// The log forgets so much at a time, and no less is ever kept for the sake of room.
    pub(super) fn bucket(&self) -> Duration {
        self.keep.map_or(HOUR, |keep| Duration::from_secs((keep / 24).as_secs()).clamp(SECOND, HOUR))
    }

    /// The end of the bucket that this time is in.
    pub(super) fn bucket_end(&self, time: Timestamp) -> Timestamp {
        let bucket = self.bucket().as_micros() as i64;
        Timestamp((time.micros().div_euclid(bucket) + 1).saturating_mul(bucket))
    }

    /// What is older than this is older than the retention; at the beginning of a bucket.
    pub(super) fn expired_before(&self, now: Timestamp) -> Option<Timestamp> {
        let keep = i64::try_from(self.keep?.as_micros()).ok()?;
        let bucket = self.bucket().as_micros() as i64;
        Some(Timestamp(now.micros().saturating_sub(keep).div_euclid(bucket).saturating_mul(bucket)))
    }

    /// Nothing from this time on goes for the sake of room.
    pub(super) fn youngest(&self, now: Timestamp) -> Timestamp {
        Timestamp(now.micros().saturating_sub(self.bucket().as_micros() as i64))
    }

    /// What the log may take now, in bytes; `None` where nobody can tell.
    pub(super) fn allowed(&self, room: Room) -> Option<u64> {
        let on_disk = room.disk.map(|(total, free)| (room.log + free).saturating_sub(Room::reserve(total)));
        [self.asked(room), on_disk].into_iter().flatten().min()
    }

    /// What it may take whatever else is on the disk.
    fn asked(&self, room: Room) -> Option<u64> {
        match self.most {
            Most::Percent(percent) => room.disk.map(|(total, _)| total / 100 * u64::from(percent)),
            Most::Bytes(bytes) => Some(bytes),
            Most::Unlimited => None,
        }
    }

    /// How much must go for the sake of room, the youngest bucket apart.
    pub(super) fn excess(&self, room: Room) -> Option<Excess> {
        let (asked, allowed) = (self.asked(room)?, self.allowed(room)?);
        let above = |bytes, percent| room.log.checked_sub(part(bytes, percent)).filter(|bytes| *bytes > 0);
        let bytes = above(allowed, SHORTEN)?;
        Some(Excess {
            part: above(allowed, PART).unwrap_or(bytes),
            coarse: bytes + part(allowed, COARSE),
            // For the sake of what else is on the disk, the youngest bucket does not go.
            pushed: above(asked, PUSH).and(above(asked, REFUSE)),
        })
    }

    /// Whether who can wait is asked to; `nothing_else` says that only the youngest bucket is left.
    pub(super) fn refuses(&self, room: Room, nothing_else: bool, refused: bool) -> bool {
        let Some(allowed) = self.allowed(room) else { return false };
        let reaches = |percent| room.log >= part(allowed, percent);
        if refused { reaches(ACCEPT) } else { reaches(PUSH) || nothing_else && reaches(REFUSE) }
    }

    /// How many bytes more may come before that is so; `None` where nobody can tell.
    pub(super) fn left(&self, room: Room, nothing_else: bool) -> Option<u64> {
        let percent = if nothing_else { REFUSE } else { PUSH };
        Some(part(self.allowed(room)?, percent).saturating_sub(room.log))
    }
}

/// How much of the log must go, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Excess {
    /// Where it is a part of a bucket.
    pub(super) part: u64,
    /// A bucket that holds more goes in parts.
    pub(super) coarse: u64,
    /// Of the youngest bucket, if that is all that is left.
    pub(super) pushed: Option<u64>,
}

fn part(bytes: u64, percent: u64) -> u64 {
    (u128::from(bytes) * u128::from(percent) / 100) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;
    const DAY: u64 = 24 * 60 * 60;

    fn policy(days: u64, most: Most) -> Policy {
        Policy { keep: Some(Duration::from_secs(days * DAY)), most }
    }

    fn room(log: u64, free: u64) -> Room {
        Room { log, disk: Some((100 * GB, free)) }
    }

    fn hours(hours: i64) -> Timestamp {
        Timestamp(hours * 3_600_000_000)
    }

    #[test]
    fn buckets_are_hours_or_a_24th_of_a_short_retention_but_a_second_at_least() {
        let bucket =
            |seconds| Policy { keep: Some(Duration::from_secs(seconds)), most: Most::Unlimited }.bucket().as_secs();
        assert_eq!([1, 30, 72, 3_600, DAY, 7 * DAY].map(bucket), [1, 1, 3, 150, 3_600, 3_600]);
        assert_eq!(Policy { keep: None, most: Most::Unlimited }.bucket(), HOUR);
    }

    #[test]
    fn what_is_older_than_asked_for_goes_by_whole_buckets_and_never_early() {
        let week = policy(7, Most::Unlimited);
        let now = Timestamp(hours(1_000).0 + 1);
        assert_eq!(week.expired_before(now), Some(hours(1_000 - 7 * 24)));
        assert_eq!(week.expired_before(hours(1_000)), Some(hours(1_000 - 7 * 24)));
        assert_eq!(week.expired_before(Timestamp(hours(1_000).0 - 1)), Some(hours(999 - 7 * 24)));
        // A bucket ends where the next one begins; times before the epoch have buckets, too.
        assert_eq!(week.bucket_end(hours(5)), hours(6));
        assert_eq!(week.bucket_end(Timestamp(hours(5).0 - 1)), hours(5));
        assert_eq!(week.bucket_end(Timestamp(-1)), hours(0));
        assert_eq!(Policy { keep: None, most: Most::Unlimited }.expired_before(now), None);
    }

    #[test]
    fn the_log_may_take_what_was_asked_for_or_what_is_free_if_that_is_less() {
        let half = policy(7, Most::Percent(50));
        assert_eq!(half.allowed(room(10 * GB, 80 * GB)), Some(50 * GB));
        assert_eq!(half.allowed(room(10 * GB, 20 * GB)), Some(30 * GB - (64 << 20)));
        assert_eq!(half.allowed(room(0, 0)), Some(0), "a full disk is not a negative one");
        // Of a log that is elsewhere only what was asked for in bytes is known.
        let elsewhere = Room { log: 10 * GB, disk: None };
        assert_eq!(half.allowed(elsewhere), None);
        assert_eq!(policy(7, Most::Bytes(GB)).allowed(elsewhere), Some(GB));
        assert_eq!(half.excess(elsewhere), None);
        assert!(!half.refuses(elsewhere, true, true));
    }

    #[test]
    fn less_is_kept_from_four_fifths_on_and_who_can_wait_is_refused_before_the_youngest_goes() {
        let bytes = policy(7, Most::Bytes(10 * GB));
        let at = |tenths: u64| room(tenths * GB / 10, 50 * GB);
        assert_eq!(bytes.excess(at(80)), None);
        let excess = bytes.excess(at(81)).unwrap();
        assert_eq!((excess.part, excess.coarse, excess.pushed), (6 * GB / 10, 11 * GB / 10, None));
        assert_eq!(bytes.excess(at(101)).unwrap().pushed, Some(6 * GB / 10));
        // Only once nothing else can go, and then until there is some room, so that it does not flutter.
        assert!(!bytes.refuses(at(94), true, false) && bytes.refuses(at(95), true, false));
        assert!(!bytes.refuses(at(99), false, false) && bytes.refuses(at(100), false, false));
        assert!(bytes.refuses(at(90), false, true) && !bytes.refuses(at(89), true, true));
        assert_eq!((bytes.left(at(90), true), bytes.left(at(90), false)), (Some(GB / 2), Some(GB)));
        assert_eq!(bytes.left(at(200), true), Some(0));
        // What others have on the disk costs the older events, but not the youngest.
        let crowded = bytes.excess(room(5 * GB, 0)).unwrap();
        assert_eq!(crowded.pushed, None);
        assert!(bytes.refuses(room(5 * GB, 0), true, false));
    }

    #[test]
    fn whoever_wants_all_kept_has_nothing_dropped_and_is_refused_before_the_disk_is_full() {
        let all = Policy { keep: None, most: Most::Unlimited };
        assert_eq!(all.excess(room(90 * GB, 0)), None);
        assert!(all.refuses(room(90 * GB, GB / 10), true, false));
        assert!(!all.refuses(room(50 * GB, 10 * GB), true, false));
    }
}
