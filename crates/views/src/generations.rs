//! Another generation beside the one that serves: built, opened, brought up to date, and put in its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bulk::BulkWriter;
use crate::error::ViewError;
use crate::generation::Directory;
use crate::open::{Options, load};
use crate::reader::Reader;
use crate::shared::Shared;
use crate::writer::Writer;

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
        let path = self.directory.finish(building).map_err(|cause| ViewError::of(&cause))?;
        let loaded = load(&path, &self.options).map_err(|error| ViewError::Io(error.to_string()))?;
        let loaded = loaded.map_err(|reason| ViewError::Corrupt(reason.to_string()))?;
        let (writer, shared) = loaded.into_shared(Arc::clone(&self.directory), &self.options);
        Ok((writer, Candidate { path, shared }))
    }

    /// Lets the candidate serve from now on, also after a restart. The generation that served stays on disk.
    pub fn promote(&self, candidate: Candidate) -> Result<(), ViewError> {
        self.directory.promote(&candidate.path).map_err(|cause| ViewError::of(&cause))?;
        drop(self.serving.switch(candidate.shared));
        Ok(())
    }

    /// Removes a candidate that will not serve.
    pub fn discard(&self, candidate: Candidate) -> Result<(), ViewError> {
        let Candidate { path, shared } = candidate;
        drop(shared);
        std::fs::remove_dir_all(path).map_err(|cause| ViewError::of(&cause))
    }
}
