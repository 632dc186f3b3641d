//! What holds: flags before environment before file before defaults.

use std::path::Path;

use anyhow::{Context as _, bail};
use projector::{Most, Policy};
use sources::{BackendSpec, Pattern, Redaction, SourceSpec, parse_source, parse_sources};
use uuid::Uuid;

use super::args::{ServeArgs, StackArgs};
use super::endpoint::endpoint;
use super::file::{self, TomlFile};
use super::problems::Problems;
use super::{Nats, ServeConfig, StackConfig};
use crate::units;

/// Where things are kept when nothing else is said.
pub(super) const DATA_DIR: &str = "forebay-data";
const LISTEN: &str = "127.0.0.1:8080";
/// Shorter keys can be guessed.
const API_KEY_CHARACTERS: usize = 16;

impl StackArgs {
    /// Puts the flags, the environment and the file together.
    pub(crate) fn resolve(self) -> anyhow::Result<StackConfig> {
        let (file, _) = file::read(self.config.as_deref())?;
        let mut problems = Problems::default();
        let config = self.over(&file, &mut problems);
        problems.settle(config)
    }

    fn over(self, file: &TomlFile, problems: &mut Problems) -> StackConfig {
        let nats = match given(self.nats_url).or_else(|| file.nats_url.clone()) {
            None => None,
            Some(url) => Some(Nats {
                url,
                user: given(self.nats_user).or_else(|| file.nats_user.clone()),
                password: given(self.nats_password).or_else(|| file.nats_password.clone()),
                token: given(self.nats_token).or_else(|| file.nats_token.clone()),
                creds: self.nats_creds.or_else(|| file.nats_creds.clone()),
                ca: self.nats_ca.or_else(|| file.nats_ca.clone()),
                replicas: self.nats_replicas.or(file.nats_replicas).unwrap_or(1),
            }),
        };
        if nats.as_ref().is_some_and(|nats| ![1, 3, 5].contains(&nats.replicas)) {
            problems.add("nats-replicas must be 1, 3 or 5: other numbers cost more and protect no better");
        }
        let list_memory = given(self.list_memory).or(file.list_memory.clone());
        StackConfig {
            data_dir: self.data_dir.or_else(|| file.data_dir.clone()).unwrap_or_else(|| DATA_DIR.into()),
            nats,
            nats_server: self.nats_server.or_else(|| file.nats_server.clone()),
            fsync: self.fsync.or(file.fsync).unwrap_or_default(),
            list_memory: problems.keep(units::list_memory(list_memory.as_deref())),
            metrics_hostname: self.metrics_hostname.or(file.metrics_hostname).unwrap_or_default(),
            json_logs: self.json_logs.or(file.json_logs).unwrap_or_default(),
        }
    }
}

impl ServeArgs {
    /// Puts the flags, the environment and what the file says together.
    pub(super) fn over(self, file: TomlFile) -> anyhow::Result<ServeConfig> {
        let mut problems = Problems::default();
        let (celery, backends) = (self.brokers(&file, &mut problems), self.backends(&file, &mut problems));
        let connection_id = problems.keep(connection_id()).or(file.connection_id);
        let redaction = Redaction::new(
            self.redact_args.or(file.redact_args).unwrap_or_default(),
            patterns(&self.redact, &file.redact, &mut problems),
        );
        let stack = self.stack.over(&file, &mut problems);
        let door = problems.keep(self.door.over(&file));
        let (retention, most) =
            (given(self.retention).or(file.retention), given(self.max_log_size).or(file.max_log_size));
        let policy = Policy {
            keep: problems.keep(units::retention(retention.as_deref())),
            most: problems.keep_or(units::most(most.as_deref(), stack.nats.is_none()), Most::Unlimited),
        };
        let after = given(self.celery_backend_after).or(file.celery_backend_after);
        let (spool, scrub) = (given(self.spool_size).or(file.spool_size), given(self.scrub).or(file.scrub));
        let forget_workers = given(self.forget_workers).or(file.forget_workers);
        let otlp_endpoint = given(self.otlp_endpoint).or(file.otlp_endpoint);
        let api_key = problems.keep(variable("FOREBAY_API_KEY")).or(file.api_key);
        let alerts = file.alerts.plan().unwrap_or_else(|wrong| {
            for wrong in wrong {
                problems.add(wrong);
            }
            alerts::Plan::default()
        });
        let config = ServeConfig {
            stack,
            listen: given(self.listen).or(file.listen).unwrap_or_else(|| LISTEN.to_owned()),
            celery,
            backends,
            backends_after: problems.keep(units::backend_after(after.as_deref())),
            redaction,
            enable_events: self.enable_events.or(file.enable_events).unwrap_or_default(),
            spool_size: problems.keep(units::spool(spool.as_deref())),
            scrub: problems.keep(units::scrub(scrub.as_deref())),
            policy,
            forget_workers: problems.keep(units::forget_workers(forget_workers.as_deref())),
            api_key: problems.keep(long_enough(api_key)),
            connection_id,
            admin_password: problems.keep(variable("FOREBAY_ADMIN_PASSWORD")).or(file.admin_password),
            door,
            alerts,
            otlp_endpoint: problems.keep(endpoint(otlp_endpoint, cfg!(feature = "otlp"))),
        };
        problems.settle(config)
    }

    fn brokers(&self, file: &TomlFile, problems: &mut Problems) -> Vec<SourceSpec> {
        let variable = problems.keep(variable("FOREBAY_CELERY"));
        let mut celery = self::celery("celery", &self.celery, variable, &file.celery, problems);
        if let Some(path) = self.celery_file.as_ref().or(file.celery_file.as_ref()) {
            celery.extend(celery_file(path, problems));
        }
        celery
    }

    fn backends(&self, file: &TomlFile, problems: &mut Problems) -> Vec<BackendSpec> {
        let variable = problems.keep(variable("FOREBAY_CELERY_BACKEND"));
        let backends = celery("celery-backend", &self.celery_backend, variable, &file.celery_backend, problems);
        let backends = backends.into_iter().map(|spec| BackendSpec::try_from(spec).context("--celery-backend"));
        backends.filter_map(|spec| problems.keep(spec.map(Some))).collect()
    }
}

/// Brokers or backends, from wherever they are given. The texts themselves are never repeated: they may hold passwords.
fn celery(
    name: &'static str,
    flags: &[String],
    environment: Option<String>,
    file: &[String],
    problems: &mut Problems,
) -> Vec<SourceSpec> {
    let mut read = |specs: &[String], place: String| {
        let read = specs.iter().map(|spec| parse_source(spec).with_context(|| place.clone()).map(Some));
        read.filter_map(|spec| problems.keep(spec)).collect()
    };
    match (flags, environment) {
        ([], Some(list)) => {
            let place = || format!("FOREBAY_{}", name.to_uppercase().replace('-', "_"));
            problems.keep(parse_sources(&list).with_context(place))
        }
        ([], None) => read(file, format!("{name} in the file")),
        (flags, _) => read(flags, format!("--{name}")),
    }
}

fn celery_file(path: &Path, problems: &mut Problems) -> Vec<SourceSpec> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let text = problems.keep(text);
    let lines = text.lines().map(str::trim).enumerate();
    let specs = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let read =
        |(index, line)| parse_source(line).with_context(|| format!("{} line {}", path.display(), index + 1)).map(Some);
    specs.map(read).filter_map(|spec| problems.keep(spec)).collect()
}

/// What is to be taken out, from wherever it is given. Each pattern that is none is named: it is no secret, but says how one
/// looks.
fn patterns(flags: &[String], file: &[String], problems: &mut Problems) -> Vec<Pattern> {
    let environment = problems.keep(variable("FOREBAY_REDACT"));
    let lines: Vec<String> = environment.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
    let (given, place) = match (flags, lines.as_slice()) {
        ([], []) => (file, "redact in the file"),
        ([], lines) => (lines, "FOREBAY_REDACT"),
        (flags, _) => (flags, "--redact"),
    };
    let given = given.iter().filter(|text| !text.is_empty());
    let read = |text: &String| match text.parse::<Pattern>() {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            problems.add(format_args!("{place}: `{text}` {error}"));
            None
        }
    };
    given.filter_map(read).collect()
}

fn connection_id() -> anyhow::Result<Option<Uuid>> {
    let Some(text) = variable("FOREBAY_CONNECTION_ID")? else { return Ok(None) };
    text.parse().map(Some).context("FOREBAY_CONNECTION_ID must be a UUID")
}

fn long_enough(key: Option<String>) -> anyhow::Result<Option<String>> {
    if key.as_ref().is_some_and(|key| key.chars().count() < API_KEY_CHARACTERS) {
        bail!("FOREBAY_API_KEY must have at least {API_KEY_CHARACTERS} characters");
    }
    Ok(key)
}

/// A variable that is set to nothing is not set: compose files have no other way to say so.
pub(crate) fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) => Ok(given(Some(value))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => bail!("{name} is not valid UTF-8"),
    }
}

pub(crate) fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}
