//! The commands other than `serve`.

pub(crate) mod connection;
pub(crate) mod events;
pub(crate) mod export;
pub(crate) mod fold;
pub(crate) mod import;
pub(crate) mod job;
mod lines;
pub(crate) mod maintain;
pub(crate) mod prepare;
