//! Which messages may be acknowledged to RabbitMQ.

use std::collections::VecDeque;

/// Far more than are ever under way; a tag beyond is none of RabbitMQ's.
const MOST: usize = 1 << 16;

/// The messages of a channel that are not acknowledged yet. RabbitMQ numbers them from 1 without a gap, over all consumers
/// of the channel; since each consumer is a queue of its own here, they may be looked at in another order.
///
/// Events go into the log under numbers that are never used twice, also not by the next channel, so that what the log says
/// of an earlier channel's events acknowledges nothing of this one.
#[derive(Debug, Default)]
pub(super) struct Unacked {
    /// What earlier channels have used up.
    offset: u64,
    /// The lowest tag that is not acknowledged, less one.
    acked: u64,
    /// The tags from there on: how many of a message's events are not in the log yet, or `None` where it was not looked at.
    waiting: VecDeque<Option<usize>>,
}

impl Unacked {
    /// A message was looked at; so many of its events go to the log, each under the number that is returned.
    pub(super) fn delivered(&mut self, tag: u64, events: usize) -> u64 {
        if let Some(at) = self.place(tag) {
            if self.waiting.len() <= at {
                self.waiting.resize(at + 1, None);
            }
            self.waiting[at] = Some(events);
        }
        self.offset + tag
    }

    /// One event with that number is done with.
    pub(super) fn settled(&mut self, number: u64) {
        let Some(tag) = number.checked_sub(self.offset) else { return };
        if let Some(Some(left)) = self.place(tag).and_then(|at| self.waiting.get_mut(at)) {
            *left = left.saturating_sub(1);
        }
    }

    /// The tag up to which everything may be acknowledged now, if there is anything new.
    pub(super) fn acknowledge(&mut self) -> Option<u64> {
        let done = self.waiting.iter().take_while(|left| **left == Some(0)).count();
        self.waiting.drain(..done);
        self.acked += done as u64;
        (done > 0).then_some(self.acked)
    }

    /// The channel is gone: its tags mean nothing any more, and RabbitMQ delivers anew what was not acknowledged.
    pub(super) fn reset(&mut self) {
        self.offset += self.acked + self.waiting.len() as u64;
        self.acked = 0;
        self.waiting.clear();
    }

    fn place(&self, tag: u64) -> Option<usize> {
        tag.checked_sub(self.acked + 1).and_then(|at| usize::try_from(at).ok()).filter(|at| *at < MOST)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Deliver(usize, usize),
        Settle(usize),
        Acknowledge,
        Reconnect,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_usize..3, 0_usize..4).prop_map(|(which, events)| Step::Deliver(which, events)),
            6 => (0_usize..64).prop_map(Step::Settle),
            2 => Just(Step::Acknowledge),
            1 => Just(Step::Reconnect),
        ]
    }

    proptest! {
        /// The plain truth beside it: an acknowledgement never covers a message whose events are not all done with, and
        /// covers every one that it may.
        #[test]
        fn nothing_is_acknowledged_before_the_log_has_it_and_all_is_in_the_end(
            steps in prop::collection::vec(step(), 1..300),
        ) {
            let mut unacked = Unacked::default();
            // Of this channel, by tag: events that are open, or none where it was not looked at. And numbers under way.
            let (mut open, mut acked): (Vec<Option<usize>>, u64) = (Vec::new(), 0);
            let mut under_way: Vec<(u64, Option<u64>)> = Vec::new();
            for step in steps.into_iter().chain([Step::Acknowledge]) {
                match step {
                    Step::Deliver(ahead, events) => {
                        let tag = (0..).map(|at| acked + 1 + at).filter(|tag| {
                            open.get(*tag as usize - 1).is_none_or(Option::is_none)
                        }).nth(ahead).unwrap();
                        if open.len() < tag as usize {
                            open.resize(tag as usize, None);
                        }
                        open[tag as usize - 1] = Some(events);
                        let number = unacked.delivered(tag, events);
                        under_way.extend((0..events).map(|_| (number, Some(tag))));
                    }
                    Step::Settle(_) if under_way.is_empty() => {}
                    Step::Settle(which) => {
                        let (number, tag) = under_way.swap_remove(which % under_way.len());
                        unacked.settled(number);
                        if let Some(tag) = tag {
                            *open[tag as usize - 1].as_mut().unwrap() -= 1;
                        }
                    }
                    Step::Acknowledge => {
                        let all = open.iter().take_while(|left| **left == Some(0)).count() as u64;
                        prop_assert_eq!(unacked.acknowledge(), (all > acked).then_some(all));
                        acked = all;
                    }
                    Step::Reconnect => {
                        unacked.reset();
                        (open, acked) = (Vec::new(), 0);
                        for (_, tag) in &mut under_way {
                            *tag = None;
                        }
                    }
                }
            }
        }
    }
}
