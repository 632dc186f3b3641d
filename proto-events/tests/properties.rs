//! What holds for every event and for every byte string, not only for those that somebody thought of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use proto_events::wire::{elements, encoded_len};
use proto_events::{
    CeleryFacts, CeleryKind, DecodeError, Event, EventId, EventType, Framework, Job, JobState, Producer, Queue, Source,
    SourceState, Timestamp, Trim, Worker, WorkerState, decode, encode, limits,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Texts with everything that JSON must escape, and characters of every length.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z.]{0,20}", "\\PC{0,12}", vec(any::<char>(), 0..12).prop_map(String::from_iter)]
}

fn value() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        finite().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(text(), inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
    .boxed()
}

fn map() -> impl Strategy<Value = Map<String, Value>> {
    btree_map(text(), value(), 0..4).prop_map(|map| map.into_iter().collect())
}

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("JSON knows only finite numbers", |number| number.is_finite())
}

fn time() -> impl Strategy<Value = Timestamp> {
    // The years 1 to 9999.
    (-62_135_596_800_000_000_i64..=253_402_300_799_999_999).prop_map(Timestamp)
}

fn state() -> impl Strategy<Value = JobState> {
    (0..JobState::ALL.len()).prop_map(|index| JobState::ALL[index])
}

fn celery() -> impl Strategy<Value = CeleryFacts> {
    let kind = prop_oneof![Just(CeleryKind::Sent), Just(CeleryKind::Revoked), Just(CeleryKind::Custom)];
    (kind, of(any::<u32>()), of(finite()), of(any::<bool>()), of(text())).prop_map(
        |(event, retries, runtime, flag, signum)| CeleryFacts {
            retries,
            runtime,
            requeue: flag,
            terminated: flag,
            expired: flag,
            signum,
            ..CeleryFacts::new(event)
        },
    )
}

fn job() -> BoxedStrategy<Job> {
    let texts = (of(text()), of(text()), of(text()), of(text()), of(text()), of(text()));
    let numbers = (of(any::<u32>()), of(any::<u32>()), of(finite()), of(celery()));
    let times = (of(time()), of(time()), of(time()), of(time()));
    let free = (of(value()), of(value()), of(value()), map(), map());
    ("\\PC{1,40}", state(), of(state()), texts, numbers, times, free)
        .prop_map(|(id, state, previous_state, texts, numbers, times, free)| Job {
            name: texts.0,
            queue: texts.1,
            worker_id: texts.2,
            error: texts.3,
            stacktrace: texts.4,
            parent_id: texts.5.clone(),
            root_id: texts.5,
            attempt: numbers.0,
            max_retries: numbers.1,
            progress: numbers.2,
            celery: numbers.3,
            created_at: times.0,
            scheduled_for: times.1,
            started_at: times.2,
            completed_at: times.3,
            // An explicit null says nothing more than an absent field, and is read as one.
            args: free.0.filter(|value| !value.is_null()),
            kwargs: free.1.filter(|value| !value.is_null()),
            result: free.2.filter(|value| !value.is_null()),
            tags: free.3,
            extensions: free.4,
            previous_state,
            ..Job::new(id, state)
        })
        .boxed()
}

fn event() -> BoxedStrategy<Event> {
    let framework = prop_oneof![Just(Framework::Celery), Just(Framework::Bullmq), Just(Framework::Sidekiq)];
    let producer = (text(), of(any::<i64>()), of(any::<i64>())).prop_map(|(hostname, pid, clock)| Producer {
        hostname,
        pid,
        clock,
    });
    let payload = prop_oneof![
        6 => job().prop_map(|job| (EventType::JobStateChange, json!({ "job": job }))),
        1 => (text(), text(), of(any::<u64>()), of(finite()), map(), map()).prop_map(|(id, host, count, freq, a, b)| {
            let worker = Worker {
                external_id: id, hostname: host, state: WorkerState::Heartbeat, pid: Some(-1), active_jobs: count,
                concurrency: count, processed_total: count, heartbeat_freq: freq, metadata: a, extensions: b,
            };
            (EventType::WorkerStateChange, json!({ "worker": worker }))
        }),
        1 => (text(), of(any::<u64>()), map()).prop_map(|(name, depth, extensions)| {
            (EventType::QueueSnapshot, json!({ "queue": Queue { name, depth, consumers: depth, extensions } }))
        }),
        1 => (text(), of(text())).prop_map(|(name, reason)| {
            let source = Source { name, state: SourceState::Disconnected, reason };
            (EventType::SourceStateChange, json!({ "source": source }))
        }),
        1 => Just((EventType::ClockTick, json!({}))),
        1 => (of(any::<u64>()), vec(any::<u128>().prop_map(Uuid::from_u128), 0..4)).prop_map(|(before, jobs)| {
            (EventType::LogTrim, json!({ "trim": Trim { before, jobs } }))
        }),
    ];
    (time(), framework, of(producer), payload)
        .prop_map(|(timestamp, framework, producer, (kind, mut payload))| Event {
            producer,
            job: serde_json::from_value(payload["job"].take()).unwrap(),
            worker: serde_json::from_value(payload["worker"].take()).unwrap(),
            queue: serde_json::from_value(payload["queue"].take()).unwrap(),
            source: serde_json::from_value(payload["source"].take()).unwrap(),
            trim: serde_json::from_value(payload["trim"].take()).unwrap(),
            ..Event::bare(kind, timestamp, framework)
        })
        .boxed()
}

/// An element that is no event of ours, and whether it is merely newer.
fn bad_element() -> impl Strategy<Value = (Vec<u8>, bool)> {
    let fixed: [(&[u8], bool); 12] = [
        (b"null", false),
        (b"17", false),
        (b"\"]},{[\\\"\"", false),
        (b"nonsense", false),
        (b"{\"v\":1}", false),
        (b"{\"v\":1,\"v\":1,\"type\":\"clock.tick\"}", false),
        (b"\"\xff\xfe\"", false),
        (b"{\"x\":1e999}", false),
        (b"{\"v\":0,\"type\":\"clock.tick\",\"timestamp\":\"2026-03-01T08:00:00Z\",\"framework\":\"celery\"}", false),
        (b"{\"v\":2,\"type\":\"clock.tick\",\"timestamp\":\"2026-03-01T08:00:00Z\",\"framework\":\"celery\"}", true),
        (b"{\"v\":3,\"kind\":\"something else altogether\"}", true),
        (b"{\"v\":70000,\"type\":[]}", true),
    ];
    let deep = Just(([b"[".repeat(5_000), b"]".repeat(5_000)].concat(), false));
    prop_oneof![3 => (0..fixed.len()).prop_map(move |at| (fixed[at].0.to_vec(), fixed[at].1)), 1 => deep]
}

proptest! {
    #[test]
    fn what_was_written_is_read_back(events in vec(event(), 0..5)) {
        let read: Result<Vec<Event>, DecodeError> = decode(&encode(&events)).unwrap().into_iter().collect();
        prop_assert_eq!(read.unwrap(), events);
    }

    #[test]
    fn a_bad_element_never_harms_its_neighbours(
        good in vec(event(), 1..4),
        (bad, is_newer) in bad_element(),
        place in any::<prop::sample::Index>(),
        space in "[ \n]{0,2}",
    ) {
        let mut parts: Vec<Vec<u8>> = good.iter().map(|event| encode(std::slice::from_ref(event))).collect();
        let place = place.index(parts.len() + 1);
        parts.insert(place, bad);
        let comma = format!("{space},{space}");
        let message = [b"[", parts.join(comma.as_bytes()).as_slice(), b"]"].concat();
        let mut read = decode(&message).unwrap();
        let refused = read.remove(place).unwrap_err();
        prop_assert_eq!(matches!(refused, DecodeError::Newer(_)), is_newer, "{}", refused);
        let read: Vec<Event> = read.into_iter().map(Result::unwrap).collect();
        prop_assert_eq!(read, good);
    }

    #[test]
    fn any_event_is_brought_within_the_limits_and_then_stays_as_it_is(
        event in event(),
        filler in prop_oneof![Just('x'), Just('\u{1}'), Just('"'), Just('\u{1F980}')],
        sizes in vec(prop_oneof![Just(0_usize), Just(3_000), Just(60_000), Just(140_000)], 12),
        entries in prop_oneof![Just(0_usize), Just(300), Just(1_000)],
        depth in prop_oneof![Just(0_usize), Just(120)],
    ) {
        let mut event = event;
        let id = event.job.as_ref().map(|job| job.external_id.clone());
        swell(&mut event, filler, &sizes, entries, depth);
        limits::enforce(&mut event);
        prop_assert!(encoded_len(&event) <= limits::EVENT_BYTES, "{} bytes", encoded_len(&event));
        prop_assert_eq!(event.job.as_ref().map(|job| job.external_id.clone()), id);
        let (once, id) = (event.clone(), EventId::of(&event));
        limits::enforce(&mut event);
        prop_assert_eq!(&event, &once);
        // What is within the limits can be read from any place of a message, and is the same event there.
        let read = decode(&encode(&[event.clone(), event])).unwrap();
        prop_assert!(read.into_iter().all(|event| EventId::of(&event.unwrap()) == id));
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>(), event in event()) {
        let _ = decode(&bytes);
        let _ = elements(&bytes);
        let whole = encode(&[event.clone(), event]);
        let (head, tail) = whole.split_at(cut.index(whole.len()));
        prop_assert!(decode(head).is_err() || decode(head).unwrap().iter().any(Result::is_err));
        let _ = decode(&[head, &bytes, tail].concat());
    }
}

/// Puts long texts everywhere a hostile or careless sender could.
fn swell(event: &mut Event, filler: char, sizes: &[usize], entries: usize, depth: usize) {
    let long = |at: usize| filler.to_string().repeat(sizes[at]);
    let nested = (0..depth).fold(json!(long(0)), |inner, _| json!([inner]));
    let wide = || {
        (0..entries)
            .map(|entry| (format!("{entry}{}", filler.to_string().repeat(sizes[1].min(60))), json!("y".repeat(200))))
    };
    if let Some(producer) = &mut event.producer {
        producer.hostname += &long(2);
    }
    if let Some(job) = &mut event.job {
        let texts = [&mut job.name, &mut job.queue, &mut job.worker_id, &mut job.error, &mut job.stacktrace];
        for (at, text) in texts.into_iter().enumerate() {
            *text.get_or_insert_default() += &long(3 + at);
        }
        (job.parent_id, job.root_id) = (Some(long(8)), Some(long(9)));
        job.progress = Some(f64::NAN);
        job.args = Some(json!({ "list": [long(10)] }));
        job.kwargs = Some(json!(long(11)));
        job.result = Some(nested.clone());
        if let Some(celery) = &mut job.celery {
            celery.signum = Some(long(2));
        }
        job.extensions.insert("nested".to_owned(), nested.clone());
        job.extensions.extend(wide().take(400));
        job.tags.extend(wide().take(300));
    } else {
        // A payload that the kind does not promise must not be a way around the limit.
        event.job = Some(Box::new(Job { name: Some(long(3)), ..Job::new("x", JobState::Queued) }));
    }
    if let Some(worker) = &mut event.worker {
        worker.external_id += &long(4);
        worker.metadata.extend(wide());
        worker.extensions.insert("nested".to_owned(), nested.clone());
    }
    if let Some(source) = &mut event.source {
        source.reason = Some(long(7));
    }
    if let Some(trim) = &mut event.trim {
        trim.jobs.extend((0..entries as u128 * 10).map(Uuid::from_u128));
    }
    if let Some(queue) = &mut event.queue {
        queue.extensions.extend(wide());
    }
}

#[test]
fn json_hidden_in_json_does_not_escape_the_depth_limit() {
    // With serde_json's `raw_value` feature each level below is parsed anew from its text, and the stack overflows.
    let mut hidden = "1".to_owned();
    for _ in 0..300 {
        let escaped = hidden.replace('\\', "\\u005c").replace('"', "\\u0022");
        let key = "$serde_json::private::RawValue";
        hidden = format!("{}{{\"{key}\":\"{escaped}\"}}{}", "[".repeat(50), "]".repeat(50));
    }
    let event = format!(
        r#"{{"v":1,"type":"job.state_change","timestamp":"2026-03-01T08:00:00Z","framework":"celery",
        "job":{{"externalId":"a","state":"queued","args":{hidden}}}}}"#
    );
    let event = decode(event.as_bytes()).unwrap().remove(0).unwrap();
    let args = (0..50).fold(event.job.unwrap().args.unwrap(), |value, _| value[0].clone());
    assert!(args["$serde_json::private::RawValue"].is_string());
}

#[test]
fn elements_are_found_without_understanding_them() {
    type Case = (&'static [u8], Option<&'static [&'static [u8]]>);
    let cases: [Case; 9] = [
        (b" [ ] ", Some(&[])),
        (b"[1]", Some(&[b"1"])),
        (b"[{\"a\":[1,2]},\"],[\\\"\",\xff]", Some(&[b"{\"a\":[1,2]}", b"\"],[\\\"\"", b"\xff"])),
        (b"[1,]", Some(&[b"1", b""])),
        (b"[1", None),
        (b"[\"]", None),
        (b"[1]]", None),
        (b"[1][2]", None),
        (b"", None),
    ];
    for (bytes, expected) in cases {
        assert_eq!(elements(bytes).as_deref(), expected, "{}", String::from_utf8_lossy(bytes));
    }
}
