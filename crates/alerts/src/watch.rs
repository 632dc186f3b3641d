//! When an incident begins and when it ends. Pure: the time comes with what was measured.

use std::time::Duration;

use proto_events::Timestamp;

/// Where incidents begin and end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// One begins at this value.
    pub(crate) trigger: f64,
    /// It ends at this one and below the other.
    pub(crate) resolve: f64,
    /// The value must have been at the trigger for so long.
    pub(crate) hold: Duration,
    /// After an end no other one begins for so long.
    pub(crate) cooldown: Duration,
}

/// What a rule is in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Watch {
    /// Since when every value was at the trigger.
    pub(crate) above_since: Option<Timestamp>,
    /// Whether there is an incident.
    pub(crate) is_open: bool,
    /// When the last one ended.
    pub(crate) closed_at: Option<Timestamp>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// An incident begins.
    Opens,
    /// It ends.
    Closes,
}

impl Watch {
    /// Takes in what was measured now; `None` where nothing can be told. Then an incident stays as it is, and none begins.
    pub(crate) fn step(&mut self, limits: &Limits, value: Option<f64>, now: Timestamp) -> Option<Turn> {
        let Some(value) = value.filter(|value| !value.is_nan()) else {
            self.above_since = None;
            return None;
        };
        if self.is_open {
            let is_over = value < limits.trigger && value <= limits.resolve;
            if is_over {
                *self = Self { above_since: None, is_open: false, closed_at: Some(now) };
            }
            return is_over.then_some(Turn::Closes);
        }
        if value < limits.trigger {
            self.above_since = None;
            return None;
        }
        let since = *self.above_since.get_or_insert(now);
        let opens = !self.is_cooling(limits, now) && has_passed(limits.hold, since, now);
        if opens {
            *self = Self { above_since: None, is_open: true, ..*self };
        }
        opens.then_some(Turn::Opens)
    }

    /// Whether the last incident ended so short a time ago that none may begin.
    pub(crate) fn is_cooling(&self, limits: &Limits, now: Timestamp) -> bool {
        self.closed_at.is_some_and(|closed| !has_passed(limits.cooldown, closed, now))
    }
}

/// A clock that was put back makes a wait longer by that, but not without end: whoever waits from the future waits no more.
fn has_passed(time: Duration, since: Timestamp, now: Timestamp) -> bool {
    let elapsed = now.micros().saturating_sub(since.micros());
    let time = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    elapsed >= time || elapsed < time.saturating_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: i64 = 1_000_000;

    fn limits() -> impl Strategy<Value = Limits> {
        (1_u32..6, 0_u32..6, 0_u64..5, 0_u64..9).prop_map(|(trigger, below, hold, cooldown)| Limits {
            trigger: f64::from(trigger),
            resolve: f64::from(trigger.saturating_sub(below)),
            hold: Duration::from_secs(hold),
            cooldown: Duration::from_secs(cooldown),
        })
    }

    /// Seconds since the last look, what was measured, and whether the process was killed and started before it.
    fn looks() -> impl Strategy<Value = Vec<(i64, Option<u32>, bool)>> {
        let value = prop_oneof![1 => Just(None), 9 => (0_u32..8).prop_map(Some)];
        prop::collection::vec((0_i64..4, value, prop::bool::weighted(0.1)), 0..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_incident_begins_once_and_ends_once_whatever_is_measured(limits in limits(), looks in looks()) {
            let (mut watch, mut now) = (Watch::default(), 0_i64);
            // The plain truth: since when all was at the trigger, since when there is an incident, when the last one ended.
            let (mut above, mut open, mut closed): (Option<i64>, bool, Option<i64>) = (None, false, None);
            for (seconds, value, restart) in looks {
                now += seconds * SECOND;
                if restart {
                    // What is kept is that there is one, or when there was.
                    watch = Watch { above_since: None, ..watch };
                    above = None;
                }
                let value = value.map(f64::from);
                let is_high = value.is_some_and(|value| value >= limits.trigger);
                above = if is_high { above.or(Some(now)) } else { None };
                let held = above.is_some_and(|since| now - since >= limits.hold.as_micros() as i64);
                let rested = closed.is_none_or(|closed| now - closed >= limits.cooldown.as_micros() as i64);
                let begins = !open && held && rested;
                let ends = open && value.is_some_and(|value| value < limits.trigger && value <= limits.resolve);
                let turn = watch.step(&limits, value, Timestamp(now));
                let expected = if begins { Some(Turn::Opens) } else if ends { Some(Turn::Closes) } else { None };
                prop_assert_eq!(turn, expected, "at {} s: {:?}", now / SECOND, value);
                if begins {
                    (open, above) = (true, None);
                }
                if ends {
                    (open, above, closed) = (false, None, Some(now));
                }
                prop_assert_eq!(watch.is_open, open);
            }
        }
    }

    #[test]
    fn between_its_two_limits_an_incident_neither_begins_nor_ends() {
        let limits = Limits { trigger: 0.2, resolve: 0.1, hold: Duration::ZERO, cooldown: Duration::ZERO };
        let mut watch = Watch::default();
        let turns: Vec<_> = [0.15, 0.2, 0.15, 0.11, 0.3, 0.1, 0.19, f64::NAN]
            .iter()
            .enumerate()
            .map(|(at, value)| watch.step(&limits, Some(*value), Timestamp(at as i64)))
            .collect();
        let (opens, closes) = (Some(Turn::Opens), Some(Turn::Closes));
        assert_eq!(turns, [None, opens, None, None, None, closes, None, None]);
    }

    #[test]
    fn a_clock_that_was_wrong_stops_no_rule_for_ever() {
        let limits = Limits { trigger: 1.0, resolve: 0.0, hold: Duration::ZERO, cooldown: Duration::from_secs(60) };
        let mut watch = Watch { closed_at: Some(Timestamp(1_000_000 * SECOND)), ..Watch::default() };
        assert_eq!(watch.step(&limits, Some(1.0), Timestamp(SECOND)), Some(Turn::Opens));
    }
}
