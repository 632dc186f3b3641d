//! A file with every key, made from the declarations of the flags.

use std::fmt::Write as _;

use clap::{Arg, ArgAction};

use super::settings::{Unflagged, WITHOUT_FLAG, declared, default_of};
use crate::text::wrapped;

const HEAD: &str = "\
# Forebay's configuration: `forebay serve --config FILE` or FOREBAY_CONFIG.
#
# Every key is also a flag (--retention 7d) and a variable (FOREBAY_RETENTION=7d), which win over this file in that
# order; the few that have no flag say so. What is commented out is the default, or an example where there is none.
# `forebay config check` names every mistake, `forebay config show` what is in force and where it comes from, and a
# running server reads this file again on SIGHUP (`systemctl reload`).
";

/// What is to be written for keys that have no default. Others get the name of their value.
const SAMPLES: &[(&str, &str)] = &[
    ("nats-url", "nats://n1:4222,nats://n2:4222"),
    ("nats-creds", "/etc/forebay/nats.creds"),
    ("nats-ca", "/etc/ssl/certs/nats-ca.pem"),
    ("nats-server", "/usr/local/bin/nats-server"),
    ("celery", "shop=redis://:PASSWORD@cache-1:6379/0"),
    ("celery-file", "/etc/forebay/brokers"),
    ("public-url", "https://jobs.example.com/forebay"),
    ("base-path", "/forebay"),
    ("tls-cert", "/etc/forebay/tls.pem"),
    ("tls-key", "/etc/forebay/tls.key"),
    ("trusted-proxy", "10.0.0.0/8"),
    ("auth-header", "X-Remote-User"),
    ("oidc-issuer", "https://login.example.com"),
    ("oidc-ca", "/etc/ssl/certs/login-ca.pem"),
    ("redact", r"password=\S+"),
    ("otlp-endpoint", "http://localhost:4318"),
    ("celery-backend", "shop=redis://cache-1:6379/1"),
];

const ALERTS: &str = "
# --- Alerts ---

# Tables come after all other keys. A webhook is where notices go to; `format` is `forebay` (JSON, signed with `secret`)
# or `slack` (what Slack, Mattermost and others take).

#[alerts]
# How often rules are looked at
#every = \"15s\"

#[alerts.webhook.ops]
#url = \"https://hooks.example.com/services/T000/B000/XXXX\"
#format = \"slack\"
#secret = \"what the receiver checks signatures with\"

# A rule opens an incident when what it measures reaches `trigger` (and stays there `for` so long), closes it when that
# is back at `resolve`, and opens none for `cooldown` after that. `task`, `queue` and `connection` are patterns such as
# `shop.*`. By its kind it measures:
#   failure-rate    the failed of the jobs of the worst task that ended within `window`, if `min-jobs` did: 0.2, \"20%\"
#   oldest-queued   how long the job has waited that waits longest: \"10m\"
#   lost, stuck     jobs that are lost, or run far longer than their task usually does: 1 or more
#   overdue         tasks that usually run at regular times and should have run long ago: 1 or more
#   source-down     brokers that are not heard: 1 or more
#   coverage-gap    how long within `window` the worst source did not hear its broker: \"1m\"
#   lag             how far the views are behind the log: \"30s\"
#   disk            how full the disk is that has the views: \"90%\"
#[[alerts.rule]]
#name = \"payments-fail\"
#kind = \"failure-rate\"
#task = \"shop.pay*\"
#connection = \"*\"
#window = \"10m\"
#min-jobs = 10
#trigger = 0.2
#resolve = 0.1
#for = \"1m\"
#cooldown = \"15m\"
#to = [\"ops\"]
";

/// The file.
pub(crate) fn example() -> String {
    let mut text = HEAD.to_owned();
    let mut flags: Vec<Arg> = declared().into_iter().filter(|arg| arg.get_long() != Some("config")).collect();
    // As in the help: those without a heading first, and each heading once.
    let mut headings: Vec<Option<String>> = Vec::new();
    for flag in &flags {
        let heading = flag.get_help_heading().map(str::to_owned);
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    flags.sort_by_key(|flag| headings.iter().position(|it| it.as_deref() == flag.get_help_heading()));
    let mut current = None;
    for flag in &flags {
        let heading = flag.get_help_heading().map(str::to_owned);
        if heading != current {
            let _ = writeln!(text, "\n# --- {} ---", heading.as_deref().unwrap_or("General"));
            current = heading;
        }
        text += &of_flag(flag);
    }
    text += "\n# --- Without flags, which every user of the machine would see ---\n";
    for Unflagged { key, help, sample, .. } in WITHOUT_FLAG {
        let _ = writeln!(text, "\n{}#{key} = {}", wrapped(help, "# ", WIDTH), quoted(sample));
    }
    text + ALERTS
}

const WIDTH: usize = 118;

fn of_flag(flag: &Arg) -> String {
    let name = flag.get_long().unwrap_or_default();
    let help = flag.get_long_help().or(flag.get_help()).map(ToString::to_string).unwrap_or_default();
    let help = help.split("\n\n").map(|part| wrapped(part, "# ", WIDTH)).collect::<String>();
    format!("\n{help}#{name} = {}\n", value(flag, name))
}

/// What stands for it in the file.
fn value(flag: &Arg, name: &str) -> String {
    let value_name = flag.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    let sample = SAMPLES.iter().find(|(key, _)| *key == name).map(|(_, sample)| (*sample).to_owned());
    let default = default_of(flag).filter(|_| sample.is_none());
    match (value_name.as_deref(), sample.or(default)) {
        (Some("BOOL"), default) => default.unwrap_or_else(|| "false".to_owned()),
        (Some("N"), Some(number)) => number,
        (_, text) => {
            let text = quoted(&text.or(value_name.clone()).unwrap_or_default());
            if matches!(flag.get_action(), ArgAction::Append) { format!("[{text}]") } else { text }
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
