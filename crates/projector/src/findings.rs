//! What the last comparison with a fresh replay said of the views that serve. It is kept beside them, so that a restart
//! does not make differences look as if they were gone, and it goes with the generation that it is about.

use std::sync::Arc;

use parking_lot::Mutex;
use proto_events::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use views::Generations;

use crate::status::now;
use crate::verify::Verdict;

/// The note beside the generations.
const NOTE: &str = "verified.json";
/// Differing jobs that are written down.
const WRITTEN: usize = 100;

/// A verdict that nobody need doubt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// The id of the verification.
    pub(crate) id: Uuid,
    /// When it was found.
    pub(crate) at: Timestamp,
    /// The generation that it is about.
    generation: Option<String>,
    pub(crate) verdict: Verdict,
}

/// The latest of them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Findings {
    generations: Generations,
    latest: Arc<Mutex<Option<Finding>>>,
}

impl Findings {
    /// What an earlier process left.
    pub(crate) fn open(generations: Generations) -> Self {
        // What cannot be read is found again by the next scrub.
        let latest = generations.read_note(NOTE).ok().flatten().and_then(|note| serde_json::from_slice(&note).ok());
        Self { generations, latest: Arc::new(Mutex::new(latest)) }
    }

    /// The latest, if it is about the views that serve now.
    pub(crate) fn get(&self) -> Option<Finding> {
        let latest = self.latest.lock().clone()?;
        (latest.generation.is_some() && latest.generation == self.serving()).then_some(latest)
    }

    /// Keeps a verdict about the views that serve.
    pub(crate) fn put(&self, id: Uuid, verdict: &Verdict) {
        let finding = Finding { id, at: now(), generation: self.serving(), verdict: verdict.clone() };
        let mut written = finding.clone();
        written.verdict.differences.truncate(WRITTEN);
        *self.latest.lock() = Some(finding);
        // A record is always JSON.
        let note = serde_json::to_vec(&written).unwrap_or_default();
        if let Err(error) = self.generations.write_note(NOTE, &note) {
            tracing::warn!(%error, "what was found out about the views is forgotten at the next start");
        }
    }

    fn serving(&self) -> Option<String> {
        self.generations.serving().ok().flatten()
    }
}
