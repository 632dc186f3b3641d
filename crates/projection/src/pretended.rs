//! Another version of the fold, so that tests of an upgrade need one binary only. Its records say which one made them.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::json::JsonText;
use crate::record::Record;

static PRETENDED: OnceLock<u32> = OnceLock::new();

/// Makes the fold of this process another version, before anything is folded. Its records carry the version as the
/// extension `foldVersion`. A second call changes nothing.
pub fn pretend(version: u32) {
    let _ = PRETENDED.set(version);
}

pub(crate) fn version() -> Option<u32> {
    PRETENDED.get().copied()
}

/// What that version makes of a record.
pub(crate) fn mark(mut record: Record) -> Record {
    if let (Some(version), Value::Object(mut extensions)) = (version(), record.extensions.value()) {
        extensions.insert("foldVersion".to_owned(), json!(version));
        record.extensions = JsonText::of_map(&extensions);
    }
    record
}
