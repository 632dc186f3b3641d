//! What is in force, for people, without secrets.

use std::fmt::Write as _;

use projector::Most;

use super::{Fsync, ServeConfig};
use crate::units;

impl ServeConfig {
    /// What is in force, for people, without secrets.
    pub(crate) fn describe(&self) -> String {
        let otlp = self.otlp_endpoint.iter().map(|endpoint| ("otlp-endpoint", endpoint.clone()));
        self.rows().into_iter().chain(self.door.describe()).chain(otlp).fold(
            String::new(),
            |mut text, (name, value)| {
                let _ = writeln!(text, "  {name:<14}  {value}");
                text
            },
        )
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let stack = &self.stack;
        let log = match &stack.nats {
            Some(nats) => format!("{nats:?}, {} replica(s)", nats.replicas),
            None => format!(
                "embedded, forced to disk {}",
                if stack.fsync == Fsync::Always { "always" } else { "every 100 ms" }
            ),
        };
        let named = |name: &Option<String>, url: &str| match name {
            Some(name) => format!("{name}={url}"),
            None => url.to_owned(),
        };
        let listed = |specs: Vec<String>| if specs.is_empty() { "none".to_owned() } else { specs.join(" ") };
        let celery = self.celery.iter().map(|spec| named(&spec.name, spec.url.masked())).collect();
        let backends = self.backends.iter().map(|spec| named(&spec.name, spec.url.masked())).collect();
        let from = |given: bool| if given { "given" } else { "made up and kept in credentials.json" };
        vec![
            ("data-dir", stack.data_dir.display().to_string()),
            ("listen", self.listen.clone()),
            ("log", log),
            ("celery", listed(celery)),
            ("celery-backend", listed(backends)),
            ("redact-args", self.redaction.drops_arguments().to_string()),
            ("list-memory", format!("{} bytes", stack.list_memory)),
            ("metrics-hostname", stack.metrics_hostname.to_string()),
            ("enable-events", self.enable_events.to_string()),
            ("spool-size", self.spool_size.map_or("off".to_owned(), |bytes| format!("{bytes} bytes"))),
            ("scrub", self.scrub.map_or("off".to_owned(), |every| format!("every {}", units::in_words(every)))),
            ("retention", self.policy.keep.map_or("off".to_owned(), units::in_words)),
            ("max-log-size", self.max_log_size()),
            ("forget-workers", units::in_words(self.forget_workers)),
            ("api-key", if self.api_key.is_some() { "given" } else { "made up, or rotated since" }.to_owned()),
            ("admin-password", from(self.admin_password.is_some()).to_owned()),
            ("alerts", format!("{} rule(s), {} webhook(s)", self.alerts.rules.len(), self.alerts.webhooks.len())),
        ]
    }

    pub(super) fn max_log_size(&self) -> String {
        match self.policy.most {
            Most::Percent(percent) => format!("{percent}% of the disk"),
            Most::Bytes(bytes) => format!("{bytes} bytes"),
            Most::Unlimited => "off".to_owned(),
        }
    }
}
