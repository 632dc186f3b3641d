//! What RabbitMQ delivers: the body is plain, and what it is stands beside it.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::celery::EnvelopeError;
use crate::json::shown;

/// The body of a message as JSON text.
pub(super) fn open<'a>(properties: &BasicProperties, body: &'a [u8]) -> Result<&'a str, EnvelopeError> {
    let headers = properties.headers().as_ref().map(FieldTable::inner);
    if let Some(compression) = headers.and_then(|headers| headers.get("compression")) {
        let name = match compression {
            AMQPValue::LongString(name) => String::from_utf8_lossy(name.as_bytes()).into_owned(),
            AMQPValue::ShortString(name) => name.as_str().to_owned(),
            // kombu writes no header where it does not compress, or an empty one.
            AMQPValue::Void => String::new(),
            _ => "in an unknown way".to_owned(),
        };
        if !name.is_empty() {
            return Err(EnvelopeError::Compressed(shown(&name)));
        }
    }
    let given = |text: &Option<lapin::types::ShortString>| {
        text.as_ref().map(|text| text.as_str().to_ascii_lowercase()).filter(|text| !text.is_empty())
    };
    // Without a content type it is what Celery's own default is.
    if let Some(other) = given(properties.content_type()).filter(|kind| kind != "application/json") {
        return Err(EnvelopeError::Serialiser(shown(&other)));
    }
    let known = ["utf-8", "utf8", "us-ascii", "ascii", "binary"];
    if let Some(other) = given(properties.content_encoding()).filter(|name| !known.contains(&name.as_str())) {
        return Err(EnvelopeError::Encoding(shown(&other)));
    }
    std::str::from_utf8(body).map_err(|_| EnvelopeError::Encoding("UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use lapin::types::ShortString;
    use proptest::prelude::*;

    use super::*;
    use crate::celery::Normaliser;

    fn properties(kind: Option<&str>, encoding: Option<&str>, compression: Option<AMQPValue>) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert("hostname".into(), AMQPValue::LongString("celery@w".into()));
        if let Some(compression) = compression {
            headers.insert("compression".into(), compression);
        }
        let mut properties = BasicProperties::default().with_headers(headers);
        if let Some(kind) = kind {
            properties = properties.with_content_type(ShortString::try_new(kind).unwrap());
        }
        if let Some(encoding) = encoding {
            properties = properties.with_content_encoding(ShortString::try_new(encoding).unwrap());
        }
        properties
    }

    #[test]
    fn a_message_is_opened_as_it_says_or_refused_with_the_reason() {
        let text = |name: &str| Some(AMQPValue::LongString(name.into()));
        let body = br#"{"type":"worker-online"}"#;
        for plain in [
            BasicProperties::default(),
            properties(Some("application/json"), Some("utf-8"), None),
            properties(Some("Application/JSON"), Some("UTF-8"), Some(AMQPValue::Void)),
            properties(Some(""), Some(""), text("")),
        ] {
            assert_eq!(open(&plain, body).unwrap().as_bytes(), body, "{plain:?}");
        }
        for (odd, reason) in [
            (properties(Some("application/x-python-serialize"), Some("binary"), None), "x-python-serialize"),
            (properties(Some("application/x-msgpack"), Some("binary"), None), "x-msgpack"),
            (properties(Some("application/json"), Some("utf-16"), None), "utf-16"),
            (properties(Some("application/json"), Some("utf-8"), text("application/x-gzip")), "x-gzip"),
            (properties(None, None, Some(AMQPValue::Boolean(true))), "unknown way"),
        ] {
            let refused = open(&odd, body).unwrap_err().to_string();
            assert!(refused.contains(reason), "{refused}");
        }
        assert!(open(&BasicProperties::default(), b"{\xff}").is_err());
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic_and_a_good_one_is_read_whatever_else_stands_there(
            kind in prop::option::of("\\PC{0,40}"),
            encoding in prop::option::of("\\PC{0,40}"),
            compression in prop::option::of("\\PC{0,40}"),
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..400),
                "[\\[{]{0,300}[\"a-z:,0-9]{0,40}".prop_map(String::into_bytes),
            ],
        ) {
            let compression = compression.map(|name| AMQPValue::LongString(name.into()));
            let odd = properties(kind.as_deref(), encoding.as_deref(), compression);
            if let Ok(text) = open(&odd, &body) {
                let _ = Normaliser::default().body(text);
            }
            let event = r#"{"type":"task-started","uuid":"a","hostname":"celery@w","timestamp":1.5}"#;
            let read = |text: &str| Normaliser::default().body(text).unwrap();
            prop_assert_eq!(read(open(&BasicProperties::default(), event.as_bytes()).unwrap()).events.len(), 1);
            let both = format!("[{event}, {{\"type\":\"task-\"}}, {event}]");
            let both = read(open(&BasicProperties::default(), both.as_bytes()).unwrap());
            prop_assert_eq!((both.events.len(), both.refused), (2, 1));
        }
    }
}
