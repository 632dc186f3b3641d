//! Texts that Python calls JSON.

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

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
