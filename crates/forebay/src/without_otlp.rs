//! What stands for OpenTelemetry in a program that was built without it: nothing, since the configuration lets nobody ask
//! for it then.

use std::future::Ready;
use std::sync::Arc;

use api::App;

use crate::config::ServeConfig;
use crate::logging::Traces;

pub(crate) enum Telemetry {}

pub(crate) enum Running {}

pub(crate) enum Last {}

impl Telemetry {
    #[allow(clippy::unnecessary_wraps, reason = "as it is with the feature")]
    pub(crate) fn of(_: &ServeConfig) -> anyhow::Result<Option<Self>> {
        Ok(None)
    }

    pub(crate) fn layer(&self) -> Option<Traces> {
        match *self {}
    }

    pub(crate) fn begin(self, _: &Arc<App>) -> Running {
        match self {}
    }
}

impl Running {
    pub(crate) fn stop(self) -> Ready<Last> {
        match self {}
    }
}

impl Last {
    pub(crate) fn send(self) -> Ready<()> {
        match self {}
    }
}
