//! What a message may make us allocate: alone in its process, since that is what the system counts.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

use base64::Engine as _;
use sources::backend::answer;
use sources::celery::Normaliser;
use sources::sdk;
use uuid::Uuid;

/// Bytes of each message.
const SIZE: usize = 2 << 20;
/// Bytes that each of its bytes may cost: a digit and its comma become a value of 32 bytes, in a list that grows by
/// doubling.
const EACH: usize = 40;

/// A figure of this process in bytes: the memory that it has, or the most that it had.
fn memory(figure: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(figure)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1_024
}

fn filled(head: &str, part: &str, tail: &str) -> Vec<u8> {
    let times = SIZE / part.len();
    let mut parts = part.repeat(times);
    parts.truncate(parts.trim_end_matches(',').len());
    format!("{head}{parts}{tail}").into_bytes()
}

#[test]
fn no_message_takes_more_than_a_few_times_its_size() {
    let event = r#"{"type":"task-started","uuid":"a","hostname":"h","timestamp":1,"#;
    let messages = [
        ("numbers", filled("[", "0,", "]")),
        ("empty objects", filled("[", "{},", "]")),
        ("empty arrays", filled("[", "[],", "]")),
        ("open", filled("", "[", "")),
        ("a field of many", filled(&format!("{event}\"x\":["), "0,", "]}")),
        ("many fields", filled(&event[..event.len() - 1], ",\"k\":0", "}")),
        ("escapes", filled(&format!("{event}\"x\":\""), "\\u00e9", "\"}")),
        ("a batch of numbers", filled("{\"events\":[", "0,", "]}")),
        ("a batch of objects", filled("{\"events\":[", "{},", "]}")),
        ("a stored result", filled("{\"status\":\"SUCCESS\",\"result\":[", "0,", "]}")),
    ];
    for (name, bytes) in &messages {
        let body = base64::engine::general_purpose::STANDARD.encode(bytes);
        let envelope = format!(
            r#"{{"body":"{body}","content-type":"application/json","properties":{{"body_encoding":"base64"}}}}"#
        );
        drop(body);
        let text = std::str::from_utf8(bytes).unwrap();
        // From now on the most is what this message takes.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = memory("VmRSS:");
        let _ = Normaliser::default().message(envelope.as_bytes());
        let _ = Normaliser::default().body(text);
        let _ = sdk::batch(bytes, Uuid::nil(), &sdk::Options::default());
        let _ = answer::read(bytes);
        let taken = memory("VmHWM:").saturating_sub(before);
        println!("{name}: {} bytes for each", taken / SIZE);
        assert!(taken <= EACH * SIZE, "{name}: {taken} bytes for a message of {}", bytes.len());
    }
}
