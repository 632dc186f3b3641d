//! What a webhook gets, and how it can tell that it comes from us.

use std::fmt::Write as _;

use hmac::{Hmac, Mac as _};
use proto_events::Timestamp;
use serde::Serialize;
use sha2::Sha256;
use uuid::Uuid;

use crate::book::{Event, Incident, Notice, Why};
use crate::plan::Format;

/// The body in Forebay's own format.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    /// The same however often it is sent.
    id: Uuid,
    event: Event,
    at: Timestamp,
    incident: &'a Incident,
    /// For people.
    text: &'a str,
}

#[derive(Serialize)]
struct Slack<'a> {
    text: &'a str,
}

/// The body of a notice.
pub(crate) fn body(notice: &Notice, format: Format) -> Vec<u8> {
    let text = text(notice);
    let Notice { id, event, at, incident, .. } = notice;
    let made = match format {
        Format::Forebay => serde_json::to_vec(&Body { id: *id, event: *event, at: *at, incident, text: &text }),
        Format::Slack => serde_json::to_vec(&Slack { text: &escaped(&text) }),
    };
    // Records of texts and numbers are always JSON.
    made.unwrap_or_default()
}

/// A notice in one line.
fn text(notice: &Notice) -> String {
    let Incident { rule, summary, unit, value, trigger, why, .. } = &notice.incident;
    match (notice.event, why) {
        (Event::Test, _) => format!("{rule}: this is a test; nothing is the matter"),
        (Event::Fired, _) => format!("{rule} fired: {summary} (from {} on)", unit.shown(*trigger)),
        (Event::Resolved, Some(Why::RuleRemoved)) => format!("{rule} is over: the rule was removed ({summary})"),
        (Event::Resolved, Some(Why::RuleChanged)) => format!("{rule} is over: the rule was changed ({summary})"),
        (Event::Resolved, _) => format!("{rule} resolved: it is {} now ({summary})", unit.shown(*value)),
    }
}

/// Names come from strangers, and Slack takes what is in angle brackets for links and for calls to everybody.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// What proves that whoever knows the secret sent this body at this time: HMAC-SHA256 of `SECONDS.BODY`, in hexadecimal.
pub(crate) fn signature(secret: &str, seconds: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key may have any length");
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().iter().fold("v1=".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_openssl() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        let known = "v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686";
        assert_eq!(signature("secret", 1_700_000_000, br#"{"a":1}"#), known);
    }

    #[test]
    fn nobody_is_called_by_the_name_of_a_task() {
        assert_eq!(escaped("<!channel> & co"), "&lt;!channel&gt; &amp; co");
    }
}
