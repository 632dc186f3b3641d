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
        let asked = match self.most {
            Most::Percent(percent) => room.disk.map(|(total, _)| total / 100 * u64::from(percent)),
            Most::Bytes(bytes) => Some(bytes),
            Most::Unlimited => None,
        };
        [asked, on_disk].into_iter().flatten().min()
    }

    /// How much must go for the sake of room, the youngest bucket apart.
    pub(super) fn excess(&self, room: Room) -> Option<Excess> {
        let allowed = self.allowed(room).filter(|_| self.most != Most::Unlimited)?;
        let above = |percent| room.log.checked_sub(part(allowed, percent)).filter(|bytes| *bytes > 0);
        let bytes = above(SHORTEN)?;
        Some(Excess {
            bytes,
            part: above(PART).unwrap_or(bytes),
            coarse: bytes + part(allowed, COARSE),
            pushes: above(PUSH).is_some(),
            pushed: above(REFUSE).unwrap_or_default(),
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
    /// At least.
    pub(super) bytes: u64,
    /// Where it is a part of a bucket.
    pub(super) part: u64,
    /// A bucket that holds more goes in parts.
    pub(super) coarse: u64,
    /// Whether it is so much that the youngest bucket is not spared.
    pub(super) pushes: bool,
    /// Of that one, so much.
    pub(super) pushed: u64,
}

fn part(bytes: u64, percent: u64) -> u64 {
    (u128::from(bytes) * u128::from(percent) / 100) as u64
}
