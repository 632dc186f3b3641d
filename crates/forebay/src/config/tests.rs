use std::path::Path;

use anyhow::Context as _;
use clap::{Args as _, Command, FromArgMatches as _};
use projector::Most;

use super::file::{TomlFile, keys, parse};
use super::settings::{WITHOUT_FLAG, declared};
use super::*;

fn loaded(flags: &[&str], file: &str) -> anyhow::Result<Loaded> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("forebay.toml");
    std::fs::write(&path, file)?;
    let config = ["serve", "--config", path.to_str().context("a text")?];
    let matches = ServeArgs::augment_args(Command::new("serve")).try_get_matches_from(config.iter().chain(flags))?;
    load(ServeArgs::from_arg_matches(&matches)?, &matches)
}

fn resolved(flags: &[&str], file: &str) -> anyhow::Result<ServeConfig> {
    loaded(flags, file).map(|loaded| loaded.config)
}

fn names(config: &ServeConfig) -> Vec<&str> {
    config.celery.iter().map(|spec| spec.name.as_deref().unwrap_or_default()).collect()
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file = "listen = '0.0.0.0:1'\nnats-url = 'nats://file:1'\nredact-args = true\nfsync = 'always'\ncelery = ['a=redis://file']";
    let config = resolved(&["--listen", "0.0.0.0:2", "--redact-args=false"], file).unwrap();
    assert_eq!(
        (config.listen.as_str(), config.redaction.drops_arguments(), config.stack.fsync),
        ("0.0.0.0:2", false, Fsync::Always)
    );
    assert_eq!(config.stack.nats.as_ref().unwrap().url, "nats://file:1");
    assert_eq!(names(&config), ["a"]);
    assert_eq!(config.stack.data_dir, Path::new(super::resolve::DATA_DIR));
    let config = resolved(&["--celery", "redis://flag", "--celery", "b=redis://flag"], file).unwrap();
    assert_eq!(names(&config), ["", "b"]);
}

#[test]
fn what_is_kept_and_how_often_it_is_compared_has_a_default_and_can_be_given() {
    let scrub = |flags: &[&str], file| resolved(flags, file).unwrap().scrub.map(|every| every.as_secs());
    assert_eq!(scrub(&[], ""), Some(86_400));
    assert_eq!(scrub(&[], "scrub = '90m'"), Some(5_400));
    assert_eq!(scrub(&["--scrub", "7d"], "scrub = 'off'"), Some(604_800));
    assert_eq!(scrub(&["--scrub", "off"], "scrub = '1s'"), None);
    let policy = |flags: &[&str], file| resolved(flags, file).unwrap().policy;
    let week = Some(Duration::from_secs(604_800));
    assert_eq!(policy(&[], ""), Policy { keep: week, most: Most::Percent(50) });
    let elsewhere = policy(&["--retention", "off"], "nats-url = 'nats://a'\nretention = '1h'");
    assert_eq!(elsewhere, Policy { keep: None, most: Most::Unlimited });
    assert_eq!(policy(&["--max-log-size", "2GiB"], "").most, Most::Bytes(2 << 30));
    assert_eq!(policy(&[], "max-log-size = '12%'").most, Most::Percent(12));
    for wrong in ["5", "GB", "0GB", "101%", "0%", "-1GB", "1.5GB", "99999999999TB"] {
        assert!(resolved(&["--max-log-size", wrong], "").is_err(), "{wrong}");
    }
    assert!(resolved(&["--max-log-size", "50%"], "nats-url = 'nats://a'").is_err());
    let memory = |flags: &[&str], file| resolved(flags, file).map(|config| config.stack.list_memory).ok();
    assert_eq!(memory(&[], ""), Some(1_000_000_000));
    assert_eq!(memory(&["--list-memory", "64MiB"], "list-memory = '2GB'"), Some(64 << 20));
    assert_eq!((memory(&[], "list-memory = '50%'"), memory(&["--list-memory", "off"], "")), (None, None));
    let spool = |flags: &[&str], file| resolved(flags, file).map(|config| config.spool_size).ok();
    assert_eq!(spool(&[], ""), Some(Some(1_000_000_000)));
    assert_eq!(spool(&["--spool-size", "2GiB"], "spool-size = 'off'"), Some(Some(2 << 30)));
    assert_eq!((spool(&[], "spool-size = 'off'"), spool(&["--spool-size", "5%"], "")), (Some(None), None));
    let forget = |flags: &[&str], file| resolved(flags, file).map(|config| config.forget_workers.as_secs()).ok();
    assert_eq!(forget(&[], ""), Some(86_400));
    assert_eq!(forget(&["--forget-workers", "10m"], "forget-workers = '1h'"), Some(600));
    assert_eq!((forget(&[], "forget-workers = '25h'"), forget(&["--forget-workers", "off"], "")), (None, None));
}

#[test]
fn what_the_file_misspells_is_named() {
    let error = format!("{:#}", resolved(&[], "lisen = '0.0.0.0:1'").err().unwrap());
    assert!(error.contains("lisen"), "{error}");
    assert!(resolved(&[], "api-key = 'short'").is_err());
    for wrong in ["never", "24", "h", "0h", "1.5h", "99999999999d"] {
        assert!(resolved(&["--scrub", wrong], "").is_err(), "{wrong}");
    }
    assert!(resolved(&[], "nats-url = 'nats://a'\nnats-replicas = 2").is_err());
}

#[test]
fn no_secret_is_shown() {
    let file = "nats-url = 'nats://u:s3,cr3t@host:4222,nats://u:s3cret@other'\nadmin-password = 's3cret'\n\
                api-key = 's3crets3crets3cret'\nnats-password = 's3cret'\ncelery = ['a=redis://:s3cret@host/0']";
    let config = resolved(&[], file).unwrap();
    let shown = format!("{}{:?}", config.describe(), config.stack);
    assert!(!shown.contains("s3") && !shown.contains("cr3t"), "{shown}");
    assert!(shown.contains("nats://***@other"), "{shown}");
    assert!(shown.contains("a=redis://:***@host:6379/0"), "{shown}");
    for (url, masked) in [
        ("nats://h:4222,nats://g", "nats://h:4222,nats://g"),
        ("nats://u:p?w@h", "nats://***"),
        ("nats://h?password=p@w", "nats://***"),
        ("nats://u:p@w@h?x=y", "nats://***@h"),
        ("user:password", "***"),
    ] {
        assert_eq!(mask_url(url), masked);
    }
}

fn mistakes(file: &str) -> String {
    format!("{:#}", resolved(&[], file).err().unwrap())
}

#[test]
fn every_mistake_of_the_file_is_named_at_once_with_its_line_and_what_may_be_meant() {
    let file = "lisen = '0.0.0.0:1'\nredact-args = 'yes'\nretention = 'soon'\n\n\
                celery = 'redis://:s3cret@host'\nfsync = 's3cret'\nnats-password = 5\n\
                [alerts]\nevrey = '1s'\nlisten = '0.0.0.0:1'\n[alerts.webhook.ops]\nurl = 's3cret'\nformt = 'slack'\n\
                [[alerts.rule]]\nname = 'a'\nkind = 'dsk'\n[sever]\nlisten = 'x'";
    let error = mistakes(file);
    for part in [
        ".toml:1: there is no key `lisen`: did you mean `listen`?",
        ".toml:2: redact-args must be true or false",
        ".toml:5: celery must be a list in brackets",
        ".toml:6: fsync must be `100ms` or `always`",
        ".toml:7: nats-password must be a text in quotation marks",
        ".toml:9: there is no key `evrey`: did you mean `every`? (in the table [alerts])",
        ".toml:10: `listen` stands in the table [alerts]: move it before the first line in brackets",
        ".toml:13: there is no key `formt`: did you mean `format`? (in the table [alerts.webhook.ops])",
        ".toml:16: alerts.rule must be one of `failure-rate`",
        ".toml:17: there is no key `sever`",
    ] {
        assert!(error.contains(part), "{part}:\n{error}");
    }
    assert!(!error.contains("s3cret"), "{error}");
    // What each value means is looked at once the file can be read, and all of them at once too.
    let file = "retention = 'soon'\nscrub = '5'\napi-key = 'short'\ncelery = ['s3cret', 'redis://good']\n\
                [alerts.webhook.ops]\nurl = 's3cret'\n[[alerts.rule]]\nname = 'a'\nkind = 'disk'\nto = ['nobody']";
    let error = mistakes(file);
    for part in [
        "retention must be",
        "scrub must be",
        "FOREBAY_API_KEY",
        "celery in the file",
        "alerts.webhook.ops",
        "nobody",
        "`trigger` is missing",
    ] {
        assert!(error.contains(part), "{part}:\n{error}");
    }
    assert!(error.starts_with("7 mistakes") && !error.contains("s3cret"), "{error}");
    let error = mistakes("listen = 'a\nscrub = = 1\n");
    assert!(error.contains(".toml:1: ") && error.contains(".toml:2: "), "{error}");
}

#[test]
fn whatever_stands_in_the_file_it_is_read_or_refused() {
    use proptest::prelude::*;
    let word = prop_oneof![
        Just("alerts"),
        Just("[[alerts.rule]]\n"),
        Just("[alerts.webhook.a]\n"),
        Just("listen"),
        Just(" = "),
        Just("'x'"),
        Just("\n"),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just("1"),
        Just("."),
        Just("\""),
        Just("\u{0}"),
        Just("é"),
    ];
    let text = proptest::collection::vec(word, 0..40).prop_map(|words| words.concat());
    let usual = ProptestConfig::default();
    let config = ProptestConfig { cases: usual.cases.max(2_000), failure_persistence: None, ..usual };
    proptest!(config, |(text in prop_oneof![text, any::<String>()])| {
        let read = parse(&text, "a");
        // A file is whole or refused: what is taken is what any reader of TOML takes.
        prop_assert!(read.is_err() || toml::from_str::<TomlFile>(&text).is_ok());
    });
}

#[test]
fn every_flag_is_a_key_and_the_example_shows_all_of_them() {
    let flags = declared();
    let mut known: Vec<&str> =
        flags.iter().filter_map(|flag| flag.get_long()).filter(|name| *name != "config").collect();
    known.extend(WITHOUT_FLAG.iter().map(|unflagged| unflagged.key));
    known.push("alerts");
    let mut keys = keys::<TomlFile>().to_vec();
    known.sort_unstable();
    keys.sort_unstable();
    assert_eq!(known, keys, "flags and keys are the same");

    let example = example();
    assert!(example.lines().all(|line| line.is_empty() || line.starts_with(['#', '['])), "{example}");
    assert!(parse(&example, "example").is_ok(), "nothing is said in it");
    assert!(example.lines().all(|line| line.chars().count() <= 120));
    // With all that is commented out it is a good file too, and says something of every key.
    let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let said: String = example.lines().filter(is_setting).map(|line| line[1..].to_owned() + "\n").collect();
    let (_, written) = parse(&said, "example").unwrap();
    let missing: Vec<_> = keys.iter().filter(|key| !written.contains_key(**key)).collect();
    assert!(missing.is_empty(), "{missing:?} of\n{said}");
    let file: TomlFile = toml::from_str(&said).unwrap();
    file.alerts.plan().unwrap();
    for flag in &flags {
        assert!(flag.get_help().is_some(), "{:?} is not explained", flag.get_long());
    }
}

#[test]
fn each_setting_says_where_it_comes_from_and_no_secret() {
    let file = "listen = '0.0.0.0:1'\nretention = '1h'\nnats-url = 'nats://u:s3cret@host'\nadmin-password = 's3cret'\n\
                celery = ['a=redis://:s3cret@host/0', 'b=redis://other']\n\
                [alerts.webhook.ops]\nurl = 'https://hooks.example.com/s3cret'\nsecret = 's3cret'\n\
                [[alerts.rule]]\nname = 'full'\nkind = 'disk'\ntrigger = 0.9\nto = ['ops']";
    let settings = loaded(&["--listen", "0.0.0.0:2", "--redact-args"], file).unwrap().settings;
    let json = shown_json(&settings);
    for (name, value, from) in [
        ("listen", serde_json::json!("0.0.0.0:2"), "flag"),
        ("redact-args", serde_json::json!("true"), "flag"),
        ("enable-events", serde_json::json!("false"), "default"),
        ("retention", serde_json::json!("1h"), "file"),
        ("scrub", serde_json::json!("24h"), "default"),
        ("max-log-size", serde_json::json!("off"), "default"),
        ("nats-url", serde_json::json!("nats://***@host"), "file"),
        ("admin-password", serde_json::json!("***"), "file"),
        ("api-key", serde_json::Value::Null, "default"),
        ("celery", serde_json::json!(["a=redis://***@host/0", "b=redis://other"]), "file"),
        ("alerts.webhook.ops.url", serde_json::json!("https://hooks.example.com/***"), "file"),
        ("alerts.webhook.ops.secret", serde_json::json!("***"), "file"),
        ("alerts.rule[0].trigger", serde_json::json!("0.9"), "file"),
    ] {
        assert_eq!((&json[name]["value"], &json[name]["from"]), (&value, &serde_json::json!(from)), "{name}");
    }
    let shown = shown(&settings, crate::text::Paint::plain());
    assert!(!shown.contains("s3cret") && !json.to_string().contains("s3cret"), "{shown}");
}
