//! The commands other than `serve`.

pub(crate) mod connection;
pub(crate) mod events;
pub(crate) mod fold;
pub(crate) mod job;
pub(crate) mod maintain;
