//! A part of the table: some thousand jobs, in memory or on disk.

use std::ops::Deref;
use std::sync::Arc;

use super::codes::Recoded;
use super::cold::Cold;
use super::segment::{Segment, Spans};
use crate::error::ViewError;

#[derive(Clone, Debug)]
pub(super) enum Part {
    Hot(Arc<Segment>),
    Cold(Arc<Cold>),
}

/// The columns of a part, wherever they were.
pub(super) enum Columns<'a> {
    Kept(&'a Segment),
    Read(Box<Segment>),
}

impl Deref for Columns<'_> {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        match self {
            Self::Kept(segment) => segment,
            Self::Read(segment) => segment,
        }
    }
}

impl Part {
    /// The columns, from the disk if need be.
    pub(super) fn open(&self) -> Result<Columns<'_>, ViewError> {
        match self {
            Self::Hot(segment) => Ok(Columns::Kept(segment)),
            Self::Cold(cold) => cold.read().map(|segment| Columns::Read(Box::new(segment))),
        }
    }

    /// Gives all codes those of another table.
    pub(super) fn recode(&mut self, recoded: &Arc<Recoded>) {
        match self {
            Self::Hot(segment) => Arc::make_mut(segment).recode(recoded),
            Self::Cold(cold) => Arc::make_mut(cold).recode(recoded),
        }
    }

    pub(super) fn spans(&self) -> &Spans {
        match self {
            Self::Hot(segment) => &segment.spans,
            Self::Cold(cold) => &cold.summary().spans,
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Hot(segment) => segment.len(),
            Self::Cold(cold) => cold.summary().len(),
        }
    }

    /// The segment, if it is in memory.
    pub(super) fn hot(&self) -> Option<&Segment> {
        match self {
            Self::Hot(segment) => Some(segment),
            Self::Cold(_) => None,
        }
    }

    /// The number of the row of the job at this place.
    pub(super) fn number(&self, place: usize) -> u64 {
        match self {
            Self::Hot(segment) => segment.numbers[place],
            Self::Cold(cold) => cold.summary().number(place),
        }
    }
}
