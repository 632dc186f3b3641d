//! The settings in force as they were written, each with where it comes from.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args as _, Command};
use serde_json::{Map, Value, json};

use super::resolve::variable;
use super::{ServeArgs, ServeConfig, mask_url};
use crate::text::{Paint, table};

/// Keys of the file that have no flag, because flags are seen by every user of the machine.
pub(super) const WITHOUT_FLAG: [Unflagged; 4] = [
    Unflagged {
        key: "api-key",
        help: "The API key of the default connection, 16 characters or more; made up at the first start otherwise",
        sample: "sixteen characters or more",
        is_secret: true,
    },
    Unflagged {
        key: "connection-id",
        help: "The id of the default connection, a UUID; made up at the first start otherwise",
        sample: "550e8400-e29b-41d4-a716-446655440000",
        is_secret: false,
    },
    Unflagged {
        key: "admin-password",
        help: "The password of the dashboard and of POST /api/session; made up at the first start otherwise",
        sample: "a long one",
        is_secret: true,
    },
    Unflagged {
        key: "oidc-client-secret",
        help: "What the provider of OpenID Connect knows us by, beside --oidc-client-id",
        sample: "what the provider gave",
        is_secret: true,
    },
];

/// A key without a flag.
pub(super) struct Unflagged {
    pub(super) key: &'static str,
    pub(super) help: &'static str,
    pub(super) sample: &'static str,
    pub(super) is_secret: bool,
}

/// A setting in force.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    pub(crate) name: String,
    /// As they were written, secrets included.
    values: Vec<String>,
    is_list: bool,
    is_secret: bool,
    from: Origin,
}

/// Where a setting comes from.
#[derive(Clone, Debug, PartialEq)]
enum Origin {
    Flag,
    Variable(String),
    File,
    Default,
}

/// The flags of the server, as they are declared.
pub(super) fn declared() -> Vec<Arg> {
    let command = ServeArgs::augment_args(Command::new("serve"));
    command.get_arguments().filter(|arg| arg.get_long().is_some()).cloned().collect()
}

/// The value that its help names as the default.
pub(super) fn default_of(arg: &Arg) -> Option<String> {
    let help = arg.get_help()?.to_string();
    let (_, rest) = help.rsplit_once("[default: ")?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// All of them: flags that were given, variables, what the file says, and defaults for what is in none.
pub(super) fn settings(matches: &ArgMatches, file: &toml::Table, config: &ServeConfig) -> anyhow::Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for arg in declared() {
        let Some(name) = arg.get_long() else { continue };
        let id = arg.get_id().as_str();
        let is_flag = matches.value_source(id) == Some(ValueSource::CommandLine);
        let flags = matches.get_raw(id).filter(|_| is_flag);
        let flags = flags.map(|raw| raw.map(|raw| raw.to_string_lossy().into_owned()).collect());
        // What nobody shows in the help is a secret, or holds one.
        let is_secret = arg.is_hide_env_values_set() || is_secret_name(name);
        let mut setting = found(name, flags, file, is_secret)?;
        if matches!(arg.get_action(), clap::ArgAction::Append) {
            // A pattern may hold anything but the end of a line.
            if name == "redact" {
                setting.split(|c| c == '\n');
            } else {
                setting.split(|c| c == ',' || c.is_whitespace());
            }
        }
        if setting.from == Origin::Default {
            setting.values = default_of(&arg).into_iter().collect();
            if name == "max-log-size" {
                setting.values = vec![config.max_log_size()];
            } else if matches!(arg.get_num_args(), Some(range) if range.min_values() == 0) {
                setting.values = vec!["false".to_owned()];
            }
        }
        settings.push(setting);
    }
    for Unflagged { key, is_secret, .. } in WITHOUT_FLAG {
        settings.push(found(key, None, file, is_secret)?);
    }
    if let Some(alerts) = file.get("alerts") {
        flatten("alerts", alerts, &mut settings);
    }
    Ok(settings)
}

fn found(name: &str, flags: Option<Vec<String>>, file: &toml::Table, is_secret: bool) -> anyhow::Result<Setting> {
    let environment = format!("FOREBAY_{}", name.to_uppercase().replace('-', "_"));
    let (values, from) = match (flags, variable(&environment)?, file.get(name)) {
        (Some(flags), _, _) => (flags, Origin::Flag),
        (None, Some(value), _) => (vec![value], Origin::Variable(environment)),
        (None, None, Some(value)) => (texts(value), Origin::File),
        (None, None, None) => (Vec::new(), Origin::Default),
    };
    let is_list = matches!(file.get(name), Some(toml::Value::Array(_)));
    Ok(Setting { name: name.to_owned(), values, is_list, is_secret, from })
}

fn texts(value: &toml::Value) -> Vec<String> {
    match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Array(values) => values.iter().flat_map(texts).collect(),
        other => vec![other.to_string()],
    }
}

/// A table as settings with long names.
fn flatten(path: &str, value: &toml::Value, settings: &mut Vec<Setting>) {
    match value {
        toml::Value::Table(table) => {
            table.iter().for_each(|(key, value)| flatten(&format!("{path}.{key}"), value, settings));
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            items.iter().enumerate().for_each(|(at, item)| flatten(&format!("{path}[{at}]"), item, settings));
        }
        value => settings.push(Setting {
            name: path.to_owned(),
            values: texts(value),
            is_list: value.is_array(),
            // Whoever knows the address of a webhook may write to it.
            is_secret: is_secret_name(path)
                || path.starts_with("alerts.webhook.") && path.rsplit('.').next() == Some("url"),
            from: Origin::File,
        }),
    }
}

/// A name that says so itself.
fn is_secret_name(name: &str) -> bool {
    ["password", "secret", "token"].iter().any(|word| name.ends_with(word))
}

impl Setting {
    /// In the environment a list is one text.
    fn split(&mut self, between: impl Fn(char) -> bool + Copy) {
        self.is_list = true;
        if let Origin::Variable(_) = self.from {
            let texts = self.values.iter().flat_map(|text| text.split(between));
            self.values = texts.filter(|text| !text.is_empty()).map(str::to_owned).collect();
        }
    }

    /// Whether the other one says the same, wherever that comes from.
    pub(crate) fn has_values_of(&self, other: &Self) -> bool {
        self.values == other.values
    }

    /// The values fit to be shown.
    fn masked(&self) -> Vec<String> {
        let mask = |value: &String| match value.find("://") {
            Some(_) if self.name.starts_with("alerts.") => alerts::mask_url(value),
            Some(_) => mask_url(value),
            None if self.is_secret => "***".to_owned(),
            None => value.clone(),
        };
        self.values.iter().map(mask).collect()
    }

    fn json(&self) -> Value {
        let mut values = self.masked();
        let value = match values.len() {
            _ if self.is_list => json!(values),
            0 => Value::Null,
            1 => json!(values.remove(0)),
            _ => json!(values),
        };
        match &self.from {
            Origin::Variable(name) => json!({ "value": value, "from": "environment", "variable": name }),
            from => json!({ "value": value, "from": from.word() }),
        }
    }
}

impl Origin {
    fn word(&self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Variable(_) => "environment",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

/// For people.
pub(crate) fn shown(settings: &[Setting], paint: Paint) -> String {
    let row = |setting: &Setting| {
        let from = match &setting.from {
            Origin::Variable(name) => name.clone(),
            from => from.word().to_owned(),
        };
        let value = setting.masked().join(" ");
        let value = if value.is_empty() { "-".to_owned() } else { value };
        vec![setting.name.clone(), from, crate::text::harmless(&value).into_owned()]
    };
    table(&["setting", "from", "value"], &settings.iter().map(row).collect::<Vec<_>>(), paint)
}

/// For programs.
pub(crate) fn shown_json(settings: &[Setting]) -> Value {
    settings.iter().map(|setting| (setting.name.clone(), setting.json())).collect::<Map<_, _>>().into()
}
