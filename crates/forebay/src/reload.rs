//! SIGHUP: a running server reads its file again, takes over what it can, and says of the rest that it needs a restart. A
//! file that cannot be used changes nothing.

use std::sync::Arc;

use alerts::Alerts;
use api::{App, Connection};
use clap::ArgMatches;

use crate::config::{self, Loaded, ServeArgs, Setting};
use crate::listen::Listening;
use crate::serve::add_backends;
use crate::stack::Stack;

/// What is taken over; everything below `alerts` is, too.
const TAKEN_OVER: &[&str] = &[
    "celery",
    "celery-file",
    "celery-backend",
    "celery-backend-after",
    "forget-workers",
    "max-log-size",
    "redact",
    "retention",
    "scrub",
];

/// How the server was called, for the file to be read again under the same flags.
pub(crate) struct Called {
    pub(crate) args: ServeArgs,
    pub(crate) matches: ArgMatches,
}

/// What a file that is read again changes.
pub(crate) struct Parts<'a> {
    pub(crate) app: &'a Arc<App>,
    pub(crate) stack: &'a Stack,
    pub(crate) listening: &'a Listening,
    pub(crate) alerts: &'a Alerts,
    pub(crate) default: &'a Connection,
}

impl Parts<'_> {
    /// Reads the file again. What is then in force is left in `loaded`.
    pub(crate) async fn reload(&self, called: &Called, loaded: &mut Loaded) {
        let (args, matches) = (called.args.clone(), called.matches.clone());
        let read = tokio::task::spawn_blocking(move || config::load(args, &matches)).await;
        let mut new = match read.map_err(anyhow::Error::from).and_then(|read| read) {
            Ok(new) => new,
            Err(error) => {
                tracing::error!("the configuration stays as it is: {error:#}");
                return;
            }
        };
        // Every source has this one.
        loaded.config.redaction.take_over(&new.config.redaction);
        new.config.redaction = loaded.config.redaction.clone();
        let changed: Vec<&str> = changed(&loaded.settings, &new.settings);
        let (taken_over, rest): (Vec<&str>, Vec<&str>) = changed.into_iter().partition(|name| is_taken_over(name));
        if let Err(error) = self.take_over(&loaded.config, &new.config).await {
            tracing::error!("a part of the configuration could not be taken over: {error:#}");
        }
        if !(taken_over.is_empty() && rest.is_empty()) {
            // Names only: values may be secrets.
            let about = serde_json::json!({ "takenOver": taken_over, "needsRestart": rest });
            self.app.told_by_server("configuration.reload", about).await;
        }
        tracing::info!(changed = ?taken_over, "the configuration was read again");
        for name in &rest {
            tracing::warn!(setting = name, "a changed setting needs a restart");
        }
        // What needs a restart is still to be told the next time.
        let old = std::mem::replace(loaded, new);
        loaded.settings = keeping(old.settings, std::mem::take(&mut loaded.settings));
    }

    async fn take_over(&self, old: &config::ServeConfig, new: &config::ServeConfig) -> anyhow::Result<()> {
        let (alerts, plan) = (self.alerts.clone(), new.alerts.clone());
        tokio::task::spawn_blocking(move || alerts.adopt(plan)).await?;
        self.app.keep(new.policy);
        if old.scrub != new.scrub {
            self.app.scrub_every(new.scrub);
        }
        self.stack.projector.live().forget_after(new.forget_workers);
        // Each of these is asked for anew; what a backend was about to tell it will tell again.
        if changes_backends(old, new) {
            self.stack.forget_backends();
            add_backends(new, self.default, self.stack).await?;
        }
        self.listening.reload(self.stack, self.default, &old.celery, &new.celery).await
    }
}

fn changes_backends(old: &config::ServeConfig, new: &config::ServeConfig) -> bool {
    let alike = old.backends.len() == new.backends.len()
        && old.backends.iter().zip(&new.backends).all(|(old, new)| old.is_written_as(new));
    !alike || old.backends_after != new.backends_after
}

fn is_taken_over(name: &str) -> bool {
    TAKEN_OVER.contains(&name) || name.starts_with("alerts.")
}

/// The names of settings that have another value, or are there no more or for the first time.
fn changed<'a>(old: &'a [Setting], new: &'a [Setting]) -> Vec<&'a str> {
    let differs = |setting: &&Setting, others: &[Setting]| {
        !others.iter().any(|other| other.name == setting.name && other.has_values_of(setting))
    };
    let mut names: Vec<&str> = new.iter().filter(|setting| differs(setting, old)).map(|it| &*it.name).collect();
    let gone = old.iter().filter(|setting| !new.iter().any(|other| other.name == setting.name));
    names.extend(gone.map(|setting| &*setting.name));
    names
}

/// The new ones, with the old values of those that need a restart.
fn keeping(old: Vec<Setting>, new: Vec<Setting>) -> Vec<Setting> {
    let is_kept = |setting: &Setting| !is_taken_over(&setting.name);
    let kept = old.into_iter().filter(is_kept);
    kept.chain(new.into_iter().filter(|setting| !is_kept(setting))).collect()
}
