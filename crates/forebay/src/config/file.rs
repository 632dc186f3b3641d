//! The file of `--config`: its keys are the names of the flags, and a few more that no flag has. What is wrong with it is
//! found all at once, each with its line; values are never repeated, because they may be secrets.

use std::ops::Range;
use std::path::{Path, PathBuf};

use alerts::{RuleSettings, Settings as AlertSettings, WebhookSettings};
use anyhow::Context as _;
use serde::de::value::Error as Unread;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use uuid::Uuid;

use super::args::Fsync;
use super::near::unknown;
use super::problems::Problems;

/// The file.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct TomlFile {
    pub(super) data_dir: Option<PathBuf>,
    pub(super) nats_url: Option<String>,
    pub(super) nats_user: Option<String>,
    pub(super) nats_password: Option<String>,
    pub(super) nats_token: Option<String>,
    pub(super) nats_creds: Option<PathBuf>,
    pub(super) nats_ca: Option<PathBuf>,
    pub(super) nats_replicas: Option<usize>,
    pub(super) nats_server: Option<PathBuf>,
    pub(super) fsync: Option<Fsync>,
    pub(super) list_memory: Option<String>,
    pub(super) metrics_hostname: Option<bool>,
    pub(super) json_logs: Option<bool>,
    pub(super) listen: Option<String>,
    pub(super) celery: Vec<String>,
    pub(super) celery_file: Option<PathBuf>,
    pub(super) celery_backend: Vec<String>,
    pub(super) celery_backend_after: Option<String>,
    pub(super) redact_args: Option<bool>,
    pub(super) redact: Vec<String>,
    pub(super) enable_events: Option<bool>,
    pub(super) spool_size: Option<String>,
    pub(super) scrub: Option<String>,
    pub(super) retention: Option<String>,
    pub(super) max_log_size: Option<String>,
    pub(super) forget_workers: Option<String>,
    pub(super) otlp_endpoint: Option<String>,
    pub(super) api_key: Option<String>,
    pub(super) connection_id: Option<Uuid>,
    pub(super) admin_password: Option<String>,
    pub(crate) public_url: Option<String>,
    pub(crate) base_path: Option<String>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) trusted_proxy: Vec<String>,
    pub(crate) auth_header: Option<String>,
    pub(crate) auth_admins: Vec<String>,
    pub(crate) oidc_issuer: Option<String>,
    pub(crate) oidc_client_id: Option<String>,
    pub(crate) oidc_client_secret: Option<String>,
    pub(crate) oidc_allow: Vec<String>,
    pub(crate) oidc_admins: Vec<String>,
    pub(crate) oidc_scopes: Vec<String>,
    pub(crate) oidc_groups_claim: Option<String>,
    pub(crate) oidc_ca: Option<PathBuf>,
    pub(crate) max_connections: Option<u32>,
    pub(crate) max_connections_per_address: Option<String>,
    pub(crate) max_requests_per_key: Option<String>,
    pub(crate) max_requests_per_address: Option<String>,
    pub(crate) max_wrong_keys: Option<String>,
    pub(super) alerts: AlertSettings,
}

/// Reads the file, and gives it as it is written too. Without one nothing is said.
pub(super) fn read(path: Option<&Path>) -> anyhow::Result<(TomlFile, toml::Table)> {
    let Some(path) = path else { return Ok(Default::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, &path.display().to_string())
}

/// Reads the text of a file of this name.
pub(super) fn parse(text: &str, place: &str) -> anyhow::Result<(TomlFile, toml::Table)> {
    let mut reading = Reading { text, place, problems: Problems::default() };
    let (document, broken) = DeTable::parse_recoverable(text);
    for error in &broken {
        reading.note(error.span(), error.message());
    }
    if broken.is_empty() {
        reading.server(document.get_ref());
    }
    reading.problems.settle(())?;
    // What was read part by part can be read as a whole; were it not so, it is said here.
    let file = toml::from_str(text).map_err(|error: toml::de::Error| anyhow::Error::msg(error.message().to_owned()));
    let (file, written) = (file.context("the file")?, toml::from_str(text).unwrap_or_default());
    Ok((file, written))
}

/// A text that is looked through for mistakes.
struct Reading<'a> {
    text: &'a str,
    place: &'a str,
    problems: Problems,
}

type Table<'a> = DeTable<'a>;
type Value<'a> = Spanned<DeValue<'a>>;

impl Reading<'_> {
    fn note(&mut self, span: Option<Range<usize>>, what: &str) {
        let before = span.and_then(|span| self.text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        self.problems.add(format_args!("{}:{line}: {what}", self.place));
    }

    /// The keys that stand before the first table, and the tables.
    fn server(&mut self, table: &Table<'_>) {
        for (key, value) in table {
            let known = keys::<TomlFile>();
            match key.get_ref().as_ref() {
                "alerts" => self.alerts(value),
                name if known.contains(&name) => {
                    let mut alone = Table::new();
                    alone.insert(key.clone(), value.clone());
                    self.value::<TomlFile>(name, &Spanned::new(value.span(), DeValue::Table(alone)));
                }
                name => self.note(Some(key.span()), &unknown(name, known)),
            }
        }
    }

    fn alerts(&mut self, value: &Value<'_>) {
        let Some(table) = self.table("alerts", value) else { return };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "webhook" => {
                    for (name, webhook) in self.table("alerts.webhook", value).into_iter().flatten() {
                        self.record::<WebhookSettings>(&format!("alerts.webhook.{}", name.get_ref()), webhook);
                    }
                }
                "rule" => match value.get_ref().as_array() {
                    Some(rules) => rules.iter().for_each(|rule| self.record::<RuleSettings>("alerts.rule", rule)),
                    None => self.note(Some(value.span()), "each rule begins with a line [[alerts.rule]]"),
                },
                name if keys::<AlertSettings>().contains(&name) => {
                    let mut alone = Table::new();
                    alone.insert(key.clone(), value.clone());
                    let alone = Spanned::new(value.span(), DeValue::Table(alone));
                    self.value::<AlertSettings>(&format!("alerts.{name}"), &alone);
                }
                name => self.misplaced("alerts", name, key.span(), keys::<AlertSettings>()),
            }
        }
    }

    /// A table with the fields of a type.
    fn record<T: DeserializeOwned>(&mut self, path: &str, value: &Value<'_>) {
        let Some(table) = self.table(path, value) else { return };
        let known = keys::<T>();
        let mut is_sound = true;
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            is_sound = false;
            self.misplaced(path, key.get_ref(), key.span(), known);
        }
        if is_sound {
            self.value::<T>(path, value);
        }
    }

    fn misplaced(&mut self, path: &str, name: &str, span: Range<usize>, known: &[&str]) {
        let what = if keys::<TomlFile>().contains(&name) {
            format!("`{name}` stands in the table [{path}]: move it before the first line in brackets")
        } else {
            format!("{} (in the table [{path}])", unknown(name, known))
        };
        self.note(Some(span), &what);
    }

    fn table<'a, 'b>(&mut self, path: &str, value: &'a Value<'b>) -> Option<&'a Table<'b>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.note(Some(value.span()), &format!("{path} must be a table"));
        }
        table
    }

    /// Whether it can be read as this type.
    fn value<T: DeserializeOwned>(&mut self, name: &str, value: &Value<'_>) {
        if let Err(error) = T::deserialize(ValueDeserializer::from(value.clone())) {
            let what = match expected(error.message()) {
                Some(expected) => format!("{name} must be {expected}"),
                None => format!("{name}: {}", harmless(error.message())),
            };
            self.note(error.span().or(Some(value.span())), &what);
        }
    }
}

/// What should stand there, without what does.
fn expected(message: &str) -> Option<&str> {
    let (_, expected) = message.split_once(", expected ")?;
    // The words of a library for what people call otherwise.
    Some(match expected {
        "a string" | "path string" => "a text in quotation marks",
        "a sequence" => "a list in brackets",
        "a boolean" => "true or false",
        "usize" | "u64" | "u32" => "a whole number",
        expected => expected,
    })
}

/// What is wrong with a value may be told by repeating it.
fn harmless(message: &str) -> &str {
    if message.starts_with("missing field") || message.starts_with("UUID") || message.starts_with("data did not match")
    {
        message
    } else {
        "it cannot be used"
    }
}

/// The keys of a table, as the type declares them that it is read into.
pub(super) fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields = Fields(&[]);
    // It is asked for what it wants, and gets nothing.
    let _ = T::deserialize(&mut fields);
    fields.0
}

/// Hears which fields somebody wants to read.
struct Fields(&'static [&'static str]);

impl<'de> Deserializer<'de> for &mut Fields {
    type Error = Unread;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Unread> {
        Err(serde::de::Error::custom("there is nothing to be read"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unread> {
        self.0 = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
