//! Lenient reading of JSON objects: taking the fields that are understood, keeping the rest.

use std::borrow::Cow;
use std::fmt;

use proto_events::{Timestamp, wire};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The fields of an object. What is taken is gone, and what has an unexpected type cannot be taken: it is left for
/// [`Fields::rest`].
///
/// A list in place of a map: the objects here have a dozen fields, and a map of them costs more than all else.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a>(Vec<(Cow<'a, str>, Value)>);

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

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Element<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Element<'de>, A::Error> {
        let mut fields = Vec::with_capacity(16);
        while let Some((Key(key), value)) = map.next_entry::<Key<'de>, Value>()? {
            fields.push((key, value));
        }
        Ok(Element(Some(Fields(fields))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Element<'de>, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Element(None))
    }

    fn visit_unit<E>(self) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Element<'de>, E> {
        Ok(Element(None))
    }
}

/// Why an element of an array is no object that can be read.
#[derive(Debug)]
pub(crate) enum Broken {
    NotAnObject,
    /// Too deep, a number that nothing can hold, or no JSON at all.
    Malformed(String),
}

/// Reads one object or an array of them, each on its own: a broken element does not take its neighbours with it.
/// Repairs what Python writes although it is not JSON. The error says that the text is not JSON.
pub(crate) fn each_object(text: &str, mut read: impl FnMut(Result<Fields<'_>, Broken>)) -> Result<(), String> {
    // The usual case, all well, in one pass; only a text with something bad in it is taken apart.
    if text.trim_ascii_start().starts_with('[') {
        if let Ok(elements) = serde_json::from_str::<Vec<Element<'_>>>(text) {
            for Element(fields) in elements {
                read(fields.ok_or(Broken::NotAnObject));
            }
            return Ok(());
        }
    } else if let Ok(Element(fields)) = serde_json::from_str(text) {
        read(fields.ok_or(Broken::NotAnObject));
        return Ok(());
    }
    let text = sound(text)?;
    for element in wire::elements(text.as_bytes()).unwrap_or_else(|| vec![text.as_bytes()]) {
        read(match serde_json::from_slice(element) {
            Ok(Element(fields)) => fields.ok_or(Broken::NotAnObject),
            Err(error) => Err(Broken::Malformed(error.to_string())),
        });
    }
    Ok(())
}

/// The text, repaired, when it is JSON then: of the right syntax, though perhaps too deep or with numbers too large.
pub(crate) fn sound(text: &str) -> Result<String, String> {
    let text = repaired(text);
    serde_json::from_str::<IgnoredAny>(&text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// The text of one member of an object, which must be JSON but need not be readable.
pub(crate) fn member<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    let inside = object.trim_ascii().strip_prefix('{')?.strip_suffix('}')?;
    let list = format!("[{inside}]");
    let mut found = None;
    let mut begin = 0;
    // Only the lengths matter: the members stand in `inside` as they stand in the list, one comma apart.
    for length in wire::elements(list.as_bytes())?.into_iter().map(<[u8]>::len) {
        let (name, value) = split_member(inside.get(begin..begin + length)?)?;
        if name == key {
            found = Some(value);
        }
        begin += length + 1;
    }
    found
}

fn split_member(member: &str) -> Option<(String, &str)> {
    let mut names = serde_json::Deserializer::from_str(member).into_iter::<String>();
    let name = names.next()?.ok()?;
    Some((name, member[names.byte_offset()..].trim_ascii_start().strip_prefix(':')?.trim_ascii()))
}

/// A value of an array: its fields, or `None` where it is no object.
pub(crate) struct Element<'a>(pub(crate) Option<Fields<'a>>);

/// Python's `json.dumps` writes `NaN` and `Infinity`, and escapes of half a surrogate pair; neither is JSON. Puts
/// `null` for the former and U+FFFD for the latter, and leaves everything else as it is.
pub(crate) fn repaired(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut in_text = false;
    while let Some(at) = rest.find(|c| matches!(c, '"' | '\\') || (!in_text && matches!(c, 'N' | 'I' | '-'))) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (written, read) = match rest.as_bytes()[0] {
            b'"' => {
                in_text = !in_text;
                ("\"", 1)
            }
            b'\\' => escape(rest),
            _ => ["NaN", "-Infinity", "Infinity"]
                .into_iter()
                .find(|token| rest.starts_with(token))
                .map_or((&rest[..1], 1), |token| ("null", token.len())),
        };
        out.push_str(written);
        rest = &rest[read..];
    }
    out.push_str(rest);
    out
}

/// The escape at the start of the text, repaired where it is half a pair, and its length.
fn escape(text: &str) -> (&str, usize) {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    match unit(0) {
        Some(0xD800..=0xDBFF) if matches!(unit(6), Some(0xDC00..=0xDFFF)) => (&text[..12], 12),
        Some(0xD800..=0xDFFF) => ("\\ufffd", 6),
        _ => {
            let length = 1 + text[1..].chars().next().map_or(0, char::len_utf8);
            (&text[..length], length)
        }
    }
}

/// A text for an error message: short, whatever it was.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = text.to_owned();
    proto_events::limits::cut(&mut shown, 80);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repairs_what_python_writes() {
        let broken = r#"{"a":NaN,"b":[-Infinity,Infinity,-1],"c":"NaN \" \\","d":"\ud83d\ude00 \udce9 \ud83dx"}"#;
        assert!(serde_json::from_str::<Value>(broken).is_err());
        let value: Value = serde_json::from_str(&repaired(broken)).unwrap();
        let expected = serde_json::json!({
            "a": null, "b": [null, null, -1], "c": "NaN \" \\", "d": "\u{1F600} \u{FFFD} \u{FFFD}x"
        });
        assert_eq!(value, expected);
    }

    proptest! {
        #[test]
        fn repairing_changes_nothing_that_is_json(text in "\\PC{0,40}", number in any::<f64>()) {
            let sound = serde_json::json!({ "text": text, "number": number, &text: [true, null] }).to_string();
            prop_assert_eq!(repaired(&sound), sound);
        }

        #[test]
        fn repairing_never_panics(text in "(\\\\u[dD][89abcdefABCDEF]..|\\\\|\"|NaN|-|I|\\PC){0,40}") {
            repaired(&text);
        }
    }
}
