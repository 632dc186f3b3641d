//! The two connections of a source: one for events about tasks, one for those about workers.
//!
//! Redis keeps what a reader has not read in a buffer of its connection, and cuts it off when that is too full. Apart,
//! heartbeats of many workers can never cost an event of a task. To everybody else they are one: the source is connected
//! while all is heard.

use parking_lot::Mutex;

/// What a connection listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// All of it: the channels cannot be told apart.
    All,
    Tasks,
    Workers,
}

/// Which of the connections stand.
#[derive(Debug, Default)]
pub(super) struct Sides(Mutex<Standing>);

#[derive(Debug, Default)]
struct Standing {
    tasks: bool,
    workers: bool,
    /// The connection for tasks hears all.
    whole: bool,
}

impl Sides {
    /// A connection stands, maybe for all of it. Tells whether it was the one that was missing.
    pub(super) fn up(&self, side: Side, is_whole: bool) -> bool {
        let mut standing = self.0.lock();
        let before = standing.is_complete();
        match side {
            Side::All => (standing.tasks, standing.whole) = (true, true),
            Side::Tasks => (standing.tasks, standing.whole) = (true, is_whole),
            Side::Workers => standing.workers = true,
        }
        standing.is_complete() && !before
    }

    /// A connection was lost, or did not come about. Tells whether anything goes unheard for that.
    pub(super) fn down(&self, side: Side) -> bool {
        let mut standing = self.0.lock();
        match side {
            Side::All | Side::Tasks => (standing.tasks, standing.whole) = (false, false),
            Side::Workers => standing.workers = false,
        }
        !standing.is_complete()
    }
}

impl Standing {
    fn is_complete(&self) -> bool {
        self.tasks && (self.workers || self.whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_hears_all_when_both_do_or_one_hears_all() {
        let sides = Sides::default();
        assert!(!sides.up(Side::Tasks, false) && sides.up(Side::Workers, false));
        assert!(sides.down(Side::Workers) && sides.up(Side::Workers, false));
        assert!(sides.down(Side::Tasks) && sides.down(Side::Workers));
        // The one that may not listen to its part is not missed where the other listens to all.
        assert!(sides.up(Side::Tasks, true) && !sides.down(Side::Workers));
        assert!(sides.down(Side::Tasks) && !sides.up(Side::Workers, false) && sides.up(Side::Tasks, false));
        let whole = Sides::default();
        assert!(whole.up(Side::All, false) && whole.down(Side::All) && whole.up(Side::All, false));
    }
}
