//! The fields of an object.

use std::borrow::Cow;

use proto_events::Timestamp;
use serde_json::{Map, Value};

/// The fields of an object. What is taken is gone, and what has an unexpected type cannot be taken: it is left for
/// [`Fields::rest`].
///
/// A list in place of a map: the objects here have a dozen fields, and a map of them costs more than all else.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a>(pub(super) Vec<(Cow<'a, str>, Value)>);

impl From<Map<String, Value>> for Fields<'_> {
    fn from(map: Map<String, Value>) -> Self {
        Self(map.into_iter().map(|(key, value)| (Cow::Owned(key), value)).collect())
    }
}

impl Fields<'_> {
    /// Of a repeated field the last one counts, as in Python.
    fn slot(&mut self, key: &str) -> Option<&mut Value> {
        self.0.iter_mut().rev().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// Any value but null.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.slot(key).map(Value::take).filter(|value| !value.is_null())
    }

    fn take_as<T>(&mut self, key: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let slot = self.slot(key)?;
        let read = read(slot)?;
        *slot = Value::Null;
        Some(read)
    }

    pub(crate) fn text(&mut self, key: &str) -> Option<String> {
        match self.slot(key)? {
            Value::String(text) => {
                let text = std::mem::take(text);
                self.take(key);
                Some(text)
            }
            _ => None,
        }
    }

    /// A text that says something: an empty one is taken and dropped.
    pub(crate) fn filled_text(&mut self, key: &str) -> Option<String> {
        self.text(key).filter(|text| !text.is_empty())
    }

    pub(crate) fn object(&mut self, key: &str) -> Option<Map<String, Value>> {
        match self.slot(key)? {
            Value::Object(map) => {
                let map = std::mem::take(map);
                self.take(key);
                Some(map)
            }
            _ => None,
        }
    }

    pub(crate) fn boolean(&mut self, key: &str) -> Option<bool> {
        self.take_as(key, Value::as_bool)
    }

    pub(crate) fn number(&mut self, key: &str) -> Option<f64> {
        self.take_as(key, Value::as_f64)
    }

    pub(crate) fn signed(&mut self, key: &str) -> Option<i64> {
        self.take_as(key, |value| value.as_i64().or_else(|| whole(value)))
    }

    pub(crate) fn count(&mut self, key: &str) -> Option<u64> {
        self.take_as(key, unsigned)
    }

    pub(crate) fn small_count(&mut self, key: &str) -> Option<u32> {
        self.take_as(key, |value| unsigned(value).and_then(|count| u32::try_from(count).ok()))
    }

    /// A time as text.
    pub(crate) fn time(&mut self, key: &str) -> Option<Timestamp> {
        self.take_as(key, |value| value.as_str().and_then(Timestamp::parse))
    }

    /// What nobody took.
    pub(crate) fn rest(self) -> Map<String, Value> {
        let left = self.0.into_iter().filter(|(_, value)| !value.is_null());
        left.map(|(key, value)| (key.into_owned(), value)).collect()
    }
}

fn unsigned(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| whole(value).and_then(|number| u64::try_from(number).ok()))
}

/// `3.0` is a whole number to every language but the strict ones.
fn whole(value: &Value) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let number = value.as_f64()?;
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}
