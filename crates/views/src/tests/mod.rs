//! Tests of the crate as a whole.

mod concurrency;
mod crash;
mod damage;
mod golden;
mod list;
mod model;
mod opening;
mod support;
