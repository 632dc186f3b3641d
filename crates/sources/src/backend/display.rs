//! A stored value as Celery's events show it: the text that Python displays.

use std::fmt::Write as _;

use proto_events::limits;
use serde_json::Value;

/// The text of a value, of at most so many characters; no more of it is made than is needed.
pub(super) fn value(value: &Value, characters: usize) -> String {
    let mut text = String::new();
    // A character takes at most four bytes, and one more than allowed shows that there was more.
    put(value, &mut text, characters.saturating_mul(4) + 4);
    limits::cut(&mut text, characters);
    text
}

/// The text of a stored exception: its class, and what it was made from.
pub(super) fn error(value: &Value) -> Option<String> {
    let stored = value.as_object()?;
    let class = stored.get("exc_type")?.as_str().filter(|class| !class.is_empty())?;
    let mut text = format!("{class}(");
    match stored.get("exc_message") {
        Some(Value::Array(parts)) => list(parts, &mut text, limits::ERROR * 4),
        Some(Value::Null) | None => {}
        Some(one) => put(one, &mut text, limits::ERROR * 4),
    }
    text.push(')');
    Some(text)
}

/// Writes until there is enough.
fn put(value: &Value, text: &mut String, enough: usize) {
    if text.len() > enough {
        return;
    }
    match value {
        Value::Null => text.push_str("None"),
        Value::Bool(true) => text.push_str("True"),
        Value::Bool(false) => text.push_str("False"),
        Value::Number(number) => text.push_str(&number.to_string()),
        Value::String(string) => quoted(string, text, enough),
        Value::Array(values) => {
            text.push('[');
            list(values, text, enough);
            text.push(']');
        }
        Value::Object(map) => {
            text.push('{');
            for (place, (key, value)) in map.iter().enumerate() {
                if text.len() > enough {
                    return;
                }
                text.push_str(if place == 0 { "" } else { ", " });
                quoted(key, text, enough);
                text.push_str(": ");
                put(value, text, enough);
            }
            text.push('}');
        }
    }
}

fn list(values: &[Value], text: &mut String, enough: usize) {
    for (place, value) in values.iter().enumerate() {
        if text.len() > enough {
            return;
        }
        text.push_str(if place == 0 { "" } else { ", " });
        put(value, text, enough);
    }
}

/// In single quotes, unless these are in it and double ones are not.
fn quoted(string: &str, text: &mut String, enough: usize) {
    let quote = if string.contains('\'') && !string.contains('"') { '"' } else { '\'' };
    text.push(quote);
    for character in string.chars() {
        if text.len() > enough {
            return;
        }
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            _ if character == quote => text.extend(['\\', quote]),
            _ if (character as u32) < 0x20 || (0x7f..0xa0).contains(&(character as u32)) => {
                let _ = write!(text, "\\x{:02x}", character as u32);
            }
            _ => text.push(character),
        }
    }
    text.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_looks_as_python_displays_it() {
        for (stored, expected) in [
            (json!(42), "42"),
            (json!(1.5), "1.5"),
            (json!("x"), "'x'"),
            (json!("it's"), r#""it's""#),
            (json!("it's \"so\""), r#"'it\'s "so"'"#),
            (json!("Grüße 🦀\n\u{1}\\"), r"'Grüße 🦀\n\x01\\'"),
            (json!([true, null, {"a": []}]), "[True, None, {'a': []}]"),
        ] {
            assert_eq!(value(&stored, 1_024), expected);
        }
        assert_eq!(value(&json!("y".repeat(100_000)), 20).chars().count(), 20);
        assert_eq!(error(&json!({"exc_type": "ValueError", "exc_message": ["no"]})).unwrap(), "ValueError('no')");
        assert_eq!(error(&json!({"exc_type": "ValueError", "exc_message": "no"})).unwrap(), "ValueError('no')");
        assert_eq!(error(&json!({"exc_type": "Boom"})).unwrap(), "Boom()");
        assert_eq!(error(&json!("text")), None);
    }
}
