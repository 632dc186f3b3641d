//! The JSON Schema of the contract, generated from the types so that the two cannot part.

/// The schema of one event, as pretty JSON with a final newline: what `proto-events/schema/event.v1.json` holds.
pub fn event_schema() -> String {
    let schema = schemars::schema_for!(crate::Event);
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
    text.push('\n');
    text
}
