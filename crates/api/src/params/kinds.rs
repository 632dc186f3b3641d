//! The kinds of values that a query parameter can have: how each is read, what it must be, and its JSON Schema.
//!
//! A kind reads what its schema allows and refuses the rest; where a schema cannot say it all, the kind refuses more.

use std::marker::PhantomData;
use std::str::FromStr;

use proto_events::{Position, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::AsOf;

/// The largest whole number that every reader of JSON keeps exact.
pub(crate) const SAFE_INTEGER: u64 = (1 << 53) - 1;

/// A position as ingest and `events` answer it. So many digits always fit.
const POSITION_PATTERN: &str = r"^[0-9]{1,19}(\.[0-9]{1,9})?$";

/// A kind of values.
pub(crate) trait Kind {
    /// What is read.
    type Value;
    /// Whether several are written as one value, with commas.
    const IS_LIST: bool = false;
    /// Reads a value, or says what it must be.
    fn read(&self, text: &str) -> Result<Self::Value, String>;
    /// The JSON Schema of a value.
    fn schema(&self) -> Value;
}

/// A kind whose values can be shown, as defaults are.
pub(crate) trait Shown: Kind {
    /// A value in JSON.
    fn shown(&self, value: &Self::Value) -> Value;
}

/// A whole number.
pub(crate) struct Integer {
    min: u64,
    max: u64,
}

impl Integer {
    /// Both ends belong to it.
    pub(crate) const fn between(min: u64, max: u64) -> Self {
        Self { min, max }
    }
}

impl Kind for Integer {
    type Value = u64;

    fn read(&self, text: &str) -> Result<u64, String> {
        let number = digits(text).filter(|number| (self.min..=self.max).contains(number));
        number.ok_or_else(|| format!("must be a whole number from {} to {}", self.min, self.max))
    }

    fn schema(&self) -> Value {
        json!({ "type": "integer", "minimum": self.min, "maximum": self.max })
    }
}

impl Shown for Integer {
    fn shown(&self, value: &u64) -> Value {
        json!(value)
    }
}

/// `true` or `false`.
pub(crate) struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn read(&self, text: &str) -> Result<bool, String> {
        text.parse().map_err(|_| "must be true or false".to_owned())
    }

    fn schema(&self) -> Value {
        json!({ "type": "boolean" })
    }
}

impl Shown for Flag {
    fn shown(&self, value: &bool) -> Value {
        json!(value)
    }
}

/// One of a few names, each with what it means.
pub(crate) struct Choice<T: 'static>(pub(crate) &'static [(&'static str, T)]);

impl<T: Copy> Choice<T> {
    fn find(&self, text: &str) -> Option<T> {
        self.0.iter().find(|(name, _)| *name == text).map(|(_, meaning)| *meaning)
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }
}

impl<T: Copy> Kind for Choice<T> {
    type Value = T;

    fn read(&self, text: &str) -> Result<T, String> {
        self.find(text).ok_or_else(|| format!("must be one of {}", self.names().join(", ")))
    }

    fn schema(&self) -> Value {
        json!({ "type": "string", "enum": self.names() })
    }
}

impl<T: Copy + PartialEq> Shown for Choice<T> {
    fn shown(&self, value: &T) -> Value {
        json!(self.0.iter().find(|(_, meaning)| meaning == value).map(|(name, _)| *name))
    }
}

/// One or several of a few names.
pub(crate) struct Choices<T: 'static>(pub(crate) Choice<T>);

impl<T: Copy> Kind for Choices<T> {
    type Value = Vec<T>;
    const IS_LIST: bool = true;

    fn read(&self, text: &str) -> Result<Vec<T>, String> {
        let all: Option<Vec<T>> = text.split(',').map(|name| self.0.find(name)).collect();
        all.ok_or_else(|| {
            format!("must be one of {}, or several of them with commas between", self.0.names().join(", "))
        })
    }

    fn schema(&self) -> Value {
        json!({ "type": "array", "items": self.0.schema(), "minItems": 1 })
    }
}

/// A UUID.
pub(crate) struct Id;

impl Kind for Id {
    type Value = Uuid;

    fn read(&self, text: &str) -> Result<Uuid, String> {
        text.parse().map_err(|_| "must be a UUID".to_owned())
    }

    fn schema(&self) -> Value {
        json!({ "type": "string", "format": "uuid" })
    }
}

/// Any text of some length.
pub(crate) struct Text {
    min: usize,
    max: usize,
}

impl Text {
    /// Of so many characters.
    pub(crate) const fn of(min: usize, max: usize) -> Self {
        Self { min, max }
    }
}

impl Kind for Text {
    type Value = String;

    fn read(&self, text: &str) -> Result<String, String> {
        if (self.min..=self.max).contains(&text.chars().count()) {
            return Ok(text.to_owned());
        }
        Err(match self.min {
            0 => format!("must have at most {} characters", self.max),
            min => format!("must have {min} to {} characters", self.max),
        })
    }

    fn schema(&self) -> Value {
        let mut schema = json!({ "type": "string", "maxLength": self.max });
        if self.min > 0 {
            schema["minLength"] = json!(self.min);
        }
        schema
    }
}

/// A text of ours that the client passes on unchanged, and what it must be.
pub(crate) struct PassedOn<T> {
    rule: &'static str,
    max: usize,
    of: PhantomData<fn() -> T>,
}

impl<T> PassedOn<T> {
    /// Of so many characters at most.
    pub(crate) const fn new(rule: &'static str, max: usize) -> Self {
        Self { rule, max, of: PhantomData }
    }
}

impl<T: FromStr> Kind for PassedOn<T> {
    type Value = T;

    fn read(&self, text: &str) -> Result<T, String> {
        Text::of(0, self.max).read(text)?.parse().map_err(|_| self.rule.to_owned())
    }

    fn schema(&self) -> Value {
        Text::of(0, self.max).schema()
    }
}

/// A point in time.
pub(crate) struct Time;

impl Kind for Time {
    type Value = Timestamp;

    fn read(&self, text: &str) -> Result<Timestamp, String> {
        let rule = "must be a time as in RFC 3339 (in a URL, + is written %2B)";
        Timestamp::parse(text).ok_or_else(|| rule.to_owned())
    }

    fn schema(&self) -> Value {
        json!({ "type": "string", "format": "date-time" })
    }
}

/// A place in the log: a message, or an event within it.
pub(crate) struct LogPosition;

impl Kind for LogPosition {
    type Value = Position;

    fn read(&self, text: &str) -> Result<Position, String> {
        let (sequence, index) = text.split_once('.').unwrap_or((text, "0"));
        let index = digits(index).and_then(|index| u32::try_from(index).ok());
        let position = digits(sequence).zip(index).map(|(sequence, index)| Position::new(sequence, index));
        position.ok_or_else(|| {
            "must be a log position, SEQUENCE or SEQUENCE.INDEX, as ingest answers it in sequence".to_owned()
        })
    }

    fn schema(&self) -> Value {
        json!({ "type": "string", "pattern": POSITION_PATTERN })
    }
}

/// A state of the log: a position, or a point in time.
pub(crate) struct Moment;

impl Kind for Moment {
    type Value = AsOf;

    fn read(&self, text: &str) -> Result<AsOf, String> {
        if let Ok(position) = LogPosition.read(text) {
            // Without an index the whole message is meant.
            let index = if text.contains('.') { position.index } else { u32::MAX };
            return Ok(AsOf::Position(Position { index, ..position }));
        }
        Timestamp::parse(text).map(AsOf::Time).ok_or_else(|| {
            "must be a time as in RFC 3339 (in a URL, + is written %2B) or a log position, SEQUENCE or SEQUENCE.INDEX"
                .to_owned()
        })
    }

    fn schema(&self) -> Value {
        json!({ "anyOf": [LogPosition.schema(), Time.schema()] })
    }
}

/// A label, or a label of one value: `key` or `key:value`. The first colon ends the key.
pub(crate) struct Tag {
    /// Characters of it.
    pub(crate) max: usize,
}

impl Kind for Tag {
    type Value = (String, Option<String>);

    fn read(&self, text: &str) -> Result<Self::Value, String> {
        let text = Text::of(1, self.max).read(text)?;
        let (key, value) = match text.split_once(':') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() { Err("must be KEY or KEY:VALUE".to_owned()) } else { Ok((key, value)) }
    }

    fn schema(&self) -> Value {
        json!({ "type": "string", "pattern": "^[^:]", "maxLength": self.max })
    }
}

/// A number that is written in digits and nothing else.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kind reads a text exactly where its schema allows the value that the text stands for.
    fn agree<K: Kind>(kind: &K, value: impl Fn(&str) -> Value, texts: &[&str]) {
        let schema = jsonschema::options().should_validate_formats(true).build(&kind.schema()).unwrap();
        for text in texts {
            assert_eq!(kind.read(text).is_ok(), schema.is_valid(&value(text)), "{text:?} and {}", kind.schema());
        }
    }

    #[test]
    fn a_kind_and_its_schema_say_the_same() {
        let text = |text: &str| json!(text);
        let number = |text: &str| serde_json::from_str(text).unwrap_or(json!(text));
        let long = "x".repeat(256);
        agree(&Integer::between(1, 100), number, &["1", "100", "0", "101", "-1", "1.5", "", "x", "1e1x", "+5"]);
        agree(&Flag, number, &["true", "false", "1", "", "True"]);
        let choice = || Choice(&[("asc", 1), ("desc", 2)]);
        agree(&choice(), text, &["asc", "desc", "", "ASC", "asc,desc"]);
        let list = |text: &str| text.split(',').collect();
        agree(&Choices(choice()), list, &["asc", "desc,asc", "asc,asc", "", "asc,", ",", "asc,up"]);
        agree(
            &Id,
            text,
            &["550e8400-e29b-41d4-a716-446655440000", "", "default", "550e8400-e29b-41d4-a716-44665544000g"],
        );
        agree(&Text::of(1, 256), text, &["", "x", "é…", &long, &format!("{long}x")]);
        agree(&Text::of(0, 255), text, &["", &long]);
        let times = [
            "2026-02-27T10:30:02Z",
            "2026-02-27T10:30:02.000001+01:00",
            "2026-02-27",
            "now",
            "",
            "2026-02-30T00:00:00Z",
        ];
        let positions = ["1", "12.3", "9999999999999999999.999999999", "", ".", "1.", ".1", "-1", "1.2.3", "x", "1.x"];
        agree(&Time, text, &times);
        agree(&LogPosition, text, &positions);
        agree(&Moment, text, &[times.as_slice(), &positions].concat());
        agree(&Tag { max: 256 }, text, &["a", "a:b", "a:b:c", "a:", ":", ":a", "", &long, &format!("{long}x")]);
    }

    #[test]
    fn a_label_ends_at_its_first_colon() {
        let read = |text: &str| Tag { max: 20 }.read(text).unwrap();
        assert_eq!(read("team"), ("team".to_owned(), None));
        assert_eq!(read("team:a:b"), ("team".to_owned(), Some("a:b".to_owned())));
        assert_eq!(read("team:"), ("team".to_owned(), Some(String::new())));
    }
}
