//! Any JSON value, kept as its text: binary formats that do not describe themselves cannot carry a free-form value.

use proto_events::limits;
use serde::de::{Deserializer, Error as _, IgnoredAny};
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A JSON value as compact text. Textual formats see the value itself, binary ones the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(Box<str>);

impl JsonText {
    /// The text of a value.
    pub fn of(value: &Value) -> Self {
        // Not `to_string`, which goes through the machinery of formatting.
        Self(serde_json::to_string(value).expect("a value with text keys is always JSON").into())
    }

    /// The text of an object.
    pub fn of_map(map: &Map<String, Value>) -> Self {
        Self(serde_json::to_string(map).expect("an object with text keys is always JSON").into())
    }

    /// The empty object, `{}`.
    pub fn empty_object() -> Self {
        Self("{}".into())
    }

    /// The value again.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }

    /// The beginning of a long value, as a JSON text with the mark of a cut.
    pub(crate) fn shortened(&self, characters: usize) -> Self {
        let mut text = match self.value() {
            Value::String(text) => text,
            _ => self.0.to_string(),
        };
        limits::cut(&mut text, characters);
        Self::of(&Value::String(text))
    }

    /// The text itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for JsonText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AnyJson".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        true.into()
    }
}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            let value: Value = serde_json::from_str(&self.0).map_err(S::Error::custom)?;
            value.serialize(serializer)
        } else {
            serializer.serialize_str(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            Value::deserialize(deserializer).map(|value| Self::of(&value))
        } else {
            let text = String::deserialize(deserializer)?;
            // Bytes from a damaged store must not become a record that later fails to be written as JSON.
            serde_json::from_str::<IgnoredAny>(&text).map_err(D::Error::custom)?;
            Ok(Self(text.into()))
        }
    }
}
