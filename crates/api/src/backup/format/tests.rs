use super::*;
use proptest::prelude::*;

fn payloads() -> Vec<Bytes> {
    let deep = "[".repeat(5_000) + &"]".repeat(5_000);
    let texts = [
        r#"{"a":1,"payload":{"b":"}"},"n":123456789012345678901234567890.10e-400}"#,
        r#"[{"a" : 1}, "\u0000 ü"]"#,
        r#"","payload":"#,
        r#","base64":"QQ=="}"#,
        "{\n  \"pretty\": true\n}",
        "{\"cut",
        "not JSON",
        "",
        " ",
        &deep,
    ];
    let mut payloads: Vec<Bytes> = texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
    payloads.push(Bytes::from_static(b"\"\xff\xfe\""));
    payloads.push(Bytes::from_static(b"\x00\r\n\x80"));
    payloads
}

fn messages() -> Vec<LogMessage> {
    let of = |(index, payload): (usize, Bytes)| {
        let sequence = index as u64 * 3 + 1;
        LogMessage::new(sequence, Uuid::from_u128(7), Timestamp(1_795_440_115_833_834 + index as i64), payload)
    };
    payloads().into_iter().enumerate().map(of).collect()
}

fn export(messages: &[LogMessage]) -> Vec<u8> {
    let last = messages.last().map_or(0, |message| message.sequence);
    let mut text = line_of(&Header { last, ..Header::new(Timestamp(1), Timestamp(2)) });
    for message in messages {
        write_message(&mut text, message);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&text);
    text.extend(line_of(&Trailer::new(messages.len() as u64, &hasher)));
    text
}

fn read(text: &[u8]) -> Result<Vec<Message>, FormatError> {
    let mut checker = Checker::new();
    let mut messages = Vec::new();
    for line in text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n') {
        if let Line::Message(message) = checker.line(&Bytes::copy_from_slice(line))? {
            messages.push(message);
        }
    }
    checker.finish().map(|()| messages)
}

#[test]
fn every_payload_comes_back_to_the_byte_and_json_stays_readable() {
    let written = messages();
    let text = export(&written);
    let back = read(&text).unwrap();
    assert_eq!(back.len(), written.len());
    for (back, written) in back.iter().zip(&written) {
        assert_eq!((back.sequence, back.published), (written.sequence, written.published));
        assert_eq!((back.connection, &back.payload), (written.connection, &written.payload));
    }
    let line: serde_json::Value = serde_json::from_slice(text.split(|byte| *byte == b'\n').nth(2).unwrap()).unwrap();
    let expected = serde_json::json!({
        "sequence": 4, "published": "2026-11-23T13:21:55.833835Z", "connection": Uuid::from_u128(7),
        "payload": [{ "a": 1 }, "\u{0} ü"],
    });
    assert_eq!(line, expected);
}

#[test]
fn whatever_is_cut_off_changed_left_out_or_repeated_is_noticed() {
    let kept: Vec<LogMessage> = messages().into_iter().filter(|message| message.payload.len() < 100).collect();
    let text = export(&kept);
    for end in 0..text.len() - 1 {
        assert!(read(&text[..end]).is_err(), "cut off at {end}");
    }
    for place in 0..text.len() - 1 {
        for change in [1, 0x20, 0x80] {
            let mut changed = text.clone();
            changed[place] ^= change;
            assert!(read(&changed).is_err(), "{place}: {}", String::from_utf8_lossy(&changed));
        }
    }
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    for place in 0..lines.len() {
        let without = [&lines[..place], &lines[place + 1..]].concat().concat();
        let twice = [&lines[..=place], &lines[place..]].concat().concat();
        assert!(read(&without).is_err() && read(&twice).is_err(), "line {}", place + 1);
    }
}

#[test]
fn what_is_wrong_is_said() {
    let text = String::from_utf8(export(&messages())).unwrap();
    let said = |text: &str| read(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(said(""), "this is not an export of forebay");
    assert_eq!(said("{\"events\":[]}\n"), "this is not an export of forebay");
    let newer = text.replacen("\"version\":1", "\"version\":2,\"new\":{}", 1);
    assert_eq!(said(&newer), "this export has format version 2, and this forebay reads version 1: use a newer forebay");
    let half = text.lines().take(3).collect::<Vec<_>>().join("\n");
    assert_eq!(said(&half), "the export is incomplete: it ends after line 3, without its last line");
    let cut = &text[..text.find("\"sequence\":4").unwrap() + 90];
    assert!(said(cut).starts_with("the export is damaged in line 3: "), "{}", said(cut));
    let other = text.replacen("not JSON", "not json", 1).replacen("bm90IEpTT04=", "bm90IGpzb24=", 1);
    assert_eq!(said(&other), "the export is damaged: its checksum does not fit what is in it");
}

/// A line that looks like one of an export, more or less.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let known = export(&messages());
    let known: Vec<Vec<u8>> = known.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let piece = prop_oneof![
        Just("{"),
        Just("}"),
        Just("\"sequence\":"),
        Just("\"published\":"),
        Just("\"connection\":"),
        Just(",\"payload\":"),
        Just(",\"base64\":\""),
        Just("\"format\":\"forebay-export\""),
        Just("\"version\":1"),
        Just(","),
        Just("18446744073709551616"),
        Just("-1"),
        Just("[[[["),
        Just("\"2026-02-27T10:30:02Z\""),
        Just("é"),
    ];
    let made = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes());
    let harms = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let cut = prop::option::weighted(0.2, any::<prop::sample::Index>());
    let harmed = (prop::sample::select(known), harms, cut).prop_map(|(mut line, harms, cut)| {
        for (place, change) in harms.into_iter().filter(|_| !line.is_empty()).collect::<Vec<_>>() {
            let place = place.index(line.len());
            line[place] ^= change;
        }
        line.truncate(cut.map_or(line.len(), |cut| cut.index(line.len() + 1)));
        line
    });
    prop_oneof![3 => harmed, 1 => made, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #[test]
    fn whatever_stands_in_a_line_of_an_export_it_is_read_or_refused(
        lines in prop::collection::vec(line(), 0..12), is_part in any::<bool>(),
    ) {
        let whole = export(&messages());
        let header = Bytes::copy_from_slice(whole.split(|byte| *byte == b'\n').next().unwrap());
        let mut checker = if is_part { Checker::of_part() } else { Checker::new() };
        checker.line(&header).unwrap();
        let mut last = 0;
        for line in lines {
            match checker.line(&line.into()) {
                Ok(Line::Message(message)) => {
                    prop_assert!(message.sequence > last);
                    last = message.sequence;
                }
                Ok(_) => {}
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
            prop_assert_eq!(checker.last(), last);
        }
        let _ = checker.finish();
    }
}
