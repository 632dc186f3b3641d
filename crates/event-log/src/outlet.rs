//! Where sources write: the log, once it is open, and the spool while it is away.

use std::sync::Arc;

use tokio::sync::watch;
use uuid::Uuid;

use crate::batcher::Batcher;
use crate::log::EventLog;
use crate::spool::{self, Spool};

/// Where sources write. It is there before the log is, so that sources can listen while the log's server is away. Cheap to
/// clone.
#[derive(Clone)]
pub struct Outlet {
    log: Arc<watch::Sender<Option<EventLog>>>,
    spool: Option<Spool>,
}

impl Outlet {
    /// One without a log yet; with a spool, what is written meanwhile goes there.
    pub fn new(spool: Option<Spool>) -> Self {
        Self { log: Arc::new(watch::Sender::new(None)), spool }
    }

    /// Lets it write to this log, and brings what waits in the spool there. Must be called within a tokio runtime; once.
    pub fn attach(&self, log: &EventLog) {
        if let Some(spool) = &self.spool {
            tokio::spawn(spool::drain(spool.clone(), log.clone()));
        }
        self.log.send_replace(Some(log.clone()));
    }

    /// Gathers the events of a source into messages. See [`Batcher`].
    pub fn batcher(&self, connection: Uuid) -> Batcher {
        Batcher::start(self.clone(), connection, None)
    }

    /// The log, when it is there.
    pub async fn log(&self) -> EventLog {
        let mut log = self.log.subscribe();
        match log.wait_for(Option::is_some).await.map(|log| log.clone()) {
            Ok(Some(log)) => log,
            // The sender is ours, so that it is still there.
            _ => std::future::pending().await,
        }
    }

    /// The log, if it is there.
    pub fn log_now(&self) -> Option<EventLog> {
        self.log.borrow().clone()
    }

    /// The spool, if there is one.
    pub fn spool(&self) -> Option<&Spool> {
        self.spool.as_ref()
    }
}

impl From<&EventLog> for Outlet {
    /// To this log, without a spool.
    fn from(log: &EventLog) -> Self {
        let outlet = Self::new(None);
        outlet.attach(log);
        outlet
    }
}
