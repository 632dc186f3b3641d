//! Another generation beside the one that serves: built, opened, brought up to date, and put in its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::bulk::BulkWriter;
use crate::error::ViewError;
use crate::generation::Directory;
use crate::open::{Options, load};
use crate::reader::Reader;
use crate::shared::Shared;
use crate::writer::Writer;

/// In the directory of a generation: when another one took its place.
const REPLACED: &str = "REPLACED";

/// The generations of one directory. Cheap to clone.
#[derive(Clone)]
pub struct Generations {
    directory: Arc<Directory>,
    options: Options,
    serving: Reader,
}

/// A finished generation that is open and does not serve.
pub struct Candidate {
    path: PathBuf,
    shared: Arc<Shared>,
}

impl Candidate {
    /// Reads it, as the readers will once it serves.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }
}

impl Generations {
    pub(crate) fn new(directory: Arc<Directory>, options: Options, serving: Reader) -> Self {
        Self { directory, options, serving }
    }

    /// The directory that they are in.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Bytes that a rebuild from a log of this size may take for a while, and bytes that are free.
    pub fn room(&self, log_bytes: u64) -> Result<(u64, u64), ViewError> {
        let size = self.directory.size().map_err(|cause| ViewError::of(&cause))?;
        // The facts on their way through temporary files, and the new generation, whose rows are written once and in
        // order: less than one that grew.
        let need = log_bytes + size + (64 << 20);
        let stat = rustix::fs::statvfs(self.path()).map_err(|error| ViewError::of(&error.into()))?;
        Ok((need, stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    /// Begins a new generation, out of everybody's sight.
    pub fn begin(&self) -> Result<BulkWriter, ViewError> {
        let building = self.directory.building().map_err(|cause| ViewError::of(&cause))?;
        BulkWriter::create(&building, &self.options)
    }

    /// Opens a generation that [`BulkWriter::finish`] has closed. It is checked from end to end.
    pub fn open(&self, building: &Path) -> Result<(Writer, Candidate), ViewError> {
        self.open_finished(self.directory.finish(building).map_err(|cause| ViewError::of(&cause))?)
    }

    fn open_finished(&self, path: PathBuf) -> Result<(Writer, Candidate), ViewError> {
        let loaded = load(&path, &self.options).map_err(|error| ViewError::Io(error.to_string()))?;
        let loaded = loaded.map_err(|reason| ViewError::Corrupt(reason.to_string()))?;
        let (writer, shared) = loaded.into_shared(Arc::clone(&self.directory), &self.options);
        Ok((writer, Candidate { path, shared }))
    }

    /// Lets the candidate serve from now on, also after a restart. The generation that served is kept for a day; older
    /// ones are removed.
    pub fn promote(&self, candidate: Candidate) -> Result<(), ViewError> {
        let failed = |cause: std::io::Error| ViewError::of(&cause);
        let served = self.directory.current().map_err(failed)?;
        self.directory.promote(&candidate.path).map_err(failed)?;
        drop(self.serving.switch(candidate.shared));
        // It may have served before.
        let _ = std::fs::remove_file(candidate.path.join(REPLACED));
        for other in self.directory.generations(false).map_err(failed)? {
            if other != candidate.path && Some(&other) != served.as_ref() {
                remove(&other);
            }
        }
        if let Some(served) = served {
            std::fs::write(served.join(REPLACED), "").map_err(failed)?;
        }
        Ok(())
    }

    /// The generation that served before, and how long ago it was replaced.
    pub fn previous(&self) -> Result<Option<(PathBuf, Duration)>, ViewError> {
        let failed = |cause: std::io::Error| ViewError::of(&cause);
        let current = self.directory.current().map_err(failed)?;
        let mut others = self.directory.generations(false).map_err(failed)?;
        others.retain(|other| Some(other) != current.as_ref());
        // One without the mark was being made when the process ended.
        let replaced = |path: PathBuf| {
            let since = std::fs::metadata(path.join(REPLACED)).and_then(|metadata| metadata.modified()).ok()?;
            Some((path, since.elapsed().unwrap_or_default()))
        };
        Ok(others.into_iter().rev().find_map(replaced))
    }

    /// Opens the generation that served before, so that it can serve again.
    pub fn open_previous(&self) -> Result<Option<(Writer, Candidate)>, ViewError> {
        let Some((path, _)) = self.previous()? else { return Ok(None) };
        self.open_finished(path).map(Some)
    }

    /// Removes what is not needed any more: the generation that served before, once it was replaced so long ago, and
    /// what an earlier process left unfinished. Gives how many were removed.
    pub fn tidy(&self, after: Duration) -> Result<usize, ViewError> {
        let failed = |cause: std::io::Error| ViewError::of(&cause);
        let current = self.directory.current().map_err(failed)?;
        let kept = self.previous()?.filter(|(_, age)| *age < after).map(|(path, _)| path);
        let mut removed = 0;
        for other in self.directory.generations(false).map_err(failed)? {
            if Some(&other) != current.as_ref() && Some(&other) != kept.as_ref() {
                remove(&other);
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Removes a candidate that will not serve; one that served before is kept as it was.
    pub fn discard(&self, candidate: Candidate) {
        let Candidate { path, shared } = candidate;
        drop(shared);
        if !path.join(REPLACED).exists() {
            remove(&path);
        }
    }
}

fn remove(generation: &Path) {
    if let Err(cause) = std::fs::remove_dir_all(generation) {
        tracing::warn!(generation = %generation.display(), %cause, "a generation that is not needed cannot be removed");
    }
}
