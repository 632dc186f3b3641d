//! Lenient reading of JSON that others wrote.
//!
//! # Layout
//! - [`Fields`]: an object; taking what is understood, keeping the rest
//! - [`each_object`], [`each_object_in`]: many objects, each on its own
//! - [`repaired`]: what Python writes although it is not JSON

mod elements;
mod fields;
mod repair;

pub(crate) use elements::{Broken, each_object, each_object_in};
pub(crate) use fields::Fields;
pub(crate) use repair::repaired;

/// A text for an error message: short, whatever it was.
pub(crate) fn shown(text: &str) -> String {
    shown_up_to(text, 80)
}

/// The same, of so many characters.
pub(crate) fn shown_up_to(text: &str, most: usize) -> String {
    let mut shown = text.to_owned();
    proto_events::limits::cut(&mut shown, most);
    shown
}
