//! When a source did not listen.

use proto_events::Timestamp;

use super::{FleetFact, What};

/// A stretch of time in which a source did not hear its broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Since when.
    pub from: Timestamp,
    /// Until when; `None` while it lasts.
    pub to: Option<Timestamp>,
    /// Why.
    pub reason: Option<Box<str>>,
}

/// The gaps, in the order of the log. Before a source was first connected nothing is known of it.
pub(super) fn of<'a>(facts: impl Iterator<Item = &'a FleetFact>) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = Vec::new();
    let mut was_connected = false;
    for fact in facts {
        let What::Source { connected, reason } = &fact.what else { continue };
        if *connected {
            if let Some(open) = gaps.last_mut().filter(|gap| gap.to.is_none()) {
                open.to = Some(fact.at.max(open.from));
            }
            was_connected = true;
        } else if was_connected {
            gaps.push(Gap { from: fact.at, to: None, reason: reason.clone() });
            was_connected = false;
        }
    }
    gaps
}
